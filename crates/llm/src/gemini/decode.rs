//! Reads what a provider answers: each chunk of a stream has the form of a whole answer.

use std::borrow::Cow;

use crate::ir::{Event, Finish};
use crate::json::{Json, Tree, array, parse, value_text};
use crate::translation::Confused;

/// Reads the stream of one answer.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    started: bool,
    finished: bool,
    /// Calls so far: they have no numbers here.
    calls: u32,
}

fn finish(word: &str) -> Finish {
    match word {
        "MAX_TOKENS" => Finish::Length,
        "SAFETY"
        | "RECITATION"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "LANGUAGE"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION" => Finish::Filter,
        _ => Finish::Stop,
    }
}

impl Decoder {
    /// There is no mark of the end but that a reason was told.
    pub(crate) fn may_end(&self) -> bool {
        self.finished
    }

    pub(crate) fn whole(tree: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Confused> {
        let mut decoder = Self::default();
        decoder.frame(tree, sink)?;
        if !decoder.finished {
            sink(Event::Finish {
                choice: 0,
                reason: Finish::Stop,
                sequence: None,
            });
        }
        sink(Event::End);
        Ok(())
    }

    pub(crate) fn frame(
        &mut self,
        tree: &Json<'_>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Confused> {
        let known = [
            "candidates",
            "usageMetadata",
            "promptFeedback",
            "responseId",
        ];
        if !known.iter().any(|key| tree.at(key).given()) {
            return Err(Confused);
        }
        if !self.started {
            self.started = true;
            sink(Event::Start {
                id: tree.at("responseId").cow(),
                model: tree.at("modelVersion").cow(),
            });
        }
        for (at, candidate) in tree.at("candidates").items().iter().enumerate() {
            let choice = candidate
                .at("index")
                .int()
                .and_then(|index| u32::try_from(index).ok())
                .unwrap_or(at as u32);
            for part in candidate.at("content").at("parts").items() {
                self.part(choice, part, sink);
            }
            logprobs(choice, candidate.at("logprobsResult"), sink);
            if let Some(word) = candidate.at("finishReason").text() {
                self.finished = true;
                let reason = match finish(word) {
                    Finish::Stop if self.calls > 0 => Finish::ToolCalls,
                    reason => reason,
                };
                sink(Event::Finish {
                    choice,
                    reason,
                    sequence: None,
                });
            }
        }
        if tree.at("promptFeedback").at("blockReason").given() && !self.finished {
            self.finished = true;
            sink(Event::Finish {
                choice: 0,
                reason: Finish::Filter,
                sequence: None,
            });
        }
        Ok(())
    }

    fn part(&mut self, choice: u32, part: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) {
        if let Json::Str(text) = part.at("text") {
            let text = Cow::Borrowed(text.as_ref());
            if text.is_empty() {
                return;
            }
            sink(if part.at("thought").truth() == Some(true) {
                Event::Reasoning { choice, text }
            } else {
                Event::Text { choice, text }
            });
        }
        let call = part.at("functionCall");
        if call.given() {
            let index = self.calls;
            self.calls += 1;
            sink(Event::ToolStart {
                choice,
                index,
                id: call.at("id").cow(),
                name: call.at("name").cow().unwrap_or_default(),
                signature: part.at("thoughtSignature").cow(),
            });
            let args = call.at("args");
            let arguments = if args.given() {
                value_text(args)
            } else {
                "{}".to_owned()
            };
            sink(Event::ToolDelta {
                choice,
                index,
                arguments: arguments.into(),
            });
        }
        let inline = part.at("inlineData");
        if let (Some(mime), Some(base64)) = (inline.at("mimeType").cow(), inline.at("data").cow()) {
            sink(Event::Image {
                choice,
                mime,
                base64,
            });
        }
    }
}

/// Google's log probabilities in OpenAI's form.
fn logprobs(choice: u32, result: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) {
    let chosen = result.at("chosenCandidates").items();
    if chosen.is_empty() {
        return;
    }
    let tops = result.at("topCandidates").items();
    let mut out = Vec::new();
    array(&mut out, |content| {
        for (at, token) in chosen.iter().enumerate() {
            content.obj(|out| {
                out.str("token", token.at("token").text().unwrap_or_default());
                out.opt_num("logprob", token.at("logProbability").float());
                out.null("bytes");
                out.arr("top_logprobs", |top| {
                    let others = tops.get(at).map(|top| top.at("candidates").items());
                    for other in others.unwrap_or_default() {
                        top.obj(|out| {
                            out.str("token", other.at("token").text().unwrap_or_default());
                            out.opt_num("logprob", other.at("logProbability").float());
                            out.null("bytes");
                        });
                    }
                });
            });
        }
    });
    if let Ok(content) = parse(&out) {
        sink(Event::Logprobs { choice, content });
    }
}
