//! Keyword arguments as callers send them: JSON text that is looked at, not rebuilt.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fault::bad_arguments;
use crate::{Code, Fault};

/// Names that begin so belong to the protocol.
const RESERVED: &str = "_aipod";

/// The key of `chaos` that tells the size of the binary input.
const SIZE: &str = "_aipod_binary_size";

/// Checks that a text is an object without reserved names whose values a model can have.
pub(crate) fn check(kwargs: &[u8]) -> Result<(), Fault> {
    match serde_json::from_slice::<Names>(kwargs) {
        Ok(Names { reserved: None }) => Ok(()),
        Ok(Names {
            reserved: Some(name),
        }) => Err(reserved(&name)),
        Err(error) => Err(not_an_object(&error)),
    }
}

fn reserved(name: &str) -> Fault {
    Fault::new(
        Code::InvalidArgument,
        "reserved_argument",
        format!("`{name}`: names that begin with `{RESERVED}` are the protocol's"),
    )
}

fn not_an_object(error: &serde_json::Error) -> Fault {
    bad_arguments(format!("keyword arguments must be a JSON object: {error}"))
}

/// Checks one argument's name.
pub(crate) fn check_argument(name: &str) -> Result<(), Fault> {
    if name.starts_with(RESERVED) {
        return Err(reserved(name));
    }
    Ok(())
}

/// Whether a method may be called from outside.
pub(crate) fn check_method(name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(super::fault::bad_request("no method is named"));
    }
    if name.starts_with('_') {
        return Err(unknown_method(name));
    }
    Ok(())
}

/// The model has no such public method.
pub(crate) fn unknown_method(name: &str) -> Fault {
    let name: String = name.chars().take(100).collect();
    Fault::new(
        Code::Unimplemented,
        "unknown_method",
        format!("the model has no public method `{name}`"),
    )
}

