//! Header names without an allocation for those that are met all day.
//!
//! [`http::HeaderName`] knows the registered names; every other one costs an allocation. Proxies,
//! browsers and gRPC send a handful of unregistered names with nearly every request, so those are
//! kept here as constants.

use http::HeaderName;

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

/// A header name in lower case; `None` if `raw` is empty or no token.
#[inline]
pub(super) fn parse(raw: &[u8]) -> Option<HeaderName> {
    // All of ours begin with one of these: registered names skip the comparison.
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
    fn a_name_that_is_no_token_is_refused() {
        for bad in [
            "", " ", "a b", "a\u{7f}", "a:b", "a\0", "é", "a\"", "a/b", "(a)", "a,b",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
