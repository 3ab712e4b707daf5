//! Secrets: used, never shown.

use std::fmt;

/// A secret text. `Debug`, `Display` and serialisation show a fingerprint only.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself: for the wire and for comparison, never for logs or answers.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The first 12 hexadecimal digits of its SHA-256: enough to see whether two are the same, useless to log in with.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        crate::hash::hex_sha256(self.0.as_bytes())[..12].to_owned()
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<secret {}>", self.fingerprint())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.fingerprint())
    }
}
