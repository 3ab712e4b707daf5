//! `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (RFC 7239): who the caller is.
//!
//! Anyone can write these fields. What is true in them depends on how many proxies of our own stand
//! before us: with none, whatever arrives is replaced; with *n*, the last *n* entries were written
//! by them and the rest is hearsay, which is dropped rather than passed on.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::BytesMut;
use http::header::{FORWARDED, HOST};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::h1::{is_valid_host, put_decimal, trim};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// More entries than any chain of proxies has; a configured number above it means no more.
const MAX_HOPS: usize = 16;

/// Which forwarding fields are believed and which are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardedPolicy {
    /// Proxies of our own between the caller and us. 0: the peer of the connection is the caller.
    pub trusted_hops: usize,
    /// Write `x-forwarded-for`, `-proto` and `-host`.
    pub x_forwarded: bool,
    /// Write `forwarded`.
    pub forwarded: bool,
}

impl Default for ForwardedPolicy {
    fn default() -> Self {
        Self {
            trusted_hops: 0,
            x_forwarded: true,
            forwarded: false,
        }
    }
}

/// The scheme that a caller used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        if text.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else if text.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else {
            None
        }
    }
}

/// The other end of one accepted connection; made once a connection, so that a request formats
/// nothing.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    scheme: Scheme,
    text: HeaderValue,
}

impl Peer {
    /// The peer at `address` on a listener of `scheme`. An IPv4 address in IPv6 clothes is undressed.
    #[must_use]
    pub fn new(address: IpAddr, scheme: Scheme) -> Self {
        let address = address.to_canonical();
        let mut text = BytesMut::with_capacity(40);
        put_address(&mut text, address);
        Self {
            address,
            scheme,
            text: value(text),
        }
    }

    /// The peer's address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// The caller as far as it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its address: that of the peer, or the one that the outermost trusted proxy saw.
    pub address: IpAddr,
    /// Its scheme: the listener's, or what the trusted proxies report.
    pub scheme: Scheme,
}

impl ForwardedPolicy {
    /// Reads the forwarding fields as far as they can be trusted, and replaces them by what is true.
    /// `host` is the authority that the caller asked for, if it is not the map's `host`.
    ///
    /// When fewer entries than trusted hops are there, or one of them is no address, the request has
    /// not come the way that the configuration says: nothing in it is believed and the peer is the
    /// caller.
    pub fn apply(
        &self,
        headers: &mut HeaderMap,
        peer: &Peer,
        host: Option<&HeaderValue>,
    ) -> Caller {
        let hops = self.trusted_hops.min(MAX_HOPS);
        let chain = (hops > 0).then(|| trusted_chain(headers, hops)).flatten();
        let believed = chain.is_some();
        let reported = if believed {
            Reported::read(headers)
        } else {
            Reported::default()
        };
        remove_hearsay(headers, believed);

        let caller = Caller {
            address: chain
                .as_ref()
                .and_then(|chain| chain.first().copied())
                .unwrap_or(peer.address),
            scheme: reported.scheme.unwrap_or(peer.scheme),
        };
        let asked = host.or_else(|| headers.get(HOST)).cloned();
        let host = reported.host.or(asked);
        if self.forwarded {
            headers.insert(
                FORWARDED,
                forwarded_value(chain.as_deref(), peer, caller.scheme, host.as_ref()),
            );
        }
        // What was there under these names is gone: appending looks for nothing.
        if self.x_forwarded {
            let list = match &chain {
                None => peer.text.clone(),
                Some(chain) => address_list(chain, peer),
            };
            headers.append(&X_FORWARDED_FOR, list);
            headers.append(
                &X_FORWARDED_PROTO,
                HeaderValue::from_static(caller.scheme.as_str()),
            );
            if let Some(host) = host {
                headers.append(&X_FORWARDED_HOST, host);
            }
        }
        caller
    }
}

/// What trusted proxies say besides addresses.
#[derive(Default)]
struct Reported {
    scheme: Option<Scheme>,
    host: Option<HeaderValue>,
}

