//! What a frame of a stream holds, seen in place: nothing is allocated, whatever the frame's size.

use crate::json::{Cursor, Malformed};
use crate::usage::{self, Usage};
use crate::{Dialect, Endpoint};

/// What a frame of a relayed stream holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Look {
    /// Something that the caller asked for: text, reasoning, a tool call, the reason of the end.
    pub(super) content: bool,
    /// The answer is whole, though more may follow (usage, `[DONE]`).
    pub(super) finished: bool,
    /// Nothing follows.
    pub(super) done: bool,
    /// A sign of life.
    pub(super) ping: bool,
    /// An error.
    pub(super) error: bool,
    /// The usage so far.
    pub(super) usage: Option<Usage>,
    /// Nothing but the usage: what `include_usage` adds to a stream.
    pub(super) usage_alone: bool,
}

/// Looks at the data of a frame in a caller's dialect.
pub(super) fn look(dialect: Dialect, endpoint: Endpoint, data: &[u8]) -> Result<Look, Malformed> {
    match (dialect, endpoint) {
        (Dialect::OpenAi, Endpoint::Chat | Endpoint::Completions) => chat(data),
        (Dialect::OpenAi, Endpoint::Responses) => responses(data),
        (Dialect::Anthropic, Endpoint::Messages) => messages(data),
        (Dialect::Gemini, Endpoint::StreamGenerate) => gemini(data),
        _ => other(data),
    }
}

/// Visits the members of the one object that a frame is.
fn top<'a>(
    data: &'a [u8],
    visit: impl FnMut(&'a [u8], &mut Cursor<'a>) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(data);
    if !cursor.is_object() {
        return Err(Malformed);
    }
    cursor.object(visit)?;
    cursor.end()
}

