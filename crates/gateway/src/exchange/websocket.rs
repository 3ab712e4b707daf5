//! WebSocket between versions of HTTP.
//!
//! HTTP/1.1 asks for one with a GET that upgrades (RFC 6455), HTTP/2 with an extended CONNECT (RFC 8441). Inside the exchange there is
//! one form, that of HTTP/1.1: [`from_connect`] turns a CONNECT into it, the endpoint's side turns it back where HTTP/2 is spoken, and
//! an answer that agrees is 101 until it is written. So routes, retries and limits see one kind of request.
//!
//! The key and its echo prove to a client of HTTP/1.1 that the peer means WebSocket; in HTTP/2 the setting and the pseudo-header do.
//! Where only one side has them, this is the other end of that proof. Otherwise they pass through.

use http::header::{CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use ring::digest;
use tidegate_core::{FailureKind, Verdict};
use tidegate_wire::grpc::GrpcStatus;

use super::reply::Problem;
use crate::up::OutRequest;

const WEBSOCKET: &str = "websocket";
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What the `:protocol` of a request over HTTP/2 asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nothing: an ordinary request.
    Nothing,
    WebSocket,
    Other,
}

/// What the request asks for.
pub(crate) fn asked(parts: &Parts) -> Asked {
    match parts.extensions.get::<::h2::ext::Protocol>() {
        None => Asked::Nothing,
        Some(protocol) if protocol.as_str().eq_ignore_ascii_case(WEBSOCKET) => Asked::WebSocket,
        Some(_) => Asked::Other,
    }
}

/// Gives an extended CONNECT for a WebSocket the form that it has in HTTP/1.1. `nonce` is for the key.
pub(crate) fn from_connect(parts: &mut Parts, nonce: u128) {
    parts.method = Method::GET;
    let headers = &mut parts.headers;
    headers.remove(CONTENT_LENGTH);
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(SEC_WEBSOCKET_KEY, base64(&nonce.to_be_bytes()));
}

/// Whether the request opens a WebSocket in the form of HTTP/1.1.
pub(crate) fn opens(request: &OutRequest) -> bool {
    request.upgrade
        && request.method == Method::GET
        && names_websocket(&request.headers)
        && request.headers.contains_key(SEC_WEBSOCKET_KEY)
}

fn names_websocket(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(UPGRADE).iter();
    let first = values.next();
    values.next().is_none()
        && first.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()))
}

/// Takes out of a head for HTTP/2 what only HTTP/1.1 has.
pub(crate) fn strip(headers: &mut HeaderMap) {
    for name in [UPGRADE, SEC_WEBSOCKET_KEY] {
        headers.remove(name);
    }
}

/// An upgrade that was asked for, kept until it is answered.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Of a WebSocket.
    key: Option<HeaderValue>,
    caller_is_h2: bool,
}

impl Handshake {
    /// What `request` asks for, if it is an upgrade.
    pub(crate) fn of(request: &OutRequest, caller_is_h2: bool) -> Option<Self> {
        request.upgrade.then(|| Self {
            key: opens(request)
                .then(|| request.headers.get(SEC_WEBSOCKET_KEY).cloned())
                .flatten(),
            caller_is_h2,
        })
    }
}

/// Why an endpoint's answer must not reach the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It switched protocols and nobody had asked.
    Unasked,
    /// Its part of the handshake is wrong.
    Handshake,
    /// It answered as if no WebSocket had been asked for, with what would tell the caller that its tunnel is open.
    Ignored,
}

impl Unfit {
    /// What the caller gets instead.
    pub(crate) fn problem(self) -> Problem {
        let (code, detail) = match self {
            Self::Unasked => ("bad-answer", "the endpoint switched protocols unasked"),
            Self::Handshake => (
                "bad-answer",
                "the endpoint's part of the WebSocket handshake is wrong",
            ),
            Self::Ignored => (
                "upgrade-ignored",
                "the endpoint answered without opening a WebSocket",
            ),
        };
        Problem::new(
            StatusCode::BAD_GATEWAY,
            GrpcStatus::Unavailable,
            code,
            detail,
        )
    }

    /// What it says about the endpoint.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Self::Unasked | Self::Handshake => Verdict::Failure(FailureKind::Gateway),
            // It may well have none at this path.
            Self::Ignored => Verdict::Ok,
        }
    }
}