impl Reported {
    fn read(headers: &HeaderMap) -> Self {
        let only = |name: &HeaderName| {
            let mut values = headers.get_all(name).iter();
            values.next().filter(|_| values.next().is_none())
        };
        let mut reported = Self {
            scheme: only(&X_FORWARDED_PROTO).and_then(|value| Scheme::parse(value.as_bytes())),
            host: only(&X_FORWARDED_HOST)
                .filter(|value| is_valid_host(value.as_bytes()))
                .cloned(),
        };
        if reported.scheme.is_none() {
            reported.scheme = headers
                .get_all(FORWARDED)
                .iter()
                .next_back()
                .and_then(|value| split_quoted(value.as_bytes(), b',').last())
                .and_then(|element| parameter(element, b"proto"))
                .and_then(Scheme::parse);
        }
        reported
    }
}

/// Removes what is written anew, what nobody vouches for, and names that a CGI-like server (WSGI
/// among them) can't tell from ours because it reads `_` as `-`.
fn remove_hearsay(headers: &mut HeaderMap, believed: bool) {
    // Nearly always empty: no allocation.
    let mut gone: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        let text = name.as_str().as_bytes();
        let remove = match text.first() {
            Some(b'f') => *name == FORWARDED,
            Some(b'x') if matches!(text.get(1), Some(b'-' | b'_')) => {
                let ours = is_forwarding(text);
                let plain = !text.contains(&b'_');
                ours && !(believed && plain)
            }
            _ => false,
        };
        if remove {
            gone.push(name.clone());
        }
    }
    for name in gone {
        headers.remove(name);
    }
    if believed {
        headers.remove(&X_FORWARDED_FOR);
        headers.remove(&X_FORWARDED_PROTO);
        headers.remove(&X_FORWARDED_HOST);
    }
}

/// `x-forwarded-…` and `x-real-ip`, with `_` read as `-`.
fn is_forwarding(name: &[u8]) -> bool {
    let same = |a: &[u8], b: &[u8]| {
        a.len() == b.len()
            && a.iter()
                .zip(b)
                .all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
    };
    same(name, b"x-real-ip")
        || name
            .get(..12)
            .is_some_and(|head| same(head, b"x-forwarded-"))
}

/// The last `hops` addresses, outermost first; `None` if they are not all there.
fn trusted_chain(headers: &HeaderMap, hops: usize) -> Option<Vec<IpAddr>> {
    let mut chain = Vec::with_capacity(hops);
    if headers.contains_key(&X_FORWARDED_FOR) {
        let lines = headers.get_all(&X_FORWARDED_FOR).iter().rev();
        for line in lines {
            for entry in line.as_bytes().rsplit(|b| *b == b',') {
                if chain.len() < hops {
                    chain.push(parse_address(trim(entry))?);
                }
            }
        }
    } else {
        for line in headers.get_all(FORWARDED).iter().rev() {
            let elements: Vec<_> = split_quoted(line.as_bytes(), b',').collect();
            for element in elements.into_iter().rev() {
                if chain.len() < hops {
                    chain.push(parse_address(parameter(element, b"for")?)?);
                }
            }
        }
    }
    chain.reverse();
    (chain.len() == hops).then_some(chain)
}

/// An address, with or without a port, IPv6 with or without brackets.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = text
        .parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| {
            let inner = text.strip_prefix('[')?.strip_suffix(']')?;
            inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        })?;
    Some(address.to_canonical())
}

/// A parameter of one `forwarded` element, without its quotes.
fn parameter<'a>(element: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    split_quoted(element, b';').find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        let (name, text) = (trim(&pair[..equals]), trim(&pair[equals + 1..]));
        if !name.eq_ignore_ascii_case(wanted) {
            return None;
        }
        match text {
            [b'"', inner @ .., b'"'] => Some(inner),
            _ => Some(text),
        }
    })
}

