//! Writes a stream of chat completion chunks.

use crate::ir::Event;
use crate::json::{Obj, object};
use crate::translation::{Begun, Told};
use crate::usage::Usage;

/// What one call counts of the bound on what is kept: 16,384 of them are too many.
const CALL: usize = 1024;

/// Writes one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatStream {
    id: String,
    model: String,
    created: u64,
    include_usage: bool,
    /// Choices whose role has been told, as bits.
    opened: Vec<bool>,
    /// Calls that have begun, by choice and the provider's index, in order.
    calls: Vec<(u32, u32)>,
    usage: Option<Usage>,
}

impl ChatStream {
    pub(crate) fn new(told: &Told<'_>) -> Self {
        Self {
            id: told.id("chatcmpl-"),
            model: told.model.to_owned(),
            created: told.created,
            include_usage: told.include_usage,
            ..Self::default()
        }
    }

    /// Goes on with a stream that another has begun: its only choice is open.
    pub(crate) fn going_on(told: &Told<'_>, begun: &Begun) -> Self {
        Self {
            id: begun.id.clone(),
            model: begun.model.clone(),
            created: begun.created.unwrap_or(told.created),
            opened: vec![true],
            ..Self::new(told)
        }
    }

    fn chunk(&self, out: &mut Vec<u8>, choices: impl FnOnce(&mut Obj<'_>)) {
        out.extend_from_slice(b"data: ");
        object(out, |body| {
            body.str("id", &self.id);
            body.str("object", "chat.completion.chunk");
            body.int("created", self.created);
            body.str("model", &self.model);
            choices(body);
        });
        out.extend_from_slice(b"\n\n");
    }

    fn delta(&self, out: &mut Vec<u8>, choice: u32, fill: impl FnOnce(&mut Obj<'_>)) {
        self.choice(out, choice, None, fill);
    }

    fn choice(
        &self,
        out: &mut Vec<u8>,
        choice: u32,
        finish: Option<&str>,
        fill: impl FnOnce(&mut Obj<'_>),
    ) {
        self.chunk(out, |body| {
            body.arr("choices", |choices| {
                choices.obj(|out| {
                    out.int("index", choice.into());
                    out.obj("delta", fill);
                    out.null("logprobs");
                    out.str_or_null("finish_reason", finish);
                });
            });
            if self.include_usage {
                body.null("usage");
            }
        });
    }

    /// The role comes with the first piece of a choice.
    fn open(&mut self, out: &mut Vec<u8>, choice: u32) {
        let at = choice.min(255) as usize;
        if self.opened.len() <= at {
            self.opened.resize(at + 1, false);
        }
        if !self.opened[at] {
            self.opened[at] = true;
            self.delta(out, choice, |delta| {
                delta.str("role", "assistant");
                delta.str("content", "");
            });
        }
    }

    /// The number of a call within its choice, as callers know it.
    fn call(&self, choice: u32, index: u32) -> u64 {
        let before = self.calls.iter().filter(|(own, _)| *own == choice);
        before
            .enumerate()
            .filter(|(_, (_, own))| *own == index)
            .last()
            .map_or(0, |(at, _)| at as u64)
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
                self.open(out, 0);
            }
            Event::Text { choice, text } => {
                self.open(out, *choice);
                self.delta(out, *choice, |delta| delta.str("content", text));
            }
            Event::Refusal { choice, text } => {
                self.open(out, *choice);
                self.delta(out, *choice, |delta| delta.str("refusal", text));
            }
            Event::Reasoning { choice, text } => {
                self.open(out, *choice);
                self.delta(out, *choice, |delta| delta.str("reasoning_content", text));
            }
            Event::Logprobs { choice, content } => self.chunk(out, |body| {
                body.arr("choices", |choices| {
                    choices.obj(|out| {
                        out.int("index", (*choice).into());
                        out.obj("delta", |_| {});
                        out.obj("logprobs", |out| {
                            out.json("content", content);
                            out.null("refusal");
                        });
                        out.null("finish_reason");
                    });
                });
            }),
            Event::ToolStart {
                choice,
                index,
                id,
                name,
                signature,
            } => {
                self.open(out, *choice);
                self.calls.push((*choice, *index));
                let at = self.call(*choice, *index);
                let own;
                let id = match id {
                    Some(id) => id.as_ref(),
                    None => {
                        own = format!("call_{}_{at}", self.id);
                        &own
                    }
                };
                self.delta(out, *choice, |delta| {
                    delta.arr("tool_calls", |calls| {
                        calls.obj(|call| {
                            call.int("index", at);
                            call.str("id", id);
                            call.str("type", "function");
                            call.obj("function", |function| {
                                function.str("name", name);
                                function.str("arguments", "");
                            });
                            if let Some(signature) = signature {
                                call.obj("extra_content", |out| {
                                    out.obj("google", |out| {
                                        out.str("thought_signature", signature);
                                    });
                                });
                            }
                        });
                    });
                });
            }
            Event::ToolDelta {
                choice,
                index,
                arguments,
            } => {
                let at = self.call(*choice, *index);
                self.delta(out, *choice, |delta| {
                    delta.arr("tool_calls", |calls| {
                        calls.obj(|call| {
                            call.int("index", at);
                            call.obj("function", |function| {
                                function.str("arguments", arguments);
                            });
                        });
                    });
                });
            }
            Event::Image {
                choice,
                mime,
                base64,
            } => {
                self.open(out, *choice);
                self.delta(out, *choice, |delta| {
                    delta.arr("images", |images| {
                        images.obj(|image| super::whole::image(image, mime, base64));
                    });
                });
            }
            Event::Finish { choice, reason, .. } => {
                self.open(out, *choice);
                self.choice(out, *choice, Some(reason.openai()), |_| {});
            }
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => {
                if self.include_usage
                    && let Some(usage) = self.usage
                {
                    self.chunk(out, |body| {
                        body.arr("choices", |_| {});
                        super::usage(body, usage);
                    });
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            // Proofs are for the provider that gave them; this dialect has no place for them.
            Event::Signature { .. } | Event::Redacted { .. } => {}
        }
    }
}
