//! Writes a whole answer.

use crate::ir::{Block, Finish, Reply};
use crate::json::object;
use crate::translation::Told;

use super::stream::{function_call, inline, thought};

pub(crate) fn whole(reply: &Reply, told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    object(&mut out, |body| {
        body.arr("candidates", |candidates| {
            for (at, choice) in reply.choices.iter().enumerate() {
                candidates.obj(|candidate| {
                    candidate.obj("content", |content| {
                        content.arr("parts", |parts| {
                            for block in &choice.blocks {
                                match block {
                                    Block::Text(text) | Block::Refusal(text) => {
                                        parts.obj(|part| part.str("text", text));
                                    }
                                    Block::Reasoning { text, .. } if !text.is_empty() => {
                                        parts.obj(|part| thought(part, text));
                                    }
                                    Block::Tool {
                                        id,
                                        name,
                                        arguments,
                                        signature,
                                        ..
                                    } => parts.obj(|part| {
                                        function_call(
                                            part,
                                            id.as_deref(),
                                            name,
                                            arguments,
                                            signature.as_deref(),
                                        );
                                    }),
                                    Block::Image { mime, base64 } => {
                                        parts.obj(|part| inline(part, mime, base64));
                                    }
                                    Block::Reasoning { .. } | Block::Redacted(_) => {}
                                }
                            }
                        });
                        content.str("role", "model");
                    });
                    let finish = choice.finish.unwrap_or(Finish::Stop);
                    candidate.str("finishReason", finish.gemini());
                    candidate.int("index", at as u64);
                });
            }
        });
        if let Some(usage) = reply.usage {
            super::usage(body, usage);
        }
        body.str("modelVersion", reply.model.as_deref().unwrap_or(told.model));
        match &reply.id {
            Some(id) => body.str("responseId", id),
            None => body.str("responseId", &told.id("")),
        }
    });
    out
}
