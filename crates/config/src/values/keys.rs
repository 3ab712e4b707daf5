//! What of a request is hashed or counted.

use super::{HeaderName, Wrong};
use std::fmt;
use std::str::FromStr;

/// What of a request is hashed: `{ header: x-user }`, `{ cookie: NAME }`, `{ query: NAME }` or `source_ip`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// The value of a query parameter.
    Query(String),
    /// The caller's address.
    SourceIp,
}

/// What of a request a limit counts by: `header:NAME`, `cookie:NAME`, `query:NAME`, `source_ip`, `host`, `path`, `method`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitKey {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// The value of a query parameter.
    Query(String),
    /// The caller's address.
    SourceIp,
    /// The host that was asked for.
    Host,
    /// The path without query.
    Path,
    /// The method.
    Method,
}

impl FromStr for LimitKey {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write header:NAME, cookie:NAME, query:NAME, source_ip, host, path or method";
        let named = |name: &str| {
            if name.is_empty() {
                Err(Wrong::new("a key without its name", help))
            } else {
                Ok(name.to_owned())
            }
        };
        match text.split_once(':') {
            Some(("header", name)) => Ok(Self::Header(name.parse()?)),
            Some(("cookie", name)) => named(name).map(Self::Cookie),
            Some(("query", name)) => named(name).map(Self::Query),
            None if text == "source_ip" => Ok(Self::SourceIp),
            None if text == "host" => Ok(Self::Host),
            None if text == "path" => Ok(Self::Path),
            None if text == "method" => Ok(Self::Method),
            _ => Err(Wrong::new("not a key to count by", help)),
        }
    }
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::SourceIp => f.write_str("source_ip"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
        }
    }
}
