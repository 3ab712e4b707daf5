//! What callers and instances say to each other: JSON over HTTP/1.1, and the same as a gRPC method.
//!
//! ```proto
//! package tidegate.demo;
//! service Sentiment { rpc Predict(Text) returns (Opinion); }
//! message Text { string text = 1; }
//! message Opinion { string label = 1; double confidence = 2; string version = 3; string instance = 4; }
//! ```
//!
//! Two messages of strings and a number need no generated code.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Path of the JSON method.
pub(crate) const PREDICT: &str = "/v1/predict";
/// Path of the gRPC method.
pub(crate) const GRPC_PREDICT: &str = "/tidegate.demo.Sentiment/Predict";
/// Path of the health check.
pub(crate) const HEALTH: &str = "/healthz";

/// A request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Question {
    /// The text to classify.
    pub(crate) text: String,
}

/// An answer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Opinion {
    /// `positive` or `negative`.
    pub(crate) label: String,
    /// How sure, 0.5 to 1.
    pub(crate) confidence: f64,
    /// Version of the model.
    pub(crate) version: String,
    /// Name of the instance that answered.
    pub(crate) instance: String,
    /// The features that weighed most, with their log-odds. JSON only.
    #[serde(default)]
    pub(crate) because: Vec<(String, f64)>,
}

const STRING: u8 = 2;
const DOUBLE: u8 = 1;

/// A `Text` in its gRPC frame.
pub(crate) fn encode_question(text: &str) -> Bytes {
    let mut message = BytesMut::new();
    put_string(&mut message, 1, text);
    frame(&message)
}

/// An `Opinion` in its gRPC frame.
pub(crate) fn encode_opinion(opinion: &Opinion) -> Bytes {
    let mut message = BytesMut::new();
    put_string(&mut message, 1, &opinion.label);
    message.put_u8(2 << 3 | DOUBLE);
    message.put_f64_le(opinion.confidence);
    put_string(&mut message, 3, &opinion.version);
    put_string(&mut message, 4, &opinion.instance);
    frame(&message)
}

/// The text of a framed `Text`; `None` when it is not one.
pub(crate) fn decode_question(body: &[u8]) -> Option<String> {
    let mut text = String::new();
    fields(unframe(body)?, |field, value| {
        if let (1, Value::String(value)) = (field, value) {
            text = value.to_owned();
        }
    })?;
    Some(text)
}

/// A framed `Opinion`; `None` when it is not one.
pub(crate) fn decode_opinion(body: &[u8]) -> Option<Opinion> {
    let mut opinion = Opinion {
        label: String::new(),
        confidence: 0.0,
        version: String::new(),
        instance: String::new(),
        because: Vec::new(),
    };
    fields(unframe(body)?, |field, value| match (field, value) {
        (1, Value::String(text)) => opinion.label = text.to_owned(),
        (2, Value::Double(number)) => opinion.confidence = number,
        (3, Value::String(text)) => opinion.version = text.to_owned(),
        (4, Value::String(text)) => opinion.instance = text.to_owned(),
        _ => {}
    })?;
    Some(opinion)
}

enum Value<'a> {
    String(&'a str),
    Double(f64),
}

fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

fn unframe(body: &[u8]) -> Option<&[u8]> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    (head[0] == 0 && usize::try_from(length) == Ok(message.len())).then_some(message)
}

fn put_string(message: &mut BytesMut, field: u8, text: &str) {
    message.put_u8(field << 3 | STRING);
    let mut length = text.len();
    while length >= 0x80 {
        message.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.put_u8(length as u8);
    message.put_slice(text.as_bytes());
}

fn fields<'a>(mut message: &'a [u8], mut each: impl FnMut(u8, Value<'a>)) -> Option<()> {
    while let Some((&tag, rest)) = message.split_first() {
        message = rest;
        match tag & 7 {
            STRING => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                let (text, rest) = message.split_at_checked(length)?;
                message = rest;
                each(tag >> 3, Value::String(std::str::from_utf8(text).ok()?));
            }
            DOUBLE => {
                let (number, rest) = message.split_first_chunk::<8>()?;
                message = rest;
                each(tag >> 3, Value::Double(f64::from_le_bytes(*number)));
            }
            _ => return None,
        }
    }
    Some(())
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(text in ".{0,300}", confidence in 0.5..=1.0_f64) {
            prop_assert_eq!(decode_question(&encode_question(&text)), Some(text.clone()));
            let opinion = Opinion {
                label: "positive".into(),
                confidence,
                version: "v2".into(),
                instance: text,
                because: Vec::new(),
            };
            prop_assert_eq!(decode_opinion(&encode_opinion(&opinion)), Some(opinion));
        }

        #[test]
        fn any_bytes_are_refused_or_read(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_question(&body);
            let _ = decode_opinion(&body);
        }
    }

    #[test]
    fn a_frame_that_is_cut_is_refused() {
        let whole = encode_question("a text");
        assert!((0..whole.len()).all(|end| decode_question(&whole[..end]).is_none()));
    }
}
