//! The headers that decide where a message ends and whether the connection survives it, gathered
//! while the header lines are read so that nothing is looked up twice.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue};

use super::error::FramingError;
use super::fields::{TOKEN, is_ows, is_token};
use super::host::is_valid_host;

/// What the framing and connection headers of one head said.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) content_length: Option<u64>,
    pub(super) repeated_length: bool,
    pub(super) coding: Coding,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade_option: bool,
    /// An `upgrade` header that names only protocols that may be tunnelled.
    pub(super) upgrade: Upgrade,
    pub(super) hosts: u8,
    /// What the last `host` is worth.
    pub(super) host: Host,
    pub(super) expect: Expect,
}

/// The state of `transfer-encoding` over all its lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    #[default]
    Absent,
    Chunked,
    Bad(FramingError),
}

/// The state of `host`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    #[default]
    Absent,
    Empty,
    Bad,
    Good,
}

/// The state of `expect`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    #[default]
    Absent,
    Continue,
    Other,
}

/// The state of `upgrade`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    #[default]
    Absent,
    Offered,
    Refused,
}

impl Facts {
    /// Takes note of one header line. Lengths are compared first: most names need no more.
    #[inline]
    pub(super) fn note(
        &mut self,
        name: &HeaderName,
        value: &HeaderValue,
    ) -> Result<(), FramingError> {
        match name.as_str().len() {
            4 if *name == HOST => {
                self.hosts = self.hosts.saturating_add(1);
                self.host = match value.as_bytes() {
                    [] => Host::Empty,
                    host if is_valid_host(host) => Host::Good,
                    _ => Host::Bad,
                };
            }
            6 if *name == EXPECT => {
                self.expect = if self.expect == Expect::Absent
                    && value.as_bytes().eq_ignore_ascii_case(b"100-continue")
                {
                    Expect::Continue
                } else {
                    Expect::Other
                };
            }
            7 if *name == UPGRADE => self.note_upgrade(value.as_bytes()),
            10 if *name == CONNECTION => self.note_connection(value.as_bytes()),
            14 if *name == CONTENT_LENGTH => {
                let length = parse_length(value.as_bytes()).ok_or(FramingError::BadLength)?;
                match self.content_length {
                    None => self.content_length = Some(length),
                    Some(first) if first == length => self.repeated_length = true,
                    Some(_) => return Err(FramingError::DuplicateLength),
                }
            }
            17 if *name == TRANSFER_ENCODING => self.note_coding(value.as_bytes()),
            _ => {}
        }
        Ok(())
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in list(value) {
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade_option = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ => {}
            }
        }
    }

    /// HTTP over an upgraded connection would be requests that no route has seen ("h2c smuggling"),
    /// and TLS to the upstream is not the caller's to ask for.
    fn note_upgrade(&mut self, value: &[u8]) {
        for protocol in list(value) {
            let name = protocol.split(|b| *b == b'/').next().unwrap_or(protocol);
            let refused = [&b"h2c"[..], b"h2", b"http", b"tls"]
                .iter()
                .any(|p| name.eq_ignore_ascii_case(p));
            if refused || self.upgrade == Upgrade::Refused {
                self.upgrade = Upgrade::Refused;
            } else {
                self.upgrade = Upgrade::Offered;
            }
        }
    }

    fn note_coding(&mut self, value: &[u8]) {
        for raw in value.split(|b| *b == b',') {
            let coding = trim(raw);
            self.coding = match self.coding {
                // The first thing that was wrong decides, but malformed beats unknown: 400, not 501.
                Coding::Bad(FramingError::UnknownCoding) if !is_coding(coding) => {
                    Coding::Bad(FramingError::BadCoding)
                }
                Coding::Bad(error) => Coding::Bad(error),
                // Something after `chunked`: either chunked again or chunked not last.
                Coding::Chunked => Coding::Bad(FramingError::BadCoding),
                Coding::Absent if coding.eq_ignore_ascii_case(b"chunked") => Coding::Chunked,
                Coding::Absent if is_coding(coding) => Coding::Bad(FramingError::UnknownCoding),
                Coding::Absent => Coding::Bad(FramingError::BadCoding),
            };
        }
    }
}

/// A coding that is well formed as far as its name goes and is not `chunked` with parameters.
fn is_coding(coding: &[u8]) -> bool {
    let name = trim(coding.split(|b| *b == b';').next().unwrap_or(coding));
    is_token(name) && (name.len() == coding.len() || !name.eq_ignore_ascii_case(b"chunked"))
}

/// `content-length`: digits only, no sign, no list, within 64 bits.
#[inline]
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    // 20 digits hold u64::MAX; more are only leading zeros, which nobody sends honestly.
    if value.is_empty() || value.len() > 20 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The non-empty elements of a comma-separated list, trimmed.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
}

/// Without white space around.
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_ows(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_ows(*last)
    {
        bytes = rest;
    }
    bytes
}

/// Whether a byte may begin a request: a first byte that may not (a TLS hello on a plain port) is
/// refused before a line has arrived.
pub(super) fn may_begin_request(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}