fn chat(data: &[u8]) -> Result<Look, Malformed> {
    if data.trim_ascii() == b"[DONE]" {
        return Ok(Look {
            done: true,
            ..Look::default()
        });
    }
    let mut look = Look::default();
    let mut choices = false;
    top(data, |key, cursor| {
        match key {
            b"error" => look.error |= cursor.says()?,
            b"usage" if cursor.is_object() => look.usage = Some(usage::openai(cursor)?),
            b"choices" => cursor.array(|cursor| {
                choices = true;
                cursor.object(|key, cursor| {
                    match key {
                        b"text" => look.content |= cursor.says()?,
                        b"delta" | b"message" => cursor.object(|key, cursor| {
                            // The role opens a message; everything else that says something is content.
                            if key == b"role" || key == b"index" {
                                cursor.value()?;
                            } else {
                                look.content |= cursor.says()?;
                            }
                            Ok(())
                        })?,
                        b"finish_reason" => {
                            if cursor.says()? {
                                look.content = true;
                                look.finished = true;
                            }
                        }
                        _ => {
                            cursor.value()?;
                        }
                    }
                    Ok(())
                })
            })?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    look.usage_alone = look.usage.is_some() && !choices;
    Ok(look)
}

fn responses(data: &[u8]) -> Result<Look, Malformed> {
    if data.trim_ascii() == b"[DONE]" {
        return Ok(Look {
            done: true,
            ..Look::default()
        });
    }
    let mut look = Look::default();
    let mut kind: &[u8] = b"";
    let mut item: &[u8] = b"";
    let mut delta = false;
    top(data, |key, cursor| {
        match key {
            b"type" => kind = cursor.text()?.unwrap_or_default(),
            b"delta" => delta = cursor.says()?,
            b"item" => cursor.object(|key, cursor| {
                if key == b"type" {
                    item = cursor.text()?.unwrap_or_default();
                } else {
                    cursor.value()?;
                }
                Ok(())
            })?,
            b"response" => cursor.object(|key, cursor| {
                if key == b"usage" && cursor.is_object() {
                    look.usage = Some(usage::openai(cursor)?);
                } else {
                    cursor.value()?;
                }
                Ok(())
            })?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    match kind {
        b"response.created"
        | b"response.in_progress"
        | b"response.queued"
        | b"response.content_part.added"
        | b"response.reasoning_summary_part.added" => {}
        b"keepalive" | b"ping" => look.ping = true,
        b"response.output_item.added" => look.content = !matches!(item, b"message" | b"reasoning"),
        b"response.completed" | b"response.incomplete" => {
            look.content = true;
            look.done = true;
        }
        b"response.failed" | b"response.cancelled" | b"error" => look.error = true,
        kind if kind.ends_with(b".delta") => look.content = delta,
        _ => look.content = true,
    }
    Ok(look)
}

fn messages(data: &[u8]) -> Result<Look, Malformed> {
    let mut look = Look::default();
    let mut kind: &[u8] = b"";
    let mut block: &[u8] = b"";
    let mut said = false;
    let mut stopped = false;
    top(data, |key, cursor| {
        match key {
            b"type" => kind = cursor.text()?.unwrap_or_default(),
            b"usage" if cursor.is_object() => look.usage = Some(usage::anthropic(cursor)?),
            b"message" => cursor.object(|key, cursor| {
                if key == b"usage" && cursor.is_object() {
                    look.usage = Some(usage::anthropic(cursor)?);
                } else {
                    cursor.value()?;
                }
                Ok(())
            })?,
            b"content_block" | b"delta" => cursor.object(|key, cursor| {
                match key {
                    b"type" => block = cursor.text()?.unwrap_or_default(),
                    b"stop_reason" => stopped |= cursor.says()?,
                    _ => said |= cursor.says()?,
                }
                Ok(())
            })?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    match kind {
        b"ping" => look.ping = true,
        b"error" => look.error = true,
        b"message_start" | b"content_block_stop" => {}
        b"content_block_start" => {
            look.content = said || !matches!(block, b"text" | b"thinking");
        }
        b"content_block_delta" => look.content = said,
        b"message_delta" => {
            look.content = stopped;
            look.finished = stopped;
        }
        b"message_stop" => {
            look.content = true;
            look.done = true;
        }
        // Anthropic's rules on versions: new events may appear and are to be borne.
        _ => {}
    }
    Ok(look)
}

fn gemini(data: &[u8]) -> Result<Look, Malformed> {
    let mut look = Look::default();
    top(data, |key, cursor| {
        match key {
            b"error" => look.error |= cursor.says()?,
            b"usageMetadata" if cursor.is_object() => look.usage = Some(usage::gemini(cursor)?),
            // A refused prompt is an answer, and has no candidates.
            b"promptFeedback" => cursor.object(|key, cursor| {
                if key == b"blockReason" && cursor.says()? {
                    look.content = true;
                    look.finished = true;
                } else if key != b"blockReason" {
                    cursor.value()?;
                }
                Ok(())
            })?,
            b"candidates" => cursor.array(|cursor| {
                cursor.object(|key, cursor| {
                    match key {
                        b"content" => cursor.object(|key, cursor| {
                            if key == b"parts" {
                                cursor.array(|cursor| {
                                    cursor.object(|key, cursor| {
                                        let says = cursor.says()?;
                                        look.content |= says && key != b"thought";
                                        Ok(())
                                    })
                                })?;
                            } else {
                                cursor.value()?;
                            }
                            Ok(())
                        })?,
                        b"finishReason" => {
                            if cursor.says()? {
                                look.content = true;
                                look.finished = true;
                            }
                        }
                        _ => {
                            cursor.value()?;
                        }
                    }
                    Ok(())
                })
            })?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    Ok(look)
}

/// A stream that is not looked into (audio, images): whatever comes is content, and its end is no one's to judge.
fn other(data: &[u8]) -> Result<Look, Malformed> {
    let mut look = Look {
        content: true,
        finished: true,
        ..Look::default()
    };
    if data.trim_ascii() == b"[DONE]" {
        look.done = true;
        return Ok(look);
    }
    top(data, |key, cursor| {
        match key {
            b"error" => look.error |= cursor.says()?,
            b"usage" if cursor.is_object() => look.usage = Some(usage::openai(cursor)?),
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    Ok(look)
}
