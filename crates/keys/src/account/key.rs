//! A virtual key: what is stored of it, and its token, which is shown once.

use std::fmt;

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Deserializer, Serialize};
use tidegate_llm::price::Micros;

use super::request::KeyRequest;
use super::window::Span;
use crate::identity::{hex, random_bytes};

/// What every token begins with.
pub(crate) const PREFIX: &str = "tg-";
/// Letters of a token after the prefix: 238 bits.
const LETTERS: usize = 40;

/// The name under which a token is known: its SHA-256. Tokens are random and long, so nothing slower is needed.
pub(crate) type Hash = [u8; 32];

/// A token, shown once when the key is made. `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new one from the system's generator.
    pub(crate) fn new() -> Secret {
        const ALPHABET: &[u8; 62] =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut text = PREFIX.to_owned();
        while text.len() < PREFIX.len() + LETTERS {
            // Bytes that would favour some letters are thrown away.
            let bytes = random_bytes::<64>().into_iter().filter(|b| *b < 248);
            let room = PREFIX.len() + LETTERS - text.len();
            text.extend(
                bytes
                    .take(room)
                    .map(|b| char::from(ALPHABET[usize::from(b % 62)])),
            );
        }
        Secret(text)
    }

    /// The token, for the one answer that shows it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(tg-…)")
    }
}

pub(crate) fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

pub(crate) fn hash_text(hash: &Hash) -> String {
    hex(hash)
}

pub(crate) fn parse_hash(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// An amount that a budget is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Amount {
    /// Tokens, prompt and answer together.
    Tokens(u64),
    /// Millionths of the currency's unit, by the price table.
    Micros(u64),
}

/// What may be spent in a day or a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written<u64>")]
pub struct Budget {
    /// How much.
    #[serde(flatten)]
    pub amount: Amount,
    /// In what time.
    pub per: Span,
}

/// A budget as it is written: in exactly one of the two units.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound = "T: Deserialize<'de>")]
pub(super) struct Written<T> {
    #[serde(default, deserialize_with = "given")]
    tokens: Option<T>,
    #[serde(default, deserialize_with = "given")]
    micros: Option<T>,
    pub(super) per: Span,
}

impl<T> Written<T> {
    pub(super) fn amount<A>(
        self,
        tokens: impl FnOnce(T) -> A,
        micros: impl FnOnce(T) -> A,
    ) -> Result<A, &'static str> {
        match (self.tokens, self.micros) {
            (Some(n), None) => Ok(tokens(n)),
            (None, Some(n)) => Ok(micros(n)),
            _ => Err("a budget has one of tokens and micros"),
        }
    }
}

/// A field that was given, `null` or not; one that was not given is the default, `None`.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl TryFrom<Written<u64>> for Budget {
    type Error = &'static str;

    fn try_from(written: Written<u64>) -> Result<Self, Self::Error> {
        let per = written.per;
        let amount = written.amount(Amount::Tokens, Amount::Micros)?;
        Ok(Self { amount, per })
    }
}

impl Budget {
    /// Money in units of the currency.
    pub fn money(units: f64, per: Span) -> Budget {
        Budget {
            amount: Amount::Micros(Micros::from_units(units).0),
            per,
        }
    }
}

/// What a virtual key may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Models by callers' names, as globs (`gpt-4*`); none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Requests in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens in a minute, prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Budgets; each holds on its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Budget>,
}

/// A virtual key as it is stored and listed: everything but its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualKey {
    /// Its name in the admin API: `vk-` and twelve digits of its hash.
    pub id: String,
    /// For people.
    pub name: String,
    /// What people see of its token: `tg-…a1B2`.
    pub fingerprint: String,
    /// What it may use.
    pub limits: Limits,
    /// When it was made, milliseconds since 1970.
    pub created_at: u64,
    /// When it ends by itself, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

impl VirtualKey {
    /// A new one with its token.
    pub(crate) fn new(request: &KeyRequest, unix_ms: u64) -> (VirtualKey, Secret, Hash) {
        let secret = Secret::new();
        let hash = hash(secret.expose());
        let shown = &secret.expose()[secret.expose().len() - 4..];
        let key = VirtualKey {
            id: format!("vk-{}", &hash_text(&hash)[..12]),
            name: request.name.trim().to_owned(),
            fingerprint: format!("{PREFIX}…{shown}"),
            limits: request.limits.clone(),
            created_at: unix_ms,
            expires_at: request
                .expires_in
                .map(|s| unix_ms.saturating_add(s.saturating_mul(1000))),
        };
        (key, secret, hash)
    }
}

/// Whether a name fits a glob: `*` stands for anything, everything else for itself.
pub(crate) fn glob(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| name.strip_prefix(head)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    // Without a star all is compared.
    let Some(tail) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_is_random_and_nothing_stored_shows_it() {
        let request = KeyRequest {
            name: "team".into(),
            ..KeyRequest::default()
        };
        let (key, secret, of) = VirtualKey::new(&request, 5);
        let (other, another, _) = VirtualKey::new(&request, 5);
        assert_ne!((secret.expose(), &key.id), (another.expose(), &other.id));
        assert_eq!(secret.expose().len(), PREFIX.len() + LETTERS);
        assert_eq!(hash(secret.expose()), of);
        assert_eq!(parse_hash(&hash_text(&of)), Some(of));
        let stored = serde_json::to_string(&key).unwrap();
        assert!(
            !stored.contains(&secret.expose()[..12])
                && !format!("{secret:?}{key:?}").contains(&secret.expose()[4..10])
        );
    }

    #[test]
    fn globs() {
        for (pattern, yes, no) in [
            ("gpt-4", "gpt-4", "gpt-4o"),
            ("gpt-4*", "gpt-4o", "gpt-3"),
            ("*", "", "\u{0}never"),
            ("*-mini", "gpt-mini", "mini"),
            ("a*b*c", "axxbyyc", "acb"),
            ("a*a", "aba", "a"),
        ] {
            assert!(glob(pattern, yes), "{pattern} {yes}");
            assert!(pattern == "*" || !glob(pattern, no), "{pattern} {no}");
        }
    }

    proptest! {
        #[test]
        fn a_glob_agrees_with_the_expression_that_it_stands_for(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            let expression = format!("^{}$", pattern.replace('*', ".*"));
            prop_assert_eq!(glob(&pattern, &name), regex::Regex::new(&expression).unwrap().is_match(&name));
        }
    }
}
