//! Names of models: patterns over them and the mapping from callers' names to a provider's.

use super::{Pattern, Wrong};
use std::fmt;
use std::str::FromStr;

/// What a model's name is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModelPattern {
    /// The name itself.
    Exact(String),
    /// Names that begin with this: written `gpt-4*`.
    Prefix(String),
    /// Names that the expression finds something in: written `~^gpt-(.*)$`.
    Regex(Pattern),
    /// Every name: written `*`.
    Any,
}

impl FromStr for ModelPattern {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        const HELP: &str =
            "write a name, a prefix such as gpt-4*, an expression such as ~^gpt-(.*)$, or *";
        if let Some(expression) = text.strip_prefix('~') {
            return expression.parse().map(Self::Regex);
        }
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Any),
            Some(prefix) if !prefix.contains('*') => Ok(Self::Prefix(prefix.to_owned())),
            None if !text.is_empty() && !text.contains('*') => Ok(Self::Exact(text.to_owned())),
            _ => Err(Wrong::new("not a pattern of models", HELP)),
        }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Regex(expression) => write!(f, "~{expression}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// Callers' names of models → a provider's, in the order of the file. An empty name keeps the caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelMapping(pub Vec<(ModelPattern, String)>);
