//! Which fields may stand in a trailer section.
//!
//! Whoever merges trailers into headers must not be told by them where the message ends, who sent
//! it, or what its content is (RFC 9110 §6.5.1): such fields are dropped, in both directions.

use http::HeaderName;
use http::header::{
    ACCEPT_ENCODING, AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, COOKIE, DATE, EXPECT, EXPIRES,
    FORWARDED, HOST, LOCATION, MAX_FORWARDS, PRAGMA, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    RANGE, RETRY_AFTER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY, VIA, WARNING,
    WWW_AUTHENTICATE,
};

/// Whether `name` must not be taken from, or sent in, a trailer section: framing, routing,
/// connection management, authentication, request modifiers, response control and `content-*`
/// (but `content-digest`, which is made for trailers: RFC 9530).
#[must_use]
pub fn is_forbidden_trailer(name: &HeaderName) -> bool {
    const FORBIDDEN: [HeaderName; 27] = [
        ACCEPT_ENCODING,
        AGE,
        AUTHORIZATION,
        CACHE_CONTROL,
        CONNECTION,
        COOKIE,
        DATE,
        EXPECT,
        EXPIRES,
        FORWARDED,
        HOST,
        LOCATION,
        MAX_FORWARDS,
        PRAGMA,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        RANGE,
        RETRY_AFTER,
        SET_COOKIE,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
        VARY,
        VIA,
        WARNING,
        WWW_AUTHENTICATE,
    ];
    let text = name.as_str();
    FORBIDDEN.contains(name)
        || (text.starts_with("content-") && text != "content-digest")
        || text.starts_with("if-")
        || text.starts_with("x-forwarded-")
        || matches!(
            text,
            "keep-alive"
                | "proxy-connection"
                | "http2-settings"
                | "x-real-ip"
                | "x-request-id"
                | "traceparent"
                | "tracestate"
        )
}
