//! Reads what Bedrock answers: whole, and as events.

use crate::ir::{Event, Finish};
use crate::json::{Json, Tree, value_text};
use crate::translation::Confused;

/// Reads the stream of one answer.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    started: bool,
    finished: bool,
}

fn finish(word: &str) -> Finish {
    match word {
        "stop_sequence" => Finish::Sequence,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::ToolCalls,
        "guardrail_intervened" | "content_filtered" => Finish::Filter,
        _ => Finish::Stop,
    }
}

impl Decoder {
    /// The count comes after the end, and may be lost.
    pub(crate) fn may_end(&self) -> bool {
        self.finished
    }

    /// An event by its name, which stands beside the JSON.
    pub(crate) fn frame(
        &mut self,
        name: &[u8],
        tree: &Json<'_>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Confused> {
        if !matches!(tree, Json::Object(_)) {
            return Err(Confused);
        }
        if !self.started {
            self.started = true;
            sink(Event::Start {
                id: None,
                model: None,
            });
        }
        let index = tree
            .at("contentBlockIndex")
            .int()
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or(0);
        match name {
            b"contentBlockStart" => {
                let call = tree.at("start").at("toolUse");
                if call.given() {
                    sink(Event::ToolStart {
                        choice: 0,
                        index,
                        id: call.at("toolUseId").cow(),
                        name: call.at("name").cow().unwrap_or_default(),
                        signature: None,
                    });
                }
            }
            b"contentBlockDelta" => {
                let delta = tree.at("delta");
                if let Some(text) = delta.at("text").cow() {
                    sink(Event::Text { choice: 0, text });
                }
                if let Some(arguments) = delta.at("toolUse").at("input").cow()
                    && !arguments.is_empty()
                {
                    sink(Event::ToolDelta {
                        choice: 0,
                        index,
                        arguments,
                    });
                }
                let thought = delta.at("reasoningContent");
                if let Some(text) = thought.at("text").cow() {
                    sink(Event::Reasoning { choice: 0, text });
                }
                if let Some(signature) = thought.at("signature").cow() {
                    sink(Event::Signature {
                        choice: 0,
                        signature,
                    });
                }
                if let Some(data) = thought.at("redactedContent").cow() {
                    sink(Event::Redacted { choice: 0, data });
                }
            }
            b"messageStop" => {
                self.finished = true;
                sink(Event::Finish {
                    choice: 0,
                    reason: finish(tree.at("stopReason").text().unwrap_or_default()),
                    sequence: None,
                });
            }
            b"metadata" if self.finished => sink(Event::End),
            // `messageStart`, `contentBlockStop`, and what newer versions add.
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn whole(tree: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Confused> {
        let Json::Array(blocks) = tree.at("output").at("message").at("content") else {
            return Err(Confused);
        };
        sink(Event::Start {
            id: None,
            model: None,
        });
        for (at, block) in blocks.iter().enumerate() {
            if let Some(text) = block.at("text").cow() {
                sink(Event::Text { choice: 0, text });
            }
            let thought = block.at("reasoningContent");
            let text = thought.at("reasoningText");
            if let Some(said) = text.at("text").cow() {
                sink(Event::Reasoning {
                    choice: 0,
                    text: said,
                });
            }
            if let Some(signature) = text.at("signature").cow() {
                sink(Event::Signature {
                    choice: 0,
                    signature,
                });
            }
            if let Some(data) = thought.at("redactedContent").cow() {
                sink(Event::Redacted { choice: 0, data });
            }
            let call = block.at("toolUse");
            if call.given() {
                let index = at as u32;
                sink(Event::ToolStart {
                    choice: 0,
                    index,
                    id: call.at("toolUseId").cow(),
                    name: call.at("name").cow().unwrap_or_default(),
                    signature: None,
                });
                sink(Event::ToolDelta {
                    choice: 0,
                    index,
                    arguments: value_text(call.at("input")).into(),
                });
            }
        }
        sink(Event::Finish {
            choice: 0,
            reason: finish(tree.at("stopReason").text().unwrap_or_default()),
            sequence: None,
        });
        sink(Event::End);
        Ok(())
    }
}
