//! Header lines into a header map, without copying values.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::FieldError;
use super::names;

/// Cuts the header lines of `section` (each ended by CRLF, the empty line included or not) into
/// `map`, calling `seen` for each before it is appended. Values share the memory of `section`.
#[inline]
pub(super) fn parse<E, F>(
    section: &Bytes,
    from: usize,
    map: &mut HeaderMap,
    mut seen: F,
) -> Result<(), E>
where
    E: From<FieldError>,
    F: FnMut(&HeaderName, &HeaderValue) -> Result<Keep, E>,
{
    let mut at = from;
    while let Some(len) = memchr::memchr(b'\n', &section[at..]) {
        // The scan has seen that a CR stands before each LF.
        let line_end = at + len - 1;
        if line_end == at {
            return Ok(());
        }
        let (name, value) = line(section, at, line_end)?;
        if let Keep::Yes = seen(&name, &value)? {
            map.append(name, value);
        }
        at = line_end + 2;
    }
    Ok(())
}

/// Whether a parsed header line goes into the map.
pub(super) enum Keep {
    Yes,
    No,
}

#[inline]
fn line(
    section: &Bytes,
    start: usize,
    end: usize,
) -> Result<(HeaderName, HeaderValue), FieldError> {
    let line = &section[start..end];
    if matches!(line[0], b' ' | b'\t') {
        return Err(FieldError::LeadingWhitespace);
    }
    let colon = memchr::memchr(b':', line).ok_or(FieldError::NoColon)?;
    let name = names::parse(&line[..colon]).ok_or_else(|| name_error(&line[..colon]))?;

    let mut first = colon + 1;
    while first < line.len() && is_ows(line[first]) {
        first += 1;
    }
    let mut last = line.len();
    while last > first && is_ows(line[last - 1]) {
        last -= 1;
    }
    let value = HeaderValue::from_maybe_shared(section.slice(start + first..start + last))
        .map_err(|_| FieldError::Value)?;
    Ok((name, value))
}

#[cold]
fn name_error(name: &[u8]) -> FieldError {
    match name.last() {
        Some(b' ' | b'\t') => FieldError::SpaceBeforeColon,
        _ => FieldError::Name,
    }
}

/// Optional white space (RFC 9110 §5.6.3).
#[inline]
pub(super) fn is_ows(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Characters of a token (RFC 9110 §5.6.2).
pub(super) static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

/// Whether `bytes` is a non-empty token.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| TOKEN[usize::from(*b)])
}
