//! Reading a mapping with known keys.

use super::{Cx, Decode, OneOf};
use crate::checks::Check;
use crate::mask;
use crate::node::{Key, Kind, Node};
use crate::problem::Problem;
use crate::source::Span;
use crate::suggest;
use std::collections::HashSet;

/// A mapping whose keys are taken one after the other; what is left over is unknown.
pub(crate) struct Fields<'n> {
    node: &'n Node,
    entries: &'n [(Key, Node)],
    taken: Vec<bool>,
    known: Vec<&'static str>,
    later: &'static [&'static str],
    /// Keys that are needed and not there, reported in the end unless a misspelt one explains it.
    missing: Vec<Vec<&'static str>>,
    /// A key was found that is misspelt or of a later build: it may be the one that seems to be missing.
    pub(crate) misspelt: bool,
}

impl<'n> Fields<'n> {
    /// Opens a mapping. `later` are keys of sections that come with later builds.
    pub(crate) fn open(
        node: &'n Node,
        cx: &mut Cx<'_>,
        later: &'static [&'static str],
    ) -> Option<Self> {
        match &node.kind {
            Kind::Map(entries) => Some(Self {
                node,
                entries,
                taken: vec![false; entries.len()],
                known: Vec::new(),
                later,
                missing: Vec::new(),
                misspelt: false,
            }),
            Kind::List(items) if items.len() == 1 && matches!(items[0].kind, Kind::Map(_)) => {
                cx.mismatch(node, "a mapping", "remove the `-` or the brackets");
                None
            }
            _ => {
                cx.mismatch(
                    node,
                    "a mapping",
                    "write `key: value` lines below it, or `{ key: value, … }`",
                );
                None
            }
        }
    }

    /// A value that is no mapping, as the only entry of one; `None` if it is a mapping or nothing already.
    pub(crate) fn short(node: &Node, key: &str) -> Option<Node> {
        match &node.kind {
            Kind::Scalar(_) => Some(Node::map(
                node.span,
                vec![(
                    Key {
                        span: node.span,
                        text: key.into(),
                    },
                    node.clone(),
                )],
            )),
            _ => None,
        }
    }

    /// Reads one key: its value, `default` or the type's own absence.
    pub(crate) fn field<T: Decode>(
        &mut self,
        cx: &mut Cx<'_>,
        key: &'static str,
        default: Option<T>,
        check: &dyn Check<T>,
    ) -> Option<T> {
        self.known.push(key);
        let Some(node) = self.take(key) else {
            let value = default.or_else(T::absent);
            if value.is_none() {
                self.missing.push(vec![key]);
            }
            return value;
        };
        cx.below(key, |cx| {
            let value = T::decode(node, cx)?;
            check.check(&value, node, cx);
            Some(value)
        })
    }

    /// Reads the one of several keys that is there.
    pub(crate) fn flatten<T: OneOf>(&mut self, cx: &mut Cx<'_>) -> Option<T> {
        self.known.extend(T::KEYS);
        let mut present: Vec<(usize, &'static str)> = T::KEYS
            .iter()
            .filter_map(|key| {
                self.entries
                    .iter()
                    .position(|(k, _)| &*k.text == *key)
                    .map(|at| (at, *key))
            })
            .collect();
        present.sort_unstable();
        for (at, _) in &present {
            self.taken[*at] = true;
        }
        match present.as_slice() {
            [] => {
                self.missing.push(T::KEYS.to_vec());
                None
            }
            [(at, key)] => cx.below(*key, |cx| T::decode_entry(key, &self.entries[*at].1, cx)),
            [(first, one), (second, other), ..] => {
                let (first, second) = (self.entries[*first].0.span, self.entries[*second].0.span);
                let message = format!("`{other}` and `{one}` exclude each other");
                cx.report(
                    Problem::error(second, message, "keep one of them")
                        .related("the other is here", first),
                );
                None
            }
        }
    }

    fn take(&mut self, key: &str) -> Option<&'n Node> {
        let at = self.entries.iter().position(|(k, _)| &*k.text == key)?;
        self.taken[at] = true;
        Some(&self.entries[at].1)
    }

    /// The value of a key as written, whatever was read from it.
    pub(crate) fn node(&self, key: &str) -> Option<&'n Node> {
        self.entries
            .iter()
            .find(|(k, _)| &*k.text == key)
            .map(|(_, node)| node)
    }

    /// Where a key stands, if it is given.
    pub(crate) fn span_of(&self, key: &str) -> Option<Span> {
        self.entries
            .iter()
            .find(|(k, _)| &*k.text == key)
            .map(|(k, _)| k.span)
    }

    /// Where the mapping stands: its first key, so that one word is underlined and not a whole block.
    pub(crate) fn span(&self) -> Span {
        self.entries
            .first()
            .map_or(self.node.span, |(key, _)| key.span)
    }

    /// Reports unknown and missing keys.
    pub(crate) fn close(mut self, cx: &mut Cx<'_>) -> Self {
        let given: HashSet<&str> = self.entries.iter().map(|(key, _)| &*key.text).collect();
        let free: Vec<&'static str> = self
            .known
            .iter()
            .copied()
            .filter(|known| !given.contains(known))
            .collect();
        for (key, value) in self
            .entries
            .iter()
            .zip(&self.taken)
            .filter(|(_, taken)| !**taken)
            .map(|(entry, _)| entry)
        {
            if self.later.contains(&&*key.text) {
                cx.error(
                    key.span,
                    format!("`{}` is not in this build", key.text),
                    "it comes with a later version: remove it here",
                );
                // What is missing beside it is its business.
                self.missing.clear();
                self.misspelt = true;
                continue;
            }
            // A secret under a misspelt key is a secret all the same.
            if suggest::closest(&key.text, self.known.iter().copied())
                .is_some_and(mask::sounds_secret)
            {
                mask::hide_by_name(value, true, cx.sources, &mut cx.secrets);
            }
            let help = match suggest::key(&key.text, &free) {
                Some((right, why)) => {
                    self.misspelt = true;
                    self.missing.retain(|keys| !keys.contains(&right));
                    format!("did you mean `{right}`?{why}")
                }
                None => match suggest::closest(&key.text, self.known.iter().copied()) {
                    Some(right) => format!("did you mean `{right}`? It is given already"),
                    None => format!("known here: {}", self.known.join(", ")),
                },
            };
            let help = match suggest::is_higress(&key.text) {
                true => {
                    format!("{help} (`tidegate import higress FILE` translates ai-proxy's files)")
                }
                false => help,
            };
            cx.error(
                key.span,
                format!("unknown key `{}`", shorten(&key.text)),
                help,
            );
        }
        for keys in std::mem::take(&mut self.missing) {
            let span = self.span();
            match keys.as_slice() {
                [key] => cx.error(
                    span,
                    format!("`{key}` is missing"),
                    format!("add `{key}: …`"),
                ),
                keys => {
                    let list = keys
                        .iter()
                        .map(|key| format!("`{key}`"))
                        .collect::<Vec<_>>()
                        .join(", ");
                    cx.error(span, format!("one of {list} is missing"), "add one of them");
                }
            }
        }
        self
    }
}

/// Long keys are no words: their beginning will do.
fn shorten(text: &str) -> String {
    if text.chars().count() <= 64 {
        text.to_owned()
    } else {
        text.chars().take(64).chain(std::iter::once('…')).collect()
    }
}
