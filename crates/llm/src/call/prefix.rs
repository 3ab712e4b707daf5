//! The beginning of a conversation, hashed.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tidegate_core::hash::{hash64, mix};

/// Hashes the system text and everything up to the first message of the user, as raw text; a request that goes on with the
/// same conversation repeats both.
pub(super) fn hash(body: &[u8]) -> u64 {
    let mut hash = 0;
    if let Ok(text) = std::str::from_utf8(body) {
        let mut parser = serde_json::Deserializer::from_str(text);
        // What was found before a mistake counts; a body that gets here has none.
        let _ = (&mut parser).deserialize_map(Top { hash: &mut hash });
    }
    hash
}

struct Top<'h> {
    hash: &'h mut u64,
}

impl<'a> Visitor<'a> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<std::borrow::Cow<'a, str>>()? {
            match key.as_ref() {
                // Order of keys must not matter: parts are added.
                "system" | "instructions" | "systemInstruction" | "system_instruction" => {
                    let raw: &RawValue = map.next_value()?;
                    *self.hash ^= mix(hash64(raw.get().as_bytes(), 1));
                }
                "messages" | "input" | "contents" | "prompt" => {
                    let raw: &RawValue = map.next_value()?;
                    *self.hash ^= mix(first(raw.get()));
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The messages up to the first that is the user's; a text alone counts whole.
fn first(text: &str) -> u64 {
    let mut hash = 0;
    if text.starts_with('[') {
        let mut parser = serde_json::Deserializer::from_str(text);
        // Stopping early is an error to the parser, and meant.
        let _ = (&mut parser).deserialize_seq(Messages { hash: &mut hash });
        hash
    } else {
        hash64(text.as_bytes(), 2)
    }
}

struct Messages<'h> {
    hash: &'h mut u64,
}

impl<'a> Visitor<'a> for Messages<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        #[derive(serde::Deserialize)]
        struct Message<'a> {
            #[serde(borrow)]
            role: Option<std::borrow::Cow<'a, str>>,
        }
        while let Some(raw) = items.next_element::<&'a RawValue>()? {
            *self.hash = hash64(raw.get().as_bytes(), *self.hash);
            let message: Option<Message<'a>> = serde_json::from_str(raw.get()).ok();
            // Gemini's role may be left out: the user's.
            let role = message.and_then(|message| message.role);
            if !matches!(
                role.as_deref(),
                Some("system" | "developer" | "assistant" | "model" | "tool")
            ) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn a_conversation_keeps_its_hash_as_it_grows() {
        let one = hash(br#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"a"}]}"#);
        let two = hash(br#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}],"temperature":1}"#);
        let other = hash(
            br#"{"messages":[{"role":"system","content":"s"},{"role":"user","content":"x"}]}"#,
        );
        assert_eq!(one, two);
        assert_ne!(one, other);
        assert_ne!(one, 0);
    }

    #[test]
    fn system_text_counts_wherever_it_stands() {
        let a = hash(br#"{"system":"s","messages":[{"role":"user","content":"a"}]}"#);
        let b = hash(br#"{"messages":[{"role":"user","content":"a"}],"system":"s"}"#);
        let c = hash(br#"{"messages":[{"role":"user","content":"a"}],"system":"t"}"#);
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn responses_and_gemini_have_a_beginning_too() {
        assert_ne!(hash(br#"{"input":"a"}"#), hash(br#"{"input":"b"}"#));
        assert_ne!(
            hash(br#"{"contents":[{"parts":[{"text":"a"}]}]}"#),
            hash(br#"{"contents":[{"parts":[{"text":"b"}]}]}"#)
        );
    }
}
