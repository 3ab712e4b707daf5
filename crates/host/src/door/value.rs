//! What a method gave, as JSON or as bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::fault::result_too_large;
use super::kwargs::{Pairs, put_name};
use super::{heavy, tensor};
use crate::{Code, Content, Fault, Part, Value};

/// The value as one JSON text: tensors as nested lists, bytes in base64, beside what is JSON already.
pub(crate) async fn whole(value: Value, most: u64) -> Result<Bytes, Fault> {
    if value.parts.is_empty() {
        return Ok(if value.json.is_empty() {
            Bytes::from_static(b"null")
        } else {
            value.json
        });
    }
    let size = value.json.len() as u64 + value.parts.iter().map(len).sum::<u64>();
    if size > most {
        return Err(result_too_large("a result in JSON", most));
    }
    let mut parts = Vec::with_capacity(value.parts.len());
    for part in value.parts {
        let bytes = bytes_of(&part, most).await?;
        parts.push((part, bytes));
    }
    let json = value.json;
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    heavy(size, move || merged(&json, &parts)).await?
}

fn merged(json: &[u8], parts: &[(Part, Bytes)]) -> Result<Bytes, Fault> {
    let mut out = Vec::new();
    // One nameless part beside nothing is the value itself.
    if let [(part, bytes)] = parts
        && part.name.is_empty()
        && is_null(json)
    {
        put_part(&mut out, part, bytes)?;
        return Ok(Bytes::from(out));
    }
    out.push(b'{');
    if !is_null(json) {
        match serde_json::from_slice::<Pairs<'_>>(json) {
            Ok(pairs) => {
                for (name, value) in pairs.0 {
                    put_entry(&mut out, &name);
                    out.extend_from_slice(value.get().as_bytes());
                }
            }
            Err(_) => {
                serde_json::from_slice::<&RawValue>(json).map_err(not_json)?;
                put_entry(&mut out, "result");
                out.extend_from_slice(json);
            }
        }
    }
    for (part, bytes) in parts {
        put_entry(&mut out, &part.name);
        put_part(&mut out, part, bytes)?;
    }
    out.push(b'}');
    Ok(Bytes::from(out))
}

fn put_entry(out: &mut Vec<u8>, name: &str) {
    if out.len() > 1 {
        out.push(b',');
    }
    put_name(out, name);
}

fn put_part(out: &mut Vec<u8>, part: &Part, bytes: &[u8]) -> Result<(), Fault> {
    match &part.tensor {
        Some(of) => tensor::put_json(out, &part.name, of, bytes, true),
        None => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
            Ok(())
        }
    }
}

/// Whether a JSON text is nothing.
pub(crate) fn is_null(json: &[u8]) -> bool {
    matches!(json.trim_ascii(), b"" | b"null")
}

fn not_json(error: serde_json::Error) -> Fault {
    Fault::new(
        Code::Internal,
        "model_error",
        format!("the result is no JSON: {error}"),
    )
}

/// A part in memory, if it has at most so many bytes.
pub(crate) async fn bytes_of(part: &Part, most: u64) -> Result<Bytes, Fault> {
    match &part.content {
        Content::Inline(bytes) => Ok(bytes.clone()),
        Content::File(file) => {
            if file.len() > most {
                return Err(result_too_large("a part of a result in JSON", most));
            }
            tokio::fs::read(file.path())
                .await
                .map(Bytes::from)
                .map_err(|error| crate::spool::disk(&error))
        }
    }
}

/// The only part of a value that is plain bytes and nothing else.
pub(crate) fn only_bytes(value: &Value) -> Option<&Part> {
    match &value.parts[..] {
        [part] if part.name.is_empty() && part.tensor.is_none() && is_null(&value.json) => {
            Some(part)
        }
        _ => None,
    }
}

/// Length of a part in bytes.
pub(crate) fn len(part: &Part) -> u64 {
    match &part.content {
        Content::Inline(bytes) => bytes.len() as u64,
        Content::File(file) => file.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorOf;

    fn part(name: &str, bytes: &'static [u8], shape: Option<Vec<u64>>) -> Part {
        Part {
            name: name.into(),
            content: Content::Inline(Bytes::from_static(bytes)),
            tensor: shape.map(|shape| TensorOf {
                datatype: "UINT8".into(),
                shape,
            }),
        }
    }

    async fn text(json: &'static str, parts: Vec<Part>) -> String {
        let value = Value {
            json: Bytes::from_static(json.as_bytes()),
            parts,
        };
        String::from_utf8(whole(value, 1 << 20).await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn parts_take_their_place_among_what_is_json() {
        assert_eq!(text("", vec![]).await, "null");
        assert_eq!(text("[1]", vec![]).await, "[1]");
        assert_eq!(text("null", vec![part("", b"ab", None)]).await, r#""YWI=""#);
        assert_eq!(
            text("null", vec![part("", &[1, 2], Some(vec![2, 1]))]).await,
            "[[1],[2]]"
        );
        assert_eq!(
            text(
                r#"{"n": 1}"#,
                vec![part("x", &[7], Some(vec![1])), part("b", b"", None)]
            )
            .await,
            r#"{"n":1,"x":[7],"b":""}"#
        );
        assert_eq!(
            text("5", vec![part("x", &[7], Some(vec![1]))]).await,
            r#"{"result":5,"x":[7]}"#
        );
    }

    #[tokio::test]
    async fn a_tensor_that_lies_is_the_model_s_failure() {
        let value = Value {
            json: Bytes::new(),
            parts: vec![part("x", &[1, 2, 3], Some(vec![2]))],
        };
        assert_eq!(
            whole(value, 1 << 20).await.unwrap_err().code,
            Code::Internal
        );
    }
}
