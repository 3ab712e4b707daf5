//! Writes a stream of answers.

use crate::ir::{Event, Finish, arguments};
use crate::json::{Arr, Obj, object};
use crate::translation::Told;
use crate::usage::Usage;

/// A call whose arguments are still coming: here it is told as a whole.
#[derive(Clone, Debug)]
struct Call {
    choice: u32,
    index: u32,
    id: Option<String>,
    name: String,
    arguments: String,
    signature: Option<String>,
}

/// Writes one stream.
#[derive(Clone, Debug)]
pub(crate) struct GeminiStream {
    id: String,
    model: String,
    calls: Vec<Call>,
    /// About as many bytes as the calls have.
    bytes: usize,
    /// Why each choice ended; a provider may tell it twice.
    finish: Vec<(u32, Finish)>,
    usage: Option<Usage>,
}

impl GeminiStream {
    pub(crate) fn new(told: &Told<'_>) -> Self {
        Self {
            id: told.id(""),
            model: told.model.to_owned(),
            calls: Vec::new(),
            bytes: 0,
            finish: Vec::new(),
            usage: None,
        }
    }

    /// About how many bytes of calls wait until they are whole.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.bytes
    }

    fn chunk(
        &self,
        out: &mut Vec<u8>,
        choice: u32,
        finish: Option<Finish>,
        usage: Option<Usage>,
        parts: impl FnOnce(&mut Arr<'_>),
    ) {
        out.extend_from_slice(b"data: ");
        object(out, |body| {
            body.arr("candidates", |candidates| {
                candidates.obj(|candidate| {
                    candidate.obj("content", |content| {
                        content.arr("parts", parts);
                        content.str("role", "model");
                    });
                    if let Some(finish) = finish {
                        candidate.str("finishReason", finish.gemini());
                    }
                    candidate.int("index", choice.into());
                });
            });
            if let Some(usage) = usage {
                super::usage(body, usage);
            }
            body.str("modelVersion", &self.model);
            body.str("responseId", &self.id);
        });
        out.extend_from_slice(b"\n\n");
    }

    fn flush_calls(&mut self, out: &mut Vec<u8>) {
        self.bytes = 0;
        for call in std::mem::take(&mut self.calls) {
            self.chunk(out, call.choice, None, None, |parts| {
                parts.obj(|part| {
                    function_call(
                        part,
                        call.id.as_deref(),
                        &call.name,
                        &call.arguments,
                        call.signature.as_deref(),
                    );
                });
            });
        }
    }

    pub(crate) fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        if let Event::ToolStart { .. } | Event::ToolDelta { .. } = event {
            self.bytes += size_of::<Call>() + event.length();
        }
        match event {
            Event::Start { id, model } => {
                if let Some(id) = id {
                    self.id = id.to_string();
                }
                if let Some(model) = model {
                    self.model = model.to_string();
                }
            }
            Event::Text { choice, text } | Event::Refusal { choice, text } => {
                self.flush_calls(out);
                self.chunk(out, *choice, None, None, |parts| {
                    parts.obj(|part| part.str("text", text));
                });
            }
            Event::Reasoning { choice, text } => {
                self.flush_calls(out);
                self.chunk(out, *choice, None, None, |parts| {
                    parts.obj(|part| thought(part, text));
                });
            }
            Event::ToolStart {
                choice,
                index,
                id,
                name,
                signature,
            } => self.calls.push(Call {
                choice: *choice,
                index: *index,
                id: id.as_ref().map(ToString::to_string),
                name: name.to_string(),
                arguments: String::new(),
                signature: signature.as_ref().map(ToString::to_string),
            }),
            Event::ToolDelta {
                choice,
                index,
                arguments,
            } => {
                let call = self
                    .calls
                    .iter_mut()
                    .rev()
                    .find(|call| call.choice == *choice && call.index == *index);
                if let Some(call) = call {
                    call.arguments.push_str(arguments);
                }
            }
            Event::Image {
                choice,
                mime,
                base64,
            } => self.chunk(out, *choice, None, None, |parts| {
                parts.obj(|part| inline(part, mime, base64));
            }),
            Event::Finish { choice, reason, .. } => {
                self.flush_calls(out);
                match self.finish.iter_mut().find(|(of, _)| of == choice) {
                    Some((_, told)) => *told = *reason,
                    None => self.finish.push((*choice, *reason)),
                }
            }
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => {
                self.flush_calls(out);
                let finish = std::mem::take(&mut self.finish);
                let last = finish.len().saturating_sub(1);
                for (at, (choice, reason)) in finish.iter().enumerate() {
                    let usage = self.usage.filter(|_| at == last);
                    self.chunk(out, *choice, Some(*reason), usage, |parts| {
                        parts.obj(|part| part.str("text", ""));
                    });
                }
            }
            Event::Logprobs { .. } | Event::Signature { .. } | Event::Redacted { .. } => {}
        }
    }
}

pub(super) fn thought(part: &mut Obj<'_>, text: &str) {
    part.str("text", text);
    part.bool("thought", true);
}

pub(super) fn inline(part: &mut Obj<'_>, mime: &str, base64: &str) {
    part.obj("inlineData", |out| {
        out.str("mimeType", mime);
        out.str("data", base64);
    });
}

pub(super) fn function_call(
    part: &mut Obj<'_>,
    id: Option<&str>,
    name: &str,
    text: &str,
    signature: Option<&str>,
) {
    part.obj("functionCall", |out| {
        out.opt_str("id", id);
        out.str("name", name);
        out.raw("args", &arguments(text));
    });
    part.opt_str("thoughtSignature", signature);
}
