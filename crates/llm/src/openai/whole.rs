//! Writes a chat completion.

use crate::ir::{Block, Finish, Reply};
use crate::json::{Obj, object};
use crate::translation::Told;

pub(crate) fn whole(reply: &Reply, told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let fallback;
    let id = match &reply.id {
        Some(id) => id,
        None => {
            fallback = told.id("chatcmpl-");
            &fallback
        }
    };
    object(&mut out, |body| {
        body.str("id", id);
        body.str("object", "chat.completion");
        body.int("created", told.created);
        body.str("model", reply.model.as_deref().unwrap_or(told.model));
        body.arr("choices", |choices| {
            for (at, choice) in reply.choices.iter().enumerate() {
                choices.obj(|out| {
                    out.int("index", at as u64);
                    out.obj("message", |message| {
                        write_message(message, &choice.blocks, id);
                    });
                    if choice.logprobs.is_empty() {
                        out.null("logprobs");
                    } else {
                        out.obj("logprobs", |out| {
                            out.raw("content", &format!("[{}]", choice.logprobs.join(",")));
                            out.null("refusal");
                        });
                    }
                    out.str(
                        "finish_reason",
                        choice.finish.unwrap_or(Finish::Stop).openai(),
                    );
                });
            }
        });
        if let Some(usage) = reply.usage {
            super::usage(body, usage);
        }
    });
    out
}

fn write_message(message: &mut Obj<'_>, blocks: &[Block], id: &str) {
    let mut text: Option<String> = None;
    let mut reasoning = String::new();
    let mut refusal: Option<String> = None;
    for block in blocks {
        match block {
            Block::Text(more) => text.get_or_insert_default().push_str(more),
            Block::Reasoning { text: more, .. } => reasoning.push_str(more),
            Block::Refusal(more) => refusal.get_or_insert_default().push_str(more),
            Block::Tool { .. } | Block::Image { .. } | Block::Redacted(_) => {}
        }
    }
    message.str("role", "assistant");
    message.str_or_null("content", text.as_deref());
    message.str_or_null("refusal", refusal.as_deref());
    if !reasoning.is_empty() {
        message.str("reasoning_content", &reasoning);
    }
    if blocks
        .iter()
        .any(|block| matches!(block, Block::Tool { .. }))
    {
        message.arr("tool_calls", |calls| {
            let mut at = 0;
            for block in blocks {
                if let Block::Tool {
                    id: own,
                    name,
                    arguments,
                    signature,
                    ..
                } = block
                {
                    calls.obj(|call| {
                        match own {
                            Some(own) => call.str("id", own),
                            None => call.str("id", &format!("call_{id}_{at}")),
                        }
                        call.str("type", "function");
                        call.obj("function", |function| {
                            function.str("name", name);
                            let arguments = if arguments.is_empty() {
                                "{}"
                            } else {
                                arguments
                            };
                            function.str("arguments", arguments);
                        });
                        if let Some(signature) = signature {
                            call.obj("extra_content", |out| {
                                out.obj("google", |out| {
                                    out.str("thought_signature", signature);
                                });
                            });
                        }
                    });
                    at += 1;
                }
            }
        });
    }
    if blocks
        .iter()
        .any(|block| matches!(block, Block::Image { .. }))
    {
        message.arr("images", |images| {
            for block in blocks {
                if let Block::Image { mime, base64 } = block {
                    images.obj(|out| image(out, mime, base64));
                }
            }
        });
    }
}

/// A picture that the model made: OpenRouter's form, as OpenAI's chat completions have none.
pub(super) fn image(out: &mut Obj<'_>, mime: &str, base64: &str) {
    out.str("type", "image_url");
    out.obj("image_url", |out| {
        out.str("url", &format!("data:{mime};base64,{base64}"));
    });
}
