//! What services have of their own: the engine, variables of an environment.

use super::leaves::scalar;
use super::special::secret;
use super::{Cx, Decode};
use crate::env;
use crate::mask;
use crate::model::Engine;
use crate::node::Node;
use crate::schema::Defs;
use crate::suggest;
use crate::values::EnvText;
use serde_json::{Value as Json, json};

const ENGINES: [&str; 1] = ["process"];
const LATER: [&str; 2] = ["ray", "kubernetes"];

impl Decode for Engine {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let text = &*scalar(node, cx, "a word", "write process")?.text;
        if text == ENGINES[0] {
            return Some(Self::Process);
        }
        if LATER.contains(&text) {
            let help = "it comes with a later version: write process, or remove it";
            cx.error(node.span, format!("`{text}` is not in this build"), help);
            return None;
        }
        let help = match suggest::closest(text, ENGINES) {
            Some(right) => format!("did you mean `{right}`?"),
            None => "write process".into(),
        };
        cx.error(node.span, "not a word that is known here", help);
        None
    }

    fn encode(&self) -> Json {
        Json::from(ENGINES[0])
    }

    fn schema(_: &mut Defs) -> Json {
        json!({ "enum": ENGINES })
    }
}

/// The path's last key is the variable's name: it says whether the value is a credential.
impl Decode for EnvText {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let sensitive = cx.path.last().is_some_and(|name| {
            let name = name.to_ascii_lowercase();
            mask::sounds_secret(&name) || name.ends_with("_key") || name == "key"
        });
        let text = if sensitive {
            secret(node, cx)?
        } else {
            String::decode(node, cx)?
        };
        if text.contains('\0') {
            cx.error(
                node.span,
                "not the value of a variable",
                "no variable holds a zero byte",
            );
            return None;
        }
        Some(Self::new(text, sensitive))
    }

    fn encode(&self) -> Json {
        Json::from(env::escape(&self.to_string()))
    }

    fn schema(defs: &mut Defs) -> Json {
        String::schema(defs)
    }
}
