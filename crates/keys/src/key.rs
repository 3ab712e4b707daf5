//! An API key as a member of a pool, and the little of it that people may see.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use tidegate_core::Time;
use tidegate_llm::ProviderKind;
use tidegate_llm::service_account::{AccountError, ServiceAccount};

use crate::access::Access;
use crate::identity::KeyId;

/// The key itself: for the wire only. `Debug` shows its fingerprint.
#[derive(Clone)]
pub struct Token {
    text: Arc<str>,
    /// It is an account's key file, which gets what goes onto the wire.
    access: Option<Arc<Access>>,
}

/// The text says it all.
impl PartialEq for Token {
    fn eq(&self, other: &Token) -> bool {
        self.text == other.text
    }
}

impl Eq for Token {}

impl Token {
    /// A key as the configuration has it; empty for a provider that needs none.
    pub fn new(text: &str) -> Token {
        let text = text.into();
        Token { text, access: None }
    }

    /// A key of a provider of this type: for vertex it may be a service account's key file.
    ///
    /// # Errors
    /// A key file that can't be used.
    pub fn of(kind: ProviderKind, text: &str) -> Result<Token, AccountError> {
        let mut token = Token::new(text);
        if kind == ProviderKind::Vertex && ServiceAccount::looks_like_one(text) {
            token.access = Some(Arc::new(Access::new(ServiceAccount::parse(text)?)));
        }
        Ok(token)
    }

    /// The key as the configuration has it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What goes onto the wire now, and nowhere else; `None`: an account that has no access token.
    pub fn wire(&self, now: Time) -> Option<Arc<str>> {
        match &self.access {
            None => Some(self.text.clone()),
            Some(access) => access.token(now),
        }
    }

    /// The account that it is the key file of.
    pub fn access(&self) -> Option<&Arc<Access>> {
        self.access.as_ref()
    }

    /// What people may see of it.
    pub fn fingerprint(&self) -> Fingerprint {
        match &self.access {
            None => Fingerprint::of(&self.text),
            // An account's address is no secret; the project behind it is the same for all.
            Some(access) => {
                let email = access.account().email();
                let name = email.split_once('@').map_or(email, |(name, _)| name);
                let name: String = name.chars().take(40).collect();
                Fingerprint(format!("{name}@…").into())
            }
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.fingerprint())
    }
}

/// What people see of a key, everywhere: `sk-…9f3c`, or `…/3fa2c1` where keys of one provider look alike. Not its identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(Arc<str>);

/// A key shorter than this shows nothing of itself: four of its letters would be too large a part.
const SHORT: usize = 16;
/// Digits of its identity behind a fingerprint that several keys have.
const APART: usize = 6;

impl Fingerprint {
    fn of(key: &str) -> Fingerprint {
        if key.is_empty() {
            return Fingerprint("none".into());
        }
        // AWS: `ACCESS_KEY_ID:SECRET[:SESSION]`. The id is no secret, the rest is.
        let shown = match key.split_once(':') {
            Some((id, _)) if id.starts_with("AKIA") || id.starts_with("ASIA") => id,
            _ => key,
        };
        let letters = shown.chars().count();
        if letters < SHORT || !shown.is_ascii() {
            return Fingerprint("…".into());
        }
        let head = shown
            .bytes()
            .take(4)
            .position(|b| b == b'-' || b == b'_')
            .map_or("", |at| &shown[..=at]);
        Fingerprint(format!("{head}…{}", &shown[letters - 4..]).into())
    }

    /// For a key that looks like another one of its provider: with the beginning of its identity, which tells nothing of the key.
    pub(crate) fn apart(&self, id: &KeyId) -> Fingerprint {
        Fingerprint(format!("{}/{}", self.0, &id.as_str()[..APART]).into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A key in a pool.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Who it is, for pools, the store and other replicas.
    pub id: KeyId,
    /// What people see of it.
    pub fingerprint: Fingerprint,
    /// The key itself.
    pub token: Token,
}

/// The id says it all: it is a hash of origin and key.
impl PartialEq for ApiKey {
    fn eq(&self, other: &ApiKey) -> bool {
        self.id == other.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fingerprint_shows_the_kind_and_four_letters() {
        let shown = |key: &str| Token::new(key).fingerprint().to_string();
        let long = format!("sk-ant-{}9f3c", "Ab1".repeat(12));
        assert_eq!(shown(&long), "sk-…9f3c");
        assert_eq!(shown("gsk_abcdefghijklmnop1234"), "gsk_…1234");
        assert_eq!(shown("AIzaSyA-abcdefghijklmnop1234"), "…1234");
        assert_eq!(shown("AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG"), "…MPLE");
        assert_eq!(shown("short-key-12345"), "…");
        assert_eq!(shown(""), "none");
        assert_eq!(shown("schlüssel-schlüssel-schlüssel"), "…");
    }

    proptest! {
        #[test]
        fn no_debug_and_no_fingerprint_holds_more_than_eight_letters_of_a_key(key in "[a-z_-]{3}[A-Za-z0-9]{20,60}") {
            let token = Token::new(&key);
            for shown in [format!("{token:?}"), token.fingerprint().to_string()] {
                let told = |part: &[u8]| shown.contains(std::str::from_utf8(part).unwrap());
                prop_assert!(!key.as_bytes().windows(5).any(told), "{}", shown);
            }
        }
    }
}
