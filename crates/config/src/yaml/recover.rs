//! After a syntax error: reads the parts of the file that are YAML on their own.
//!
//! A YAML parser cannot go on after a mistake, but a configuration has a plain shape: sections at the left margin, most of them
//! lists. So each section is read alone, and in a section that is broken each entry of its list. One mistake then costs
//! one entry, and the next mistakes are found in the same run.

use super::Parsed;
use super::build::{self, Origin, SyntaxError};
use crate::env::Env;
use crate::node::{Key, Node};
use crate::problem::Problem;
use crate::source::{Source, Span};

pub(super) fn sections(
    index: usize,
    source: &Source,
    env: Env<'_>,
    whole: SyntaxError,
    problems: &mut Vec<Problem>,
) -> Parsed {
    let text = source.text.as_str();
    let mut entries: Vec<(Key, Node)> = Vec::new();
    let mut broken = Vec::new();
    let mut reader = Reader {
        index,
        env,
        problems,
        broken: &mut broken,
    };
    for (start, end) in parts(text, 0, text.len(), |line| {
        !line.starts_with([' ', '\t', '#', '-', '}', ']']) && !line.is_empty()
    }) {
        if let Some(Some(node)) = reader.read(text, start, end, false) {
            match node.kind {
                crate::node::Kind::Map(section) => entries.extend(section.iter().cloned()),
                _ => reader.fail(SyntaxError {
                    span: Span {
                        end: node.span.start + 1,
                        ..node.span
                    },
                    message: format!("{} where a section is expected", node.describe()),
                    help: "write `section:` at the left margin and its content below, indented"
                        .into(),
                }),
            }
            continue;
        }
        if let Some(entry) = reader.items(text, start, end) {
            entries.push(entry);
        }
    }
    if broken.is_empty() {
        // Every part alone is fine (a tab between them, say): the mistake is that of the whole.
        broken.push(whole.span);
        problems.push(Problem::error(whole.span, whole.message, whole.help));
    }
    let root = Node::map(
        Span {
            source: index,
            start: 0,
            end: 0,
        },
        entries,
    );
    Parsed {
        root: Some(root),
        incomplete: true,
        broken,
    }
}

struct Reader<'a> {
    index: usize,
    env: Env<'a>,
    problems: &'a mut Vec<Problem>,
    broken: &'a mut Vec<Span>,
}

impl Reader<'_> {
    /// The tree of a part; `None` if it is no YAML, which is reported if `report`.
    fn read(&mut self, text: &str, start: usize, end: usize, report: bool) -> Option<Option<Node>> {
        let mut found = Vec::new();
        let origin = Origin {
            source: self.index,
            offset: start,
            whole: Some(text),
        };
        match build::tree(&text[start..end], origin, self.env, &mut found) {
            Ok(root) => {
                self.problems.append(&mut found);
                Some(root)
            }
            Err(error) => {
                if report {
                    self.broken.push(Span {
                        source: self.index,
                        start,
                        end,
                    });
                    self.fail(error);
                }
                None
            }
        }
    }

    fn fail(&mut self, error: SyntaxError) {
        if !self
            .broken
            .last()
            .is_some_and(|b| b.start <= error.span.start && error.span.start <= b.end)
        {
            self.broken.push(error.span);
        }
        self.problems
            .push(Problem::error(error.span, error.message, error.help));
    }

    /// A section whose value is a block list, entry by entry.
    fn items(&mut self, text: &str, start: usize, end: usize) -> Option<(Key, Node)> {
        let header_end = text[start..end].find('\n').map_or(end, |n| start + n + 1);
        let header = text[start..header_end]
            .split(" #")
            .next()
            .unwrap_or_default()
            .trim_end();
        let first = text[header_end..end]
            .lines()
            .find(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'));
        let indent = first
            .filter(|l| l.trim_start_matches(' ').starts_with("- "))
            .map(|l| l.len() - l.trim_start_matches(' ').len());
        let (Some(name), Some(indent)) = (header.strip_suffix(':'), indent) else {
            self.read(text, start, end, true);
            return None;
        };
        let dash = format!("{}- ", " ".repeat(indent));
        let mut items = Vec::new();
        for (start, end) in parts(text, header_end, end, |line| line.starts_with(&dash)) {
            match self.read(text, start, end, true) {
                Some(Some(node)) => items.extend(node.items().iter().cloned()),
                Some(None) => {}
                // A broken entry keeps its place, so that those after it keep their numbers.
                None => items.push(Node::leaf(
                    Span {
                        source: self.index,
                        start,
                        end,
                    },
                    crate::node::Kind::Broken,
                )),
            }
        }
        let span = Span {
            source: self.index,
            start,
            end: start + name.len(),
        };
        Some((
            Key {
                span,
                text: name.into(),
            },
            Node::list(span, items),
        ))
    }
}

/// Cuts a range of lines before each line that begins a part.
fn parts(
    text: &str,
    start: usize,
    end: usize,
    begins: impl Fn(&str) -> bool,
) -> Vec<(usize, usize)> {
    let mut cuts = vec![start];
    let mut at = start;
    for line in text[start..end].split_inclusive('\n') {
        if at > start && begins(line.trim_end_matches(['\n', '\r'])) {
            cuts.push(at);
        }
        at += line.len();
    }
    cuts.push(end);
    cuts.windows(2)
        .map(|w| (w[0], w[1]))
        .filter(|(a, b)| a < b)
        .collect()
}
