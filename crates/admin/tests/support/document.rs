//! Answers held against the OpenAPI document.

use serde_json::Value;
use tidegate_admin::openapi;

use super::http::Answer;

/// Holds a value against a schema of the document. Stricter than the document is for clients: a field that it does not
/// name is an error here.
pub(crate) fn validate(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document
            .pointer(reference.trim_start_matches('#'))
            .unwrap_or(&Value::Null);
        assert!(target.is_object(), "{reference} leads nowhere");
        return validate(document, target, value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let tried: Vec<_> = choices
            .iter()
            .map(|choice| validate(document, choice, value, at))
            .collect();
        return if tried.iter().any(Vec::is_empty) {
            Vec::new()
        } else {
            tried.concat()
        };
    }
    let mut wrong = Vec::new();
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => return wrong,
    };
    let fits = types.iter().any(|kind| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("type {other} in the document"),
    });
    if !fits {
        wrong.push(format!("{at}: {value} is no {types:?}"));
    }
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        wrong.push(format!("{at}: {number} is below {least}"));
    }
    if let (Some(choices), false) = (schema["enum"].as_array(), value.is_null())
        && !choices.contains(value)
    {
        wrong.push(format!("{at}: {value} is none of {choices:?}"));
    }
    if let Some(items) = value.as_array() {
        for (i, item) in items.iter().enumerate() {
            wrong.extend(validate(
                document,
                &schema["items"],
                item,
                &format!("{at}[{i}]"),
            ));
        }
    }
    if let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object())
    {
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !fields.contains_key(name) {
                wrong.push(format!("{at}: {name} is missing"));
            }
        }
        for (name, field) in fields {
            match properties.get(name) {
                Some(property) => {
                    wrong.extend(validate(document, property, field, &format!("{at}.{name}")))
                }
                None => wrong.push(format!("{at}: {name} is not in the document")),
            }
        }
    }
    wrong
}

pub(crate) fn document() -> Value {
    serde_json::from_str(openapi::DOCUMENT).expect("JSON")
}

/// Checks an error answer: status, code, form.
pub(crate) fn assert_problem(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("x-tidegate-error"), code);
    let problem = answer.json();
    let document = document();
    let wrong = validate(
        &document,
        &document["components"]["schemas"]["Problem"],
        &problem,
        "problem",
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_eq!(
        (problem["status"].as_u64(), problem["code"].as_str()),
        (Some(status.into()), Some(code))
    );
    assert!(!problem["detail"].as_str().unwrap().is_empty());
}