/// Splits at `separator` outside of quotes, trimmed.
fn split_quoted(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |byte| {
        if escaped {
            escaped = false;
        } else if quoted && *byte == b'\\' {
            escaped = true;
        } else if *byte == b'"' {
            quoted = !quoted;
        }
        !quoted && *byte == separator
    })
    .map(trim)
}

fn address_list(chain: &[IpAddr], peer: &Peer) -> HeaderValue {
    let mut text = BytesMut::with_capacity((chain.len() + 1) * 18);
    for address in chain {
        put_address(&mut text, *address);
        text.extend_from_slice(b", ");
    }
    text.extend_from_slice(peer.text.as_bytes());
    value(text)
}

fn forwarded_value(
    chain: Option<&[IpAddr]>,
    peer: &Peer,
    scheme: Scheme,
    host: Option<&HeaderValue>,
) -> HeaderValue {
    let mut text = BytesMut::with_capacity(96);
    for address in chain.unwrap_or_default() {
        put_node(&mut text, *address);
        text.extend_from_slice(b", ");
    }
    put_node(&mut text, peer.address);
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(scheme.as_str().as_bytes());
    if let Some(host) = host.filter(|host| is_valid_host(host.as_bytes())) {
        // A valid host holds neither quote nor backslash.
        text.extend_from_slice(b";host=\"");
        text.extend_from_slice(host.as_bytes());
        text.extend_from_slice(b"\"");
    }
    value(text)
}

fn put_node(out: &mut BytesMut, address: IpAddr) {
    out.extend_from_slice(b"for=");
    match address {
        IpAddr::V4(_) => put_address(out, address),
        IpAddr::V6(_) => {
            out.extend_from_slice(b"\"[");
            put_address(out, address);
            out.extend_from_slice(b"]\"");
        }
    }
}

fn put_address(out: &mut BytesMut, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.extend_from_slice(b".");
                }
                put_decimal(out, u64::from(octet));
            }
        }
        IpAddr::V6(v6) => {
            // Writing to memory can't fail.
            let _ = write!(out, "{v6}");
        }
    }
}

