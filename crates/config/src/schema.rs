//! JSON Schema (draft 2020-12) of the configuration, for editors and other tools.

use crate::checks::Check;
use crate::decode::{Decode, OneOf};
use crate::model::Config;
use serde_json::{Map, Value as Json, json};

/// Named parts of the schema.
#[derive(Debug, Default)]
pub(crate) struct Defs(Map<String, Json>);

impl Defs {
    /// A reference to a named part, which is built on first use.
    pub(crate) fn named(&mut self, name: &str, build: impl FnOnce(&mut Self) -> Json) -> Json {
        if !self.0.contains_key(name) {
            self.0.insert(name.to_owned(), Json::Null);
            let schema = build(self);
            self.0.insert(name.to_owned(), schema);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    /// A schema that also admits a variable from the environment.
    pub(crate) fn or_variable(&mut self, schema: Json) -> Json {
        let variable = self.named("Variable", |_| {
            json!({ "description": "A value from the environment: `${NAME}` or `${NAME:-default}`.", "type": "string", "pattern": r"\$\{" })
        });
        json!({ "anyOf": [schema, variable] })
    }
}

/// A doc comment's lines as one description.
pub(crate) fn description(lines: &[&str]) -> String {
    lines
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}

/// One key's schema with its description, default and bounds.
pub(crate) fn property<T: Decode>(
    defs: &mut Defs,
    docs: &[&str],
    default: Option<Json>,
    check: &dyn Check<T>,
) -> Json {
    let mut schema = T::schema(defs);
    check.constrain(&mut schema);
    if let Json::Object(object) = &mut schema {
        object.insert("description".into(), description(docs).into());
        if let Some(default) = default.filter(|d| !d.is_object()) {
            object.insert("default".into(), default);
        }
    }
    schema
}

/// The schema of a mapping with known keys, while it is put together.
#[derive(Debug)]
pub(crate) struct Object {
    description: String,
    properties: Map<String, Json>,
    required: Vec<&'static str>,
    one_of: Vec<Json>,
    short: Option<Json>,
}

impl Object {
    pub(crate) fn new(docs: &[&str]) -> Self {
        Self {
            description: description(docs),
            properties: Map::new(),
            required: Vec::new(),
            one_of: Vec::new(),
            short: None,
        }
    }

    pub(crate) fn field<T: Decode>(
        &mut self,
        defs: &mut Defs,
        key: &'static str,
        docs: &[&str],
        default: Option<T>,
        check: &dyn Check<T>,
    ) {
        if default.is_none() && T::absent().is_none() {
            self.required.push(key);
        }
        let default = default.map(|value| value.encode());
        self.properties
            .insert(key.to_owned(), property(defs, docs, default, check));
    }

    pub(crate) fn flatten<T: OneOf>(&mut self, defs: &mut Defs) {
        self.one_of = T::KEYS
            .iter()
            .map(|key| json!({ "required": [key] }))
            .collect();
        self.properties.extend(
            T::schemas(defs)
                .into_iter()
                .map(|(key, schema)| (key.to_owned(), schema)),
        );
    }

    /// A value that is no mapping stands for this key.
    pub(crate) fn short(&mut self, key: &str) {
        self.short = self.properties.get(key).cloned();
        // The key is implied then; as a mapping it keeps its place among the required ones.
    }

    pub(crate) fn finish(self) -> Json {
        let mut object = json!({ "type": "object", "properties": self.properties, "additionalProperties": false });
        if !self.required.is_empty() {
            object["required"] = json!(self.required);
        }
        if !self.one_of.is_empty() {
            object["oneOf"] = Json::Array(self.one_of);
        }
        let mut schema = match self.short {
            Some(short) => json!({ "anyOf": [object, short] }),
            None => object,
        };
        schema["description"] = self.description.into();
        schema
    }
}

/// The JSON Schema of `tidegate.yaml`.
#[must_use]
pub fn schema() -> Json {
    let mut defs = Defs::default();
    let root = Config::schema(&mut defs);
    // A place for shared pieces with anchors, which the loader skips.
    defs.0["Config"]["patternProperties"] = json!({ "^x-": true });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tidegate configuration",
        "$ref": root["$ref"],
        "$defs": defs.0,
    })
}
