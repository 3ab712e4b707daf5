//! Limits of a route: which requests share a count. The counting itself is `tidegate_core`'s.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;
use std::time::Duration;

use http::header::HeaderName;

use crate::request::RequestView;

/// Keyed by secrets of the process: a caller who could compute the hash could find a value that shares a count with
/// somebody else's and use it up. The same over reloads, so that counts survive them.
static KEYED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// One thing that tells callers apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitPart {
    /// A header's value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Box<str>),
    /// A query parameter's value.
    Query(Box<str>),
    /// The caller's address.
    SourceIp,
    /// The host, whatever its letter case.
    Host,
    /// The path, without the query.
    Path,
    /// The method.
    Method,
}

/// What tells callers apart: every distinct combination of the parts has its own count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitKey {
    parts: Box<[LimitPart]>,
}

impl LimitKey {
    /// A key of these parts; without any, all requests of the route share one count.
    pub fn new(parts: impl Into<Box<[LimitPart]>>) -> LimitKey {
        LimitKey {
            parts: parts.into(),
        }
    }

    /// Whether all requests share one count.
    pub fn is_shared(&self) -> bool {
        self.parts.is_empty()
    }

    /// The request's count, as a keyed 64-bit hash that holds for this process only. None if a part is missing: such a
    /// request is not limited, as a rate limit service does not match a descriptor that was not sent.
    pub fn extract(&self, request: &RequestView<'_>) -> Option<u64> {
        if self.parts.is_empty() {
            // One key for everybody.
            return Some(0);
        }
        let mut hasher = KEYED.build_hasher();
        for part in &self.parts {
            // Byte slices hash with their length, so that parts cannot run into each other.
            match part {
                LimitPart::Header(name) => request.header(name)?.as_bytes().hash(&mut hasher),
                LimitPart::Cookie(name) => request.cookie(name.as_bytes())?.hash(&mut hasher),
                LimitPart::Query(name) => request
                    .query_parameter(name.as_bytes())?
                    .as_bytes()
                    .hash(&mut hasher),
                LimitPart::SourceIp => request.source?.to_canonical().hash(&mut hasher),
                LimitPart::Host => {
                    let host = request.host.strip_suffix('.').unwrap_or(request.host);
                    for byte in host.bytes() {
                        hasher.write_u8(byte.to_ascii_lowercase());
                    }
                    hasher.write_usize(host.len());
                }
                LimitPart::Path => request.path.hash(&mut hasher),
                LimitPart::Method => request.method.as_str().hash(&mut hasher),
            }
        }
        Some(hasher.finish())
    }
}

/// How a rate limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAlgorithm {
    /// Generic cell rate: smooth, no burst at a window's edge.
    Gcra,
    /// Windows aligned to the epoch.
    FixedWindow,
}

/// A route's `rate_limit`; beyond it 429 or RESOURCE_EXHAUSTED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in each period, at least 1.
    pub requests: u32,
    /// The period.
    pub per: Duration,
    /// Requests that may come at once (GCRA only), at least 1.
    pub burst: u32,
    /// How it is counted.
    pub algorithm: LimitAlgorithm,
    /// What has its own count.
    pub key: LimitKey,
    /// Distinct keys that are remembered.
    pub max_keys: u32,
}

/// A route's `concurrency`: requests at once; beyond it 429 or RESOURCE_EXHAUSTED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// Requests in flight, at least 1.
    pub requests: u32,
    /// What has its own count.
    pub key: LimitKey,
    /// Distinct keys that are remembered.
    pub max_keys: u32,
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    fn key_of(key: &LimitKey, host: &str, user: Option<&'static str>, path: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        if let Some(user) = user {
            headers.insert("x-user", HeaderValue::from_static(user));
        }
        key.extract(&RequestView {
            host,
            path,
            query: None,
            method: &Method::GET,
            headers: &headers,
            source: None,
            caller_region: "",
            caller_zone: "",
            model: crate::request::Model::Unread,
        })
    }

    fn header() -> LimitPart {
        LimitPart::Header(HeaderName::from_static("x-user"))
    }

    #[test]
    fn the_same_values_share_a_count_and_others_do_not() {
        let key = LimitKey::new([header(), LimitPart::Path]);
        let ann = key_of(&key, "a", Some("ann"), "/x");
        assert!(ann.is_some());
        assert_eq!(ann, key_of(&key, "b", Some("ann"), "/x"));
        assert_ne!(ann, key_of(&key, "a", Some("bob"), "/x"));
        assert_ne!(ann, key_of(&key, "a", Some("ann"), "/y"));
    }

    #[test]
    fn a_request_without_the_part_is_not_limited() {
        assert_eq!(key_of(&LimitKey::new([header()]), "a", None, "/"), None);
        assert_eq!(
            key_of(&LimitKey::new([LimitPart::SourceIp]), "a", None, "/"),
            None
        );
    }

    #[test]
    fn without_parts_all_requests_share_one_count() {
        let key = LimitKey::default();
        assert!(key.is_shared());
        assert!(key_of(&key, "a", None, "/").is_some());
        assert_eq!(
            key_of(&key, "a", None, "/"),
            key_of(&key, "b", Some("ann"), "/x")
        );
    }

    #[test]
    fn the_host_counts_once_however_it_is_spelled() {
        let key = LimitKey::new([LimitPart::Host]);
        assert_eq!(
            key_of(&key, "A.local.", None, "/"),
            key_of(&key, "a.LOCAL", None, "/")
        );
        assert_ne!(
            key_of(&key, "a.local", None, "/"),
            key_of(&key, "b.local", None, "/")
        );
    }

    #[test]
    fn values_do_not_run_into_each_other() {
        let key = LimitKey::new([header(), LimitPart::Path]);
        assert_ne!(
            key_of(&key, "", Some("a/"), "b"),
            key_of(&key, "", Some("a"), "/b")
        );
    }
}
