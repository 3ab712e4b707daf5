//! Options, lists and mappings with free keys.

use super::{Cx, Decode};
use crate::node::{Kind, Node};
use crate::problem::Problem;
use crate::schema::Defs;
use crate::values::{HeaderName, OneOrMany};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

fn is_off(node: &Node) -> bool {
    matches!(&node.kind, Kind::Scalar(scalar) if &*scalar.text == "off" || (&*scalar.text == "false" && !scalar.quoted))
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if T::OFF && is_off(node) {
            Some(None)
        } else {
            T::decode(node, cx).map(Some)
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn omit(&self) -> bool {
        self.is_none()
    }

    fn encode(&self) -> Json {
        match self {
            Some(value) => value.encode(),
            None if T::OFF => Json::from("off"),
            None => Json::Null,
        }
    }

    fn schema(defs: &mut Defs) -> Json {
        let inner = T::schema(defs);
        if T::OFF {
            json!({ "anyOf": [inner, { "enum": ["off", false] }] })
        } else {
            inner
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.kind {
            // `routes:` with all its entries commented out.
            Kind::Null => Some(Self::new()),
            Kind::List(items) => {
                let mut values = Self::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    values.extend(cx.below(format!("[{index}]"), |cx| T::decode(item, cx)));
                }
                // A list that lost entries is no list to check further: what is wrong with them is reported.
                (values.len() == items.len()).then_some(values)
            }
            _ => {
                cx.mismatch(
                    node,
                    "a list",
                    "put it into brackets: `[ … ]`, or on a line of its own after `- `",
                );
                None
            }
        }
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn omit(&self) -> bool {
        self.is_empty()
    }

    fn encode(&self) -> Json {
        self.iter().map(Decode::encode).collect()
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "type": ["array", "null"], "items": T::schema(defs) })
    }
}

impl<T: Decode> Decode for OneOrMany<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.kind {
            Kind::List(_) => Vec::decode(node, cx).map(Self),
            _ => T::decode(node, cx).map(|value| Self(vec![value])),
        }
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn omit(&self) -> bool {
        self.0.is_empty()
    }

    fn encode(&self) -> Json {
        self.0.encode()
    }

    fn schema(defs: &mut Defs) -> Json {
        let item = T::schema(defs);
        json!({ "anyOf": [item.clone(), { "type": "array", "items": item }] })
    }
}

/// Keys of a mapping that the user chooses.
pub(crate) trait MapKey: FromStr<Err = crate::values::Wrong> + Display + Ord {}
impl MapKey for HeaderName {}

impl<K: MapKey, V: Decode> Decode for BTreeMap<K, V> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        decode_map(node, cx, |text| text.parse::<K>())
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn omit(&self) -> bool {
        self.is_empty()
    }

    fn encode(&self) -> Json {
        Json::Object(
            self.iter()
                .map(|(key, value)| (key.to_string(), value.encode()))
                .collect::<Map<_, _>>(),
        )
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "type": "object", "additionalProperties": V::schema(defs) })
    }
}

/// Texts by texts that the user chooses: query parameters, metadata.
impl<V: Decode> Decode for BTreeMap<String, V> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        decode_map(node, cx, |text| Ok(text.to_owned()))
    }

    fn absent() -> Option<Self> {
        Some(Self::new())
    }

    fn omit(&self) -> bool {
        self.is_empty()
    }

    fn encode(&self) -> Json {
        Json::Object(
            self.iter()
                .map(|(key, value)| (key.clone(), value.encode()))
                .collect::<Map<_, _>>(),
        )
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "type": "object", "additionalProperties": V::schema(defs) })
    }
}

fn decode_map<K: Ord, V: Decode>(
    node: &Node,
    cx: &mut Cx<'_>,
    key_of: impl Fn(&str) -> Result<K, crate::values::Wrong>,
) -> Option<BTreeMap<K, V>> {
    let Kind::Map(entries) = &node.kind else {
        cx.mismatch(
            node,
            "a mapping",
            "write `name: value` lines below it, or `{ name: value }`",
        );
        return None;
    };
    let mut values: BTreeMap<K, (V, crate::source::Span)> = BTreeMap::new();
    let mut complete = true;
    for (key, node) in entries.iter() {
        let value = cx.below(&*key.text, |cx| match key_of(&key.text) {
            Ok(name) => V::decode(node, cx).map(|value| (name, value)),
            Err(wrong) => {
                cx.wrong(key.span, wrong);
                None
            }
        });
        let Some((name, value)) = value else {
            complete = false;
            continue;
        };
        if let Some((_, first)) = values.get(&name) {
            // Header names differ in case only: YAML sees two keys, HTTP one.
            let (message, first) = (
                format!("`{}` is given twice: case does not matter", key.text),
                *first,
            );
            cx.report(
                Problem::error(key.span, message, "keep one of them")
                    .related("first given here", first),
            );
            complete = false;
        } else {
            values.insert(name, (value, key.span));
        }
    }
    complete.then(|| {
        values
            .into_iter()
            .map(|(name, (value, _))| (name, value))
            .collect()
    })
}
