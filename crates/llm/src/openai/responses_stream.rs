//! Writes a stream of the Responses API: every item is opened, told piece by piece, and told once more as a whole.

use crate::ir::{Block, Event, Reply};
use crate::json::{Obj, object};
use crate::translation::Told;

use super::responses_whole::{Head, item, item_id, part, response, shown};

/// Writes one stream.
#[derive(Clone, Debug)]
pub(crate) struct ResponsesStream {
    id: String,
    model: String,
    created: u64,
    reply: Reply,
    /// About as many bytes as the reply's texts have.
    bytes: usize,
    sequence: u64,
    opened: bool,
    /// The blocks that are closed: all before this one.
    closed: usize,
    /// The block that is open is [`closed`](Self::closed), and has been told of.
    item_open: bool,
}

impl ResponsesStream {
    pub(crate) fn new(told: &Told<'_>) -> Self {
        Self {
            id: told.id("resp_"),
            model: told.model.to_owned(),
            created: told.created,
            reply: Reply::default(),
            bytes: 0,
            sequence: 0,
            opened: false,
            closed: 0,
            item_open: false,
        }
    }

    /// About how many bytes of the reply are kept, to be told as a whole at its end.
    pub(crate) fn kept_bytes(&self) -> usize {
        const BLOCK: usize = 64;
        let blocks = self
            .reply
            .choices
            .first()
            .map_or(0, |choice| choice.blocks.len());
        self.bytes + BLOCK * blocks
    }

