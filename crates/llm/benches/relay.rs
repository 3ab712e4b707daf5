//! Prints nanoseconds a piece of work: a request read and prepared, a frame of a stream passed on or translated.

use std::hint::black_box;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tidegate_llm::{
    Answer, Call, Front, PrepareOptions, Prepared, ProviderKind, ProviderSpec, Secret,
};

const ROUNDS: u32 = 200;
const EACH: u32 = 500;

/// The best of many short rounds: the one that the machine's other work disturbed least.
fn time(name: &str, mut work: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..EACH {
                work();
            }
            start.elapsed().as_nanos() / u128::from(EACH)
        })
        .min();
    println!("{name:<48} {:>7} ns", best.unwrap_or_default());
}

fn prepared(kind: ProviderKind, stream: bool) -> Prepared {
    let headers = HeaderMap::new();
    let front = Front::recognise(&Method::POST, "/v1/chat/completions", None, &headers)
        .expect("a known path");
    let words = "Tell me something about the sea and the tides. ".repeat(8);
    let body = format!(
        r#"{{"model":"gpt-5","messages":[{{"role":"system","content":"{words}"}},{{"role":"user","content":"{words}"}}],"temperature":0.5,"stream":{stream}}}"#
    );
    let call = Call::read(&front, &headers, body.into()).expect("a good request");
    let spec = ProviderSpec::new(kind, None, None, None).expect("an address of its own");
    call.prepare(
        &spec,
        Secret::of("sk-1"),
        "other",
        &headers,
        PrepareOptions::default(),
    )
    .expect("a good request")
}

fn frames(name: &str, kind: ProviderKind, frame: &str) {
    let mut headers = HeaderMap::new();
    headers.insert(
        "content-type",
        HeaderValue::from_static("text/event-stream"),
    );
    let mut answer = Answer::new(prepared(kind, true).plan, None, 0);
    answer.head(StatusCode::OK, headers);
    // One buffer, cut as a connection's is.
    let chunk: Bytes = BytesMut::from(frame).freeze();
    let _shared = chunk.clone();
    let mut out = Vec::with_capacity(8);
    time(name, || {
        black_box(answer.data(chunk.clone(), &mut out));
        out.clear();
    });
}

fn main() {
    time("read and prepare 800 bytes, same dialect", || {
        black_box(prepared(ProviderKind::OpenAi, false));
    });
    time("read and prepare 800 bytes, for anthropic", || {
        black_box(prepared(ProviderKind::Anthropic, false));
    });
    let delta = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"gpt-5\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" tide\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
    frames("frame of 250 bytes, passed on", ProviderKind::OpenAi, delta);
    let block = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" tide\"}}\n\n";
    frames(
        "frame of anthropic, translated",
        ProviderKind::Anthropic,
        block,
    );
}
