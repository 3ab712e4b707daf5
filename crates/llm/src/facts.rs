//! What an answer says of itself, for its span: read from what the caller is given, and only where somebody wants to know.

use bytes::Bytes;

use crate::json::{Cursor, Malformed};
use crate::sse::Scanner;

/// Bytes of an answer in one piece that are kept to be looked at, and of a frame.
const MOST: usize = 1024 * 1024;
/// Bytes of a name that are told.
const NAME: usize = 256;
/// Reasons that are told: one a choice.
const REASONS: usize = 16;

/// Names of things, never what was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The answer's id.
    pub id: Option<String>,
    /// The model that answered, by the provider's name.
    pub model: Option<String>,
    /// Why it stopped, in the words of the caller's dialect.
    pub finish_reasons: Vec<String>,
}

/// Reads the facts of an answer, in whatever dialect it is.
pub struct FactReader {
    facts: Facts,
    from: From,
}

enum From {
    Frames(Scanner),
    /// One piece of JSON, or an array of them.
    Whole(Vec<Bytes>, usize),
    /// Too long to be looked at.
    Nothing,
}

impl FactReader {
    /// For an answer; `stream`: it comes in frames.
    #[must_use]
    pub fn new(stream: bool) -> Box<Self> {
        let from = match stream {
            true => From::Frames(Scanner::new(MOST)),
            false => From::Whole(Vec::new(), 0),
        };
        Box::new(Self {
            facts: Facts::default(),
            from,
        })
    }

    /// The next piece of it.
    pub fn read(&mut self, piece: &Bytes) {
        // A stream that is an array of JSON has no frames.
        if let From::Frames(scanner) = &self.from
            && scanner.open_len() == 0
            && self.facts == Facts::default()
            && piece
                .first()
                .is_some_and(|byte| matches!(byte, b'[' | b'{'))
        {
            self.from = From::Whole(Vec::new(), 0);
        }
        match &mut self.from {
            From::Frames(scanner) => {
                let mut frames = scanner.feed(piece);
                while let Some(Ok(frame)) = frames.next() {
                    if frame.has_data() {
                        // What is no JSON has been judged elsewhere.
                        let _ = look(&frame.data(), &mut self.facts);
                    }
                }
            }
            From::Whole(pieces, bytes) => {
                *bytes += piece.len();
                if *bytes > MOST {
                    self.from = From::Nothing;
                } else {
                    pieces.push(piece.clone());
                }
            }
            From::Nothing => {}
        }
    }

    /// What it said.
    #[must_use]
    pub fn facts(mut self) -> Facts {
        if let From::Whole(pieces, _) = &self.from {
            let _ = look(&pieces.concat(), &mut self.facts);
        }
        self.facts
    }
}

fn look(json: &[u8], facts: &mut Facts) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(json);
    if cursor.is_array() {
        return cursor.array(|cursor| object(cursor, true, facts));
    }
    object(&mut cursor, true, facts)
}