/// Whether an object has a reserved name; its values are looked at alone.
#[derive(Debug)]
struct Names {
    reserved: Option<String>,
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut reserved = None;
                while let Some(name) = map.next_key::<Name<'de>>()? {
                    map.next_value::<Sound>()?;
                    if reserved.is_none() && name.0.starts_with(RESERVED) {
                        reserved = Some(name.0.into_owned());
                    }
                }
                Ok(Names { reserved })
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A value that Python has as well: text is Unicode, numbers are finite, and at most 127 levels are nested. Nothing of it is kept.
#[derive(Debug)]
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Sound;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_str<E>(self, _: &str) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_unit<E>(self) -> Result<Sound, E> {
                Ok(Sound)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Sound, A::Error> {
                while items.next_element::<Sound>()?.is_some() {}
                Ok(Sound)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Sound, A::Error> {
                while pairs.next_entry::<Sound, Sound>()?.is_some() {}
                Ok(Sound)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A key, borrowed unless it has escapes.
#[derive(Debug, Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The first message of `chaos`, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Opening {
    /// The keyword arguments without what is the protocol's.
    pub(crate) kwargs: Bytes,
    /// `version`; empty if there is none.
    pub(crate) version: String,
    /// What follows.
    pub(crate) binary: Announced,
}

/// What a caller says of its binary input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Announced {
    /// Nothing is said: it ends with the caller's side.
    #[default]
    Open,
    /// There is none.
    None,
    /// It has no bytes.
    Empty,
    /// So many bytes.
    Bytes(u64),
}

/// Takes apart the first message of `chaos`.
pub(crate) fn open(text: &[u8]) -> Result<Opening, Fault> {
    let pairs: Pairs<'_> = serde_json::from_slice(text).map_err(|error| not_an_object(&error))?;
    let mut opening = Opening::default();
    let mut kwargs = Vec::with_capacity(text.len());
    kwargs.push(b'{');
    for (name, value) in &pairs.0 {
        match name.as_ref() {
            SIZE => opening.binary = announced(value)?,
            "version" => {
                let version: Option<String> = serde_json::from_str(value.get())
                    .map_err(|_| bad_arguments("`version` must be a string"))?;
                opening.version = version.unwrap_or_default();
            }
            other if other.starts_with(RESERVED) => return Err(reserved(other)),
            other => {
                serde_json::from_str::<Sound>(value.get())
                    .map_err(|error| bad_arguments(format!("`{other}` can't be read: {error}")))?;
                if kwargs.len() > 1 {
                    kwargs.push(b',');
                }
                put_name(&mut kwargs, other);
                kwargs.extend_from_slice(value.get().as_bytes());
            }
        }
    }
    kwargs.push(b'}');
    opening.kwargs = Bytes::from(kwargs);
    Ok(opening)
}

fn announced(value: &RawValue) -> Result<Announced, Fault> {
    let size: Option<u64> = serde_json::from_str(value.get())
        .map_err(|_| bad_arguments(format!("`{SIZE}` must be a number of bytes")))?;
    Ok(match size {
        None => Announced::None,
        Some(0) => Announced::Empty,
        Some(bytes) => Announced::Bytes(bytes),
    })
}

/// Writes `"name":`.
pub(crate) fn put_name(out: &mut Vec<u8>, name: &str) {
    // A string always serialises, and a vector always takes it.
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
}

/// The pairs of an object in their order.
#[derive(Debug)]
pub(crate) struct Pairs<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    pairs.push((name.0, value));
                }
                Ok(Pairs(pairs))
            }
        }
        let pairs = deserializer.deserialize_map(Object)?;
        Ok(Pairs(pairs.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_objects_pass_and_anything_else_is_told() {
        assert!(check(b"{}").is_ok());
        assert!(check(br#"{"text": "a", "n": [1, {"_aipod_x": 1}]}"#).is_ok());
        for bad in [&b""[..], b"[]", b"1", b"{", b"null", b"{} {}", b"\xff"] {
            assert_eq!(check(bad).unwrap_err().reason, "bad_arguments", "{bad:?}");
        }
    }

    #[test]
    fn reserved_names_are_refused_however_they_are_written() {
        for bad in [
            &br#"{"_aipod": 1}"#[..],
            br#"{"a": 1, "_aipod_binary_size": 1}"#,
            br#"{"\u005faipod_x": 1}"#,
            br#"{"_aipod_x": [{}, 1.5]}"#,
        ] {
            assert_eq!(check(bad).unwrap_err().reason, "reserved_argument");
        }
    }

    #[test]
    fn values_that_python_has_not_are_told_as_the_callers_fault() {
        let deep = format!("{}1{}", "[".repeat(3_000), "]".repeat(3_000));
        let values: [&[u8]; 7] = [
            b"NaN",
            b"-Infinity",
            b"1e400",
            b"\"\xff\"",
            br#""\ud800""#,
            br#"{"\udfff": 1}"#,
            deep.as_bytes(),
        ];
        for value in values {
            let text = [b"{\"x\": ", value, b"}"].concat();
            assert_eq!(check(&text).unwrap_err().reason, "bad_arguments");
            assert_eq!(open(&text).unwrap_err().reason, "bad_arguments");
        }
        let fine = br#"{"x": [1e308, -0.0, 123456789012345678901234567890, true, null, "\ud83c\udf0a", {"a": {}}]}"#;
        assert!(check(fine).is_ok() && open(fine).is_ok());
    }

    #[test]
    fn the_opening_of_chaos_gives_the_rest_as_it_was() {
        let text = br#"{"big": 123456789012345678901234567890, "version": "v2", "_aipod_binary_size": 7, "k\n": 1.10}"#;
        let opening = open(text).unwrap();
        assert_eq!(
            &opening.kwargs[..],
            br#"{"big":123456789012345678901234567890,"k\n":1.10}"#
        );
        assert_eq!(opening.version, "v2");
        assert_eq!(opening.binary, Announced::Bytes(7));
    }

    #[test]
    fn an_opening_without_a_size_leaves_the_end_open_and_none_or_0_says_that_nothing_follows() {
        assert_eq!(open(b"{}").unwrap().binary, Announced::Open);
        for (size, announced) in [("null", Announced::None), ("0", Announced::Empty)] {
            let text = format!(r#"{{"_aipod_binary_size": {size}}}"#);
            assert_eq!(open(text.as_bytes()).unwrap().binary, announced);
        }
    }

    #[test]
    fn bad_openings_are_told_precisely() {
        let reason = |text: &str| open(text.as_bytes()).unwrap_err().reason;
        assert_eq!(reason(r#"{"_aipod_other": 1}"#), "reserved_argument");
        assert_eq!(reason(r#"{"_aipod_binary_size": -1}"#), "bad_arguments");
        assert_eq!(reason(r#"{"_aipod_binary_size": "7"}"#), "bad_arguments");
        assert_eq!(reason(r#"{"version": 3}"#), "bad_arguments");
        assert_eq!(reason("[]"), "bad_arguments");
    }
}
