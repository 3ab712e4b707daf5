//! Reading a mapping with exactly one of several keys.

use super::{Cx, Fields};
use crate::node::Node;
use crate::schema::Defs;
use serde_json::{Map, Value as Json, json};

/// A type that is written as one of several keys with its value.
pub(crate) trait OneOf: Sized {
    /// The keys.
    const KEYS: &'static [&'static str];

    /// Reads the value of one of the keys.
    fn decode_entry(key: &str, node: &Node, cx: &mut Cx<'_>) -> Option<Self>;

    /// The key and its value.
    fn encode_entry(&self) -> (&'static str, Json);

    /// Each key's schema, with its description.
    fn schemas(defs: &mut Defs) -> Vec<(&'static str, Json)>;
}

/// Reads `{ key: value }`.
pub(crate) fn decode_one_of<T: OneOf>(
    node: &Node,
    cx: &mut Cx<'_>,
    later: &'static [&'static str],
) -> Option<T> {
    let mut fields = Fields::open(node, cx, later)?;
    let value = fields.flatten::<T>(cx);
    fields.close(cx);
    value
}

/// Writes `{ key: value }`.
pub(crate) fn encode_one_of<T: OneOf>(value: &T) -> Json {
    let (key, inner) = value.encode_entry();
    Json::Object(Map::from_iter([(key.to_owned(), inner)]))
}

/// An object with exactly one of the keys.
pub(crate) fn schema_one_of<T: OneOf>(defs: &mut Defs, description: &str) -> Json {
    let properties: Map<String, Json> = T::schemas(defs)
        .into_iter()
        .map(|(key, schema)| (key.to_owned(), schema))
        .collect();
    json!({
        "description": description,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "minProperties": 1,
        "maxProperties": 1,
    })
}

/// Reads a word from a fixed list.
pub(crate) fn choose(
    node: &Node,
    cx: &mut Cx<'_>,
    words: &'static [&'static str],
) -> Option<&'static str> {
    let list = words.join(", ");
    let scalar = super::leaves::scalar(node, cx, "a word", &format!("write one of: {list}"))?;
    let found = words.iter().find(|word| **word == &*scalar.text).copied();
    if found.is_none() {
        let help = match crate::suggest::closest(&scalar.text, words.iter().copied()) {
            Some(right) => format!("did you mean `{right}`? Known: {list}"),
            None => format!("write one of: {list}"),
        };
        cx.error(node.span, "not a word that is known here", help);
    }
    found
}
