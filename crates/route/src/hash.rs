//! Hash keys: what makes two requests "the same caller" for sticky splits and consistent-hash balancers.
//!
//! The hash is XXH64 with seed 0, the one Envoy uses for its hash policies: it is the same in every process, on every
//! machine and after every restart, so that replicas agree on the member without talking to each other. (The hashers
//! of the standard library and foldhash promise no such thing.) It is no defence against crafted collisions; where a
//! caller could profit from one (rate limits), [`crate::limit`] uses a keyed hash instead.

use std::net::IpAddr;

use http::header::HeaderName;

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
            HashKey::SourceIp => request.source.map(|address| match address.to_canonical() {
                IpAddr::V4(address) => stable_hash(&address.octets(), 0),
                IpAddr::V6(address) => stable_hash(&address.octets(), 0),
            }),
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

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

/// XXH64 of `data` (github.com/Cyan4973/xxHash, `doc/xxhash_spec.md`).
pub fn stable_hash(data: &[u8], seed: u64) -> u64 {
    fn round(lane: u64, input: u64) -> u64 {
        lane.wrapping_add(input.wrapping_mul(P2))
            .rotate_left(31)
            .wrapping_mul(P1)
    }
    let (stripes, mut rest) = data.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(P5)
    } else {
        let mut lanes = [
            seed.wrapping_add(P1).wrapping_add(P2),
            seed.wrapping_add(P2),
            seed,
            seed.wrapping_sub(P1),
        ];
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let mut hash = lanes[0]
            .rotate_left(1)
            .wrapping_add(lanes[1].rotate_left(7))
            .wrapping_add(lanes[2].rotate_left(12))
            .wrapping_add(lanes[3].rotate_left(18));
        for lane in lanes {
            hash = (hash ^ round(0, lane)).wrapping_mul(P1).wrapping_add(P4);
        }
        hash
    };
    hash = hash.wrapping_add(data.len() as u64);
    while let Some((word, next)) = rest.split_first_chunk::<8>() {
        hash = (hash ^ round(0, u64::from_le_bytes(*word)))
            .rotate_left(27)
            .wrapping_mul(P1)
            .wrapping_add(P4);
        rest = next;
    }
    if let Some((word, next)) = rest.split_first_chunk::<4>() {
        let word = u64::from(u32::from_le_bytes(*word));
        hash = (hash ^ word.wrapping_mul(P1))
            .rotate_left(23)
            .wrapping_mul(P2)
            .wrapping_add(P3);
        rest = next;
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte).wrapping_mul(P5))
            .rotate_left(11)
            .wrapping_mul(P1);
    }
    mix(hash)
}

/// XXH64's finaliser: every bit of the input moves every bit of the output.
pub(crate) fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(P2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    #[test]
    fn the_hash_is_xxh64() {
        // The published test vectors.
        assert_eq!(stable_hash(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(stable_hash(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(stable_hash(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        assert_eq!(
            stable_hash(b"Nobody inspects the spammish repetition", 0),
            0xFBCE_A83C_8A37_8BF1
        );
    }

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
