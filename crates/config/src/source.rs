//! Texts that a configuration came from, and places in them.

use crate::diagnostic::Place;
use std::path::PathBuf;

/// A range of bytes in one of the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// Index of the source.
    pub(crate) source: usize,
    /// First byte.
    pub(crate) start: usize,
    /// The byte after the last.
    pub(crate) end: usize,
}

/// One file's text.
#[derive(Debug)]
pub(crate) struct Source {
    /// As diagnostics name it.
    pub(crate) name: String,
    /// Without byte order mark.
    pub(crate) text: String,
    /// What relative paths in it are relative to.
    pub(crate) base: PathBuf,
    line_starts: Vec<usize>,
}

/// Longest part of a line that is shown, in characters.
const EXCERPT: usize = 120;
/// How far around the wrong text a line is looked at, in bytes; more than [`EXCERPT`] characters take.
const AROUND: usize = 1_024;
/// What stands for a secret, whatever its length.
const MASK: &str = "******";

impl Source {
    pub(crate) fn new(name: String, text: String, base: PathBuf) -> Self {
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self {
            name,
            text,
            base,
            line_starts,
        }
    }

    /// Line number from 0 of a byte.
    pub(crate) fn line_of(&self, byte: usize) -> usize {
        self.line_starts
            .partition_point(|start| *start <= byte)
            .saturating_sub(1)
    }

    /// A line from 0 without its end: where it starts and its text.
    pub(crate) fn line(&self, line: usize) -> (usize, &str) {
        let start = self
            .line_starts
            .get(line)
            .copied()
            .unwrap_or(self.text.len());
        let end = self
            .line_starts
            .get(line + 1)
            .copied()
            .unwrap_or(self.text.len());
        (start, self.text[start..end].trim_end_matches(['\n', '\r']))
    }

    /// First byte of the line that a byte is in.
    pub(crate) fn line_start(&self, byte: usize) -> usize {
        self.line(self.line_of(byte)).0
    }

    /// The byte after the last of the line that a byte is in.
    pub(crate) fn line_end(&self, byte: usize) -> usize {
        let (start, text) = self.line(self.line_of(byte));
        start + text.len()
    }

    /// The text of a span; empty if it is not one of this text.
    pub(crate) fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// The place of a span, with what of its first line may be shown. `hide` are spans of secrets in this source, sorted.
    pub(crate) fn place(&self, span: Span, hide: &[Span], hide_line: bool) -> Place {
        let start = floor(&self.text, span.start.min(self.text.len()));
        let line = self.line_of(start);
        let (line_start, text) = self.line(line);
        let line_end = line_start + text.len();
        let (start, end) = (
            start.min(line_end),
            floor(&self.text, span.end.min(line_end)).max(start.min(line_end)),
        );
        let column = self.text[line_start..start].chars().count();
        let length = self.text[start..end].chars().count().max(1);

        // A line may be as long as the file: only the surroundings are looked at.
        let first = floor(&self.text, start.saturating_sub(AROUND)).max(line_start);
        let last = floor(&self.text, (end.min(start + AROUND) + AROUND).min(line_end)).max(first);
        let text = &self.text[first..last];
        let hide: Vec<Span> = hide
            .iter()
            .filter(|s| s.start < last && s.end > first)
            .copied()
            .collect();
        let shown = Shown::new(text, first, start, end, &hide, hide_line);
        let (excerpt, mark, mark_length) = shown.cut();
        Place {
            file: self.name.clone(),
            line: line + 1,
            column: column + 1,
            length,
            excerpt,
            mark,
            mark_length,
        }
    }
}

/// A line as it may be shown, and where the wrong text is in it (in characters).
struct Shown {
    text: Vec<char>,
    from: usize,
    to: usize,
}

impl Shown {
    fn new(
        line: &str,
        line_start: usize,
        start: usize,
        end: usize,
        hide: &[Span],
        hide_line: bool,
    ) -> Self {
        let mut text = Vec::new();
        let (mut from, mut to) = (None, None);
        let mut masked_until = 0;
        let indent = line.len() - line.trim_start().len();
        for (offset, c) in line.char_indices() {
            let at = line_start + offset;
            if at >= start {
                from.get_or_insert(text.len());
            }
            if at >= end && end > start {
                to.get_or_insert(text.len());
            }
            if at < masked_until {
                continue;
            }
            if hide_line && offset >= indent {
                text.extend(MASK.chars());
                masked_until = usize::MAX;
            } else if let Some(secret) = hide.iter().find(|s| s.start <= at && at < s.end) {
                text.extend(MASK.chars());
                masked_until = secret.end;
            } else {
                // No control character reaches a terminal.
                text.push(if c.is_control() { ' ' } else { c });
            }
        }
        let from = from.unwrap_or(text.len()).min(text.len());
        let to = to
            .unwrap_or(if end > start { text.len() } else { from })
            .max(from);
        Self { text, from, to }
    }

    /// At most [`EXCERPT`] characters around the wrong text.
    fn cut(mut self) -> (String, usize, usize) {
        let mut mark_length = (self.to - self.from).max(1);
        if self.text.len() > EXCERPT {
            let first = self
                .from
                .saturating_sub(EXCERPT / 2)
                .min(self.text.len() - EXCERPT);
            let last = first + EXCERPT;
            self.text.truncate(last);
            if last < self.text.len() {
                self.text.push('…');
            }
            self.text.drain(..first);
            self.from -= first;
            if first > 0 {
                self.text.insert(0, '…');
                self.from += 1;
            }
            mark_length = mark_length
                .min(self.text.len().saturating_sub(self.from))
                .max(1);
        }
        (self.text.iter().collect(), self.from, mark_length)
    }
}

/// The nearest character boundary at or before a byte.
pub(crate) fn floor(text: &str, mut byte: usize) -> usize {
    while !text.is_char_boundary(byte) {
        byte -= 1;
    }
    byte
}
