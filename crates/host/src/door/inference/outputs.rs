//! Results as tensors: what is one already, and what JSON can be read as one.

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use super::Named;
use crate::door::tensor::{self, Datatype, put_bytes};
use crate::door::{Door, value};
use crate::{About, Code, Fault, TensorOf, Value};

/// The name of an output that has none.
const NAMELESS: &str = "output";

/// The outputs of a result, in its order, or the wanted ones.
pub(super) async fn of(door: &Door, value: Value, wanted: &[String]) -> Result<Vec<Named>, Fault> {
    let about = door.model.about();
    let mut outputs = Vec::new();
    if !value::is_null(&value.json) || value.parts.is_empty() {
        let json: Json = if value::is_null(&value.json) {
            Json::Null
        } else {
            serde_json::from_slice(&value.json).map_err(|error| {
                Fault::new(
                    Code::Internal,
                    "model_error",
                    format!("the result is no JSON: {error}"),
                )
            })?
        };
        from_json(&about, json, &mut outputs)?;
    }
    for part in value.parts {
        let raw = value::bytes_of(&part, door.options.message).await?;
        let name = if part.name.is_empty() {
            nameless(&about)
        } else {
            part.name
        };
        outputs.push(match part.tensor {
            Some(of) => {
                let datatype = Datatype::parse(&of.datatype).map_err(ours)?;
                tensor::check(&name, datatype, &of.shape, &raw).map_err(ours)?;
                Named { name, of, raw }
            }
            None => bytes(name, &raw),
        });
    }
    if wanted.is_empty() {
        return Ok(outputs);
    }
    wanted
        .iter()
        .map(|name| {
            outputs
                .iter()
                .find(|output| output.name == *name)
                .cloned()
                .ok_or_else(|| tensor::bad_tensor(format!("the model gave no output `{name}`")))
        })
        .collect()
}

fn nameless(about: &About) -> String {
    about
        .outputs
        .first()
        .map_or(NAMELESS, |output| &output.name)
        .to_owned()
}

fn from_json(about: &About, json: Json, outputs: &mut Vec<Named>) -> Result<(), Fault> {
    let entries = match json {
        Json::Object(map) => map,
        other => Map::from_iter([(nameless(about), other)]),
    };
    for (name, value) in entries {
        let declared = about.outputs.iter().find(|output| output.name == name);
        outputs.push(match declared {
            Some(declared) => converted(name, &declared.datatype, &value)?,
            None => guessed(name, &value),
        });
    }
    Ok(())
}

/// A value in the datatype that the model declared.
fn converted(name: String, datatype: &str, value: &Json) -> Result<Named, Fault> {
    let datatype = Datatype::parse(datatype).map_err(ours)?;
    let shape = axes(value).ok_or_else(|| {
        ours(tensor::bad_tensor(format!(
            "`{name}` has lists of different lengths"
        )))
    })?;
    tensor_of(name, datatype, shape, &value.to_string()).map_err(ours)
}

/// A value in the datatype that fits it; its JSON as one element of BYTES where none does.
fn guessed(name: String, value: &Json) -> Named {
    if let Json::String(text) = value {
        return bytes(name, text.as_bytes());
    }
    let json = value.to_string();
    if let Some(shape) = axes(value) {
        for datatype in [
            Datatype::Bool,
            Datatype::Int64,
            Datatype::Fp64,
            Datatype::Bytes,
        ] {
            if let Ok(named) = tensor_of(name.clone(), datatype, shape.clone(), &json) {
                return named;
            }
        }
    }
    bytes(name, json.as_bytes())
}

fn tensor_of(
    name: String,
    datatype: Datatype,
    shape: Vec<u64>,
    json: &str,
) -> Result<Named, Fault> {
    let raw = tensor::from_json(&name, datatype, json)?;
    tensor::check(&name, datatype, &shape, &raw)?;
    Ok(Named {
        name,
        of: TensorOf {
            datatype: datatype.name().to_owned(),
            shape,
        },
        raw: Bytes::from(raw),
    })
}

/// Lengths of nested lists, if they are the same everywhere; a single value is a list of one.
fn axes(value: &Json) -> Option<Vec<u64>> {
    fn fits(value: &Json, axes: &[u64]) -> bool {
        match (value, axes) {
            (Json::Array(list), [axis, rest @ ..]) => {
                list.len() as u64 == *axis && list.iter().all(|inner| fits(inner, rest))
            }
            (Json::Array(_), []) | (_, [_, ..]) => false,
            (_, []) => true,
        }
    }
    let mut shape = Vec::new();
    let mut inner = value;
    while let Json::Array(list) = inner {
        shape.push(list.len() as u64);
        match list.first() {
            Some(first) => inner = first,
            None => break,
        }
    }
    if shape.is_empty() {
        return Some(vec![1]);
    }
    fits(value, &shape).then_some(shape)
}

fn bytes(name: String, element: &[u8]) -> Named {
    let mut raw = Vec::with_capacity(4 + element.len());
    put_bytes(&mut raw, element);
    Named {
        name,
        of: TensorOf {
            datatype: Datatype::Bytes.name().to_owned(),
            shape: vec![1],
        },
        raw: Bytes::from(raw),
    }
}

/// The model's mistake, not the caller's.
fn ours(fault: Fault) -> Fault {
    Fault::new(Code::Internal, "model_error", fault.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn guess(value: Json) -> (String, Vec<u64>, Vec<u8>) {
        let named = guessed("x".into(), &value);
        (named.of.datatype, named.of.shape, named.raw.to_vec())
    }

    #[test]
    fn json_becomes_the_tensor_that_fits() {
        assert_eq!(guess(json!(true)), ("BOOL".into(), vec![1], vec![1]));
        assert_eq!(
            guess(json!([[1], [2]])).0 + &format!("{:?}", guess(json!([[1], [2]])).1),
            "INT64[2, 1]"
        );
        assert_eq!(guess(json!([1, 2.5])).0, "FP64");
        assert_eq!(guess(json!(["a", "b"])).1, vec![2]);
        assert_eq!(guess(json!("ab")).2, b"\x02\0\0\0ab");
    }

    #[test]
    fn what_is_no_tensor_stays_json() {
        for odd in [
            json!(null),
            json!({"a": 1}),
            json!([1, "a"]),
            json!([[1], [2, 3]]),
            json!([1, [2]]),
        ] {
            let (datatype, shape, raw) = guess(odd.clone());
            assert_eq!((&datatype[..], &shape[..]), ("BYTES", &[1][..]), "{odd}");
            assert_eq!(&raw[4..], odd.to_string().as_bytes());
        }
    }

    #[test]
    fn declared_outputs_get_their_datatype() {
        let named = converted("x".into(), "FP32", &json!([1, 2])).unwrap();
        assert_eq!(named.raw.len(), 8);
        assert_eq!(
            converted("x".into(), "FP32", &json!("no"))
                .unwrap_err()
                .code,
            Code::Internal
        );
    }
}
