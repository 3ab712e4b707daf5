//! TensorFlow Serving's REST interface: rows (`instances`) or columns (`inputs`) of JSON.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use serde_json::value::RawValue;

use super::body::Body;
use super::fault::{READ, bad_arguments, bad_request, not_allowed};
use super::http_api::{check_model, json, read, retry, unknown_path};
use super::kwargs::{self, Pairs, put_name};
use super::{Door, aipod, heavy, request_id, value};
use crate::model::{is_default, shown};
use crate::{Answer, Call, Code, Fault};

/// What is called.
const PREDICT: &str = "predict";

/// Answers what is below `/v1/models`.
pub(super) async fn answer(
    door: &Arc<Door>,
    path: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    let Some((last, front)) = path.split_last() else {
        return Err(unknown_path(request.uri().path()));
    };
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let post = request.method() == Method::POST;
    let verb = last.rsplit_once(':');
    let verb = verb.filter(|(_, verb)| post || *verb == PREDICT);
    if let Some((last, verb)) = verb {
        let (model, version) = match front {
            [] => (last, ""),
            [model, "versions" | "labels"] => (*model, last),
            _ => return Err(unknown_path(request.uri().path())),
        };
        check_model(door, model)?;
        if verb != PREDICT {
            return Err(Fault::new(
                Code::Unimplemented,
                "unknown_method",
                format!("only `:{PREDICT}` is offered, not `:{verb}`"),
            ));
        }
        if !post {
            return Ok(not_allowed("POST"));
        }
        return predict(door, version, request).await;
    }
    match path {
        [model] if get => status(door, model, ""),
        [model, "versions", version] if get => status(door, model, version),
        [model, "metadata"] if get => metadata(door, model, ""),
        [model, "versions", version, "metadata"] if get => metadata(door, model, version),
        [model]
        | [model, "metadata"]
        | [model, "versions", _]
        | [model, "versions", _, "metadata"] => {
            check_model(door, model)?;
            Ok(not_allowed(READ))
        }
        _ => Err(unknown_path(request.uri().path())),
    }
}

fn status(door: &Door, model: &str, wanted: &str) -> Result<Response<Body>, Fault> {
    check_model(door, model)?;
    let ready = door.model.ready();
    let versions: Vec<_> = door
        .model
        .versions()
        .into_iter()
        .filter(|version| wanted.is_empty() || version.name == named(door, wanted))
        .map(|version| {
            let state = if version.loaded && ready {
                "AVAILABLE"
            } else {
                "UNLOADED"
            };
            serde_json::json!({
                "version": shown(&version.name),
                "state": state,
                "status": {"error_code": "OK", "error_message": ""},
            })
        })
        .collect();
    if versions.is_empty() {
        return Err(Fault::new(
            Code::NotFound,
            "unknown_version",
            format!("the model has no version `{wanted}`"),
        ));
    }
    Ok(json(Bytes::from(
        serde_json::json!({"model_version_status": versions}).to_string(),
    )))
}

/// The name of a version that a request names.
fn named(door: &Door, version: &str) -> String {
    if is_default(version) {
        return door.model.about().version.clone();
    }
    version.to_owned()
}

fn metadata(door: &Door, model: &str, version: &str) -> Result<Response<Body>, Fault> {
    check_model(door, model)?;
    let about = door.model.about();
    let tensors = |tensors: &[crate::Tensor]| {
        let mut map = serde_json::Map::new();
        for tensor in tensors {
            let axes: Vec<_> = tensor
                .shape
                .iter()
                .map(|axis| serde_json::json!({"size": axis.to_string(), "name": ""}))
                .collect();
            map.insert(
                tensor.name.clone(),
                serde_json::json!({
                    "dtype": dtype(&tensor.datatype),
                    "tensor_shape": {"dim": axes, "unknown_rank": false},
                    "name": tensor.name,
                }),
            );
        }
        map
    };
    let version = shown(if is_default(version) {
        &about.version
    } else {
        version
    });
    let text = serde_json::json!({
        "model_spec": {"name": about.service, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {"serving_default": {
            "inputs": tensors(&about.inputs),
            "outputs": tensors(&about.outputs),
            "method_name": "tensorflow/serving/predict",
        }}}},
    })
    .to_string();
    Ok(json(Bytes::from(text)))
}

/// TensorFlow's name of a datatype.
fn dtype(datatype: &str) -> &'static str {
    match datatype {
        "BOOL" => "DT_BOOL",
        "UINT8" => "DT_UINT8",
        "UINT16" => "DT_UINT16",
        "UINT32" => "DT_UINT32",
        "UINT64" => "DT_UINT64",
        "INT8" => "DT_INT8",
        "INT16" => "DT_INT16",
        "INT32" => "DT_INT32",
        "INT64" => "DT_INT64",
        "FP16" => "DT_HALF",
        "BF16" => "DT_BFLOAT16",
        "FP32" => "DT_FLOAT",
        "FP64" => "DT_DOUBLE",
        "BYTES" => "DT_STRING",
        _ => "DT_INVALID",
    }
}

