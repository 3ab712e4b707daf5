//! Texts of other systems as trees, and a mapping that knows which of its keys were read.

use super::Cx;
use crate::diagnostic::Diagnostics;
use crate::files;
use crate::load;
use crate::node::{Key, Kind, Node};
use crate::problem::Problem;
use crate::source::{Source, Span};
use crate::yaml;
use std::cell::RefCell;
use std::path::PathBuf;

/// All texts.
pub(super) struct Input {
    pub(super) sources: Vec<Source>,
    pub(super) documents: Vec<Node>,
}

/// Reads every document of every text. What looks like one of our variables is left as it is.
pub(super) fn read(texts: &[(String, String)]) -> Result<Input, Diagnostics> {
    let mut sources = Vec::new();
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for (name, text) in texts {
        if text.len() > yaml::MAX_BYTES {
            problems.push(files::too_large(name));
            continue;
        }
        // `$${` is our way to write a `${` that is no variable.
        let text = text.trim_start_matches('\u{feff}').replace("${", "$${");
        let source = Source::new(name.clone(), text, PathBuf::new());
        documents.extend(yaml::documents(
            sources.len(),
            &source,
            &|_| None,
            &mut problems,
        ));
        sources.push(source);
    }
    match problems.is_empty() {
        true => Ok(Input { sources, documents }),
        false => Err(load::diagnostics(problems, &sources)),
    }
}

/// One problem as the answer.
pub(super) fn failure(message: &str, help: &str, sources: &[Source]) -> Diagnostics {
    load::diagnostics(vec![Problem::without_place(message, help)], sources)
}

/// A mapping of another system's configuration.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) span: Span,
    /// It is not in force: others only refer to it.
    pub(super) passive: bool,
    entries: &'a [(Key, Node)],
    read: RefCell<Vec<&'a str>>,
}

impl<'a> Section<'a> {
    /// `None`: no mapping.
    pub(super) fn of(node: &'a Node) -> Option<Self> {
        match &node.kind {
            Kind::Map(entries) => Some(Self {
                span: node.span,
                passive: false,
                entries,
                read: RefCell::default(),
            }),
            _ => None,
        }
    }

    /// A value that is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let (key, node) = self.entries.iter().find(|(k, _)| &*k.text == key)?;
        self.read.borrow_mut().push(&key.text);
        (!matches!(node.kind, Kind::Null)).then_some(node)
    }

    /// A mapping. What is none was not read.
    pub(super) fn section(&self, key: &str) -> Option<Section<'a>> {
        self.of_form(key, |node| matches!(node.kind, Kind::Map(_)))
            .and_then(Section::of)
    }

    /// A text that is not empty. What is none was not read.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.of_form(key, |node| matches!(node.kind, Kind::Scalar(_)))
            .and_then(text)
            .filter(|text| !text.is_empty())
    }

    fn of_form(&self, key: &str, fits: impl Fn(&Node) -> bool) -> Option<&'a Node> {
        let (_, node) = self.entries.iter().find(|(k, _)| &*k.text == key)?;
        fits(node).then(|| self.get(key))?
    }

    /// The mappings of a list. What is none is told.
    pub(super) fn sections(&self, key: &str, cx: &mut Cx<'_>) -> Vec<Section<'a>> {
        let is_list = |node: &Node| matches!(node.kind, Kind::List(_));
        let items = self.of_form(key, is_list).map(Node::items);
        let mut sections = Vec::new();
        for item in items.unwrap_or_default() {
            match Section::of(item) {
                Some(section) => sections.push(section),
                None => cx.note(
                    item.span,
                    format!("no mapping, as those of `{key}` are: left out"),
                ),
            }
        }
        sections
    }

    /// Whether it says anything of a key. That is not reading it.
    pub(super) fn has(&self, key: &str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|(k, node)| &*k.text == key && !matches!(node.kind, Kind::Null))
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A whole number that is not 0; written as a text too.
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        let number = self.text(key)?.trim().parse::<f64>().ok()?;
        // Saturates, and what is no number or negative becomes 0.
        Some(number as u64).filter(|number| *number > 0)
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.text(key).map(|text| text == "true")
    }

    /// The texts of a list; a single one counts as a list.
    pub(super) fn texts(&self, key: &str) -> Vec<(&'a str, Span)> {
        match self.get(key) {
            None => Vec::new(),
            Some(node) => match &node.kind {
                Kind::List(items) => items
                    .iter()
                    .filter_map(|item| Some((text(item)?, item.span)))
                    .collect(),
                _ => text(node).map(|t| (t, node.span)).into_iter().collect(),
            },
        }
    }

    /// Entries of a mapping of texts.
    pub(super) fn pairs(&self) -> Vec<(&'a str, &'a str, Span)> {
        let pair = |(key, node): &'a (Key, Node)| {
            let value = match &node.kind {
                Kind::Null => "",
                _ => text(node)?,
            };
            Some((&*key.text, value, key.span))
        };
        self.entries.iter().filter_map(pair).collect()
    }

    /// Where a key stands; the section itself if it is not there.
    pub(super) fn span_of(&self, key: &str) -> Span {
        let entry = self.entries.iter().find(|(k, _)| &*k.text == key);
        entry.map_or(self.span, |(key, _)| key.span)
    }

    /// Tells of keys that nobody asked for, and that say something.
    pub(super) fn note_unread(&self, cx: &mut Cx<'_>) {
        let read = self.read.borrow();
        for (key, node) in self.entries {
            let empty = match &node.kind {
                Kind::Null => true,
                Kind::List(items) => items.is_empty(),
                Kind::Map(entries) => entries.is_empty(),
                Kind::Scalar(scalar) => scalar.text.is_empty(),
                Kind::Broken => false,
            };
            if !empty && !read.contains(&&*key.text) {
                cx.note(
                    key.span,
                    format!("`{}` has no counterpart: left out", key.text),
                );
            }
        }
    }
}

/// The text of a scalar.
pub(super) fn text(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}
