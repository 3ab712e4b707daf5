//! Parser events → tree.

use super::{MAX_ALIASED, MAX_DEPTH};
use crate::env::{self, Env};
use crate::node::{Key, Kind, Node, Scalar};
use crate::problem::Problem;
use crate::source::Span;
use granit_parser::{Event, Options, Parser, ScalarStyle, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Where a text stands, so that spans are those of the whole file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) source: usize,
    /// Bytes before the text.
    pub(super) offset: usize,
    /// The whole text, if this is a part of a broken one: an anchor may stand in another part.
    pub(super) whole: Option<&'a str>,
}

/// A mistake after which no event comes.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: String,
}

/// Reads one document.
pub(super) fn tree(
    text: &str,
    origin: Origin<'_>,
    env: Env<'_>,
    problems: &mut Vec<Problem>,
) -> Result<Option<Node>, SyntaxError> {
    let mut options = Options::default();
    options.emit_unresolved_aliases = true;
    options.emit_comments = false;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut builder = Builder {
        text,
        origin,
        env,
        problems,
        stack: Vec::new(),
        anchors: HashMap::new(),
        aliased: 0,
        root: None,
    };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let at = error.marker().byte_offset().unwrap_or(text.len());
            syntax(text, origin, at, &error.info())
        })?;
        let range = span.byte_range().unwrap_or(text.len()..text.len());
        let span = builder.span(range.start, range.end);
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                builder.report(Problem::error(
                    span,
                    "a second document",
                    "a file holds one document: give several files instead",
                ));
                break;
            }
        }
        builder.event(event, span)?;
    }
    Ok(builder.root)
}

fn syntax(text: &str, origin: Origin<'_>, at: usize, info: &str) -> SyntaxError {
    // An error at the end is shown where the text ends, not on the empty lines after it.
    let at = at.min(text.trim_end().len());
    let at = crate::source::floor(text, at);
    let line_start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let line_end = text[at..].find('\n').map_or(text.len(), |n| at + n);
    let line = &text[line_start..line_end];
    let rest = text[at..line_end].trim_start();
    let help = if line.trim_start_matches(' ').starts_with('\t') {
        "YAML is indented with spaces: replace the tab"
    } else if rest.starts_with(['*', '&', '!', '@', '`', '%', '|', '>']) {
        "a text that begins with one of * & ! @ ` % | > needs quotes"
    } else if rest.starts_with(": ") || info.contains("mapping values") {
        "a text with `: ` in it needs quotes; or the line is indented too far"
    } else if info.contains("quoted scalar") {
        "check that the quote that begins above is closed"
    } else if info.contains("flow") || line.contains(['{', '[']) {
        "check that every { and [ of this entry is closed"
    } else {
        "check the indentation and the quotes of this entry"
    };
    let length = rest.chars().next().map_or(1, char::len_utf8);
    SyntaxError {
        span: Span {
            source: origin.source,
            start: origin.offset + at,
            end: origin.offset + (at + length).min(text.len()),
        },
        message: format!("not YAML: {info}"),
        help: help.into(),
    }
}

/// A collection that is still open.
struct Frame {
    span: Span,
    anchor: usize,
    kind: Open,
}

enum Open {
    List(Vec<Node>),
    Map {
        entries: Vec<(Key, Node)>,
        key: Option<Option<Key>>,
    },
}

