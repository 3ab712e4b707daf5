//! gRPC as a proxy sees it: HTTP/2 with a content type, a deadline header and a status in the
//! trailers (the "gRPC over HTTP2" protocol document). Messages are never decoded.

mod message;
mod status;
mod timeout;

pub use message::{decode_message, encode_message};
pub use status::{
    GRPC_MESSAGE, GRPC_STATUS, GrpcClass, GrpcStatus, grpc_status_of, http_to_grpc_status,
    insert_status,
};
pub use timeout::{GRPC_TIMEOUT, encode_timeout, parse_timeout, shorten_timeout};

use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};

/// A server's word on retries.
pub static GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Whether a message is gRPC: its content type is `application/grpc`, with or without a `+codec`
/// and parameters. gRPC-Web has another framing and is plain HTTP to us.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const KIND: &[u8] = b"application/grpc";
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    match value.as_bytes().split_at_checked(KIND.len()) {
        Some((kind, rest)) => {
            kind.eq_ignore_ascii_case(KIND)
                && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        }
        None => false,
    }
}

/// What a server says about retrying a call that it failed (gRFC A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Retry after this long, instead of the usual back-off.
    After(Duration),
    /// Do not retry.
    Never,
}

/// The pushback in trailers (or in headers of an answer without any). A value that is negative or no
/// number means "do not retry" (gRFC A6).
#[must_use]
pub fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let text = headers.get(&GRPC_RETRY_PUSHBACK)?.as_bytes();
    let millis = std::str::from_utf8(text)
        .ok()
        .filter(|text| !text.starts_with('+'))
        .and_then(|text| text.parse::<u32>().ok());
    Some(match millis {
        Some(millis) => Pushback::After(Duration::from_millis(u64::from(millis))),
        None => Pushback::Never,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn content_types_of_grpc_and_only_those_are_grpc() {
        for (text, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("Application/GRPC", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("application/grp", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(is_grpc(&headers), expected, "{text}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn pushback_is_a_delay_or_a_ban() {
        for (text, expected) in [
            ("0", Pushback::After(Duration::ZERO)),
            ("250", Pushback::After(Duration::from_millis(250))),
            ("-1", Pushback::Never),
            ("+5", Pushback::Never),
            ("soon", Pushback::Never),
            ("", Pushback::Never),
            ("99999999999", Pushback::Never),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(&GRPC_RETRY_PUSHBACK, HeaderValue::from_static(text));
            assert_eq!(pushback(&headers), Some(expected), "{text}");
        }
        assert_eq!(pushback(&HeaderMap::new()), None);
    }
}
