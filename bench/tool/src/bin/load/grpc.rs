//! gRPC unary calls over HTTP/2 with prior knowledge.

use crate::{finish, paced, Res, Run};
use bytes::Bytes;
use peerbench::{grpc_frame, Args};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

pub(crate) async fn h2_open(addr: &str) -> Res<h2::client::SendRequest<Bytes>> {
    let s = TcpStream::connect(addr).await?;
    s.set_nodelay(true)?;
    let (client, conn) = h2::client::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake::<_, Bytes>(s)
        .await?;
    spawn_local(async move {
        let _ = conn.await;
    });
    Ok(client)
}

pub(crate) fn grpc_head(addr: &str, path: &str) -> http::Request<()> {
    http::Request::builder()
        .method("POST")
        .uri(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

async fn grpc_finish(res: h2::client::ResponseFuture) -> Res<usize> {
    let res = res.await?;
    if res.status() != 200 {
        return Err(format!("status {}", res.status()).into());
    }
    let trailers_only = res.headers().get("grpc-status").cloned();
    let mut body = res.into_body();
    let mut got = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        got += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = body.trailers().await?;
    let status = trailers.as_ref().and_then(|t| t.get("grpc-status").cloned()).or(trailers_only);
    match status {
        Some(v) if v == "0" => Ok(got),
        other => Err(format!("grpc-status {other:?}").into()),
    }
}

/// One call; an echo has to come back as long as it went.
pub(crate) async fn one_grpc(client: &h2::client::SendRequest<Bytes>, head: &http::Request<()>, frame: &Bytes, echo: bool) -> Result<(), String> {
    let call = async {
        let mut ready = client.clone().ready().await?;
        let (res, mut send) = ready.send_request(head.clone(), false)?;
        send.send_data(frame.clone(), true)?;
        let got = grpc_finish(res).await?;
        if echo && got != frame.len() {
            return Err(format!("{got} bytes back, {} expected", frame.len()).into());
        }
        Ok(())
    };
    call.await.map_err(|e: Box<dyn std::error::Error>| e.to_string())
}

/// A message written in hexadecimal digits, in its frame.
fn framed(hex: &str) -> Vec<u8> {
    let digits = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("--message wants hexadecimal digits"));
    let message: Vec<u8> = digits.collect();
    let mut frame = vec![0];
    frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
    frame.extend_from_slice(&message);
    frame
}

pub(crate) async fn grpc_load(addr: &str, args: &Args) -> String {
    let conns = args.num("conns", 4);
    let streams = args.num("streams", 32);
    let rate = args.num("rate", 0);
    let given = args.str("message", "");
    let echo = given.is_empty();
    let frame = Bytes::from(if echo { grpc_frame(args.num("body", 1024) as usize) } else { framed(&given) });
    let head = Rc::new(grpc_head(addr, &args.str("path", "/bench.Echo/Unary")));
    let mut clients = Vec::new();
    for _ in 0..conns {
        clients.push(h2_open(addr).await.expect("h2 connect"));
    }
    let run = Run::new(args);
    let mut tasks = Vec::new();
    if rate == 0 {
        for client in &clients {
            for _ in 0..streams {
                let (run, client, head, frame) = (run.clone(), client.clone(), head.clone(), frame.clone());
                tasks.push(spawn_local(async move {
                    while !run.over() {
                        let sent = Instant::now();
                        let got = one_grpc(&client, &head, &frame, echo).await;
                        if got.is_err() {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        run.record(sent, got);
                    }
                }));
            }
        }
    } else {
        let mut n = 0;
        paced(&run, rate, || {
            n += 1;
            let client = clients[n % clients.len()].clone();
            let (run, head, frame) = (run.clone(), head.clone(), frame.clone());
            tasks.push(spawn_local(async move {
                let sent = Instant::now();
                let got = one_grpc(&client, &head, &frame, echo).await;
                run.record(sent, got);
            }));
        })
        .await;
    }
    finish(tasks, &run).await;
    run.report()
}
