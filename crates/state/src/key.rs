//! Names in the store: keys of entries and counters, names of leases, and the prefixes that list and watch take.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest key, in bytes.
const LONGEST: usize = 512;

/// A slash path such as `providers/qwen/keys/3f2a`: segments of `A–Z a–z 0–9 . _ ~ : @ -` and `%` (see
/// [`Key::of`]), at most 512 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key(Arc<str>);

/// The beginning of keys: whole segments, or nothing (every key).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Prefix(Arc<str>);

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no key: slash-separated segments of letters, digits and . _ ~ : @ % -, {LONGEST} bytes at most"
)]
pub struct InvalidKey {
    text: String,
}

fn plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._~:@-".contains(&byte)
}

fn valid(text: &str) -> bool {
    let segment = |segment: &str| {
        !segment.is_empty() && segment.bytes().all(|byte| plain(byte) || byte == b'%')
    };
    text.len() <= LONGEST && text.split('/').all(segment)
}

fn invalid(text: &str) -> InvalidKey {
    InvalidKey {
        text: text.chars().take(LONGEST).collect(),
    }
}

/// Joins segments; bytes that a segment may not have become `%XX`, so that two lists of segments never make the same
/// path. An empty segment becomes a lone `%`.
fn path(segments: &[&str]) -> String {
    let mut path = String::new();
    for (index, segment) in segments.iter().enumerate() {
        if index > 0 {
            path.push('/');
        }
        if segment.is_empty() {
            path.push('%');
        }
        for byte in segment.bytes() {
            if plain(byte) {
                path.push(char::from(byte));
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    path
}

impl Key {
    /// Takes a path as it is.
    ///
    /// # Errors
    /// [`InvalidKey`] when it is none.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        if valid(text) {
            Ok(Self(text.into()))
        } else {
            Err(invalid(text))
        }
    }

    /// Builds a path from segments of any text: what a segment may not contain is written as `%XX`.
    ///
    /// # Errors
    /// [`InvalidKey`] when there is no segment or the path is too long.
    pub fn of(segments: &[&str]) -> Result<Self, InvalidKey> {
        Self::parse(&path(segments))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment, as it is written in the path.
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl Prefix {
    /// The prefix of every key.
    pub fn all() -> Self {
        Self("".into())
    }

    /// The keys below these segments: `["providers", "qwen"]` has `providers/qwen/a`, but neither `providers/qwen`
    /// nor `providers/qwen2/a`. No segments: every key.
    ///
    /// # Errors
    /// [`InvalidKey`] when the path is too long.
    pub fn of(segments: &[&str]) -> Result<Self, InvalidKey> {
        let mut path = path(segments);
        if !path.is_empty() {
            path.push('/');
        }
        Self::parse(&path)
    }

    /// Takes a path that is empty or ends with a slash.
    ///
    /// # Errors
    /// [`InvalidKey`] when it is none.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        match text.strip_suffix('/') {
            Some(path) if valid(path) => Ok(Self(text.into())),
            None if text.is_empty() => Ok(Self::all()),
            _ => Err(invalid(text)),
        }
    }

    /// Whether the key lies below.
    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }

    /// The path, empty or with its slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        Self::parse(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0.as_ref().to_owned()
    }
}

impl TryFrom<String> for Prefix {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        Self::parse(&text)
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        prefix.0.as_ref().to_owned()
    }
}

impl std::borrow::Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_with_empty_or_strange_segments_are_refused() {
        for text in ["", "/", "a/", "/a", "a//b", "a b", "a\nb", "ä", "a*"] {
            assert!(Key::parse(text).is_err(), "{text:?}");
        }
        assert!(Key::parse(&"x".repeat(LONGEST)).is_ok());
        assert!(Key::parse(&"x".repeat(LONGEST + 1)).is_err());
        assert!(Key::of(&[]).is_err());
    }

    #[test]
    fn a_prefix_has_what_is_below_it_and_no_neighbour() {
        let prefix = Prefix::of(&["providers", "qwen"]).unwrap();
        let has = |text| prefix.contains(&Key::parse(text).unwrap());
        assert!(has("providers/qwen/a") && has("providers/qwen/a/b"));
        assert!(!has("providers/qwen") && !has("providers/qwen2/a"));
        assert!(Prefix::all().contains(&Key::parse("a").unwrap()));
        assert!(Prefix::parse("a").is_err() && Prefix::parse("/").is_err());
    }

    proptest! {
        #[test]
        fn any_segments_make_a_key_and_different_ones_make_different_keys(
            left in proptest::collection::vec("\\PC{0,6}", 1..4),
            right in proptest::collection::vec("\\PC{0,6}", 1..4),
        ) {
            let key = |segments: &[String]| Key::of(&segments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(key(&left) == key(&right), left == right);
        }
    }
}
