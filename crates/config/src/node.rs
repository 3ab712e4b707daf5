//! YAML as a tree whose every node knows its place.

use crate::source::Span;
use std::rc::Rc;

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
    /// Nodes below and including this one, aliases expanded.
    pub(crate) size: usize,
    /// Levels below and including this one, aliases expanded.
    pub(crate) depth: usize,
}

/// What a node is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// Any other scalar, as text; what it means is decided by the type that reads it.
    Scalar(Scalar),
    /// A list. Shared, so that an alias costs nothing.
    List(Rc<[Node]>),
    /// A mapping in the order written, keys unique, merge keys resolved.
    Map(Rc<[(Key, Node)]>),
    /// Something whose problem is already reported.
    Broken,
}

/// A scalar.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: Rc<str>,
    /// Written with quotes or as a block: never a number or a boolean.
    pub(crate) quoted: bool,
    /// Part of it came from the environment.
    pub(crate) from_env: bool,
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) text: Rc<str>,
}

impl Node {
    pub(crate) fn leaf(span: Span, kind: Kind) -> Self {
        Self {
            span,
            kind,
            size: 1,
            depth: 1,
        }
    }

    pub(crate) fn list(span: Span, items: Vec<Node>) -> Self {
        let size = items
            .iter()
            .fold(1_usize, |sum, n| sum.saturating_add(n.size));
        let depth = 1 + items.iter().map(|n| n.depth).max().unwrap_or(0);
        Self {
            span,
            kind: Kind::List(items.into()),
            size,
            depth,
        }
    }

    pub(crate) fn map(span: Span, entries: Vec<(Key, Node)>) -> Self {
        let size = entries
            .iter()
            .fold(1_usize, |sum, (_, n)| sum.saturating_add(n.size));
        let depth = 1 + entries.iter().map(|(_, n)| n.depth).max().unwrap_or(0);
        Self {
            span,
            kind: Kind::Map(entries.into()),
            size,
            depth,
        }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries
                .iter()
                .find(|(k, _)| &*k.text == key)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// The entries of a list; none for anything else.
    pub(crate) fn items(&self) -> &[Node] {
        match &self.kind {
            Kind::List(items) => items,
            _ => &[],
        }
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "nothing",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
            Kind::Broken => "a broken value",
            Kind::Scalar(scalar) if scalar.quoted => "a quoted text",
            Kind::Scalar(scalar) if scalar.text.parse::<f64>().is_ok() => "a number",
            Kind::Scalar(scalar) if matches!(&*scalar.text, "true" | "false") => "a boolean",
            Kind::Scalar(_) => "a text",
        }
    }
}
