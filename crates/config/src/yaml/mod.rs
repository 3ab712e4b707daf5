//! YAML text → tree: anchors, aliases and merge keys resolved, variables replaced, duplicates reported.
//!
//! Bounded against hostile input: the size of the text, the depth, and how much aliases may expand to.

mod build;
mod recover;

use crate::env::Env;
use crate::node::Node;
use crate::problem::Problem;
use crate::source::{Source, Span};

/// Largest text that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 16 << 20;
/// Deepest nesting, aliases expanded.
pub(crate) const MAX_DEPTH: usize = 48;
/// Nodes that all aliases of a text may expand to.
pub(crate) const MAX_ALIASED: usize = 200_000;

/// A text's tree.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// None for an empty text.
    pub(crate) root: Option<Node>,
    /// Whether parts are missing because they are no YAML: what refers to them must not be reported.
    pub(crate) incomplete: bool,
    /// The parts that could not be read.
    pub(crate) broken: Vec<Span>,
}

/// Reads a text; what is no YAML is reported and the rest is read all the same.
pub(crate) fn parse(
    index: usize,
    source: &Source,
    env: Env<'_>,
    problems: &mut Vec<Problem>,
) -> Parsed {
    let mut found = Vec::new();
    match build::tree(
        &source.text,
        build::Origin {
            source: index,
            offset: 0,
            whole: None,
        },
        env,
        &mut found,
    ) {
        Ok(root) => {
            problems.append(&mut found);
            Parsed {
                root,
                incomplete: false,
                broken: Vec::new(),
            }
        }
        Err(error) => recover::sections(index, source, env, error, problems),
    }
}

/// Reads every document of a text; what is no YAML is reported and its document is missing.
pub(crate) fn documents(
    index: usize,
    source: &Source,
    env: Env<'_>,
    problems: &mut Vec<Problem>,
) -> Vec<Node> {
    let text = source.text.as_str();
    let mut documents = Vec::new();
    let mut start = 0;
    while start < text.len() {
        // Three dashes at the margin are a document's beginning wherever they stand.
        let next = text[start..].match_indices("\n---").find(|(at, marker)| {
            let after = text[start + at + marker.len()..].chars().next();
            after.is_none_or(char::is_whitespace)
        });
        let end = next.map_or(text.len(), |(at, _)| start + at + 1);
        let origin = build::Origin {
            source: index,
            offset: start,
            whole: None,
        };
        match build::tree(&text[start..end], origin, env, problems) {
            Ok(root) => documents.extend(root),
            Err(error) => problems.push(Problem::error(error.span, error.message, error.help)),
        }
        start = end;
    }
    documents
}
