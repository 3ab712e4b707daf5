//! The few top-level fields of a body, found in one pass; everything else is checked to be JSON and left alone.
//!
//! Nearly every body is walked by a [`Cursor`]. What that does not take (it is no JSON, or it has keys with escapes, or is very deep) is
//! read by serde_json, which also says where the fault is.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::fault::{Fault, FaultKind};
use crate::json::{Cursor, Malformed};

/// Top-level fields with their places.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a> {
    /// Its name, and the span of the value with its quotes.
    pub(crate) model: Option<(Cow<'a, str>, Range<usize>)>,
    pub(crate) stream: Option<bool>,
    pub(crate) include_usage: bool,
    /// The span of the value of `stream_options`.
    pub(crate) stream_options: Option<Range<usize>>,
    /// The largest of those that are given: which one counts is the provider's to say.
    pub(crate) max_tokens: Option<u64>,
    pub(crate) choices: Option<u64>,
    pub(crate) user: Option<Cow<'a, str>>,
    pub(crate) prompt_cache_key: Option<Cow<'a, str>>,
    /// Every key with its span and that of its value, in order; filled when asked for.
    pub(crate) members: Vec<Member<'a>>,
    /// A key is spelled with escapes, so `members` lacks it.
    pub(crate) escaped_keys: bool,
}

/// A key of the object with its value, by place.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    pub(crate) key: &'a str,
    /// From the key's opening quote to its value's end.
    pub(crate) at: Range<usize>,
    /// The key with its quotes.
    pub(crate) key_at: Range<usize>,
}

impl<'a> Fields<'a> {
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, Fault> {
        Self::scan(body, false)
    }

    /// With the places of all keys, for edits.
    pub(crate) fn read_with_members(body: &'a [u8]) -> Result<Self, Fault> {
        Self::scan(body, true)
    }

    fn scan(body: &'a [u8], members: bool) -> Result<Self, Fault> {
        let text = simdutf8::basic::from_utf8(body)
            .map_err(|_| Fault::new(FaultKind::NotJson, "the body is no UTF-8"))?;
        if let Ok(fields) = Self::walk(text, members) {
            return fields;
        }
        let mut fault = None;
        let mut parser = serde_json::Deserializer::from_str(text);
        let seed = Top {
            text,
            members,
            fault: &mut fault,
        };
        let fields = seed.deserialize(&mut parser);
        if let Some(fault) = fault {
            return Err(fault);
        }
        let fields = fields.and_then(|fields| parser.end().map(|()| fields));
        fields.map_err(|error| {
            // The parser's words hold places, never the text itself.
            let words = if error.is_data() {
                "the body is no JSON object".to_owned()
            } else {
                format!(
                    "the body is no JSON: line {}, column {}",
                    error.line(),
                    error.column()
                )
            };
            Fault::new(FaultKind::NotJson, words)
        })
    }
}

/// Fields that are read.
fn is_wanted(key: &[u8]) -> bool {
    matches!(
        key,
        b"model"
            | b"stream"
            | b"stream_options"
            | b"max_tokens"
            | b"max_completion_tokens"
            | b"max_output_tokens"
            | b"generationConfig"
            | b"generation_config"
            | b"n"
            | b"user"
            | b"safety_identifier"
            | b"metadata"
            | b"prompt_cache_key"
    )
}

struct Top<'a, 'f> {
    text: &'a str,
    members: bool,
    fault: &'f mut Option<Fault>,
}

impl<'a> DeserializeSeed<'a> for Top<'a, '_> {
    type Value = Fields<'a>;

    fn deserialize<D: Deserializer<'a>>(self, from: D) -> Result<Fields<'a>, D::Error> {
        from.deserialize_map(self)
    }
}

/// A key that borrows from the text unless it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'a> Deserialize<'a> for Key<'a> {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'a> Visitor<'a> for Text {
            type Value = Cow<'a, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'a str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        from.deserialize_str(Text).map(Key)
    }
}

