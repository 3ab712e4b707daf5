//! What a provider can't do to the process: hold a stalled stream open with pings, fill the memory.

mod support;

use bytes::Bytes;
use support::{answer, call, prepare, short};
use tidegate_llm::{Answer, ProviderKind, Step};

const MIB: usize = 1024 * 1024;

fn stream_of(kind: ProviderKind, caller: &str, path: &str) -> Answer {
    let prepared = prepare(&call(path, short(caller, true)).unwrap(), kind, "m").unwrap();
    answer(&prepared, "text/event-stream")
}

#[test]
fn a_ping_feeds_no_idle_timer_however_it_is_cut() {
    use ProviderKind::{Anthropic, OpenAi};
    let event = "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    let comment = ": OPENROUTER PROCESSING\n\n";
    for (kind, caller, path, ping) in [
        (OpenAi, "chat", "/v1/chat/completions", comment),
        (OpenAi, "messages", "/v1/messages", comment),
        (Anthropic, "messages", "/v1/messages", event),
        (Anthropic, "chat", "/v1/chat/completions", event),
        (Anthropic, "chat", "/v1/chat/completions", comment),
    ] {
        let mut answer = stream_of(kind, caller, path);
        let mut out = Vec::new();
        for cut in 1..ping.len() {
            for piece in [&ping[..cut], &ping[cut..]] {
                let step = answer.data(Bytes::copy_from_slice(piece.as_bytes()), &mut out);
                assert_eq!(step, Step::Ping, "{kind:?} to {caller}, {piece:?}");
            }
        }
        // What is longer than a ping is none, whole or not.
        let long = format!("data: {{\"a\":\"{}", "x".repeat(600));
        assert_eq!(answer.data(long.into(), &mut out), Step::Progress);
    }
}

/// Feeds it until it fails; what it failed with, and after how many bytes.
fn fails(answer: &mut Answer, mut piece: impl FnMut(usize) -> String) -> (&'static str, usize) {
    let (mut out, mut fed) = (Vec::new(), 0);
    for at in 0..64 {
        let piece = piece(at);
        fed += piece.len();
        if answer.data(piece.into(), &mut out) == Step::Failed {
            return (answer.evidence().unwrap().rule, fed);
        }
    }
    panic!("it took {fed} bytes");
}

#[test]
fn an_answer_that_is_to_be_translated_has_a_bound() {
    let call = call("/v1/chat/completions", short("chat", false)).unwrap();
    let prepared = prepare(&call, ProviderKind::Anthropic, "m").unwrap();
    let mut answer = answer(&prepared, "application/json");
    let (rule, fed) = fails(&mut answer, |_| " ".repeat(MIB));
    assert_eq!((rule, fed), ("answer-too-long", 17 * MIB));
}

#[test]
fn what_a_translated_stream_keeps_has_a_bound() {
    let long = "x".repeat(MIB);
    let chunk =
        |delta: String| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n");
    // The second call waits for the first one, which is never whole.
    let mut waits = stream_of(ProviderKind::DeepSeek, "messages", "/v1/messages");
    let (rule, fed) = fails(&mut waits, |at| {
        let start = |index: usize| {
            format!(
                r#"{{"index":{index},"id":"c{index}","function":{{"name":"f","arguments":"{{"}}}}"#
            )
        };
        chunk(match at {
            0 => format!(r#"{{"tool_calls":[{},{}]}}"#, start(0), start(1)),
            _ => format!(r#"{{"tool_calls":[{{"index":1,"function":{{"arguments":"{long}"}}}}]}}"#),
        })
    });
    assert_eq!(rule, "frame-too-long");
    assert!((16 * MIB..18 * MIB).contains(&fed), "{fed}");
    // The whole answer is told once more at its end.
    let mut again = stream_of(ProviderKind::DeepSeek, "responses", "/v1/responses");
    let (rule, fed) = fails(&mut again, |_| chunk(format!(r#"{{"content":"{long}"}}"#)));
    assert_eq!(rule, "frame-too-long");
    assert!((16 * MIB..18 * MIB).contains(&fed), "{fed}");
    // Where nothing is kept there is no such bound.
    let mut chat = stream_of(ProviderKind::Anthropic, "chat", "/v1/chat/completions");
    let mut out = Vec::new();
    for _ in 0..20 {
        let text = format!(
            "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\"{long}\"}}}}\n\n"
        );
        assert_eq!(chat.data(text.into(), &mut out), Step::Progress);
        out.clear();
    }
}

/// A chunk of a chat stream with a piece of a call.
fn piece_of_a_call(index: usize, name: &str, arguments: &str) -> String {
    let function = format!(r#"{{"name":"{name}","arguments":"{arguments}"}}"#);
    let call = format!(r#"{{"index":{index},"function":{function}}}"#);
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{call}]}}}}]}}\n\n")
}

#[test]
fn calls_without_end_are_bounded_for_every_caller() {
    let long = "x".repeat(MIB);
    let gemini = "/v1beta/models/m:streamGenerateContent?alt=sse";
    // It gets a call as a whole.
    let mut whole = stream_of(ProviderKind::DeepSeek, "gemini", gemini);
    let (rule, fed) = fails(&mut whole, |at| {
        piece_of_a_call(0, if at == 0 { "f" } else { "" }, &long)
    });
    assert_eq!(rule, "frame-too-long");
    assert!((16 * MIB..18 * MIB).contains(&fed), "{fed}");
    // One call after the other, a thousand in a piece.
    let calls = |at: usize| -> String {
        let calls = (at * 1000..).take(1000);
        calls.map(|call| piece_of_a_call(call, "f", "{}")).collect()
    };
    let mut messages = stream_of(ProviderKind::DeepSeek, "messages", "/v1/messages");
    assert_eq!(fails(&mut messages, calls).0, "frame-too-long");
    let mut chat = stream_of(ProviderKind::Anthropic, "chat", "/v1/chat/completions");
    let of_anthropic = |at: usize| -> String {
        let block = |n: usize| {
            format!(
                "event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":{n},\"content_block\":{{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\"}}}}\n\n"
            )
        };
        (at * 1000..).take(1000).map(block).collect()
    };
    assert_eq!(fails(&mut chat, of_anthropic).0, "frame-too-long");
}
