//! Names and texts of HTTP: header names and values, methods, regular expressions.

use super::Wrong;
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// A header's name in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(String);

impl HeaderName {
    /// The name in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether values of this header are credentials by its name, so that they are shown as fingerprints only.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        const WORDS: [&str; 8] = [
            "auth",
            "cookie",
            "token",
            "secret",
            "password",
            "api-key",
            "apikey",
            "credential",
        ];
        WORDS.iter().any(|word| self.0.contains(word)) && self.0 != ":authority"
    }
}

impl Borrow<str> for HeaderName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write a header's name such as x-user: letters, digits and !#$%&'*+-.^_`|~";
        if matches!(text, ":authority" | ":path" | ":method" | ":scheme") {
            return Err(Wrong::new(
                "a pseudo-header",
                "use hosts, path or methods of the match, or `rewrite`",
            ));
        }
        match http::HeaderName::from_str(text) {
            Ok(name) => Ok(Self(name.as_str().to_owned())),
            Err(_) => Err(Wrong::new("not a header's name", help)),
        }
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A header's value as the configuration sets it. Shown as a fingerprint where the header's name says that it is a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct HeaderText {
    text: String,
    sensitive: bool,
}

impl HeaderText {
    pub(crate) fn new(text: String, sensitive: bool) -> Self {
        Self { text, sensitive }
    }

    /// The value as it goes onto the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Whether it is shown as a fingerprint only.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.sensitive
    }
}

impl fmt::Display for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive {
            write!(f, "{}", super::Secret::new(self.text.clone()))
        } else {
            f.write_str(&self.text)
        }
    }
}

impl fmt::Debug for HeaderText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeaderText({self})")
    }
}

/// An HTTP method; case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(String);

impl Method {
    /// The method as on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        const KNOWN: [&str; 9] = [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
        ];
        let upper = text.to_ascii_uppercase();
        if text != upper && KNOWN.contains(&upper.as_str()) {
            return Err(Wrong::new(
                "methods are case-sensitive",
                format!("write {upper}"),
            ));
        }
        match http::Method::from_str(text) {
            Ok(method) => Ok(Self(method.as_str().to_owned())),
            Err(_) => Err(Wrong::new(
                "not an HTTP method",
                "write a method such as GET or POST",
            )),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A regular expression that compiles (RE2-like: linear time, no look-around, no back-references).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Largest compiled program that is accepted, in bytes.
    pub const SIZE_LIMIT: usize = 1 << 20;

    /// The expression as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        match regex::RegexBuilder::new(text)
            .size_limit(Self::SIZE_LIMIT)
            .build()
        {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(regex::Error::CompiledTooBig(_)) => Err(Wrong::new(
                "a regular expression that compiles to more than 1 MiB",
                "use smaller repetitions",
            )),
            Err(error) => {
                // The last line of regex's message says what is wrong, the others draw it.
                let text = error.to_string();
                let reason = text
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ")
                    .to_owned();
                let help = "the syntax is RE2-like: no look-around, no back-references; in YAML, single quotes keep backslashes";
                Err(Wrong::new(
                    format!("not a regular expression: {reason}"),
                    help,
                ))
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