/// Rows or columns, as keyword arguments.
struct Arguments {
    kwargs: Bytes,
    /// How many rows there are; `None`: columns.
    rows: Option<usize>,
}

async fn predict(
    door: &Arc<Door>,
    version: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    let method = door.method(PREDICT)?;
    let (head, body) = request.into_parts();
    let most = door.options.message;
    let body = read(body, &head.headers, most).await?;
    let arguments = heavy(body.len(), move || arguments(&body, &method)).await??;
    let call = Call {
        method: PREDICT.to_owned(),
        version: version.to_owned(),
        kwargs: arguments.kwargs,
        parts: Vec::new(),
        deadline: None,
        retry: retry(&head.headers),
        id: request_id(&head.headers),
        progress: None,
    };
    let result = match door.call(call).await? {
        Answer::Value(value) => value::whole(value, most).await?,
        Answer::Items(items) => aipod::list(items, most).await?,
    };
    let text = heavy(result.len(), move || match arguments.rows {
        Some(rows) => predictions(&result, rows),
        None => outputs(&result),
    })
    .await?;
    Ok(json(Bytes::from(text)))
}

fn arguments(body: &[u8], method: &crate::Method) -> Result<Arguments, Fault> {
    let pairs: Pairs<'_> = serde_json::from_slice(body)
        .map_err(|error| bad_request(format!("the request does not parse: {error}")))?;
    let find = |wanted: &str| {
        pairs
            .0
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| *value)
    };
    let (word, given) = match (find("instances"), find("inputs")) {
        (Some(instances), None) => ("instances", instances),
        (None, Some(inputs)) => ("inputs", inputs),
        _ => {
            return Err(bad_request(
                "the request needs either `instances` or `inputs`",
            ));
        }
    };
    let takes_it = method.parameters.iter().any(|name| name == word);
    let mut rows = None;
    let mut kwargs = None;
    if word == "instances" {
        let list: Vec<&RawValue> = serde_json::from_str(given.get())
            .map_err(|_| bad_request("`instances` must be a list"))?;
        rows = Some(list.len());
        if !takes_it && !list.is_empty() && list.iter().all(|row| is_object(row)) {
            kwargs = Some(columns(&list)?);
        }
    } else if !takes_it && is_object(given) {
        kwargs = Some(given.get().as_bytes().to_vec());
    }
    let kwargs = match kwargs {
        Some(kwargs) => kwargs,
        None => {
            let first = method
                .parameters
                .iter()
                .find(|name| method.binary.as_ref() != Some(name));
            let name = match first {
                _ if takes_it => word,
                Some(first) => first,
                None if method.any => word,
                None => return Err(bad_arguments("the model's `predict` takes no arguments")),
            };
            one(name, given.get())
        }
    };
    kwargs::check(&kwargs)?;
    Ok(Arguments {
        kwargs: Bytes::from(kwargs),
        rows,
    })
}

fn is_object(value: &RawValue) -> bool {
    value.get().trim_start().starts_with('{')
}

fn one(name: &str, value: &str) -> Vec<u8> {
    let mut text = vec![b'{'];
    put_name(&mut text, name);
    text.extend_from_slice(value.as_bytes());
    text.push(b'}');
    text
}

/// Rows that are objects, turned into lists by name.
fn columns(rows: &[&RawValue]) -> Result<Vec<u8>, Fault> {
    let mut columns: Vec<(Cow<'_, str>, Vec<&RawValue>)> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let row: Pairs<'_> =
            serde_json::from_str(row.get()).map_err(|error| bad_request(error.to_string()))?;
        if i == 0 {
            columns = row
                .0
                .into_iter()
                .map(|(name, value)| (name, vec![value]))
                .collect();
            continue;
        }
        for (name, value) in row.0 {
            match columns.iter_mut().find(|(known, _)| *known == name) {
                Some((_, list)) if list.len() == i => list.push(value),
                _ => return Err(uneven(i)),
            }
        }
        if columns.iter().any(|(_, list)| list.len() != i + 1) {
            return Err(uneven(i));
        }
    }
    let mut text = vec![b'{'];
    for (name, list) in columns {
        if text.len() > 1 {
            text.push(b',');
        }
        put_name(&mut text, &name);
        put_list(&mut text, list.into_iter());
    }
    text.push(b'}');
    Ok(text)
}

fn uneven(row: usize) -> Fault {
    bad_request(format!("row {row} has other names than the first one"))
}

fn put_list<'a>(text: &mut Vec<u8>, values: impl Iterator<Item = &'a RawValue>) {
    text.push(b'[');
    for (i, value) in values.enumerate() {
        if i > 0 {
            text.push(b',');
        }
        text.extend_from_slice(value.get().as_bytes());
    }
    text.push(b']');
}