impl<'a> Visitor<'a> for Top<'a, '_> {
    type Value = Fields<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Fields<'a>, A::Error> {
        let mut fields = Fields::default();
        let base = self.text.as_ptr() as usize;
        let place = |part: &str| {
            let start = part.as_ptr() as usize - base;
            start..start + part.len()
        };
        while let Some(Key(key)) = map.next_key::<Key<'a>>()? {
            let wanted = is_wanted(key.as_bytes());
            if !wanted && !self.members {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw: &'a RawValue = map.next_value()?;
            let at = place(raw.get());
            match &key {
                Cow::Borrowed(key) if self.members => {
                    let name = place(key);
                    fields.members.push(Member {
                        key,
                        at: name.start - 1..at.end,
                        key_at: name.start - 1..name.end + 1,
                    });
                }
                Cow::Borrowed(_) => {}
                Cow::Owned(_) => fields.escaped_keys = true,
            }
            if wanted
                && let Err(fault) = fields.take(&key, raw.get(), at)
                && self.fault.is_none()
            {
                *self.fault = Some(fault);
            }
        }
        Ok(fields)
    }
}

/// A value of a type, or null.
fn typed<'a, T: Deserialize<'a>>(
    key: &str,
    raw: &'a str,
    expected: &str,
) -> Result<Option<T>, Fault> {
    serde_json::from_str(raw).map_err(|_| Fault::field(key, expected))
}

/// A string that borrows where it can, or null.
fn text<'a>(key: &str, raw: &'a str) -> Result<Option<Cow<'a, str>>, Fault> {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    if let Some(inner) = inner
        && !inner.contains('\\')
    {
        return Ok(Some(Cow::Borrowed(inner)));
    }
    Ok(typed::<Key<'a>>(key, raw, "a string")?.map(|text| text.0))
}

