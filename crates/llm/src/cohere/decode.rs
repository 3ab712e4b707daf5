//! Reads what Cohere answers: whole, and as a stream.

use crate::ir::{Event, Finish};
use crate::json::{Json, Tree};
use crate::translation::Confused;

/// Reads the stream of one answer.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// The number of the call that is open.
    call: u32,
}

fn finish(word: &str) -> Result<Finish, Confused> {
    Ok(match word {
        "STOP_SEQUENCE" => Finish::Sequence,
        "MAX_TOKENS" => Finish::Length,
        "TOOL_CALL" => Finish::ToolCalls,
        // The generation failed on its way.
        "ERROR" | "TIMEOUT" => return Err(Confused),
        _ => Finish::Stop,
    })
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
        let message = tree.at("delta").at("message");
        let index = tree
            .at("index")
            .int()
            .and_then(|index| u32::try_from(index).ok());
        match tree.at("type").text() {
            Some("message-start") => sink(Event::Start {
                id: tree.at("id").cow(),
                model: None,
            }),
            Some("content-start" | "content-delta") => content(message.at("content"), sink),
            Some("tool-plan-delta") => {
                if let Some(text) = message.at("tool_plan").cow() {
                    sink(Event::Reasoning { choice: 0, text });
                }
            }
            Some("tool-call-start") => {
                self.call = index.unwrap_or(self.call + 1);
                call(message.at("tool_calls"), self.call, sink);
            }
            Some("tool-call-delta") => {
                let index = index.unwrap_or(self.call);
                let function = message.at("tool_calls").at("function");
                if let Some(arguments) = function.at("arguments").cow() {
                    sink(Event::ToolDelta {
                        choice: 0,
                        index,
                        arguments,
                    });
                }
            }
            Some("message-end") => {
                let word = tree.at("delta").at("finish_reason").text();
                sink(Event::Finish {
                    choice: 0,
                    reason: finish(word.unwrap_or_default())?,
                    sequence: None,
                });
                sink(Event::End);
            }
            // Ends of blocks, citations, and what newer versions add.
            Some(_) => {}
            None => return Err(Confused),
        }
        Ok(())
    }

    pub(crate) fn whole(tree: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) -> Result<(), Confused> {
        let message = tree.at("message");
        if !matches!(message, Json::Object(_)) {
            return Err(Confused);
        }
        let reason = finish(tree.at("finish_reason").text().unwrap_or_default())?;
        sink(Event::Start {
            id: tree.at("id").cow(),
            model: None,
        });
        if let Some(text) = message.at("tool_plan").cow() {
            sink(Event::Reasoning { choice: 0, text });
        }
        for block in message.at("content").items() {
            content(block, sink);
        }
        for (at, tool) in message.at("tool_calls").items().iter().enumerate() {
            call(tool, at as u32, sink);
        }
        sink(Event::Finish {
            choice: 0,
            reason,
            sequence: None,
        });
        sink(Event::End);
        Ok(())
    }
}

fn content(block: &Json<'_>, sink: &mut dyn FnMut(Event<'_>)) {
    if let Some(text) = block.at("text").cow()
        && !text.is_empty()
    {
        sink(Event::Text { choice: 0, text });
    }
    if let Some(text) = block.at("thinking").cow()
        && !text.is_empty()
    {
        sink(Event::Reasoning { choice: 0, text });
    }
}

/// A call with whatever of its arguments is there.
fn call(tool: &Json<'_>, index: u32, sink: &mut dyn FnMut(Event<'_>)) {
    let function = tool.at("function");
    sink(Event::ToolStart {
        choice: 0,
        index,
        id: tool.at("id").cow(),
        name: function.at("name").cow().unwrap_or_default(),
        signature: None,
    });
    if let Some(arguments) = function.at("arguments").cow()
        && !arguments.is_empty()
    {
        sink(Event::ToolDelta {
            choice: 0,
            index,
            arguments,
        });
    }
}
