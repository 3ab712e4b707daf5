//! Who a key is, without saying what it is.
//!
//! Two providers at one origin may be given the same key, and so may two replicas: its health is one. So a key is named by
//! a keyed hash of origin and key. The hash is keyed with a secret that all who share a store have (it lies in the store),
//! so that a name seen in a log or a backup can't be compared with keys from elsewhere.

use std::fmt;
use std::sync::Arc;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// The name of a key: 32 hexadecimal digits of HMAC-SHA256(secret, origin, key).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that was read from the store.
    pub(crate) fn parse(text: &str) -> Option<KeyId> {
        let hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then(|| KeyId(text.into()))
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What keys are named with.
#[derive(Clone)]
pub struct Identity {
    secret: [u8; Identity::LENGTH],
    key: hmac::Key,
}

impl Identity {
    /// Length of the secret, in bytes.
    pub const LENGTH: usize = 32;

    /// With the secret of a store.
    pub fn new(secret: [u8; Identity::LENGTH]) -> Identity {
        Identity {
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            secret,
        }
    }

    /// With a secret of its own, until a store is known.
    pub fn random() -> Identity {
        Identity::new(random_bytes())
    }

    pub(crate) fn secret(&self) -> &[u8; Identity::LENGTH] {
        &self.secret
    }

    /// The name of a key at an origin (`https://host:port`).
    pub fn of(&self, origin: &str, key: &str) -> KeyId {
        let mut context = hmac::Context::with_key(&self.key);
        // The length keeps the two apart: nothing moved over the boundary gives the same name.
        context.update(&(origin.len() as u64).to_le_bytes());
        context.update(origin.as_bytes());
        context.update(key.as_bytes());
        KeyId(hex(&context.sign().as_ref()[..16]).into())
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        self.secret == other.secret
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(…)")
    }
}

/// Bytes from the system's generator.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // getrandom(2) fails on no system that runs this once it is up; a key that can be guessed would be worse.
        panic!("the system gives no random bytes");
    }
    bytes
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_origin_key_and_secret_and_shows_none_of_them() {
        let (one, two) = (Identity::new([1; 32]), Identity::new([2; 32]));
        let id = one.of("https://a", "sk-123");
        assert_eq!(id, one.of("https://a", "sk-123"));
        assert_ne!(id, one.of("https://b", "sk-123"));
        assert_ne!(id, one.of("https://a", "sk-124"));
        assert_ne!(id, two.of("https://a", "sk-123"));
        assert_ne!(one.of("https://as", "k-123"), id);
        assert_eq!(KeyId::parse(id.as_str()), Some(id));
        assert_eq!(format!("{one:?}"), "Identity(…)");
    }
}