impl<'a> Fields<'a> {
    /// Reads a body whose keys are spelled without escapes.
    fn walk(text: &'a str, members: bool) -> Result<Result<Self, Fault>, Malformed> {
        let mut cursor = Cursor::strict(text);
        if !cursor.is_object() {
            return Err(Malformed);
        }
        let mut fields = Self::default();
        let mut fault = None;
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            start..start + part.len()
        };
        cursor.object(|key, cursor| {
            let value = cursor.value()?;
            let wanted = is_wanted(key);
            if !wanted && memchr::memchr(b'\\', key).is_some() {
                return Err(Malformed);
            }
            if !wanted && !members {
                return Ok(());
            }
            let (name, at) = (place(key), place(value));
            let key = &text[name.clone()];
            if members {
                fields.members.push(Member {
                    key,
                    at: name.start - 1..at.end,
                    key_at: name.start - 1..name.end + 1,
                });
            }
            if wanted && let Err(wrong) = fields.take(key, &text[at.clone()], at) {
                fault.get_or_insert(wrong);
            }
            Ok(())
        })?;
        cursor.end()?;
        Ok(match fault {
            Some(fault) => Err(fault),
            None => Ok(fields),
        })
    }

    fn take(&mut self, key: &str, raw: &'a str, at: Range<usize>) -> Result<(), Fault> {
        match key {
            "model" => {
                // Which of two would count is not the same everywhere: a way around limits on models.
                if self.model.is_some() {
                    return Err(Fault::field("model", "given once"));
                }
                self.model = text(key, raw)?.map(|name| (name, at));
            }
            "stream" => {
                self.stream = match raw {
                    "true" => Some(true),
                    "false" => Some(false),
                    "null" => None,
                    _ => return Err(Fault::field(key, "true or false")),
                }
            }
            "stream_options" => {
                #[derive(Deserialize)]
                struct Options {
                    include_usage: Option<bool>,
                }
                let options: Option<Options> =
                    typed(key, raw, "an object with include_usage: true or false")?;
                self.include_usage =
                    options.and_then(|options| options.include_usage) == Some(true);
                self.stream_options = Some(at);
            }
            // Wrong ones of these are the provider's to refuse.
            "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                if let Ok(Some(most)) = typed::<u64>(key, raw, "a number") {
                    self.max_tokens = self.max_tokens.max(Some(most));
                }
            }
            "generationConfig" | "generation_config" => {
                #[derive(Deserialize)]
                struct Config {
                    #[serde(rename = "maxOutputTokens", alias = "max_output_tokens")]
                    max_output_tokens: Option<u64>,
                    #[serde(rename = "candidateCount", alias = "candidate_count")]
                    candidate_count: Option<u64>,
                }
                if let Ok(Some(config)) = typed::<Config>(key, raw, "an object") {
                    self.max_tokens = self.max_tokens.max(config.max_output_tokens);
                    self.choices = config.candidate_count.or(self.choices);
                }
            }
            "n" => self.choices = typed(key, raw, "a number").unwrap_or(None),
            "user" => self.user = text(key, raw)?.or(self.user.take()),
            "safety_identifier" if self.user.is_none() => {
                self.user = text(key, raw).unwrap_or(None);
            }
            "metadata" => {
                #[derive(Deserialize)]
                struct Metadata<'a> {
                    #[serde(borrow)]
                    user_id: Option<Cow<'a, str>>,
                }
                if self.user.is_none()
                    && let Ok(Some(metadata)) = typed::<Metadata<'a>>(key, raw, "an object")
                {
                    self.user = metadata.user_id;
                }
            }
            "prompt_cache_key" => self.prompt_cache_key = text(key, raw).unwrap_or(None),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_of_the_text() {
        let body = br#" { "a":[1] , "model" : "gpt-5", "stream": true,"n":2 }"#;
        let fields = Fields::read_with_members(body).unwrap();
        let (name, at) = fields.model.unwrap();
        assert_eq!(name, "gpt-5");
        assert_eq!(&body[at], b"\"gpt-5\"");
        assert_eq!(fields.stream, Some(true));
        assert_eq!(fields.choices, Some(2));
        let texts: Vec<_> = fields
            .members
            .iter()
            .map(|member| std::str::from_utf8(&body[member.at.clone()]).unwrap())
            .collect();
        assert_eq!(
            texts,
            [
                "\"a\":[1]",
                "\"model\" : \"gpt-5\"",
                "\"stream\": true",
                "\"n\":2"
            ]
        );
    }

    #[test]
    fn faults_are_typed() {
        let kind = |body: &str| Fields::read(body.as_bytes()).unwrap_err();
        for body in ["", "{", "{\"a\":}", "[]", "3", "{} x", "\"x\""] {
            assert_eq!(kind(body).kind, FaultKind::NotJson, "{body}");
        }
        for (body, param) in [
            (r#"{"model":3}"#, "model"),
            (r#"{"model":"a","model":"b"}"#, "model"),
            (r#"{"stream":"yes"}"#, "stream"),
            (r#"{"stream_options":[]}"#, "stream_options"),
            (r#"{"user":7}"#, "user"),
        ] {
            let fault = kind(body);
            assert_eq!(fault.kind, FaultKind::BadField, "{body}");
            assert_eq!(fault.param.as_deref(), Some(param));
        }
        assert_eq!(
            Fields::read(b"\xff{}").unwrap_err().kind,
            FaultKind::NotJson
        );
    }

    #[test]
    fn of_two_bounds_of_the_answer_the_larger_counts() {
        for body in [
            r#"{"max_tokens":9000,"max_completion_tokens":1}"#,
            r#"{"max_completion_tokens":1,"max_tokens":9000}"#,
            r#"{"max_tokens":9000,"max_tokens":1}"#,
            r#"{"generationConfig":{"maxOutputTokens":9000},"generation_config":{"max_output_tokens":1}}"#,
        ] {
            let fields = Fields::read(body.as_bytes()).unwrap();
            assert_eq!(fields.max_tokens, Some(9000), "{body}");
        }
    }

    #[test]
    fn nulls_are_as_if_not_given() {
        let fields = Fields::read(
            br#"{"model":null,"stream":null,"stream_options":null,"user":null,"max_tokens":null,"n":null,"metadata":null}"#,
        )
        .unwrap();
        assert!(fields.model.is_none() && fields.stream.is_none() && fields.user.is_none());
    }

    #[test]
    fn escaped_keys_and_names_are_understood() {
        let fields = Fields::read_with_members(br#"{"mod\u0065l":"a\/b"}"#).unwrap();
        assert_eq!(fields.model.unwrap().0, "a/b");
        assert!(fields.members.is_empty());
    }
}
