//! Problems as they are found: with spans, before anything is rendered.

use crate::diagnostic::Severity;
use crate::source::Span;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) path: String,
    pub(crate) span: Option<Span>,
    pub(crate) message: String,
    pub(crate) help: String,
    pub(crate) related: Option<(&'static str, Span)>,
}

impl Problem {
    pub(crate) fn error(span: Span, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: String::new(),
            span: Some(span),
            message: message.into(),
            help: help.into(),
            related: None,
        }
    }

    pub(crate) fn without_place(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            path: String::new(),
            span: None,
            message: message.into(),
            help: help.into(),
            related: None,
        }
    }

    pub(crate) fn warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    pub(crate) fn at(self, path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..self
        }
    }

    pub(crate) fn related(self, role: &'static str, span: Span) -> Self {
        Self {
            related: Some((role, span)),
            ..self
        }
    }
}
