//! What providers have of their own: ordered mappings of models, the choice of a key.

use super::{Cx, Decode, OneOf, decode_one_of, encode_one_of, schema_one_of};
use crate::env;
use crate::model::{Choose, Sticky};
use crate::node::{Kind, Node};
use crate::schema::Defs;
use crate::suggest;
use crate::values::{ModelMapping, ModelPattern};
use serde_json::{Map, Value as Json, json};

/// A mapping, or a list of mappings: JSON's objects have no order, and that of expressions matters.
impl Decode for ModelMapping {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let mut mapping = Vec::new();
        let parts = match &node.kind {
            Kind::List(parts) => &parts[..],
            _ => std::slice::from_ref(node),
        };
        let mut complete = true;
        for part in parts {
            let Kind::Map(entries) = &part.kind else {
                let help = "write `callers-name: provider's-name` lines below it";
                cx.mismatch(part, "a mapping", help);
                return None;
            };
            for (key, node) in entries.iter() {
                let entry = cx.below(&*key.text, |cx| {
                    let name = String::decode(node, cx);
                    match key.text.parse::<ModelPattern>() {
                        Ok(pattern) => name.map(|name| (pattern, name)),
                        Err(wrong) => {
                            cx.wrong(key.span, wrong);
                            None
                        }
                    }
                });
                complete &= entry.is_some();
                mapping.extend(entry);
            }
        }
        complete.then_some(Self(mapping))
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn omit(&self) -> bool {
        self.0.is_empty()
    }

    fn encode(&self) -> Json {
        let entry = |(pattern, name): &(ModelPattern, String)| {
            let name = Json::from(env::escape(name));
            Json::Object(Map::from_iter([(env::escape(&pattern.to_string()), name)]))
        };
        self.0.iter().map(entry).collect()
    }

    fn schema(defs: &mut Defs) -> Json {
        let mapping = json!({ "type": "object", "additionalProperties": String::schema(defs) });
        json!({ "anyOf": [mapping.clone(), { "type": "array", "items": mapping }] })
    }
}

const WORDS: [&str; 4] = ["random", "round_robin", "weighted", "least_used"];

impl OneOf for Choose {
    const KEYS: &'static [&'static str] = &["sticky"];

    fn decode_entry(_: &str, node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        Sticky::decode(node, cx).map(Self::Sticky)
    }

    fn encode_entry(&self) -> (&'static str, Json) {
        match self {
            Self::Sticky(sticky) => ("sticky", sticky.encode()),
            other => (other.as_str(), Json::Null),
        }
    }

    fn schemas(defs: &mut Defs) -> Vec<(&'static str, Json)> {
        vec![("sticky", Sticky::schema(defs))]
    }
}

impl Choose {
    /// The word that the configuration uses for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::Weighted => "weighted",
            Self::LeastUsed => "least_used",
            Self::Sticky(_) => "sticky",
        }
    }
}

impl Decode for Choose {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Kind::Scalar(scalar) = &node.kind else {
            return decode_one_of(node, cx, &[]);
        };
        Some(match &*scalar.text {
            "random" => Self::Random,
            "round_robin" => Self::RoundRobin,
            "weighted" => Self::Weighted,
            "least_used" => Self::LeastUsed,
            word => {
                let sticky = "{ sticky: { body: user } }";
                let help = match suggest::closest(word, WORDS) {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("write one of {}, or {sticky}", WORDS.join(", ")),
                };
                cx.error(node.span, "not a way to choose a key", help);
                return None;
            }
        })
    }

    fn encode(&self) -> Json {
        match self {
            Self::Sticky(_) => encode_one_of(self),
            word => Json::from(word.as_str()),
        }
    }

    fn schema(defs: &mut Defs) -> Json {
        let object = schema_one_of::<Self>(defs, "How a key is chosen.");
        json!({ "anyOf": [object, { "enum": WORDS }] })
    }
}
