//! Google's own form of a schema (a part of OpenAPI 3.0, types in capitals) as JSON Schema.

use crate::json::{Json, Obj, Tree, object, value_text};

/// The same schema as other dialects write it, as JSON text.
pub(super) fn to_json_schema(schema: &Json<'_>) -> String {
    let Json::Object(fields) = schema else {
        return value_text(schema);
    };
    let mut out = Vec::with_capacity(256);
    let nullable = schema.at("nullable").truth() == Some(true);
    object(&mut out, |out| {
        for (key, value) in fields.iter() {
            write_field(out, key, value, nullable);
        }
    });
    String::from_utf8(out).expect("JSON that was written here is UTF-8")
}

fn write_field(out: &mut Obj<'_>, key: &str, value: &Json<'_>, nullable: bool) {
    match (key, value) {
        // Hints that no one else knows.
        ("nullable" | "propertyOrdering" | "property_ordering" | "example", _) => {}
        ("type", Json::Str(kind)) if nullable => out.arr("type", |kinds| {
            kinds.str(&kind.to_ascii_lowercase());
            kinds.str("null");
        }),
        ("type", Json::Str(kind)) => out.str("type", &kind.to_ascii_lowercase()),
        // Numbers as text: int64 in Google's JSON.
        (
            "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties",
            Json::Str(number),
        ) => out.opt_int(key, number.parse().ok()),
        ("properties", Json::Object(properties)) => out.obj("properties", |out| {
            for (name, property) in properties.iter() {
                out.raw(name, &to_json_schema(property));
            }
        }),
        ("items" | "additionalProperties", value) => out.raw(key, &to_json_schema(value)),
        ("anyOf" | "any_of", Json::Array(choices)) => {
            let texts: Vec<String> = choices.iter().map(to_json_schema).collect();
            out.raw("anyOf", &format!("[{}]", texts.join(",")));
        }
        (key, value) => out.json(key, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::parse;

    #[test]
    fn types_are_written_small_and_the_order_stays() {
        let schema = parse(
            br#"{"type":"OBJECT","properties":{"z":{"type":"STRING","nullable":true},"a":{"type":"ARRAY","items":{"type":"INTEGER"},"maxItems":"3"}},"required":["z"],"propertyOrdering":["z","a"]}"#,
        )
        .unwrap();
        assert_eq!(
            to_json_schema(&schema),
            r#"{"type":"object","properties":{"z":{"type":["string","null"]},"a":{"type":"array","items":{"type":"integer"},"maxItems":3}},"required":["z"]}"#
        );
    }
}
