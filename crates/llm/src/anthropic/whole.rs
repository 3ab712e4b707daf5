//! Writes a message.

use crate::ir::{Block, Finish, Reply, arguments};
use crate::json::object;
use crate::translation::Told;

pub(crate) fn whole(reply: &Reply, told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let id = reply.id.clone().unwrap_or_else(|| told.id("msg_"));
    let choice = reply.choices.first();
    object(&mut out, |message| {
        message.str("id", &id);
        message.str("type", "message");
        message.str("role", "assistant");
        message.str("model", reply.model.as_deref().unwrap_or(told.model));
        message.arr("content", |content| {
            let blocks = choice
                .map(|choice| choice.blocks.as_slice())
                .unwrap_or_default();
            for (at, block) in blocks.iter().enumerate() {
                match block {
                    Block::Text(text) | Block::Refusal(text) => content.obj(|out| {
                        out.str("type", "text");
                        out.str("text", text);
                    }),
                    Block::Reasoning { text, signature } => content.obj(|out| {
                        out.str("type", "thinking");
                        out.str("thinking", text);
                        out.str("signature", signature.as_deref().unwrap_or_default());
                    }),
                    Block::Redacted(data) => content.obj(|out| {
                        out.str("type", "redacted_thinking");
                        out.str("data", data);
                    }),
                    Block::Tool {
                        id: own,
                        name,
                        arguments: text,
                        ..
                    } => content.obj(|out| {
                        out.str("type", "tool_use");
                        match own {
                            Some(own) => out.str("id", own),
                            None => out.str("id", &format!("toolu_{id}_{at}")),
                        }
                        out.str("name", name);
                        out.raw("input", &arguments(text));
                    }),
                    // No block of an answer holds a picture here.
                    Block::Image { .. } => {}
                }
            }
        });
        let finish = choice
            .and_then(|choice| choice.finish)
            .unwrap_or(Finish::Stop);
        message.str("stop_reason", finish.anthropic());
        let sequence = choice.and_then(|choice| choice.sequence.as_deref());
        message.str_or_null("stop_sequence", sequence);
        super::usage(message, reply.usage.unwrap_or_default());
    });
    out
}
