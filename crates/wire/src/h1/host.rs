//! What a `host` header and the authority of a target may look like.
//!
//! Routing and the upstream both read it, so a value that one of them could understand otherwise
//! (user information, a path, a second host after a comma) is refused.

use std::net::Ipv6Addr;

/// Characters of a registered name (RFC 3986 §3.2.2): unreserved and sub-delims, but no comma,
/// which is what two merged `host` lines look like. Percent signs are checked with their digits.
static REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            );
        byte += 1;
    }
    table
};

/// Whether `value` is `host [":" port]`: a name, an IPv4 address or a bracketed IPv6 address, and
/// a port up to 65535. An empty host is none.
#[must_use]
pub fn is_valid_host(value: &[u8]) -> bool {
    split(value).is_some()
}

/// The host and, if there is a colon, the port digits (which may be empty: RFC 3986 allows it).
pub(super) fn split(value: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (host, rest) = if value.first() == Some(&b'[') {
        let close = memchr::memchr(b']', value)?;
        let address = std::str::from_utf8(&value[1..close]).ok()?;
        address.parse::<Ipv6Addr>().ok()?;
        value.split_at(close + 1)
    } else {
        let end = reg_name_len(value)?;
        value.split_at(end)
    };
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] if is_port(port) => Some((host, Some(port))),
        _ => None,
    }
}

/// The length of the name at the beginning; `None` if it is empty or holds a bad percent escape.
fn reg_name_len(value: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        if REG_NAME[usize::from(byte)] {
            at += 1;
        } else if byte == b'%' {
            let escape = value.get(at + 1..at + 3)?;
            if !escape.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            at += 3;
        } else {
            break;
        }
    }
    (at > 0).then_some(at)
}

fn is_port(port: &[u8]) -> bool {
    port.len() <= 5
        && port.iter().all(u8::is_ascii_digit)
        && port
            .iter()
            .fold(0u32, |sum, b| sum * 10 + u32::from(b - b'0'))
            <= u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_accepted() {
        for good in [
            "a",
            "example.com",
            "example.com:80",
            "example.com:",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:443",
            "[2001:db8::1]:65535",
            "xn--bcher-kva.example",
            "under_score.local",
            "a%20b",
        ] {
            assert!(is_valid_host(good.as_bytes()), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            ":80",
            "a:b",
            "a:65536",
            "a:123456",
            "a:80:80",
            "user@a",
            "a/b",
            "a?b",
            "a#b",
            "a b",
            "a,b",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[1.2.3.4]",
            "[::1%25eth0]",
            "::1",
            "a\\b",
            "a%2",
            "a%zz",
            "a\"",
            "<a>",
            "a\u{e9}",
            "a\t",
            "a:+80",
            "a: 80",
        ] {
            assert!(!is_valid_host(bad.as_bytes()), "{bad}");
        }
    }
}