/// Checks an endpoint's answer against the upgrade that was asked for, if one was, and puts it into the caller's form. Gives the
/// status for the caller.
///
/// # Errors
/// The answer must not reach the caller.
pub(crate) fn answer(
    handshake: Option<&Handshake>,
    from_h2: bool,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<StatusCode, Unfit> {
    let switched = status == StatusCode::SWITCHING_PROTOCOLS;
    let Some(handshake) = handshake else {
        return if switched {
            Err(Unfit::Unasked)
        } else {
            Ok(status)
        };
    };
    if !switched {
        // Over HTTP/2 success is what opens the tunnel.
        return if handshake.caller_is_h2 && status.is_success() {
            Err(Unfit::Ignored)
        } else {
            Ok(status)
        };
    }
    let Some(key) = &handshake.key else {
        return Ok(status);
    };
    match (handshake.caller_is_h2, from_h2) {
        (false, false) => {}
        (false, true) => {
            headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
            headers.insert(SEC_WEBSOCKET_ACCEPT, echo(key));
        }
        (true, false) => {
            if !names_websocket(headers) || headers.get(SEC_WEBSOCKET_ACCEPT) != Some(&echo(key)) {
                return Err(Unfit::Handshake);
            }
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            headers.remove(UPGRADE);
        }
        (true, true) => {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
        }
    }
    Ok(if handshake.caller_is_h2 {
        StatusCode::OK
    } else {
        StatusCode::SWITCHING_PROTOCOLS
    })
}

/// `sec-websocket-accept` for a key.
fn echo(key: &HeaderValue) -> HeaderValue {
    // SHA-1 is the protocol's; nothing here rests on its strength.
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    base64(hash.finish().as_ref())
}

fn base64(bytes: &[u8]) -> HeaderValue {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            out.push(if digit <= group.len() {
                DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]
            } else {
                b'='
            });
        }
    }
    // Letters, digits, `+`, `/` and `=` only.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(out))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::SEC_WEBSOCKET_VERSION;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const SWITCHED: StatusCode = StatusCode::SWITCHING_PROTOCOLS;

    fn handshake(caller_is_h2: bool) -> Handshake {
        Handshake {
            key: Some(HeaderValue::from_static(KEY)),
            caller_is_h2,
        }
    }

    fn agreed(accept: &'static str) -> HeaderMap {
        HeaderMap::from_iter([
            (UPGRADE, HeaderValue::from_static("WebSocket")),
            (SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(accept)),
        ])
    }

    fn code(result: Result<StatusCode, Unfit>) -> &'static str {
        result.map_or_else(|unfit| unfit.problem().code, |_| "")
    }

    #[test]
    fn base64_pads_as_the_rfc_shows() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foobar", "Zm9vYmFy"),
            (b"the sample nonce", KEY),
        ] {
            assert_eq!(base64(bytes), text);
        }
        assert_eq!(echo(&HeaderValue::from_static(KEY)), ACCEPT);
    }

    #[test]
    fn a_connect_becomes_a_get_that_upgrades() {
        let request = http::Request::builder()
            .method(Method::CONNECT)
            .uri("https://a/chat")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .extension(::h2::ext::Protocol::from_static("websocket"));
        let (mut parts, ()) = request.body(()).expect("valid").into_parts();
        assert_eq!(asked(&parts), Asked::WebSocket);
        from_connect(&mut parts, u128::from_be_bytes(*b"the sample nonce"));
        assert_eq!(parts.method, Method::GET);
        assert_eq!(parts.headers[SEC_WEBSOCKET_KEY], KEY);
        assert_eq!(parts.headers[SEC_WEBSOCKET_VERSION], "13");
        assert!(names_websocket(&parts.headers));
    }

    #[test]
    fn between_equal_versions_the_handshake_passes() {
        let mut headers = agreed("whatever");
        let before = headers.clone();
        let status = answer(Some(&handshake(false)), false, SWITCHED, &mut headers);
        assert_eq!(status.ok(), Some(SWITCHED));
        assert_eq!(headers, before);
    }

    #[test]
    fn a_caller_over_http2_gets_200_after_a_right_echo_only() {
        let mut headers = agreed(ACCEPT);
        let status = answer(Some(&handshake(true)), false, SWITCHED, &mut headers);
        assert_eq!(status.ok(), Some(StatusCode::OK));
        assert!(headers.is_empty());
        let mut other = agreed(ACCEPT);
        other.insert(UPGRADE, HeaderValue::from_static("chat"));
        for mut wrong in [
            agreed("s3pPLMBiTxaQ9kYGzzhZRbK+xOo"),
            HeaderMap::new(),
            other,
        ] {
            let result = answer(Some(&handshake(true)), false, SWITCHED, &mut wrong);
            assert_eq!(code(result), "bad-answer");
        }
    }

    #[test]
    fn a_caller_over_http1_gets_the_echo_of_its_key() {
        let mut headers = HeaderMap::new();
        let status = answer(Some(&handshake(false)), true, SWITCHED, &mut headers);
        assert_eq!(status.ok(), Some(SWITCHED));
        assert_eq!(headers[SEC_WEBSOCKET_ACCEPT], ACCEPT);
        assert_eq!(headers[UPGRADE], "websocket");
    }

    #[test]
    fn success_without_a_tunnel_is_no_success_over_http2() {
        let none = &mut HeaderMap::new();
        let both = [handshake(true), handshake(false)];
        assert_eq!(
            both.map(|h| code(answer(Some(&h), false, StatusCode::OK, none))),
            ["upgrade-ignored", ""]
        );
        let refused = answer(Some(&handshake(true)), false, StatusCode::FORBIDDEN, none);
        assert_eq!(refused.ok(), Some(StatusCode::FORBIDDEN));
    }

    #[test]
    fn a_switch_that_nobody_asked_for_never_reaches_the_caller() {
        let result = answer(None, false, SWITCHED, &mut HeaderMap::new());
        assert_eq!(code(result), "bad-answer");
    }
}
