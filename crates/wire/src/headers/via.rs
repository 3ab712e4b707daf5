//! `via` (RFC 9110 §7.6.3): the trail of gateways, and the way to see that a request runs in circles.

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

use crate::h1::{is_token, list};

/// Our own entry, ready to append for each version a message can arrive in.
#[derive(Debug, Clone)]
pub struct Via {
    pseudonym: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

/// The pseudonym can't stand in a `via` field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the via pseudonym {0:?} is not a token")]
pub struct ViaError(String);

impl Via {
    /// An entry under `pseudonym`, which should be unique to this instance or loops through two
    /// instances of one name are seen where there are none.
    ///
    /// # Errors
    /// The pseudonym is not a token.
    pub fn new(pseudonym: &str) -> Result<Self, ViaError> {
        let error = || ViaError(pseudonym.to_owned());
        if !is_token(pseudonym.as_bytes()) {
            return Err(error());
        }
        let entry = |version: &str| {
            HeaderValue::from_str(&format!("{version} {pseudonym}")).map_err(|_| error())
        };
        Ok(Self {
            http10: entry("1.0")?,
            http11: entry("1.1")?,
            http2: entry("2")?,
            pseudonym: pseudonym.to_owned(),
        })
    }

    /// Appends our entry for a message that was received in `version`.
    pub fn append(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 | Version::HTTP_09 => &self.http10,
            _ => &self.http11,
        };
        headers.append(VIA, entry.clone());
    }

    /// How often this request has been here before. Above 0 it runs in a loop: answer 508.
    #[must_use]
    pub fn visits(&self, headers: &HeaderMap) -> usize {
        headers
            .get_all(VIA)
            .iter()
            .flat_map(|value| list(value.as_bytes()))
            .filter(|entry| self.is_ours(entry))
            .count()
    }

    /// `received-protocol RWS received-by [ RWS comment ]`.
    fn is_ours(&self, entry: &[u8]) -> bool {
        entry
            .split(|b| matches!(b, b' ' | b'\t'))
            .filter(|part| !part.is_empty())
            .nth(1)
            .is_some_and(|by| by.eq_ignore_ascii_case(self.pseudonym.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_appended_in_the_version_received() {
        let via = Via::new("tidegate-1").expect("a token");
        let mut headers = HeaderMap::new();
        headers.insert(VIA, HeaderValue::from_static("1.0 fred"));
        via.append(&mut headers, Version::HTTP_2);
        let all: Vec<_> = headers.get_all(VIA).iter().collect();
        assert_eq!(all, ["1.0 fred", "2 tidegate-1"]);
    }

    #[test]
    fn a_loop_is_seen_in_merged_and_separate_lines() {
        let via = Via::new("tidegate-1").expect("a token");
        let mut headers = HeaderMap::new();
        assert_eq!(via.visits(&headers), 0);
        headers.append(
            VIA,
            HeaderValue::from_static("1.1 other, HTTP/1.1 TIDEGATE-1 (note)"),
        );
        headers.append(VIA, HeaderValue::from_static("2 tidegate-1"));
        headers.append(VIA, HeaderValue::from_static("2 tidegate-12"));
        assert_eq!(via.visits(&headers), 2);
    }

    #[test]
    fn a_pseudonym_that_is_no_token_is_refused() {
        assert!(Via::new("a b").is_err());
        assert!(Via::new("").is_err());
        assert!(Via::new("a\r\nx: y").is_err());
    }
}
