//! Writes a stream of events.

use crate::ir::{Event, Finish};
use crate::json::{Obj, object};
use crate::translation::{Begun, Told};
use crate::usage::Usage;

/// The block that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Tool(u32),
}

/// What one call counts of the bound on what is kept: 16,384 of them are too many.
const CALL: usize = 1024;

/// Writes one stream.
#[derive(Clone, Debug)]
pub(crate) struct MessagesStream {
    id: String,
    model: String,
    started: bool,
    open: Option<Open>,
    /// The number of the open block, or of the next one.
    index: u64,
    /// The provider's calls and the blocks that they became.
    calls: Vec<(u32, u64)>,
    finish: Option<(Finish, Option<String>)>,
    usage: Usage,
}

impl MessagesStream {
    pub(crate) fn new(told: &Told<'_>) -> Self {
        Self {
            id: told.id("msg_"),
            model: told.model.to_owned(),
            started: false,
            open: None,
            index: 0,
            calls: Vec::new(),
            finish: None,
            usage: Usage::default(),
        }
    }

    /// Goes on with a stream that another has begun.
    pub(crate) fn going_on(told: &Told<'_>, begun: &Begun) -> Self {
        Self {
            id: begun.id.clone(),
            model: begun.model.clone(),
            started: true,
            open: begun.block_open.then_some(Open::Text),
            index: begun.block,
            usage: begun.usage,
            ..Self::new(told)
        }
    }

    fn send(out: &mut Vec<u8>, kind: &str, fill: impl FnOnce(&mut Obj<'_>)) {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\ndata: ");
        object(out, |body| {
            body.str("type", kind);
            fill(body);
        });
        out.extend_from_slice(b"\n\n");
    }

    fn start(&mut self, out: &mut Vec<u8>) {
        if self.started {
            return;
        }
        self.started = true;
        Self::send(out, "message_start", |body| {
            body.obj("message", |message| {
                message.str("id", &self.id);
                message.str("type", "message");
                message.str("role", "assistant");
                message.str("model", &self.model);
                message.arr("content", |_| {});
                message.null("stop_reason");
                message.null("stop_sequence");
                super::usage(message, self.usage);
            });
        });
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            Self::send(out, "content_block_stop", |body| {
                body.int("index", self.index);
            });
            self.index += 1;
        }
    }

    fn open(&mut self, out: &mut Vec<u8>, kind: Open, fill: impl FnOnce(&mut Obj<'_>)) {
        self.start(out);
        self.close(out);
        self.open = Some(kind);
        Self::send(out, "content_block_start", |body| {
            body.int("index", self.index);
            body.obj("content_block", fill);
        });
    }

    fn delta(&self, out: &mut Vec<u8>, index: u64, kind: &str, field: &str, text: &str) {
        Self::send(out, "content_block_delta", |body| {
            body.int("index", index);
            body.obj("delta", |delta| {
                delta.str("type", kind);
                delta.str(field, text);
            });
        });
    }

    fn thinking(&mut self, out: &mut Vec<u8>) {
        if self.open != Some(Open::Thinking) {
            self.open(out, Open::Thinking, |block| {
                block.str("type", "thinking");
                block.str("thinking", "");
                block.str("signature", "");
            });
        }
    }

    /// What calls that were told are known by. More than a few have no sense: each counts as much as it takes to look through them.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.calls.len() * CALL
    }

    pub(crate) fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match event {
            Event::Start { id, model } => {
                if let Some(id) = id {
                    self.id = id.to_string();
                }
                if let Some(model) = model {
                    self.model = model.to_string();
                }
            }
            Event::Text { choice: 0, text } | Event::Refusal { choice: 0, text } => {
                if text.is_empty() {
                    return;
                }
                if self.open != Some(Open::Text) {
                    self.open(out, Open::Text, |block| {
                        block.str("type", "text");
                        block.str("text", "");
                    });
                }
                self.delta(out, self.index, "text_delta", "text", text);
            }
            Event::Reasoning { choice: 0, text } => {
                if text.is_empty() {
                    return;
                }
                self.thinking(out);
                self.delta(out, self.index, "thinking_delta", "thinking", text);
            }
            Event::Signature {
                choice: 0,
                signature,
            } => {
                self.thinking(out);
                self.delta(out, self.index, "signature_delta", "signature", signature);
            }
            Event::Redacted { choice: 0, data } => {
                self.open(out, Open::Thinking, |block| {
                    block.str("type", "redacted_thinking");
                    block.str("data", data);
                });
                self.close(out);
            }
            Event::ToolStart {
                choice: 0,
                index,
                id,
                name,
                ..
            } => {
                let own;
                let id = match id {
                    Some(id) => id.as_ref(),
                    None => {
                        own = format!("toolu_{}_{}", self.id, self.calls.len());
                        &own
                    }
                };
                self.open(out, Open::Tool(*index), |block| {
                    block.str("type", "tool_use");
                    block.str("id", id);
                    block.str("name", name);
                    block.obj("input", |_| {});
                });
                self.calls.push((*index, self.index));
            }
            Event::ToolDelta {
                choice: 0,
                index,
                arguments,
            } => {
                let block = self.calls.iter().rev().find(|(own, _)| own == index);
                if let Some((_, block)) = block {
                    self.delta(out, *block, "input_json_delta", "partial_json", arguments);
                }
            }
            Event::Finish {
                choice: 0,
                reason,
                sequence,
            } => {
                self.start(out);
                self.close(out);
                self.finish = Some((*reason, sequence.as_ref().map(ToString::to_string)));
            }
            Event::Usage(usage) => self.usage = *usage,
            Event::End => {
                self.start(out);
                self.close(out);
                let (reason, sequence) = self.finish.take().unwrap_or((Finish::Stop, None));
                Self::send(out, "message_delta", |body| {
                    body.obj("delta", |delta| {
                        delta.str("stop_reason", reason.anthropic());
                        delta.str_or_null("stop_sequence", sequence.as_deref());
                    });
                    super::usage(body, self.usage);
                });
                Self::send(out, "message_stop", |_| {});
            }
            // Other choices than the first, and what this dialect has no word for.
            _ => {}
        }
    }
}