/// The names are at the top or one below it, whatever the dialect; content is stepped over.
fn object(cursor: &mut Cursor<'_>, top: bool, facts: &mut Facts) -> Result<(), Malformed> {
    cursor.object(|key, cursor| {
        match key {
            // Choices and parts of an answer have ids of their own.
            b"id" | b"responseId" | b"model" | b"modelVersion" => {
                let is_id = matches!(key, b"id" | b"responseId");
                let slot = match is_id {
                    true => &mut facts.id,
                    false => &mut facts.model,
                };
                if let Some(text) = cursor.text()?
                    && slot.is_none()
                {
                    *slot = name(text);
                }
            }
            b"finish_reason" | b"finishReason" | b"stop_reason" => {
                if let Some(text) = cursor.text()?.and_then(name)
                    && facts.finish_reasons.len() < REASONS
                {
                    facts.finish_reasons.push(text);
                }
            }
            b"choices" | b"candidates" if top => {
                let (id, model) = (facts.id.take(), facts.model.take());
                cursor.array(|cursor| object(cursor, false, facts))?;
                (facts.id, facts.model) = (id, model);
            }
            b"message" | b"response" if top && cursor.is_object() => object(cursor, false, facts)?,
            b"delta" if top && cursor.is_object() => {
                cursor.object(|key, cursor| {
                    let text = cursor.text()?;
                    if key == b"stop_reason" && facts.finish_reasons.len() < REASONS {
                        facts.finish_reasons.extend(text.and_then(name));
                    }
                    Ok(())
                })?;
            }
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })
}

/// A name as it is written, if it looks like one: what has blanks or escapes in it may be anything.
fn name(text: &[u8]) -> Option<String> {
    let is_name = |byte: &u8| byte.is_ascii_graphic() && *byte != b'\\';
    let good = !text.is_empty() && text.len() <= NAME && text.iter().all(is_name);
    good.then(|| String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: bool, pieces: &[&str]) -> Facts {
        let mut reader = FactReader::new(stream);
        for piece in pieces {
            reader.read(&Bytes::copy_from_slice(piece.as_bytes()));
        }
        reader.facts()
    }

    fn facts(id: &str, model: &str, reasons: &[&str]) -> Facts {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Facts {
            id: text(id),
            model: text(model),
            finish_reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        }
    }

    #[test]
    fn answers_in_one_piece_say_who_they_are_in_every_dialect() {
        let chat = r#"{"id":"c1","choices":[{"id":"no","message":{"content":"id"},"finish_reason":"stop"},{"finish_reason":"length"}],"model":"m"}"#;
        assert_eq!(read(false, &[chat]), facts("c1", "m", &["stop", "length"]));
        assert_eq!(
            read(false, &[&chat[..40], &chat[40..]]),
            facts("c1", "m", &["stop", "length"])
        );
        let anthropic = r#"{"id":"msg_1","model":"claude","content":[{"type":"tool_use","id":"no"}],"stop_reason":"end_turn"}"#;
        assert_eq!(
            read(false, &[anthropic]),
            facts("msg_1", "claude", &["end_turn"])
        );
        let gemini = r#"{"candidates":[{"content":{"parts":[{"text":"x"}]},"finishReason":"STOP"}],"modelVersion":"g","responseId":"r"}"#;
        assert_eq!(read(false, &[gemini]), facts("r", "g", &["STOP"]));
    }

    #[test]
    fn streams_say_it_in_their_frames_or_items() {
        let chat = [
            "data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"h\"},\"finish_reason\":null}]}\n\nda",
            "ta: {\"id\":\"c1\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        ];
        assert_eq!(read(true, &chat), facts("c1", "m", &["stop"]));
        let anthropic = [
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"claude\",\"stop_reason\":null}}\n\n",
            "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n",
        ];
        assert_eq!(
            read(true, &anthropic),
            facts("msg_1", "claude", &["end_turn"])
        );
        let responses = [
            "data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"m\"}}\n\n",
        ];
        assert_eq!(read(true, &responses), facts("resp_1", "m", &[]));
        let gemini = [
            "[{\"candidates\":[{\"finishReason\":\"STOP\"}],",
            "\"modelVersion\":\"g\"}]",
        ];
        assert_eq!(read(true, &gemini), facts("", "g", &["STOP"]));
    }

    #[test]
    fn what_is_no_name_is_not_told() {
        let said = r#"{"id":"what was said","model":"m\n","choices":[{"finish_reason":"a b"}]}"#;
        assert_eq!(read(false, &[said]), Facts::default());
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(NAME + 1));
        assert_eq!(read(false, &[&long]), Facts::default());
        let much = Bytes::from(vec![b' '; MOST + 1]);
        let mut reader = FactReader::new(false);
        reader.read(&much);
        reader.read(&Bytes::from_static(br#"{"id":"c1"}"#));
        assert_eq!(reader.facts(), Facts::default());
    }
}
