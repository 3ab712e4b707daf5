//! What is wrong with a configuration, where, and what would be right.

use crate::render;
use serde::Serialize;
use std::fmt;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is used; someone should look.
    Warning,
}

/// A place in a file, with the line as far as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The file as it was named, or the name given to `load_str`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Length of the wrong text in characters, at least 1; it ends with the line.
    pub length: usize,
    /// The line, or the part of a long one around the wrong text; secrets are masked.
    pub excerpt: String,
    /// Where the wrong text begins in `excerpt`, in characters from 0.
    pub mark: usize,
    /// Its length in `excerpt`, in characters, at least 1.
    pub mark_length: usize,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Path of keys to the value: `routes[2].to[0].upstream`; empty for a problem of the whole file.
    pub path: String,
    /// What is wrong, to what.
    pub message: String,
    /// Where; none when it concerns no text (a file that cannot be read).
    pub place: Option<Place>,
    /// Another place that belongs to it, with its role: `first named here`.
    pub related: Option<(String, Place)>,
    /// What would be right; may be empty.
    pub help: String,
}

/// All problems of a configuration, in the order of files and lines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// The problems.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Number of errors, warnings not counted.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.0
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .count()
    }

    /// As text, with colours for a terminal if asked.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        render::all(&self.0, colour)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}
