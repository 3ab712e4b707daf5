//! Hop-by-hop fields (RFC 9110 §7.6.1): they speak of one connection and end with it.

use http::header::{
    CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::h1::list;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Removes the hop-by-hop fields of a request or a response: `connection` and the fields it names,
/// `keep-alive`, `proxy-connection`, `transfer-encoding`, `http2-settings`, credentials for proxies,
/// `te` but for `trailers` (which gRPC needs end to end), and `upgrade` unless `keep_upgrade`.
///
/// `connection` can't name away what was meant for the recipient: a caller that lists
/// `authorization` or `x-forwarded-for` there would make a gateway remove what a trusted proxy
/// before it has put there.
pub fn strip_hop_by_hop(headers: &mut HeaderMap, keep_upgrade: bool) {
    // One look at the names present costs less than a lookup for each that usually is not.
    let mut found = Found::default();
    for name in headers.keys() {
        match name.as_str().len() {
            2 if *name == TE => found.te = true,
            7 if *name == UPGRADE => found.upgrade = true,
            10 if *name == CONNECTION => found.connection = true,
            10 if *name == KEEP_ALIVE => found.rare = true,
            14 if *name == HTTP2_SETTINGS => found.rare = true,
            16 if *name == PROXY_CONNECTION => found.rare = true,
            17 if *name == TRANSFER_ENCODING => found.coding = true,
            18 if *name == PROXY_AUTHENTICATE => found.rare = true,
            19 if *name == PROXY_AUTHORIZATION => found.rare = true,
            _ => {}
        }
    }
    if found.connection {
        for name in nominated(headers) {
            if !(keep_upgrade && name == UPGRADE) {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    if found.coding {
        headers.remove(TRANSFER_ENCODING);
    }
    if found.upgrade && !keep_upgrade {
        headers.remove(UPGRADE);
    }
    if found.te {
        keep_te_trailers(headers);
    }
    if found.rare {
        headers.remove(&KEEP_ALIVE);
        headers.remove(&PROXY_CONNECTION);
        headers.remove(&HTTP2_SETTINGS);
        headers.remove(PROXY_AUTHENTICATE);
        headers.remove(PROXY_AUTHORIZATION);
    }
}

#[derive(Default)]
struct Found {
    connection: bool,
    coding: bool,
    upgrade: bool,
    te: bool,
    rare: bool,
}

/// The fields that `connection` names, without its usual options: those need no removal of their
/// own, so that the usual header allocates nothing.
fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for value in headers.get_all(CONNECTION) {
        for option in list(value.as_bytes()) {
            let usual = [&b"keep-alive"[..], b"close", b"upgrade", b"te"]
                .iter()
                .any(|known| option.eq_ignore_ascii_case(known));
            if usual {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(option)
                && !is_end_to_end(name.as_str())
            {
                names.push(name);
            }
        }
    }
    names
}

/// Fields that are never hop by hop, whatever `connection` says.
fn is_end_to_end(name: &str) -> bool {
    name.starts_with("content-")
        || name.starts_with("x-forwarded-")
        || matches!(
            name,
            "authorization"
                | "cache-control"
                | "cookie"
                | "date"
                | "forwarded"
                | "host"
                | "location"
                | "set-cookie"
                | "traceparent"
                | "tracestate"
                | "vary"
                | "via"
                | "x-real-ip"
                | "x-request-id"
        )
}

fn keep_te_trailers(headers: &mut HeaderMap) {
    let trailers = headers
        .get_all(TE)
        .iter()
        .any(|value| list(value.as_bytes()).any(|coding| coding.eq_ignore_ascii_case(b"trailers")));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn fields_of_the_connection_are_removed_and_the_others_stay() {
        let mut headers = map(&[
            ("host", "a"),
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("http2-settings", "AAA"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("upgrade", "websocket"),
            ("te", "gzip"),
            ("trailer", "grpc-status"),
            ("content-length", "5"),
        ]);
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(names(&headers), ["content-length", "host", "trailer"]);
    }

    #[test]
    fn fields_named_by_connection_are_removed_over_all_its_lines() {
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", " x-other ,,"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("x-third", "1"),
        ]);
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(names(&headers), ["x-third"]);
    }

    #[test]
    fn connection_cannot_name_away_what_is_meant_for_the_recipient() {
        let kept = [
            "host",
            "authorization",
            "x-forwarded-for",
            "forwarded",
            "cookie",
            "content-type",
            "x-request-id",
        ];
        for name in kept {
            let mut headers = HeaderMap::new();
            headers.insert(CONNECTION, HeaderValue::from_static(name));
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
            strip_hop_by_hop(&mut headers, false);
            assert_eq!(names(&headers), [name]);
        }
    }

    #[test]
    fn upgrade_stays_only_when_asked() {
        let lines = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let mut headers = map(&lines);
        strip_hop_by_hop(&mut headers, true);
        assert_eq!(names(&headers), ["upgrade"]);
        let mut headers = map(&lines);
        strip_hop_by_hop(&mut headers, false);
        assert!(headers.is_empty());
    }

    #[test]
    fn te_is_reduced_to_trailers() {
        let mut headers = map(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(headers.get(TE), Some(&HeaderValue::from_static("trailers")));
        assert_eq!(headers.len(), 1);
    }
}
