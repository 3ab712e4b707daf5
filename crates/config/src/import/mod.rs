//! Configurations of other systems → ours, as text for a person to read, and notes on what differs.
//!
//! An importer decides nothing in silence: what means something else here, or has no counterpart, is a [`Note`] with its place.
//! What it prints loads; a wish that cannot be met is left out and told, never approximated into a configuration that serves wrongly.

mod higress;
mod reader;
mod secrets;
mod text;

use crate::diagnostic::Diagnostics;
use crate::load::load_str_with;
use crate::source::{Source, Span};
use std::collections::HashSet;
use std::fmt;

pub use secrets::Secrets;

/// What became of another system's configuration.
#[derive(Debug, Clone)]
pub struct Imported {
    /// Our configuration.
    pub yaml: String,
    /// What differs, in the order of files and lines.
    pub notes: Vec<Note>,
    /// What keeps the configuration from being loaded, if anything does (references to secrets count as set).
    pub problems: Diagnostics,
}

/// Something that a person should know about an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file as it was named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What differs and what follows from it. Holds no secret.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.text)
    }
}

/// Reads configurations of Higress's ai-proxy: the plugin's own (`provider`, or `providers` and `activeProviderId`, with `_rules_`) or
/// WasmPlugin objects, YAML or JSON, also several documents in a file. `files` are names with their texts.
///
/// # Errors
/// What is no YAML, and files that hold no ai-proxy configuration.
pub fn higress(files: &[(String, String)], secrets: Secrets) -> Result<Imported, Diagnostics> {
    let input = reader::read(files)?;
    let mut cx = Cx {
        sources: &input.sources,
        notes: Vec::new(),
        once: HashSet::new(),
        secrets: secrets::References::new(secrets),
    };
    let config = higress::config(&input.documents, &mut cx)?;
    let yaml = text::document("Imported from Higress's ai-proxy.", &config);
    let loaded = load_str_with("import", &yaml, &|name| Some(name.into()));
    cx.notes.sort_by_key(|(span, _)| *span);
    let notes = cx.notes.iter().map(|(span, text)| {
        let source = &input.sources[span.source];
        Note {
            file: source.name.clone(),
            line: source.line_of(span.start) + 1,
            text: text.clone(),
        }
    });
    Ok(Imported {
        notes: notes.collect(),
        problems: loaded.err().unwrap_or_default(),
        yaml,
    })
}

/// What an importer writes down besides the configuration.
struct Cx<'a> {
    sources: &'a [Source],
    notes: Vec<(Span, String)>,
    once: HashSet<&'static str>,
    secrets: secrets::References,
}

impl Cx<'_> {
    fn note(&mut self, span: Span, text: impl Into<String>) {
        self.notes.push((span, text.into()));
    }

    /// A difference that holds for every place alike is told at the first.
    fn note_once(&mut self, span: Span, text: &'static str) {
        if self.once.insert(text) {
            self.note(span, text);
        }
    }
}
