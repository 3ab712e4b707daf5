//! Reads what a provider answers: whole, and as a stream.

use crate::ir::{Event, Finish};
use crate::json::{Json, Tree, value_text};
use crate::translation::Confused;

/// Reads the stream of one answer.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    finished: bool,
}

fn finish(word: &str) -> Finish {
    match word {
        "stop_sequence" => Finish::Sequence,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "tool_use" => Finish::ToolCalls,
        "refusal" => Finish::Refusal,
        "pause_turn" => Finish::Pause,
        _ => Finish::Stop,
    }
}

impl Decoder {
    pub(crate) fn may_end(&self) -> bool {
        // The end is always told.
        false
    }

    pub(crate) fn frame(
        &mut self,
        tree: &Json<'_>,
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Confused> {
        let index = tree
            .at("index")
            .int()
            .and_then(|index| u32::try_from(index).ok())
            .unwrap_or(0);
        match tree.at("type").text() {
            Some("message_start") => {
                let message = tree.at("message");
                sink(Event::Start {
                    id: message.at("id").cow(),
                    model: message.at("model").cow(),
                });
            }
            Some("content_block_start") => block(tree.at("content_block"), index, true, sink),
            Some("content_block_delta") => {
                let delta = tree.at("delta");
                match delta.at("type").text() {
                    Some("text_delta") => {
                        if let Some(text) = delta.at("text").cow() {
                            sink(Event::Text { choice: 0, text });
                        }
                    }
                    Some("thinking_delta") => {
                        if let Some(text) = delta.at("thinking").cow() {
                            sink(Event::Reasoning { choice: 0, text });
                        }
                    }
                    Some("signature_delta") => {
                        if let Some(signature) = delta.at("signature").cow() {
                            sink(Event::Signature {
                                choice: 0,
                                signature,
                            });
                        }
                    }
                    Some("input_json_delta") => {
                        if let Some(arguments) = delta.at("partial_json").cow()
                            && !arguments.is_empty()
                        {
                            sink(Event::ToolDelta {
                                choice: 0,
                                index,
                                arguments,
                            });
                        }
                    }
                    _ => {}
                }
            }
            Some("message_delta") => {
                let delta = tree.at("delta");
                if let Some(word) = delta.at("stop_reason").text() {
                    self.finished = true;
                    sink(Event::Finish {
                        choice: 0,
                        reason: finish(word),
                        sequence: delta.at("stop_sequence").cow(),
                    });
                }
            }
            Some("message_stop") => {
                if !self.finished {
                    sink(Event::Finish {
                        choice: 0,
                        reason: Finish::Stop,
                        sequence: None,
                    });
                }
                sink(Event::End);
            }
            // Anthropic's rules on versions: new events may appear and are to be borne.
            Some(_) => {}
            None => return Err(Confused),
        }
        Ok(())
    }

    pub(crate) fn whole(tree: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Confused> {
        let Json::Array(blocks) = tree.at("content") else {
            return Err(Confused);
        };
        sink(Event::Start {
            id: tree.at("id").cow(),
            model: tree.at("model").cow(),
        });
        for (at, content) in blocks.iter().enumerate() {
            block(content, at as u32, false, sink);
        }
        sink(Event::Finish {
            choice: 0,
            reason: finish(tree.at("stop_reason").text().unwrap_or_default()),
            sequence: tree.at("stop_sequence").cow(),
        });
        sink(Event::End);
        Ok(())
    }
}

/// A block, or the beginning of one: then its input is still to come.
fn block(block: &Json<'_>, index: u32, begins: bool, sink: &mut dyn FnMut(Event<'_>)) {
    match block.at("type").text() {
        Some("text") => {
            if let Some(text) = block.at("text").cow()
                && !text.is_empty()
            {
                sink(Event::Text { choice: 0, text });
            }
        }
        Some("thinking") => {
            if let Some(text) = block.at("thinking").cow()
                && !text.is_empty()
            {
                sink(Event::Reasoning { choice: 0, text });
            }
            if let Some(signature) = block.at("signature").cow()
                && !signature.is_empty()
            {
                sink(Event::Signature {
                    choice: 0,
                    signature,
                });
            }
        }
        Some("redacted_thinking") => {
            if let Some(data) = block.at("data").cow() {
                sink(Event::Redacted { choice: 0, data });
            }
        }
        Some("tool_use") => {
            sink(Event::ToolStart {
                choice: 0,
                index,
                id: block.at("id").cow(),
                name: block.at("name").cow().unwrap_or_default(),
                signature: None,
            });
            let input = block.at("input");
            if !begins && input.given() {
                sink(Event::ToolDelta {
                    choice: 0,
                    index,
                    arguments: value_text(input).into(),
                });
            }
        }
        _ => {}
    }
}
