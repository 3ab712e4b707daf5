//! Reads what a provider answers to a chat request: whole, and as a stream.

use std::borrow::Cow;

use crate::ir::{Event, Finish};
use crate::json::{Json, Tree};
use crate::translation::Confused;

/// Reads the stream of one answer.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    started: bool,
    finished: bool,
}

fn finish(word: &str) -> Finish {
    match word {
        "length" | "max_tokens" => Finish::Length,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "content_filter" | "sensitive" => Finish::Filter,
        _ => Finish::Stop,
    }
}

impl Decoder {
    /// The stream's `[DONE]`.
    pub(crate) fn done(&mut self, sink: &mut dyn FnMut(Event<'_>)) {
        sink(Event::End);
    }

    /// The stream may end here, though it did not say so.
    pub(crate) fn may_end(&self) -> bool {
        self.finished
    }

    /// A frame of a stream.
    pub(crate) fn frame(
        &mut self,
        tree: &Json<'_>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Confused> {
        if !matches!(tree, Json::Object(_)) {
            return Err(Confused);
        }
        if !self.started && (tree.at("id").given() || tree.at("choices").given()) {
            self.started = true;
            sink(Event::Start {
                id: tree.at("id").cow(),
                model: tree.at("model").cow(),
            });
        }
        for choice in tree.at("choices").items() {
            let at = index(choice);
            message(at, choice.at("delta"), sink);
            logprobs(at, choice, sink);
            if let Some(word) = choice.at("finish_reason").text() {
                self.finished = true;
                sink(Event::Finish {
                    choice: at,
                    reason: finish(word),
                    sequence: None,
                });
            }
        }
        Ok(())
    }

    /// An answer in one piece.
    pub(crate) fn whole(tree: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Confused> {
        let Json::Array(choices) = tree.at("choices") else {
            return Err(Confused);
        };
        sink(Event::Start {
            id: tree.at("id").cow(),
            model: tree.at("model").cow(),
        });
        for choice in choices {
            let at = index(choice);
            message(at, choice.at("message"), sink);
            logprobs(at, choice, sink);
            sink(Event::Finish {
                choice: at,
                reason: finish(choice.at("finish_reason").text().unwrap_or("stop")),
                sequence: None,
            });
        }
        sink(Event::End);
        Ok(())
    }
}

fn index(choice: &Json<'_>) -> u32 {
    choice
        .at("index")
        .int()
        .and_then(|index| u32::try_from(index).ok())
        .unwrap_or(0)
}

fn logprobs(choice: u32, tree: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) {
    let content = tree.at("logprobs").at("content");
    if !content.items().is_empty() {
        sink(Event::Logprobs {
            choice,
            content: content.clone(),
        });
    }
}

/// A message, or a piece of one: both have the same fields.
fn message(choice: u32, message: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) {
    // DeepSeek's name, then that of OpenRouter, Groq and vLLM.
    let reasoning = message
        .at("reasoning_content")
        .cow()
        .or_else(|| message.at("reasoning").cow());
    if let Some(text) = reasoning
        && !text.is_empty()
    {
        sink(Event::Reasoning { choice, text });
    }
    match message.at("content") {
        Json::Str(text) if !text.is_empty() => sink(Event::Text {
            choice,
            text: Cow::Borrowed(text),
        }),
        // Mistral's reasoning models answer in parts.
        Json::Array(parts) => {
            for part in parts {
                if let Some(text) = part.at("text").cow() {
                    sink(Event::Text { choice, text });
                }
                for thought in part.at("thinking").items() {
                    if let Some(text) = thought.at("text").cow() {
                        sink(Event::Reasoning { choice, text });
                    }
                }
            }
        }
        _ => {}
    }
    if let Some(text) = message.at("refusal").cow()
        && !text.is_empty()
    {
        sink(Event::Refusal { choice, text });
    }
    for (at, call) in message.at("tool_calls").items().iter().enumerate() {
        let index = call
            .at("index")
            .int()
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or(at as u32);
        let function = call.at("function");
        // The first piece of a call has its name; some send an empty one again.
        if let Some(name) = function.at("name").cow()
            && !name.is_empty()
        {
            sink(Event::ToolStart {
                choice,
                index,
                id: call.at("id").cow().filter(|id| !id.is_empty()),
                name,
                signature: call
                    .at("extra_content")
                    .at("google")
                    .at("thought_signature")
                    .cow(),
            });
        }
        match function.at("arguments") {
            Json::Str(arguments) if !arguments.is_empty() => sink(Event::ToolDelta {
                choice,
                index,
                arguments: Cow::Borrowed(arguments),
            }),
            // Some servers give the object itself.
            object @ Json::Object(_) => sink(Event::ToolDelta {
                choice,
                index,
                arguments: crate::json::value_text(object).into(),
            }),
            _ => {}
        }
    }
    for image in message.at("images").items() {
        if let Some(url) = image.at("image_url").at("url").text()
            && let Some((mime, base64)) = crate::ir::data_url(url)
        {
            sink(Event::Image {
                choice,
                mime: mime.into(),
                base64: base64.into(),
            });
        }
    }
}
