//! A stream that is passed on costs nothing that grows with its length.

mod support;

use bytes::{Bytes, BytesMut};
use support::{answer, call, prepare, short};
use tidegate_llm::{ProviderKind, Step};

/// Chunks as a gateway has them: pieces of a buffer that is read into again and again.
fn chunks(text: &[u8], size: usize) -> Vec<Bytes> {
    let mut buffer = BytesMut::from(text);
    let mut chunks = Vec::new();
    while !buffer.is_empty() {
        let piece = buffer.split_to(size.min(buffer.len())).freeze();
        chunks.push(piece);
    }
    chunks
}

#[test]
fn a_chunk_of_a_relayed_stream_allocates_nothing() {
    let delta = "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a \\\"b\\\" \\u00e4\\n\"},\"logprobs\":{\"content\":[{\"token\":\"a\",\"top_logprobs\":[{\"x\":[1,2]}]}]},\"finish_reason\":null}],\"usage\":null}\n\n";
    let block = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a \\\"b\\\"\"}}\n\n";
    let part = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"a\\n\"}],\"role\":\"model\"},\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":3}}\n\n";
    for (target, name, kind, frame) in [
        ("/v1/chat/completions", "chat", ProviderKind::OpenAi, delta),
        ("/v1/messages", "messages", ProviderKind::Anthropic, block),
        (
            "/v1beta/models/m:streamGenerateContent?alt=sse",
            "gemini",
            ProviderKind::Gemini,
            part,
        ),
    ] {
        let prepared = prepare(&call(target, short(name, true)).unwrap(), kind, "m").unwrap();
        // Whole frames, and frames that are cut.
        for size in [frame.len(), frame.len() / 3 + 1] {
            let mut answer = answer(&prepared, "text/event-stream");
            let text = frame.repeat(1000);
            let mut chunks = chunks(text.as_bytes(), size).into_iter();
            let mut out = Vec::with_capacity(64);
            // Buffers reach their size.
            for chunk in chunks.by_ref().take(30) {
                assert_ne!(answer.data(chunk, &mut out), Step::Failed);
                out.clear();
            }
            let info = allocation_counter::measure(|| {
                for chunk in chunks.by_ref() {
                    assert_ne!(answer.data(chunk, &mut out), Step::Failed);
                    out.clear();
                }
            });
            assert_eq!(info.count_total, 0, "{kind:?}, pieces of {size}");
        }
    }
}
