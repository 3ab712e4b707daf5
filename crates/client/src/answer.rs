//! Results of streamed calls: JSON, and the bytes and tensors beside it.

use std::io::Read;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;

/// What a method gave: a result, or an item of a generator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Output {
    /// The JSON of it; null where it is made of parts alone.
    pub value: Value,
    /// Bytes and tensors.
    pub parts: Vec<Part>,
}

/// Bytes of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name; empty where the result is one `bytes` object.
    pub name: String,
    /// Tensors only: BOOL, UINT8 … FP64, BYTES.
    pub datatype: Option<String>,
    /// Tensors only.
    pub shape: Vec<u64>,
    /// The bytes; of a tensor as in the Open Inference Protocol: little-endian, row-major.
    pub data: Bytes,
}

impl Output {
    /// The JSON value as a type of yours.
    ///
    /// # Errors
    /// [`Error::Answer`]: it is another one.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        serde_json::from_value(self.value).map_err(|error| Error::Answer(error.to_string()))
    }
}

/// The heartbeat.
pub(crate) const PONG: &[u8] = b"PONG";

/// Puts messages together into results.
#[derive(Debug)]
pub(crate) struct Reader {
    limit: u64,
    half: Option<Half>,
}

/// A result whose parts are still to come.
#[derive(Debug)]
struct Half {
    value: Value,
    wanted: std::collections::VecDeque<Announced>,
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

#[derive(Debug, Deserialize)]
struct Announced {
    #[serde(default)]
    name: String,
    size: u64,
    datatype: Option<String>,
    #[serde(default)]
    shape: Vec<u64>,
}

impl Reader {
    /// `limit`: the most bytes of one result.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, half: None }
    }

    /// Whether a result has begun and not ended.
    pub(crate) fn half(&self) -> bool {
        self.half.is_some()
    }

    /// Takes a message that is no heartbeat; a result when it is complete.
    pub(crate) fn take(&mut self, message: &[u8]) -> Result<Option<Output>, Error> {
        let bytes = unpacked(message, self.limit)?;
        let mut half = match self.half.take() {
            Some(mut half) => {
                half.bytes.extend_from_slice(&bytes);
                half
            }
            None => self.begin(&bytes)?,
        };
        while half
            .wanted
            .front()
            .is_some_and(|next| half.bytes.len() as u64 >= next.size)
        {
            if let Some(next) = half.wanted.pop_front() {
                // It is no more than what is there.
                let rest = half
                    .bytes
                    .split_off(usize::try_from(next.size).unwrap_or(usize::MAX));
                half.parts.push(Part {
                    name: next.name,
                    datatype: next.datatype,
                    shape: next.shape,
                    data: std::mem::replace(&mut half.bytes, rest).into(),
                });
            }
        }
        if !half.wanted.is_empty() {
            self.half = Some(half);
            return Ok(None);
        }
        if !half.bytes.is_empty() {
            return Err(Error::Answer("more bytes than were announced".to_owned()));
        }
        Ok(Some(Output {
            value: half.value,
            parts: half.parts,
        }))
    }

    fn begin(&self, bytes: &[u8]) -> Result<Half, Error> {
        let wrong = |error: serde_json::Error| Error::Answer(error.to_string());
        let mut value: Value = serde_json::from_slice(bytes).map_err(wrong)?;
        let mut wanted = Vec::new();
        if let Value::Object(object) = &mut value
            && let Some(parts) = object.remove("_aipod_parts")
        {
            wanted = serde_json::from_value(parts).map_err(wrong)?;
            value = object.remove("_aipod_value").unwrap_or_default();
        }
        let all = wanted
            .iter()
            .fold(0u64, |sum, part: &Announced| sum.saturating_add(part.size));
        if all > self.limit {
            return Err(Error::Answer(format!(
                "a result of {all} bytes; at most {} are taken",
                self.limit
            )));
        }
        Ok(Half {
            value,
            wanted: wanted.into(),
            bytes: Vec::new(),
            parts: Vec::new(),
        })
    }
}

/// What one message holds, within the limit.
fn unpacked(message: &[u8], limit: u64) -> Result<Vec<u8>, Error> {
    let wrong = |error: std::io::Error| Error::Answer(format!("no zstd: {error}"));
    let mut bytes = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(message).map_err(wrong)?;
    decoder
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(wrong)?;
    if bytes.len() as u64 > limit {
        return Err(Error::Answer(format!(
            "a message of more than {limit} bytes"
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    #[test]
    fn a_plain_result_is_its_json() {
        let mut reader = Reader::new(1000);
        assert_eq!(
            reader.take(&zstd(b"null")).unwrap().unwrap().value,
            Value::Null
        );
        assert_eq!(
            reader.take(&zstd(br#"{"a": [1]}"#)).unwrap().unwrap().value,
            json!({"a": [1]})
        );
    }

    #[test]
    fn parts_are_put_together_from_any_cut() {
        let head = json!({"_aipod_value": {"ok": true}, "_aipod_parts": [
            {"name": "a", "size": 3}, {"name": "none", "size": 0}, {"name": "t", "size": 8, "datatype": "FP32", "shape": [2]}]});
        let mut reader = Reader::new(1000);
        assert!(
            reader
                .take(&zstd(head.to_string().as_bytes()))
                .unwrap()
                .is_none()
                && reader.half()
        );
        assert!(reader.take(&zstd(b"abc12")).unwrap().is_none());
        let output = reader.take(&zstd(b"345678")).unwrap().unwrap();
        assert!(!reader.half());
        assert_eq!(output.value, json!({"ok": true}));
        let parts: Vec<_> = output
            .parts
            .iter()
            .map(|part| (part.name.as_str(), part.data.as_ref()))
            .collect();
        assert_eq!(
            parts,
            [("a", &b"abc"[..]), ("none", b""), ("t", b"12345678")]
        );
        assert_eq!(output.parts[2].shape, [2]);
    }

    #[test]
    fn what_is_too_large_or_no_zstd_is_refused() {
        let mut reader = Reader::new(100);
        for message in [
            zstd(&[b' '; 101]),
            b"hello".to_vec(),
            zstd(b"{"),
            zstd(br#"{"_aipod_parts": [{"name": "a", "size": 101}]}"#),
        ] {
            assert!(matches!(reader.take(&message), Err(Error::Answer(_))));
        }
    }

    #[test]
    fn bytes_that_nobody_announced_are_refused() {
        let mut reader = Reader::new(100);
        assert!(
            reader
                .take(&zstd(br#"{"_aipod_parts": [{"size": 2}]}"#))
                .unwrap()
                .is_none()
        );
        assert!(matches!(reader.take(&zstd(b"abc")), Err(Error::Answer(_))));
    }
}
