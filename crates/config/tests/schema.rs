//! The JSON Schema: good files are valid, each of its keys is one that the decoder reads, bad ones are not valid.

mod support;

use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use support::yaml_files;

/// Validates the part of JSON Schema that ours uses; an unknown keyword fails, so that none is silently ignored.
/// `seen` gathers the properties that a document used, as `definition.key`.
struct Validator<'s> {
    root: &'s Json,
    seen: BTreeSet<String>,
}

impl<'s> Validator<'s> {
    fn new(root: &'s Json) -> Self {
        Self {
            root,
            seen: BTreeSet::new(),
        }
    }

    fn valid(&mut self, schema: &'s Json, value: &Json, name: &str) -> bool {
        let object = schema.as_object().expect("a schema is an object");
        let mut valid = true;
        for (keyword, rule) in object {
            valid &= match keyword.as_str() {
                "description"
                | "default"
                | "title"
                | "$schema"
                | "$defs"
                | "additionalProperties"
                | "patternProperties" => true,
                "$ref" => {
                    let name = rule
                        .as_str()
                        .and_then(|r| r.strip_prefix("#/$defs/"))
                        .expect("a local reference");
                    self.valid(&self.root["$defs"][name], value, name)
                }
                "type" => match rule {
                    Json::Array(types) => types.iter().any(|t| is_type(t, value)),
                    one => is_type(one, value),
                },
                "anyOf" => {
                    rule.as_array()
                        .expect("a list")
                        .iter()
                        .filter(|s| self.valid(s, value, name))
                        .count()
                        >= 1
                }
                "oneOf" => {
                    rule.as_array()
                        .expect("a list")
                        .iter()
                        .filter(|s| self.valid(s, value, name))
                        .count()
                        == 1
                }
                "enum" => rule.as_array().expect("a list").contains(value),
                "const" => rule == value,
                "required" => value.as_object().is_none_or(|o| {
                    rule.as_array()
                        .expect("a list")
                        .iter()
                        .all(|k| o.contains_key(k.as_str().unwrap_or("")))
                }),
                "properties" => value.as_object().is_none_or(|o| {
                    o.iter().all(|(key, value)| {
                        match (rule.get(key), object.get("additionalProperties")) {
                            (Some(schema), _) => {
                                self.seen.insert(format!("{name}.{key}"));
                                self.valid(schema, value, &format!("{name}.{key}"))
                            }
                            (None, other) => {
                                other != Some(&json!(false))
                                    || (object.contains_key("patternProperties")
                                        && key.starts_with("x-"))
                            }
                        }
                    })
                }),
                "items" => value
                    .as_array()
                    .is_none_or(|list| list.iter().all(|item| self.valid(rule, item, name))),
                "minimum" => value
                    .as_f64()
                    .is_none_or(|v| v >= rule.as_f64().expect("a number")),
                "maximum" => value
                    .as_f64()
                    .is_none_or(|v| v <= rule.as_f64().expect("a number")),
                "minLength" => value
                    .as_str()
                    .is_none_or(|v| v.chars().count() as u64 >= rule.as_u64().expect("a number")),
                "maxLength" => value
                    .as_str()
                    .is_none_or(|v| v.chars().count() as u64 <= rule.as_u64().expect("a number")),
                "minProperties" => value
                    .as_object()
                    .is_none_or(|o| o.len() as u64 >= rule.as_u64().expect("a number")),
                "maxProperties" => value
                    .as_object()
                    .is_none_or(|o| o.len() as u64 <= rule.as_u64().expect("a number")),
                "pattern" => value.as_str().is_none_or(|v| {
                    regex::Regex::new(rule.as_str().expect("a text"))
                        .expect("a pattern")
                        .is_match(v)
                }),
                other => panic!("the schema uses `{other}`, which this test does not know"),
            };
        }
        if let Some(rule @ Json::Object(_)) = object.get("additionalProperties")
            && object.get("properties").is_none()
        {
            valid &= value
                .as_object()
                .is_none_or(|o| o.values().all(|v| self.valid(rule, v, name)));
        }
        valid
    }
}

fn is_type(name: &Json, value: &Json) -> bool {
    match name.as_str().expect("a type's name") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("unknown type {other}"),
    }
}

