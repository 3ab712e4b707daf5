//! The admin API's bearer token: compared in constant time, never shown.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;

/// A bearer token. `Debug` shows nothing of it, and it has no `Display` and no `Serialize`.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl Token {
    /// A token from its text. Surrounding white space (the line end of a secret's file) does not belong to it.
    /// `None` when nothing is left: an empty token would let everybody in.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// Whether `given` is this token. Takes the same time wherever the two differ; only the length can be learned.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }

    /// The value of an `authorization` header that carries it.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_match() {
        let token = Token::new("  s3cret\n").unwrap();
        assert!(token.matches(b"s3cret"));
        for wrong in ["", "s3cre", "s3cret ", "S3cret", "s3cretx"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong:?}");
        }
    }

    #[test]
    fn an_empty_token_is_none_and_a_real_one_is_not_printed() {
        assert!(Token::new(" \n").is_none());
        assert!(!format!("{:?}", Token::new("s3cret").unwrap()).contains("s3cret"));
    }
}
