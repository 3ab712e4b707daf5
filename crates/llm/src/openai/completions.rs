//! Legacy completions: a prompt becomes the user's only message.

use crate::fault::{Fault, FaultKind};
use crate::ir::{Event, Part, Reply, Request, Role, Text};
use crate::json::{Json, Obj, Tree, object};
use crate::translation::Told;
use crate::usage::Usage;

pub(crate) fn read<'a>(body: &Json<'a>) -> Result<Request<'a>, Fault> {
    let prompt = match body.at("prompt") {
        Json::Str(text) => text.clone(),
        Json::Array(items) if items.len() == 1 && items[0].text().is_some() => {
            items[0].cow().unwrap_or_default()
        }
        Json::Array(_) => {
            return Err(Fault::new(
                FaultKind::Untranslatable,
                "several prompts, or tokens, can't be given to this provider",
            )
            .at("prompt"));
        }
        _ => return Err(Fault::field("prompt", "a string")),
    };
    if body
        .at("suffix")
        .text()
        .is_some_and(|text| !text.is_empty())
        || body.at("echo").truth() == Some(true)
    {
        return Err(Fault::new(
            FaultKind::Untranslatable,
            "suffix and echo can't be given to this provider",
        ));
    }
    let mut request = Request::default();
    request.say(Role::User, vec![Part::Text(Text::new(prompt))]);
    request.max_tokens = body.at("max_tokens").int();
    request.stop = match body.at("stop") {
        Json::Str(stop) => vec![stop.clone()],
        stop => stop.items().iter().filter_map(Tree::cow).collect(),
    };
    request.choices = body.at("n").int();
    super::chat_read::sampling(&mut request, body);
    Ok(request)
}

fn head(body: &mut Obj<'_>, id: &str, created: u64, model: &str) {
    body.str("id", id);
    body.str("object", "text_completion");
    body.int("created", created);
    body.str("model", model);
}

/// Writes a whole answer.
pub(crate) fn whole(reply: &Reply, told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    object(&mut out, |body| {
        let id = reply.id.clone().unwrap_or_else(|| told.id("cmpl-"));
        let model = reply.model.as_deref().unwrap_or(told.model);
        head(body, &id, told.created, model);
        body.arr("choices", |choices| {
            for (at, choice) in reply.choices.iter().enumerate() {
                choices.obj(|out| {
                    out.str("text", &choice.text());
                    out.int("index", at as u64);
                    out.null("logprobs");
                    let finish = choice.finish.unwrap_or(crate::ir::Finish::Stop);
                    out.str("finish_reason", finish.openai());
                });
            }
        });
        if let Some(usage) = reply.usage {
            super::usage(body, usage);
        }
    });
    out
}

/// Writes a stream.
#[derive(Clone, Debug)]
pub(crate) struct CompletionsStream {
    id: String,
    model: String,
    created: u64,
    include_usage: bool,
    usage: Option<Usage>,
}

impl CompletionsStream {
    pub(crate) fn new(told: &Told<'_>) -> Self {
        Self {
            id: told.id("cmpl-"),
            model: told.model.to_owned(),
            created: told.created,
            include_usage: told.include_usage,
            usage: None,
        }
    }

    fn chunk(&self, out: &mut Vec<u8>, choice: u32, text: &str, finish: Option<&str>) {
        out.extend_from_slice(b"data: ");
        object(out, |body| {
            head(body, &self.id, self.created, &self.model);
            body.arr("choices", |choices| {
                choices.obj(|out| {
                    out.str("text", text);
                    out.int("index", choice.into());
                    out.null("logprobs");
                    out.str_or_null("finish_reason", finish);
                });
            });
        });
        out.extend_from_slice(b"\n\n");
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
            Event::Text { choice, text } | Event::Refusal { choice, text } => {
                self.chunk(out, *choice, text, None);
            }
            Event::Finish { choice, reason, .. } => {
                self.chunk(out, *choice, "", Some(reason.openai()));
            }
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => {
                if self.include_usage
                    && let Some(usage) = self.usage
                {
                    out.extend_from_slice(b"data: ");
                    object(out, |body| {
                        head(body, &self.id, self.created, &self.model);
                        body.arr("choices", |_| {});
                        super::usage(body, usage);
                    });
                    out.extend_from_slice(b"\n\n");
                }
                out.extend_from_slice(b"data: [DONE]\n\n");
            }
            // Text is all that there is here.
            _ => {}
        }
    }
}
