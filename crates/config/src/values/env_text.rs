//! Variables of an environment.

use std::fmt;

/// The value of a variable. Shown as a fingerprint where the variable's name says that it is a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvText {
    text: String,
    sensitive: bool,
}

impl EnvText {
    pub(crate) fn new(text: String, sensitive: bool) -> Self {
        Self { text, sensitive }
    }

    /// The value as the process gets it.
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

impl fmt::Display for EnvText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sensitive {
            write!(f, "{}", super::Secret::new(self.text.clone()))
        } else {
            f.write_str(&self.text)
        }
    }
}

impl fmt::Debug for EnvText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnvText({self})")
    }
}
