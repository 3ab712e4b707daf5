//! Hash keys: what makes two requests "the same caller" for sticky splits and consistent-hash balancers.
//!
//! The hash is XXH64 with seed 0, the one Envoy uses for its hash policies: it is the same in every process, on every
//! machine and after every restart, so that replicas agree on the member without talking to each other. (The hashers
//! of the standard library and foldhash promise no such thing.) It is no defence against crafted collisions; where a
//! caller could profit from one (rate limits), [`crate::limit`] uses a keyed hash instead.

use http::header::HeaderName;
use tidegate_core::hash::hash_ip;
pub use tidegate_core::hash::hash64 as stable_hash;

use crate::request::RequestView;

/// Where a request's hash comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's (or gRPC metadata entry's) value.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(Box<str>),
    /// A query parameter's value.
    Query(Box<str>),
    /// The caller's address (without the port).
    SourceIp,
}

impl HashKey {
    /// The request's hash; None if it lacks what is hashed (the balancer or split then chooses freely).
    pub fn extract(&self, request: &RequestView<'_>) -> Option<u64> {
        match self {
            HashKey::Header(name) => request
                .header(name)
                .map(|value| stable_hash(value.as_bytes(), 0)),
            HashKey::Cookie(name) => request
                .cookie(name.as_bytes())
                .map(|value| stable_hash(value, 0)),
            HashKey::Query(name) => request
                .query_parameter(name.as_bytes())
                .map(|value| stable_hash(value.as_bytes(), 0)),
            HashKey::SourceIp => request.source.map(hash_ip),
        }
    }

    /// In words: `header x-user`.
    pub fn describe(&self) -> String {
        match self {
            HashKey::Header(name) => format!("header {name}"),
            HashKey::Cookie(name) => format!("cookie {name}"),
            HashKey::Query(name) => format!("query parameter {name}"),
            HashKey::SourceIp => "source address".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    #[test]
    fn a_key_is_taken_from_header_cookie_query_or_source() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", HeaderValue::from_static("ann"));
        headers.insert("cookie", HeaderValue::from_static("sid=ann"));
        let request = RequestView {
            host: "",
            path: "/",
            query: Some("user=ann"),
            method: &Method::GET,
            headers: &headers,
            source: Some("::ffff:10.0.0.1".parse().unwrap()),
            caller_region: "",
            caller_zone: "",
            model: crate::request::Model::Unread,
        };
        let ann = Some(stable_hash(b"ann", 0));
        assert_eq!(
            HashKey::Header(HeaderName::from_static("x-user")).extract(&request),
            ann
        );
        assert_eq!(HashKey::Cookie("sid".into()).extract(&request), ann);
        assert_eq!(HashKey::Query("user".into()).extract(&request), ann);
        assert_eq!(HashKey::Cookie("other".into()).extract(&request), None);
        // The same caller over an IPv4 and a dual-stack socket.
        assert_eq!(
            HashKey::SourceIp.extract(&request),
            Some(stable_hash(&[10, 0, 0, 1], 0))
        );
        assert_eq!(
            HashKey::SourceIp.extract(&RequestView {
                source: None,
                ..request
            }),
            None
        );
    }
}
