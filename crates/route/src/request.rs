//! What the router sees of a request: borrowed from the parsed head, nothing copied.

use std::net::IpAddr;

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Method};
use smallvec::SmallVec;

/// A request as the router and everything that a route decides look at it.
///
/// The path must have gone through [`crate::path::normalize`]: matching a raw path would let a caller slip past a
/// route by spelling the path differently.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Host of `:authority` or `Host` without the port; any letter case, IPv6 addresses in brackets.
    pub host: &'a str,
    /// Normalised path, without the query.
    pub path: &'a str,
    /// Raw query without the question mark, if there is one.
    pub query: Option<&'a str>,
    /// Method.
    pub method: &'a Method,
    /// Header fields (for gRPC: the metadata as well).
    pub headers: &'a HeaderMap,
    /// Address of the caller: the trusted hop's, if one is configured. None on a Unix socket.
    pub source: Option<IpAddr>,
    /// Region of the caller, empty when unknown.
    pub caller_region: &'a str,
    /// Zone of the caller, empty when unknown.
    pub caller_zone: &'a str,
    /// Model that the body names, if the body has been read.
    pub model: Model<'a>,
}

/// What is known of the model that a request's body names (LLM requests).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Model<'a> {
    /// The body has not been read. A match on models is taken to hold, and [`Found::needs_model`](crate::Found) says so.
    #[default]
    Unread,
    /// The body was read and names none.
    Absent,
    /// This one.
    Named(&'a str),
}

/// Room for a header's values put together on the stack.
pub(crate) type Joined = SmallVec<[u8; 256]>;

/// A value that is borrowed where it stands in one piece.
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one comparison; boxing would allocate"
)]
pub(crate) enum Value<'a> {
    /// The only value, as it is.
    Borrowed(&'a [u8]),
    /// Several values joined, or a value after decoding.
    Built(Joined),
}

impl Value<'_> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Value::Borrowed(bytes) => bytes,
            Value::Built(bytes) => bytes,
        }
    }
}

impl<'a> RequestView<'a> {
    /// Whether this is a gRPC call: its content type is `application/grpc`, alone or followed by `+` or `;`.
    pub fn is_grpc(&self) -> bool {
        is_grpc(self.headers)
    }

    /// A header's value; several fields of one name are one value joined with commas, as Envoy matches them
    /// (RFC 9110 §5.3), so that a second field cannot hide the first from a match.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<Value<'a>> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(Value::Borrowed(first.as_bytes()));
        };
        let mut joined = Joined::from_slice(first.as_bytes());
        for value in std::iter::once(second).chain(values) {
            joined.push(b',');
            joined.extend_from_slice(value.as_bytes());
        }
        Some(Value::Built(joined))
    }

    /// The first query parameter of this name, percent-decoded (`+` is a space); a name without `=` has an empty value.
    pub(crate) fn query_parameter(&self, name: &[u8]) -> Option<Value<'a>> {
        for pair in self.query?.as_bytes().split(|&byte| byte == b'&') {
            let (key, value) = match pair.iter().position(|&byte| byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &b""[..]),
            };
            if decoded(key).as_bytes() == name {
                return Some(decoded(value));
            }
        }
        None
    }

    /// The first cookie of this name over all `cookie` fields (HTTP/2 may split them, RFC 9113 §8.2.3).
    pub(crate) fn cookie(&self, name: &[u8]) -> Option<&'a [u8]> {
        for field in self.headers.get_all(http::header::COOKIE) {
            for pair in field.as_bytes().split(|&byte| byte == b';') {
                let pair = pair.trim_ascii();
                if let Some(rest) = pair.strip_prefix(name)
                    && let Some(value) = rest.strip_prefix(b"=")
                {
                    return Some(
                        value
                            .strip_prefix(b"\"")
                            .and_then(|v| v.strip_suffix(b"\""))
                            .unwrap_or(value),
                    );
                }
            }
        }
        None
    }
}

/// Whether these header fields are a gRPC message's.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.len() >= GRPC.len()
            && value[..GRPC.len()].eq_ignore_ascii_case(GRPC)
            && matches!(value.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
    })
}

fn decoded(raw: &[u8]) -> Value<'_> {
    if !raw.iter().any(|&byte| byte == b'%' || byte == b'+') {
        return Value::Borrowed(raw);
    }
    let mut out = Joined::new();
    let mut at = 0;
    while at < raw.len() {
        let escaped = (raw[at] == b'%')
            .then(|| raw.get(at + 1..at + 3).and_then(hex_pair))
            .flatten();
        match (escaped, raw[at]) {
            (Some(byte), _) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (None, b'+') => out.push(b' '),
            (None, byte) => out.push(byte),
        }
        at += 1;
    }
    Value::Built(out)
}

/// The byte that two hexadecimal digits name.
pub(crate) fn hex_pair(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|value| value as u8);
    match digits {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;

    fn view<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> RequestView<'a> {
        RequestView {
            host: "a.local",
            path: "/",
            query,
            method: &Method::GET,
            headers,
            source: None,
            caller_region: "",
            caller_zone: "",
            model: Model::Unread,
        }
    }

    #[test]
    fn repeated_header_fields_are_one_value_joined_with_commas() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        let name = HeaderName::from_static("x-a");
        assert_eq!(view(&headers, None).header(&name).unwrap().as_bytes(), b"1");
        headers.append("x-a", HeaderValue::from_static("2"));
        headers.append("x-a", HeaderValue::from_static("3"));
        assert_eq!(
            view(&headers, None).header(&name).unwrap().as_bytes(),
            b"1,2,3"
        );
        assert!(
            view(&headers, None)
                .header(&HeaderName::from_static("x-b"))
                .is_none()
        );
    }

    #[test]
    fn query_parameters_are_decoded_in_name_and_value_and_the_first_one_counts() {
        let headers = HeaderMap::new();
        let view = view(&headers, Some("a=1&%62=x%2Fy+z&b=second&flag&bad=%4"));
        assert_eq!(view.query_parameter(b"a").unwrap().as_bytes(), b"1");
        assert_eq!(view.query_parameter(b"b").unwrap().as_bytes(), b"x/y z");
        assert_eq!(view.query_parameter(b"flag").unwrap().as_bytes(), b"");
        assert_eq!(view.query_parameter(b"bad").unwrap().as_bytes(), b"%4");
        assert!(view.query_parameter(b"c").is_none());
    }

    #[test]
    fn cookies_are_found_in_every_field_by_their_whole_name() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", HeaderValue::from_static("xid=0; id=1;b=2"));
        headers.append("cookie", HeaderValue::from_static("c=\"3\""));
        let view = view(&headers, None);
        assert_eq!(view.cookie(b"id"), Some(&b"1"[..]));
        assert_eq!(view.cookie(b"c"), Some(&b"3"[..]));
        assert_eq!(view.cookie(b"d"), None);
    }

    #[test]
    fn only_grpc_content_types_are_grpc() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(with("application/grpc"));
        assert!(with("application/grpc+proto"));
        assert!(with("Application/GRPC; charset=x"));
        assert!(!with("application/grpc-web"));
        assert!(!with("application/json"));
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