fn yaml(text: &str) -> Json {
    serde_saphyr::from_str(text).expect("YAML")
}

/// All properties of the schema as `definition.key`, inline mappings included.
fn properties(schema: &Json, name: &str, into: &mut BTreeSet<String>) {
    match schema {
        Json::Object(object) => {
            if let Some(Json::Object(list)) = object.get("properties") {
                for (key, schema) in list {
                    into.insert(format!("{name}.{key}"));
                    properties(schema, &format!("{name}.{key}"), into);
                }
            }
            for (key, schema) in object {
                if key != "properties" && key != "$defs" && key != "default" {
                    properties(schema, name, into);
                }
            }
        }
        Json::Array(list) => list
            .iter()
            .for_each(|schema| properties(schema, name, into)),
        _ => {}
    }
}

#[test]
fn good_files_are_valid_and_use_every_key_that_the_schema_knows() {
    let schema = tidegate_config::schema();
    let mut validator = Validator::new(&schema);
    for file in yaml_files("tests/good")
        .into_iter()
        .chain(["tests/design/this_build.yaml".into()])
    {
        let text = std::fs::read_to_string(&file).expect("a file");
        assert!(
            validator.valid(&schema, &yaml(&text), "Config"),
            "{} is not valid",
            file.display()
        );
    }
    let mut known = BTreeSet::new();
    for (name, definition) in schema["$defs"].as_object().expect("definitions") {
        properties(definition, name, &mut known);
    }
    let unused: Vec<_> = known.difference(&validator.seen).collect();
    assert!(
        known.len() > 150 && unused.is_empty(),
        "add these to tests/good/everything.yaml: {unused:?}"
    );
}

#[test]
fn the_written_configuration_is_valid() {
    let schema = tidegate_config::schema();
    for file in yaml_files("tests/good") {
        let loaded = tidegate_config::load_with(std::slice::from_ref(&file), &support::env)
            .unwrap_or_else(|d| panic!("{d}"));
        let json = serde_json::to_value(&loaded.config).expect("plain data");
        assert!(
            Validator::new(&schema).valid(&schema, &json, "Config"),
            "{} is not valid",
            file.display()
        );
    }
}

#[test]
fn what_the_decoder_refuses_by_shape_the_schema_refuses_too() {
    let schema = tidegate_config::schema();
    for text in [
        "nod: {}",
        "listeners: [ { name: a } ]",
        "listeners: { name: a, address: \"0.0.0.0:1\" }",
        "routes: [ { name: a, to: [ { weight: 1 } ] } ]",
        "routes: [ { name: a, to: [ { upstream: a, upstream_from: { header: a, allow: [a] } } ] } ]",
        "routes: [ { name: a, retry: { attempts: many } } ]",
        "routes: [ { name: a, match: { path: { prefix: a } } } ]",
        "routes: [ { name: a, timeout: 30 } ]",
        "upstreams: [ { name: a, balance: fastest } ]",
        "upstreams: [ { name: a, balance: { ring_hash: { min_size: 5 } } } ]",
        "upstreams: [ { name: a, protocol: http3 } ]",
        "upstreams: [ { name: a, health_check: { interval: 5s } } ]",
        "upstreams: [ { name: a, connection_pool: { max_requests: 0 } } ]",
    ] {
        assert!(
            !Validator::new(&schema).valid(&schema, &yaml(text), "Config"),
            "valid by the schema: {text}"
        );
        assert!(
            tidegate_config::load_str_with("t", text, &support::env).is_err(),
            "loads: {text}"
        );
    }
}

#[test]
fn every_key_is_described() {
    let schema = tidegate_config::schema();
    let undescribed = |schema: &Json| schema["description"].as_str().is_none_or(|d| d.is_empty());
    for (name, definition) in schema["$defs"].as_object().expect("definitions") {
        assert!(!undescribed(definition), "{name}");
        for (key, schema) in definition["properties"].as_object().into_iter().flatten() {
            // The keys of a hash are told in the description of the whole.
            let of_hash = ["header", "cookie", "query", "source_ip"].contains(&key.as_str());
            assert!(of_hash || !undescribed(schema), "{name}.{key}");
        }
    }
}