    fn send(&mut self, out: &mut Vec<u8>, kind: &str, fill: impl FnOnce(&Self, &mut Obj<'_>)) {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\ndata: ");
        object(out, |body| {
            body.str("type", kind);
            body.int("sequence_number", self.sequence);
            fill(self, body);
        });
        out.extend_from_slice(b"\n\n");
        self.sequence += 1;
    }

    fn send_response(&mut self, out: &mut Vec<u8>, kind: &str, done: bool) {
        self.send(out, kind, |own, body| {
            body.obj("response", |body| {
                let head = Head {
                    id: &own.id,
                    created: own.created,
                    model: &own.model,
                };
                response(
                    body,
                    &head,
                    own.reply.choices.first(),
                    own.reply.usage,
                    done,
                );
            });
        });
    }

    fn open(&mut self, out: &mut Vec<u8>) {
        if !self.opened {
            self.opened = true;
            self.send_response(out, "response.created", false);
            self.send_response(out, "response.in_progress", false);
        }
    }

    fn block(&self, at: usize) -> Option<&Block> {
        self.reply.choices.first()?.blocks.get(at)
    }

    /// Where an item stands in the output: blocks that are not shown don't count.
    fn place(&self, at: usize) -> u64 {
        let blocks = self.reply.choices.first().map(|choice| &choice.blocks);
        blocks.map_or(0, |blocks| {
            blocks[..at].iter().filter(|block| shown(block)).count() as u64
        })
    }

    fn item_id(&self, at: usize) -> String {
        self.block(at)
            .map(|block| item_id(block, &self.id, at))
            .unwrap_or_default()
    }

    /// Fields that name an item.
    fn name(&self, body: &mut Obj<'_>, at: usize) {
        body.str("item_id", &self.item_id(at));
        body.int("output_index", self.place(at));
    }

    fn send_item(&mut self, out: &mut Vec<u8>, kind: &str, at: usize, status: &str) {
        self.send(out, kind, |own, body| {
            body.int("output_index", own.place(at));
            if let Some(block) = own.block(at) {
                body.obj("item", |out| {
                    item(out, block, &own.item_id(at), &own.id, at, status);
                });
            }
        });
    }

    fn open_item(&mut self, out: &mut Vec<u8>) {
        let at = self.closed;
        self.item_open = true;
        let Some(block) = self.block(at) else { return };
        let (message, reasoning) = (
            matches!(block, Block::Text(_) | Block::Refusal(_)),
            matches!(block, Block::Reasoning { .. }),
        );
        if !shown(block) {
            return;
        }
        self.send_item(out, "response.output_item.added", at, "in_progress");
        if message {
            self.send(out, "response.content_part.added", |own, body| {
                own.name(body, at);
                body.int("content_index", 0);
                let empty = match own.block(at) {
                    Some(Block::Refusal(_)) => Block::Refusal(String::new()),
                    _ => Block::Text(String::new()),
                };
                body.obj("part", |out| part(out, &empty));
            });
        }
        if reasoning {
            self.send(out, "response.reasoning_summary_part.added", |own, body| {
                own.name(body, at);
                body.int("summary_index", 0);
                body.obj("part", |out| {
                    out.str("type", "summary_text");
                    out.str("text", "");
                });
            });
        }
    }

    /// Closes items until only the last one, if `all` is not set, is open.
    fn close(&mut self, out: &mut Vec<u8>, all: bool) {
        loop {
            let count = self
                .reply
                .choices
                .first()
                .map_or(0, |choice| choice.blocks.len());
            if self.closed >= count || (!all && self.closed + 1 >= count) {
                return;
            }
            if !self.item_open {
                self.open_item(out);
            }
            self.close_item(out);
        }
    }

    fn close_item(&mut self, out: &mut Vec<u8>) {
        let at = self.closed;
        let kind = match self.block(at) {
            Some(Block::Text(_)) => "response.output_text.done",
            Some(Block::Refusal(_)) => "response.refusal.done",
            Some(Block::Reasoning { .. }) => "response.reasoning_summary_text.done",
            Some(Block::Tool { .. }) => "response.function_call_arguments.done",
            _ => "",
        };
        if !kind.is_empty() {
            self.send(out, kind, |own, body| {
                own.name(body, at);
                match own.block(at) {
                    Some(Block::Text(text)) => {
                        body.int("content_index", 0);
                        body.str("text", text);
                        body.arr("logprobs", |_| {});
                    }
                    Some(Block::Refusal(text)) => {
                        body.int("content_index", 0);
                        body.str("refusal", text);
                    }
                    Some(Block::Reasoning { text, .. }) => {
                        body.int("summary_index", 0);
                        body.str("text", text);
                    }
                    Some(Block::Tool {
                        name, arguments, ..
                    }) => {
                        body.str("name", name);
                        body.str(
                            "arguments",
                            if arguments.is_empty() {
                                "{}"
                            } else {
                                arguments
                            },
                        );
                    }
                    _ => {}
                }
            });
        }
        match self.block(at) {
            Some(Block::Text(_) | Block::Refusal(_)) => {
                self.send(out, "response.content_part.done", |own, body| {
                    own.name(body, at);
                    body.int("content_index", 0);
                    if let Some(block) = own.block(at) {
                        body.obj("part", |out| part(out, block));
                    }
                });
            }
            Some(Block::Reasoning { .. }) => {
                self.send(out, "response.reasoning_summary_part.done", |own, body| {
                    own.name(body, at);
                    body.int("summary_index", 0);
                    if let Some(Block::Reasoning { text, .. }) = own.block(at) {
                        body.obj("part", |out| {
                            out.str("type", "summary_text");
                            out.str("text", text);
                        });
                    }
                });
            }
            _ => {}
        }
        if self.block(at).is_some_and(shown) {
            self.send_item(out, "response.output_item.done", at, "completed");
        }
        self.closed += 1;
        self.item_open = false;
    }

    pub(crate) fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        // One answer is all that this dialect has.
        if event.choice() > 0 {
            return;
        }
        if let Event::Start { id, model } = event {
            if let Some(id) = id {
                self.id = id.to_string();
            }
            if let Some(model) = model {
                self.model = model.to_string();
            }
        }
        if let Event::Usage(_) = event {
            // It may come before the answer's name is known, which must not change once it is told.
            self.reply.add(event);
            return;
        }
        self.open(out);
        self.bytes += event.length();
        self.reply.add(event);
        if let Event::End = event {
            self.close(out, true);
            let choice = self.reply.choices.first();
            let cut = matches!(
                choice.and_then(|choice| choice.finish),
                Some(crate::ir::Finish::Length | crate::ir::Finish::Filter)
            );
            let kind = if cut {
                "response.incomplete"
            } else {
                "response.completed"
            };
            self.send_response(out, kind, true);
            return;
        }
        self.close(out, false);
        if !self.item_open && self.block(self.closed).is_some() {
            self.open_item(out);
        }
        let at = self.closed;
        let (kind, delta, index) = match event {
            Event::Text { text, .. } => ("response.output_text.delta", text, "content_index"),
            Event::Refusal { text, .. } => ("response.refusal.delta", text, "content_index"),
            Event::Reasoning { text, .. } => (
                "response.reasoning_summary_text.delta",
                text,
                "summary_index",
            ),
            Event::ToolDelta { arguments, .. } => {
                ("response.function_call_arguments.delta", arguments, "")
            }
            _ => return,
        };
        if delta.is_empty() {
            return;
        }
        self.send(out, kind, |own, body| {
            own.name(body, at);
            if !index.is_empty() {
                body.int(index, 0);
            }
            body.str("delta", delta);
            if kind == "response.output_text.delta" {
                body.arr("logprobs", |_| {});
            }
        });
    }
}