/// The answer to rows: columns of as many values become rows again (the name of an only one is left out), anything else stays as it is.
fn predictions(result: &[u8], rows: usize) -> Vec<u8> {
    let columns = serde_json::from_slice::<Pairs<'_>>(result)
        .ok()
        .and_then(|pairs| {
            pairs
                .0
                .into_iter()
                .map(|(name, value)| {
                    let list: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                    (list.len() == rows).then_some((name, list))
                })
                .collect::<Option<Vec<_>>>()
        })
        .filter(|columns| !columns.is_empty());
    let Some(columns) = columns else {
        return wrapped("predictions", result);
    };
    let mut text = Vec::with_capacity(result.len() + 16);
    if let [(_, only)] = &columns[..] {
        put_list(&mut text, only.iter().copied());
        return wrapped("predictions", &text);
    }
    text.push(b'[');
    for row in 0..rows {
        text.push(if row == 0 { b'{' } else { b',' });
        if row > 0 {
            text.push(b'{');
        }
        for (i, (name, list)) in columns.iter().enumerate() {
            if i > 0 {
                text.push(b',');
            }
            put_name(&mut text, name);
            text.extend_from_slice(list[row].get().as_bytes());
        }
        text.push(b'}');
    }
    text.push(b']');
    wrapped("predictions", &text)
}

/// The answer to columns; the name of an only one is left out, as TensorFlow Serving has it.
fn outputs(result: &[u8]) -> Vec<u8> {
    match serde_json::from_slice::<Pairs<'_>>(result) {
        Ok(Pairs(pairs)) if pairs.len() == 1 => wrapped("outputs", pairs[0].1.get().as_bytes()),
        _ => wrapped("outputs", result),
    }
}

fn wrapped(name: &str, value: &[u8]) -> Vec<u8> {
    let mut text = vec![b'{'];
    put_name(&mut text, name);
    text.extend_from_slice(value);
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method(parameters: &[&str]) -> crate::Method {
        crate::Method {
            parameters: parameters.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }
    }

    fn kwargs_of(body: &str, parameters: &[&str]) -> String {
        let arguments = arguments(body.as_bytes(), &method(parameters)).unwrap();
        String::from_utf8(arguments.kwargs.to_vec()).unwrap()
    }

    #[test]
    fn rows_of_objects_become_columns_unless_the_method_takes_rows() {
        let body = r#"{"instances": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]}"#;
        assert_eq!(kwargs_of(body, &["a", "b"]), r#"{"a":[1,3],"b":[2,4]}"#);
        assert_eq!(
            kwargs_of(body, &["instances"]),
            r#"{"instances":[{"a": 1, "b": 2}, {"b": 4, "a": 3}]}"#
        );
    }

    #[test]
    fn other_rows_go_to_the_first_argument() {
        assert_eq!(
            kwargs_of(r#"{"instances": [1, 2]}"#, &["x", "y"]),
            r#"{"x":[1, 2]}"#
        );
        assert_eq!(
            kwargs_of(r#"{"inputs": {"x": [1]}}"#, &["x"]),
            r#"{"x": [1]}"#
        );
        assert_eq!(kwargs_of(r#"{"inputs": [1]}"#, &["x"]), r#"{"x":[1]}"#);
    }

    #[test]
    fn bad_requests_are_told() {
        for body in [
            "[]",
            "{}",
            r#"{"instances": 1}"#,
            r#"{"instances": [], "inputs": []}"#,
            r#"{"instances": [{"a": 1}, {"b": 1}]}"#,
            r#"{"instances": [{"a": 1}, {}]}"#,
            r#"{"instances": [{"a": 1}, {"a": 1, "b": 2}]}"#,
            r#"{"instances": [{"a": 1}, {"a": 1, "a": 2}]}"#,
            r#"{"inputs": {"_aipod_x": 1}}"#,
        ] {
            let fault = arguments(body.as_bytes(), &method(&["x"])).err().unwrap();
            assert_eq!(fault.code, Code::InvalidArgument, "{body}");
        }
    }

    #[test]
    fn columns_as_long_as_the_rows_become_rows_again() {
        let text =
            |result: &str, rows| String::from_utf8(predictions(result.as_bytes(), rows)).unwrap();
        assert_eq!(
            text(r#"{"a": [1, 2], "b": [3, 4]}"#, 2),
            r#"{"predictions":[{"a":1,"b":3},{"a":2,"b":4}]}"#
        );
        assert_eq!(text(r#"{"a": [1, 2]}"#, 2), r#"{"predictions":[1,2]}"#);
        assert_eq!(text("[1,2]", 2), r#"{"predictions":[1,2]}"#);
        assert_eq!(text(r#"{"a": [1]}"#, 2), r#"{"predictions":{"a": [1]}}"#);
        assert_eq!(outputs(br#"{"a": [1, 2]}"#), br#"{"outputs":[1, 2]}"#);
        assert_eq!(outputs(b"[1, 2]"), br#"{"outputs":[1, 2]}"#);
    }
}