/// Text made here of addresses, names and valid hosts.
fn value(text: BytesMut) -> HeaderValue {
    HeaderValue::from_maybe_shared(text.freeze())
        .unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::new([192, 0, 2, 1].into(), Scheme::Http)
    }

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        assert!(
            headers.get_all(name).iter().count() <= 1,
            "{name} once at most"
        );
        headers
            .get(name)
            .map(|value| value.to_str().expect("ascii"))
    }

    fn policy(trusted_hops: usize) -> ForwardedPolicy {
        ForwardedPolicy {
            trusted_hops,
            x_forwarded: true,
            forwarded: true,
        }
    }

    #[test]
    fn untrusted_fields_are_replaced_not_appended_to() {
        let mut headers = map(&[
            ("host", "shop.example"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
            ("x-forwarded-for", "10.0.0.3"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "1"),
            ("x-forwarded-prefix", "/evil"),
            ("x-real-ip", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1;proto=https"),
        ]);
        let caller = policy(0).apply(&mut headers, &peer(), None);
        assert_eq!(caller.address, peer().address());
        assert_eq!(caller.scheme, Scheme::Http);
        assert_eq!(text(&headers, "x-forwarded-for"), Some("192.0.2.1"));
        assert_eq!(text(&headers, "x-forwarded-proto"), Some("http"));
        assert_eq!(text(&headers, "x-forwarded-host"), Some("shop.example"));
        assert_eq!(
            text(&headers, "forwarded"),
            Some("for=192.0.2.1;proto=http;host=\"shop.example\"")
        );
        for gone in ["x-forwarded-port", "x-forwarded-prefix", "x-real-ip"] {
            assert_eq!(text(&headers, gone), None, "{gone}");
        }
    }

    #[test]
    fn names_that_a_cgi_server_reads_as_ours_are_removed_even_behind_trusted_proxies() {
        for hops in [0, 1] {
            let mut headers = map(&[
                ("x-forwarded-for", "203.0.113.9"),
                ("x_forwarded_for", "10.0.0.1"),
                ("x-forwarded_proto", "https"),
                ("x_real_ip", "10.0.0.1"),
                ("x-tenant_id", "kept"),
            ]);
            policy(hops).apply(&mut headers, &peer(), None);
            for gone in ["x_forwarded_for", "x-forwarded_proto", "x_real_ip"] {
                assert_eq!(text(&headers, gone), None, "{gone}");
            }
            assert_eq!(text(&headers, "x-tenant_id"), Some("kept"));
        }
    }

    #[test]
    fn the_caller_is_what_the_outermost_trusted_proxy_saw() {
        for (hops, caller, list) in [
            (1, "203.0.113.3", "203.0.113.3, 192.0.2.1"),
            (2, "203.0.113.2", "203.0.113.2, 203.0.113.3, 192.0.2.1"),
            (
                3,
                "203.0.113.1",
                "203.0.113.1, 203.0.113.2, 203.0.113.3, 192.0.2.1",
            ),
        ] {
            let mut headers = map(&[
                ("x-forwarded-for", "203.0.113.1 ,203.0.113.2:5000"),
                ("x-forwarded-for", "203.0.113.3"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "public.example"),
                ("x-forwarded-port", "443"),
            ]);
            let found = policy(hops).apply(&mut headers, &peer(), None);
            assert_eq!(found.address.to_string(), caller);
            assert_eq!(found.scheme, Scheme::Https);
            assert_eq!(text(&headers, "x-forwarded-for"), Some(list));
            assert_eq!(text(&headers, "x-forwarded-host"), Some("public.example"));
            assert_eq!(text(&headers, "x-forwarded-port"), Some("443"));
        }
    }

    #[test]
    fn a_chain_shorter_than_configured_or_malformed_is_not_believed() {
        for list in [
            "203.0.113.1",
            "unknown, 203.0.113.1",
            "203.0.113.1, _hidden",
            "",
            ", 203.0.113.1",
        ] {
            let mut headers = map(&[("x-forwarded-proto", "https")]);
            headers.insert("x-forwarded-for", HeaderValue::from_static(list));
            let caller = policy(2).apply(&mut headers, &peer(), None);
            assert_eq!(caller.address, peer().address(), "{list}");
            assert_eq!(caller.scheme, Scheme::Http, "{list}");
            assert_eq!(
                text(&headers, "x-forwarded-for"),
                Some("192.0.2.1"),
                "{list}"
            );
        }
    }

    #[test]
    fn forwarded_is_read_when_there_is_no_x_forwarded_for() {
        let mut headers = map(&[(
            "forwarded",
            "for=10.0.0.9;host=\"a,b;c\", FOR=\"[2001:db8::7]:4711\";proto=https;by=203.0.113.43",
        )]);
        let caller = policy(1).apply(
            &mut headers,
            &peer(),
            Some(&HeaderValue::from_static("h.example")),
        );
        assert_eq!(caller.address.to_string(), "2001:db8::7");
        assert_eq!(caller.scheme, Scheme::Https);
        assert_eq!(
            text(&headers, "x-forwarded-for"),
            Some("2001:db8::7, 192.0.2.1")
        );
        assert_eq!(
            text(&headers, "forwarded"),
            Some("for=\"[2001:db8::7]\", for=192.0.2.1;proto=https;host=\"h.example\"")
        );
    }

    #[test]
    fn what_is_not_written_is_not_passed_on_either() {
        let mut headers = map(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
        ]);
        let off = ForwardedPolicy {
            trusted_hops: 0,
            x_forwarded: false,
            forwarded: false,
        };
        off.apply(&mut headers, &peer(), None);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_mapped_address_is_written_as_ipv4() {
        let peer = Peer::new(
            "::ffff:192.0.2.7".parse().expect("an address"),
            Scheme::Https,
        );
        let mut headers = HeaderMap::new();
        policy(0).apply(&mut headers, &peer, None);
        assert_eq!(text(&headers, "x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(
            text(&headers, "forwarded"),
            Some("for=192.0.2.7;proto=https")
        );
    }
}
