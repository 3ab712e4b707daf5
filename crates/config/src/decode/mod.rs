//! From nodes to typed values: every type says how it is read, written back and described.

mod collections;
mod fields;
mod leaves;
mod models;
mod one_of;
mod services;
mod special;

pub(crate) use fields::Fields;
pub(crate) use one_of::{OneOf, choose, decode_one_of, encode_one_of, schema_one_of};

use crate::names::Names;
use crate::node::Node;
use crate::problem::Problem;
use crate::schema::Defs;
use crate::source::{Source, Span};
use crate::values::Wrong;
use serde_json::Value as Json;
use std::path::{Component, Path, PathBuf};

/// How a type is read from a node, written back and described.
pub(crate) trait Decode: Sized {
    /// Whether `off` and `false` are a way to write `None` of an `Option` of this type.
    const OFF: bool = false;

    /// Reads the value. `None`: it could not be, and why is reported.
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self>;

    /// The value of a key that is not there, where that is allowed without a default.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether a key with this value may be left out because it is what [`Decode::absent`] gives.
    fn omit(&self) -> bool {
        false
    }

    /// The value in a form that [`Decode::decode`] reads to the same value; secrets by fingerprint.
    fn encode(&self) -> Json;

    /// Its JSON Schema.
    fn schema(defs: &mut Defs) -> Json;
}

/// What is gathered while values are read.
pub(crate) struct Cx<'a> {
    pub(crate) sources: &'a [Source],
    pub(crate) problems: Vec<Problem>,
    /// Keys from the root to the value that is being read.
    pub(crate) path: Vec<String>,
    pub(crate) names: Names,
    /// Literal secrets: hidden in every excerpt.
    pub(crate) secrets: Vec<Span>,
    /// Files that secrets were read from.
    pub(crate) secret_files: Vec<PathBuf>,
    /// The folder that the service manager made for our state; it takes the place of the default.
    pub(crate) state_folder: Option<PathBuf>,
}

impl<'a> Cx<'a> {
    pub(crate) fn new(sources: &'a [Source]) -> Self {
        Self {
            sources,
            problems: Vec::new(),
            path: Vec::new(),
            names: Names::default(),
            secrets: Vec::new(),
            secret_files: Vec::new(),
            state_folder: None,
        }
    }

    /// Reports an error at a place.
    pub(crate) fn error(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.report(Problem::error(span, message, help));
    }

    /// Reports a warning at a place.
    pub(crate) fn warn(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.report(Problem::error(span, message, help).warning());
    }

    /// Reports a value that could not be read.
    pub(crate) fn wrong(&mut self, span: Span, wrong: Wrong) {
        self.error(span, wrong.problem, wrong.help);
    }

    /// Reports a problem, with the path to the value that is being read.
    pub(crate) fn report(&mut self, problem: Problem) {
        let path = self.path_string();
        self.problems.push(if problem.path.is_empty() {
            problem.at(path)
        } else {
            problem
        });
    }

    /// Reports that something else stands where `expected` is needed.
    pub(crate) fn mismatch(&mut self, node: &Node, expected: &str, help: impl Into<String>) {
        if matches!(node.kind, crate::node::Kind::Broken) {
            return;
        }
        self.error(
            node.span,
            format!("{} where {expected} is expected", node.describe()),
            help,
        );
    }

    /// `routes[2].to[0].upstream`.
    pub(crate) fn path_string(&self) -> String {
        let mut path = String::new();
        for key in &self.path {
            if !path.is_empty() && !key.starts_with('[') {
                path.push('.');
            }
            path.push_str(key);
        }
        path
    }

    /// Runs `f` for the value below a key.
    pub(crate) fn below<R>(&mut self, key: impl Into<String>, f: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(key.into());
        let result = f(self);
        self.path.pop();
        result
    }

    /// A path as the file means it: relative to the folder of the file that names it.
    pub(crate) fn resolve(&self, path: &Path, span: Span) -> PathBuf {
        match self.sources.get(span.source) {
            Some(source) if path.is_relative() && !source.base.as_os_str().is_empty() => {
                let plain = path
                    .components()
                    .filter(|part| *part != Component::CurDir)
                    .collect::<PathBuf>();
                source.base.join(plain)
            }
            _ => path.to_owned(),
        }
    }
}
