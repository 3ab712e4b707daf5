//! Values → YAML as a person would write it: blocks, lists of plain values on one line, quotes only where they are needed.

use std::fmt::Write;

/// A value to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Yaml {
    /// A text that means itself: `${` in it is no variable.
    Text(String),
    /// `${NAME}`.
    Reference(String),
    /// A number, a boolean, a duration: printed as it is.
    Plain(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn plain(value: impl ToString) -> Self {
        Self::Plain(value.to_string())
    }

    pub(super) fn map<const N: usize>(entries: [(&str, Self); N]) -> Self {
        Self::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }

    fn is_leaf(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Map(_))
    }

    /// On one line, if it may stand on one.
    fn flow(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(scalar(&text.replace("${", "$${"))),
            Self::Reference(text) => Some(quoted(text)),
            Self::Plain(text) => Some(text.clone()),
            Self::List(items) if items.iter().all(Self::is_leaf) => {
                let items: Vec<String> = items.iter().filter_map(Self::flow).collect();
                Some(format!("[{}]", items.join(", ")))
            }
            Self::Map(entries) if entries.is_empty() => Some("{}".into()),
            Self::List(_) | Self::Map(_) => None,
        }
    }
}

/// A document with a comment above it.
pub(super) fn document(comment: &str, root: &Yaml) -> String {
    let mut out = format!("# {comment}\n");
    block(root, 0, &mut out);
    out
}

fn block(value: &Yaml, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Yaml::Map(entries) => {
            for (index, (key, value)) in entries.iter().enumerate() {
                // The first entry of a list's item stands behind its dash.
                let pad = if index == 0 && out.ends_with("- ") {
                    ""
                } else {
                    &pad
                };
                let key = scalar(key);
                match value.flow() {
                    Some(flow) => {
                        let _ = writeln!(out, "{pad}{key}: {flow}");
                    }
                    None => {
                        let _ = writeln!(out, "{pad}{key}:");
                        block(value, indent + 2, out);
                    }
                }
            }
        }
        Yaml::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let pad = if index == 0 && out.ends_with("- ") {
                    ""
                } else {
                    &pad
                };
                let _ = write!(out, "{pad}- ");
                match item.flow() {
                    Some(flow) => {
                        let _ = writeln!(out, "{flow}");
                    }
                    None => block(item, indent + 2, out),
                }
            }
        }
        leaf => out.extend(leaf.flow()),
    }
}

/// Plain where YAML cannot take it for anything else.
fn scalar(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "_./-".contains(c);
    let lower = text.to_ascii_lowercase();
    let special = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(word)
        && !special.contains(&&*lower);
    match plain {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// JSON's quotes are YAML's, but for a few characters that YAML wants escaped.
fn quoted(text: &str) -> String {
    let raw = |c: char| {
        matches!(
            c,
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        )
    };
    let json = serde_json::Value::from(text).to_string();
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match raw(c) {
            true => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Yaml> {
        let leaf = prop_oneof![
            ".{0,12}".prop_map(Yaml::Text),
            "[a-z0-9.:#*&!?-]{0,8}".prop_map(Yaml::Text),
            any::<i32>().prop_map(Yaml::plain),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..4).prop_map(Yaml::List),
                prop::collection::btree_map("[a-z:*$]{1,6}", inner, 1..4)
                    .prop_map(|map| Yaml::Map(map.into_iter().collect())),
            ]
        })
    }

    fn json(value: &Yaml) -> serde_json::Value {
        match value {
            Yaml::Text(text) | Yaml::Reference(text) => text.replace("${", "$${").into(),
            Yaml::Plain(text) => text.parse::<i64>().unwrap().into(),
            Yaml::List(items) => items.iter().map(json).collect(),
            Yaml::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.clone(), json(value)))
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_as_it_was(value in value()) {
            let root = Yaml::map([("root", value)]);
            let text = document("Above.", &root);
            let read: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
            prop_assert_eq!(read, json(&root), "{}", text);
        }
    }
}
