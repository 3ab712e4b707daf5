//! Nanoseconds per message head: `cargo bench -p tidegate-wire [-- PART_OF_A_NAME]`.
//!
//! A plain program, no harness: it prints one line a case, the median of several rounds, which is
//! what a noisy machine allows to compare.

use std::hint::black_box;
use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderMap, Method};
use tidegate_wire::h1::{
    BodyDecoder, BodyLength, ConnectionIntent, Decoded, HeadReader, Limits, ResponseExtras,
    Version, encode_chunk_head, encode_request_head, encode_response_head,
};

const REQUEST: &[u8] = b"POST /v1/models/ranker:predict?trace=on HTTP/1.1\r\n\
Host: ranker.local:8080\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Language: en-GB,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br\r\n\
Content-Type: application/json\r\n\
Content-Length: 1024\r\n\
Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
X-Request-Id: 7f3c2a9e-4d1b-4b52-9a57-0f2f1f6f3d11\r\n\
X-Forwarded-For: 203.0.113.7\r\n\
Cache-Control: no-cache\r\n\
Cookie: session=4f9a8c7b6d5e; theme=dark\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: TornadoServer/6.4\r\n\
Content-Type: application/json\r\n\
Date: Tue, 04 Aug 2026 10:11:12 GMT\r\n\
Etag: \"5f2b6c1d\"\r\n\
Content-Length: 1024\r\n\r\n";

fn measure(name: &str, mut run: impl FnMut()) {
    const BATCH: u32 = 20_000;
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    if wanted.is_some_and(|part| !name.contains(&part)) {
        return;
    }
    let mut rounds: Vec<f64> = (0..15)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..BATCH {
                run();
            }
            begin.elapsed().as_nanos() as f64 / f64::from(BATCH)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    println!("{name:<48} {:8.1} ns", rounds[rounds.len() / 2]);
}

fn main() {
    let limits = Limits::default();
    let mut scratch = HeaderMap::new();
    let mut buf = BytesMut::with_capacity(16 * 1024);
    let mut reader = HeadReader::new();

    measure("fill the buffer and freeze it (floor)", || {
        buf.reserve(REQUEST.len());
        buf.extend_from_slice(REQUEST);
        black_box(buf.split_to(REQUEST.len()).freeze());
    });
    measure("httparse alone, request, 12 headers", || {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        black_box(request.parse(black_box(REQUEST)).is_ok());
    });
    measure("parse_request, 12 headers", || {
        buf.reserve(REQUEST.len());
        buf.extend_from_slice(REQUEST);
        let head = reader
            .request(&mut buf, &limits, &mut scratch)
            .ok()
            .flatten();
        if let Some(head) = black_box(head) {
            scratch = head.headers;
            scratch.clear();
        }
    });
    measure("parse_response, 5 headers", || {
        buf.reserve(RESPONSE.len());
        buf.extend_from_slice(RESPONSE);
        let head = reader
            .response(&mut buf, &Method::GET, &limits, &mut scratch)
            .ok()
            .flatten();
        if let Some(head) = black_box(head) {
            scratch = head.headers;
            scratch.clear();
        }
    });

    buf.clear();
    buf.extend_from_slice(REQUEST);
    let Ok(Some(request)) = reader.request(&mut buf, &limits, &mut HeaderMap::new()) else {
        panic!("the request is well formed");
    };
    buf.extend_from_slice(RESPONSE);
    let Ok(Some(response)) =
        reader.response(&mut buf, &Method::GET, &limits, &mut HeaderMap::new())
    else {
        panic!("the response is well formed");
    };
    let mut out = BytesMut::with_capacity(16 * 1024);
    measure("encode_request_head, 12 headers", || {
        out.clear();
        encode_request_head(
            &mut out,
            &request.method,
            "/v1/models/ranker:predict?trace=on",
            None,
            &request.headers,
            request.body,
            ConnectionIntent::default(),
        );
        black_box(&out);
    });
    measure("encode_response_head, 5 headers", || {
        out.clear();
        encode_response_head(
            &mut out,
            Version::Http11,
            response.status,
            &response.headers,
            response.body,
            true,
            ResponseExtras::default(),
        );
        black_box(&out);
    });
    let event = b"data: {\"choices\":[{\"delta\":{\"content\":\" token\"}}]}\n\n";
    measure("decode one chunk", || {
        encode_chunk_head(&mut buf, event.len());
        buf.extend_from_slice(event);
        buf.extend_from_slice(b"\r\n");
        let mut body = BodyDecoder::new(BodyLength::Chunked);
        while let Ok(Decoded::Data(data)) = body.decode(&mut buf) {
            black_box(data);
        }
    });
}