struct Builder<'a> {
    text: &'a str,
    origin: Origin<'a>,
    env: Env<'a>,
    problems: &'a mut Vec<Problem>,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        Span {
            source: self.origin.source,
            start: self.origin.offset + start,
            end: self.origin.offset + end.max(start),
        }
    }

    fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_ref(), span);
                self.add(node, anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_ref(), span);
                self.stack.push(Frame {
                    span,
                    anchor,
                    kind: Open::List(Vec::new()),
                });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_ref(), span);
                self.stack.push(Frame {
                    span,
                    anchor,
                    kind: Open::Map {
                        entries: Vec::new(),
                        key: None,
                    },
                });
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(frame) = self.stack.pop() {
                    let span = Span {
                        end: span.end.max(frame.span.start),
                        ..frame.span
                    };
                    let node = match frame.kind {
                        Open::List(items) => Node::list(span, items),
                        Open::Map { entries, .. } => self.finish_map(span, entries),
                    };
                    self.add(node, frame.anchor)?;
                }
            }
            Event::Alias(id) => {
                let node = self.alias(id, span)?;
                self.add(node, 0)?;
            }
            Event::UnresolvedAlias(name) => {
                if !self
                    .origin
                    .whole
                    .is_some_and(|whole| whole.contains(&format!("&{name}")))
                {
                    let message = format!(
                        "`*{name}` is read as a YAML alias, and there is no anchor of that name"
                    );
                    self.report(Problem::error(
                        span,
                        message,
                        format!("a text that begins with * needs quotes: \"*{name}\""),
                    ));
                }
                self.add(Node::leaf(span, Kind::Broken), 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<Node, SyntaxError> {
        let Some(node) = self.anchors.get(&id).cloned() else {
            self.report(Problem::error(
                span,
                "an alias inside its own anchor",
                "write the value out",
            ));
            return Ok(Node::leaf(span, Kind::Broken));
        };
        self.aliased = self.aliased.saturating_add(node.size);
        if self.aliased > MAX_ALIASED || self.stack.len() + node.depth > MAX_DEPTH {
            return Err(SyntaxError {
                span,
                message: "aliases that expand beyond all bounds".into(),
                help: format!(
                    "all aliases of a file may expand to {MAX_ALIASED} values, {MAX_DEPTH} levels deep"
                ),
            });
        }
        // Problems are shown where the value is written; the alias has nothing to underline.
        Ok(node)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Cow<'_, Tag>>,
        span: Span,
    ) -> Node {
        self.tag(tag, span);
        let plain = matches!(style, ScalarStyle::Plain)
            && !tag.is_some_and(|t| t.is_yaml_core_schema_tag("str"));
        if plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
            return Node::leaf(span, Kind::Null);
        }
        Node::leaf(
            span,
            Kind::Scalar(Scalar {
                text: text.into(),
                quoted: !plain,
                from_env: false,
            }),
        )
    }

    fn tag(&mut self, tag: Option<&Cow<'_, Tag>>, span: Span) {
        if tag.is_some_and(|t| t.is_custom()) {
            self.report(Problem::error(
                span,
                "a YAML tag that means nothing here",
                "remove the `!…`, or quote the text that begins with !",
            ));
        }
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, mut node: Node, anchor: usize) -> Result<(), SyntaxError> {
        let as_key = matches!(
            self.stack.last(),
            Some(Frame {
                kind: Open::Map { key: None, .. },
                ..
            })
        );
        if as_key {
            let key = self.key(&node);
            if let Some(Frame {
                kind: Open::Map { key: slot, .. },
                ..
            }) = self.stack.last_mut()
            {
                *slot = Some(key);
            }
            return Ok(());
        }
        if let Kind::Scalar(scalar) = &node.kind {
            match env::replace(&scalar.text, self.env) {
                Ok(None) => {}
                Ok(Some(replaced)) => {
                    let scalar = Scalar {
                        text: replaced.text.into(),
                        quoted: scalar.quoted,
                        from_env: replaced.from_env,
                    };
                    node.kind = Kind::Scalar(scalar);
                }
                Err(found) => {
                    for (message, help) in found {
                        self.report(Problem::error(node.span, message, help));
                    }
                    node.kind = Kind::Broken;
                }
            }
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.stack.last_mut().map(|frame| &mut frame.kind) {
            None => self.root = Some(node),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key }) => {
                if let Some(Some(key)) = key.take() {
                    // A missing value has no text of its own: its key stands for it.
                    if matches!(node.kind, Kind::Null) && node.span.start == node.span.end {
                        node.span = key.span;
                    }
                    entries.push((key, node));
                }
            }
        }
        Ok(())
    }

    fn key(&mut self, node: &Node) -> Option<Key> {
        match &node.kind {
            Kind::Scalar(scalar) => Some(Key {
                span: node.span,
                text: scalar.text.clone(),
            }),
            Kind::Broken => None,
            _ => {
                let source = node.span.start - self.origin.offset;
                // `{{` is how templates look: the key of the outer mapping is a mapping.
                let help = if self.text.get(source..).is_some_and(|t| t.starts_with('{')) {
                    "`{{…}}` is no template here; ${NAME} takes a value from the environment"
                } else {
                    "a key is a word"
                };
                self.report(Problem::error(
                    node.span,
                    format!("{} as a key", node.describe()),
                    help,
                ));
                None
            }
        }
    }

    /// Reports duplicates and resolves `<<`.
    fn finish_map(&mut self, span: Span, entries: Vec<(Key, Node)>) -> Node {
        let mut seen: HashMap<std::rc::Rc<str>, Span> = HashMap::with_capacity(entries.len());
        let mut own = Vec::with_capacity(entries.len());
        let mut merged = Vec::new();
        for (key, node) in entries {
            if &*key.text == "<<" {
                merged.push(node);
                continue;
            }
            match seen.get(&key.text) {
                Some(first) => {
                    let first = *first;
                    let message = format!("the key `{}` is given twice", key.text);
                    self.report(
                        Problem::error(key.span, message, "keep one of them")
                            .related("first given here", first),
                    );
                }
                None => {
                    seen.insert(key.text.clone(), key.span);
                    own.push((key, node));
                }
            }
        }
        for node in merged {
            let sources: &[Node] = match &node.kind {
                Kind::List(items) => items,
                _ => std::slice::from_ref(&node),
            };
            for source in sources {
                match &source.kind {
                    Kind::Map(inherited) => {
                        for (key, value) in inherited.iter() {
                            if !seen.contains_key(&key.text) {
                                seen.insert(key.text.clone(), key.span);
                                own.push((key.clone(), value.clone()));
                            }
                        }
                    }
                    Kind::Broken => {}
                    _ => {
                        let message =
                            format!("`<<` merges mappings, this is {}", source.describe());
                        self.report(Problem::error(
                            source.span,
                            message,
                            "write `<<: *anchor` with the anchor of a mapping",
                        ));
                    }
                }
            }
        }
        Node::map(span, own)
    }
}
