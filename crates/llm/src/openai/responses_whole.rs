//! Writes an answer of the Responses API.

use crate::ir::{Block, Choice, Finish, Reply};
use crate::json::{Arr, Obj, object};
use crate::translation::Told;
use crate::usage::Usage;

pub(crate) fn whole(reply: &Reply, told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let id = reply.id.clone().unwrap_or_else(|| told.id("resp_"));
    object(&mut out, |body| {
        let head = Head {
            id: &id,
            created: told.created,
            model: reply.model.as_deref().unwrap_or(told.model),
        };
        response(body, &head, reply.choices.first(), reply.usage, true);
    });
    out
}

/// What is the same in every copy of a response within a stream.
pub(super) struct Head<'h> {
    pub(super) id: &'h str,
    pub(super) created: u64,
    pub(super) model: &'h str,
}

/// The object; `done`: no more is coming.
pub(super) fn response(
    body: &mut Obj<'_>,
    head: &Head<'_>,
    choice: Option<&Choice>,
    usage: Option<Usage>,
    done: bool,
) {
    let finish = choice.and_then(|choice| choice.finish);
    let incomplete = match finish {
        Some(Finish::Length) => Some("max_output_tokens"),
        Some(Finish::Filter) => Some("content_filter"),
        _ => None,
    };
    body.str("id", head.id);
    body.str("object", "response");
    body.int("created_at", head.created);
    body.str(
        "status",
        match (done, incomplete) {
            (false, _) => "in_progress",
            (true, Some(_)) => "incomplete",
            (true, None) => "completed",
        },
    );
    body.null("error");
    match incomplete {
        Some(reason) if done => body.obj("incomplete_details", |out| out.str("reason", reason)),
        _ => body.null("incomplete_details"),
    }
    body.null("instructions");
    body.null("max_output_tokens");
    body.str("model", head.model);
    body.arr("output", |output| {
        if let Some(choice) = choice {
            items(choice, head.id, output);
        }
    });
    body.bool("parallel_tool_calls", true);
    body.null("previous_response_id");
    // Nothing is kept here.
    body.bool("store", false);
    body.null("temperature");
    body.obj("text", |out| {
        out.obj("format", |out| out.str("type", "text"));
    });
    body.str("tool_choice", "auto");
    body.arr("tools", |_| {});
    body.null("top_p");
    body.str("truncation", "disabled");
    match usage {
        None => body.null("usage"),
        Some(usage) => body.obj("usage", |out| {
            out.int("input_tokens", usage.input);
            out.obj("input_tokens_details", |out| {
                out.int("cached_tokens", usage.cached);
            });
            out.int("output_tokens", usage.output);
            out.obj("output_tokens_details", |out| {
                out.int("reasoning_tokens", usage.reasoning);
            });
            out.int("total_tokens", usage.total());
        }),
    }
    body.null("user");
    body.obj("metadata", |_| {});
}

/// The items of an answer.
fn items(choice: &Choice, id: &str, output: &mut Arr<'_>) {
    for (at, block) in choice.blocks.iter().enumerate() {
        if shown(block) {
            output.obj(|out| item(out, block, &item_id(block, id, at), id, at, "completed"));
        }
    }
}

/// Whether a block is an item of its own.
pub(super) fn shown(block: &Block) -> bool {
    !matches!(block, Block::Redacted(_))
}

/// The id of an item: of the answer's and its place.
pub(super) fn item_id(block: &Block, id: &str, at: usize) -> String {
    let kind = match block {
        Block::Text(_) | Block::Refusal(_) => "msg",
        Block::Reasoning { .. } | Block::Redacted(_) => "rs",
        Block::Tool { .. } => "fc",
        Block::Image { .. } => "ig",
    };
    format!("{kind}_{id}_{at}")
}

/// The id by which the caller answers a call.
pub(super) fn call_id(own: Option<&str>, id: &str, at: usize) -> String {
    own.map_or_else(|| format!("call_{id}_{at}"), str::to_owned)
}

pub(super) fn item(
    out: &mut Obj<'_>,
    block: &Block,
    item_id: &str,
    id: &str,
    at: usize,
    status: &str,
) {
    match block {
        Block::Text(_) | Block::Refusal(_) => {
            out.str("id", item_id);
            out.str("type", "message");
            out.str("status", status);
            out.str("role", "assistant");
            out.arr("content", |content| {
                if status == "completed" {
                    content.obj(|out| part(out, block));
                }
            });
        }
        // The proof stays away: another provider could make nothing of it when the item comes back.
        Block::Reasoning { text, .. } => {
            out.str("id", item_id);
            out.str("type", "reasoning");
            out.arr("summary", |summary| {
                if status == "completed" && !text.is_empty() {
                    summary.obj(|out| {
                        out.str("type", "summary_text");
                        out.str("text", text);
                    });
                }
            });
        }
        Block::Tool {
            id: own,
            name,
            arguments,
            ..
        } => {
            out.str("id", item_id);
            out.str("type", "function_call");
            out.str("status", status);
            out.str("call_id", &call_id(own.as_deref(), id, at));
            out.str("name", name);
            let empty = arguments.is_empty() && status == "completed";
            out.str("arguments", if empty { "{}" } else { arguments });
        }
        Block::Image { base64, .. } => {
            out.str("id", item_id);
            out.str("type", "image_generation_call");
            out.str("status", status);
            out.str("result", base64);
        }
        Block::Redacted(_) => {}
    }
}

/// The content part of a message.
pub(super) fn part(out: &mut Obj<'_>, block: &Block) {
    match block {
        Block::Refusal(text) => {
            out.str("type", "refusal");
            out.str("refusal", text);
        }
        Block::Text(text) => {
            out.str("type", "output_text");
            out.str("text", text);
            out.arr("annotations", |_| {});
            out.arr("logprobs", |_| {});
        }
        _ => {}
    }
}
