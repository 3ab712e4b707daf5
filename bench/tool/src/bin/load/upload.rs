//! One long body, over HTTP/1.1 or as a gRPC client stream.

use crate::grpc::{grpc_head, h2_open};
use crate::{Res, H1};
use bytes::Bytes;
use peerbench::Args;
use std::time::Instant;
use tokio::io::AsyncWriteExt;

pub(crate) async fn upload(addr: &str, args: &Args) -> String {
    let total = args.num("bytes", 1 << 30);
    let block = args.num("block", 65536) as usize;
    let start = Instant::now();
    let limit = args.secs("max-secs", 120.0);
    let work = async {
        if args.flag("h2") {
            upload_h2(addr, total, block).await
        } else {
            upload_h1(addr, &args.str("path", "/upload"), total, block, args.flag("chunked")).await
        }
    };
    let got = match tokio::time::timeout(limit, work).await {
        Ok(Ok(got)) => Ok(got),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("time limit".into()),
    };
    let wall = start.elapsed().as_secs_f64();
    let (arrived, error) = match got {
        Ok(n) => (n, "null".to_string()),
        Err(e) => (0, format!("{e:?}")),
    };
    format!(
        r#"{{"total":1,"errors":{},"bytes":{arrived},"wall_s":{wall:.3},"mib_per_s":{:.1},"first_error":{error}}}"#,
        (arrived < total) as u8,
        arrived as f64 / wall / 1048576.0
    )
}

async fn upload_h1(addr: &str, path: &str, total: u64, block: usize, chunked: bool) -> Res<u64> {
    let mut c = H1::open(addr).await?;
    let body_head = if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {total}") };
    let head = format!("POST {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/octet-stream\r\n{body_head}\r\n\r\n");
    c.s.write_all(head.as_bytes()).await?;
    let data = vec![b'z'; block];
    let mut left = total;
    while left > 0 {
        let n = left.min(block as u64) as usize;
        if chunked {
            c.s.write_all(format!("{n:x}\r\n").as_bytes()).await?;
        }
        c.s.write_all(&data[..n]).await?;
        if chunked {
            c.s.write_all(b"\r\n").await?;
        }
        left -= n as u64;
    }
    if chunked {
        c.s.write_all(b"0\r\n\r\n").await?;
    }
    let mut text = Vec::new();
    let status = c.answer(|b| text.extend_from_slice(b)).await?;
    if status != 200 {
        return Err(format!("status {status}").into());
    }
    digits(&text)
}

async fn upload_h2(addr: &str, total: u64, block: usize) -> Res<u64> {
    let client = h2_open(addr).await?;
    let mut ready = client.ready().await?;
    let (res, mut send) = ready.send_request(grpc_head(addr, "/bench.Echo/Upload"), false)?;
    let mut msg = vec![0u8];
    msg.extend_from_slice(&((block - 5) as u32).to_be_bytes());
    msg.resize(block, b'z');
    let msg = Bytes::from(msg);
    let mut left = total;
    while left > 0 {
        let mut part = msg.slice(..left.min(block as u64) as usize);
        left -= part.len() as u64;
        while !part.is_empty() {
            send.reserve_capacity(part.len());
            let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.ok_or("stream closed")??;
            let n = room.min(part.len());
            send.send_data(part.split_to(n), false)?;
        }
    }
    send.send_data(Bytes::new(), true)?;
    let res = res.await?;
    let mut body = res.into_body();
    let mut text = Vec::new();
    while let Some(d) = body.data().await {
        let d = d?;
        body.flow_control().release_capacity(d.len())?;
        text.extend_from_slice(&d);
    }
    digits(text.get(7..).unwrap_or_default())
}

fn digits(text: &[u8]) -> Res<u64> {
    let s: String = text.iter().map(|b| *b as char).filter(char::is_ascii_digit).collect();
    Ok(s.parse()?)
}
