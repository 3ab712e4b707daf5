//! Header names without an allocation for those that are met all day.
//!
//! [`http::HeaderName`] knows the registered names; every other one costs an allocation. Proxies,
//! browsers and gRPC send a handful of unregistered names with nearly every request, so those are
//! kept here as constants.

use http::{HeaderName, header};

macro_rules! known {
    ($($len:literal: [$($name:ident = $text:literal),* $(,)?]),* $(,)?) => {
        $($(static $name: HeaderName = HeaderName::from_static($text);)*)*

        /// The constant for a raw name of any case, if it is one of ours.
        #[inline]
        fn known(raw: &[u8]) -> Option<&'static HeaderName> {
            match raw.len() {
                $($len => {
                    $(if raw.eq_ignore_ascii_case($text.as_bytes()) { return Some(&$name); })*
                    None
                })*
                _ => None,
            }
        }

        #[cfg(test)]
        const ALL: &[(usize, &str)] = &[$($(($len, $text)),*),*];
    };
}

known! {
    6: [X_USER = "x-user"],
    8: [PRIORITY = "priority"],
    9: [X_REAL_IP = "x-real-ip", X_API_KEY = "x-api-key", SEC_CH_UA = "sec-ch-ua"],
    10: [KEEP_ALIVE = "keep-alive", TRACESTATE = "tracestate"],
    11: [TRACEPARENT = "traceparent"],
    12: [X_REQUEST_ID = "x-request-id", GRPC_TIMEOUT = "grpc-timeout", X_POWERED_BY = "x-powered-by"],
    14: [
        SEC_FETCH_MODE = "sec-fetch-mode",
        SEC_FETCH_SITE = "sec-fetch-site",
        SEC_FETCH_DEST = "sec-fetch-dest",
        SEC_FETCH_USER = "sec-fetch-user",
    ],
    15: [X_FORWARDED_FOR = "x-forwarded-for", X_AMZN_TRACE_ID = "x-amzn-trace-id"],
    16: [
        X_FORWARDED_HOST = "x-forwarded-host",
        X_FORWARDED_PORT = "x-forwarded-port",
        SEC_CH_UA_MOBILE = "sec-ch-ua-mobile",
        PROXY_CONNECTION = "proxy-connection",
        X_REQUESTED_WITH = "x-requested-with",
    ],
    17: [X_FORWARDED_PROTO = "x-forwarded-proto", ANTHROPIC_VERSION = "anthropic-version"],
    18: [SEC_CH_UA_PLATFORM = "sec-ch-ua-platform"],
}

macro_rules! usual {
    ($($len:literal: [$($lower:literal $title:literal $name:ident),* $(,)?]),* $(,)?) => {
        /// The registered names of everyday messages in their two usual spellings: with the length known, a comparison is two or three
        /// instructions. Any other spelling takes the longer way.
        #[inline]
        fn usual(raw: &[u8]) -> Option<HeaderName> {
            match raw.len() {
                $($len => {
                    $(if raw == $lower || raw == $title { return Some(header::$name); })*
                    None
                })*
                _ => None,
            }
        }

        #[cfg(test)]
        const USUAL: &[(&[u8], &[u8], HeaderName)] = &[$($(($lower, $title, header::$name)),*),*];
    };
}

usual! {
    3: [b"age" b"Age" AGE, b"via" b"Via" VIA],
    4: [b"host" b"Host" HOST, b"date" b"Date" DATE, b"vary" b"Vary" VARY, b"etag" b"ETag" ETAG],
    6: [
        b"accept" b"Accept" ACCEPT,
        b"server" b"Server" SERVER,
        b"cookie" b"Cookie" COOKIE,
        b"origin" b"Origin" ORIGIN,
        b"expect" b"Expect" EXPECT,
    ],
    7: [b"referer" b"Referer" REFERER],
    8: [b"location" b"Location" LOCATION],
    10: [b"user-agent" b"User-Agent" USER_AGENT, b"connection" b"Connection" CONNECTION, b"set-cookie" b"Set-Cookie" SET_COOKIE],
    12: [b"content-type" b"Content-Type" CONTENT_TYPE],
    13: [
        b"authorization" b"Authorization" AUTHORIZATION,
        b"cache-control" b"Cache-Control" CACHE_CONTROL,
        b"last-modified" b"Last-Modified" LAST_MODIFIED,
    ],
    14: [b"content-length" b"Content-Length" CONTENT_LENGTH],
    15: [b"accept-encoding" b"Accept-Encoding" ACCEPT_ENCODING, b"accept-language" b"Accept-Language" ACCEPT_LANGUAGE],
    16: [b"content-encoding" b"Content-Encoding" CONTENT_ENCODING],
    17: [b"transfer-encoding" b"Transfer-Encoding" TRANSFER_ENCODING],
}

/// A header name in lower case; `None` if `raw` is empty or no token.
#[inline]
pub(super) fn parse(raw: &[u8]) -> Option<HeaderName> {
    if let Some(name) = usual(raw) {
        return Some(name);
    }
    // All of ours begin with one of these: other registered names skip the comparison.
    if let Some(
        b'x' | b'X' | b'k' | b'K' | b't' | b'T' | b'g' | b'G' | b'p' | b'P' | b's' | b'S' | b'a'
        | b'A',
    ) = raw.first()
        && let Some(name) = known(raw)
    {
        return Some(name.clone());
    }
    HeaderName::from_bytes(raw).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_any_case_and_has_its_length() {
        for (len, text) in ALL {
            assert_eq!(text.len(), *len, "{text}");
            let upper = text.to_ascii_uppercase();
            assert_eq!(known(upper.as_bytes()).map(HeaderName::as_str), Some(*text));
            assert_eq!(
                parse(upper.as_bytes()).as_ref().map(HeaderName::as_str),
                Some(*text)
            );
        }
    }

    #[test]
    fn every_usual_name_is_found_in_both_spellings_and_any_other_case() {
        for (lower, title, name) in USUAL {
            for raw in [*lower, *title] {
                assert_eq!(usual(raw).as_ref(), Some(name), "{name}");
            }
            assert_eq!(name.as_str().as_bytes(), *lower);
            assert_eq!(parse(&title.to_ascii_uppercase()).as_ref(), Some(name));
        }
    }

    #[test]
    fn a_name_that_is_no_token_is_refused() {
        for bad in [
            "", " ", "a b", "a\u{7f}", "a:b", "a\0", "é", "a\"", "a/b", "(a)", "a,b",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
