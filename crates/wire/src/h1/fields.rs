//! Header lines into a header map, without copying values.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::error::FieldError;
use super::names;
use super::scan::Extent;

/// Cuts the header lines of a scanned `section` into `map`, beginning with line `first` at byte
/// `begin`, calling `seen` for each before it is appended. Values share the memory of `section`.
#[inline]
pub(super) fn parse<E, F>(
    section: &Bytes,
    extent: &Extent,
    first: usize,
    mut begin: usize,
    map: &mut HeaderMap,
    mut seen: F,
) -> Result<(), E>
where
    E: From<FieldError>,
    F: FnMut(&HeaderName, &HeaderValue) -> Result<Keep, E>,
{
    for index in first..extent.lines {
        let Some(line_feed) = extent.line_feed(section, index, begin) else {
            return Err(FieldError::BareLf.into());
        };
        // The scan has seen that a CR stands before each LF.
        let (name, value) = line(section, begin, line_feed - 1)?;
        match seen(&name, &value) {
            Ok(Keep::Yes) => {
                map.append(name, value);
            }
            Ok(Keep::No) => {}
            Err(error) => return Err(error),
        }
        begin = line_feed + 1;
    }
    Ok(())
}

/// Whether a parsed header line goes into the map.
pub(super) enum Keep {
    Yes,
    No,
}

// Inlined so that name and value are built where the map wants them, not moved twice.
#[inline(always)]
fn line(
    section: &Bytes,
    start: usize,
    end: usize,
) -> Result<(HeaderName, HeaderValue), FieldError> {
    let line = &section[start..end];
    let Some(colon) = find_colon(line) else {
        return Err(match line.first() {
            Some(b' ' | b'\t') => FieldError::LeadingWhitespace,
            _ => FieldError::NoColon,
        });
    };
    let Some(name) = names::parse(&line[..colon]) else {
        return Err(name_error(&line[..colon]));
    };
    let mut first = colon + 1;
    while first < line.len() && is_ows(line[first]) {
        first += 1;
    }
    let mut last = line.len();
    while last > first && is_ows(line[last - 1]) {
        last -= 1;
    }
    match HeaderValue::from_maybe_shared(section.slice(start + first..start + last)) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(FieldError::Value),
    }
}

/// Where the first colon stands. Names are short: eight bytes a step without a call beat the wider steps of a search that has to be set up.
#[inline(always)]
fn find_colon(line: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let mut rest = line;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        // The lowest byte that is zero shows in the highest bit of its place; above it there may be false ones.
        let word = u64::from_le_bytes(*word) ^ (ONES * b':' as u64);
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(line.len() - rest.len() + zeros.trailing_zeros() as usize / 8);
        }
        rest = after;
    }
    let at = rest.iter().position(|b| *b == b':')?;
    Some(line.len() - rest.len() + at)
}

#[cold]
fn name_error(name: &[u8]) -> FieldError {
    match (name.first(), name.last()) {
        (Some(b' ' | b'\t'), _) => FieldError::LeadingWhitespace,
        (_, Some(b' ' | b'\t')) => FieldError::SpaceBeforeColon,
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

#[cfg(test)]
mod tests {
    use super::find_colon;

    #[test]
    fn the_first_colon_is_found_wherever_it_stands() {
        for len in 0..40 {
            let plain = vec![b'a'; len];
            assert_eq!(find_colon(&plain), None);
            for at in 0..len {
                // Bytes next to the colon's value, and further colons behind it.
                for other in [b';', b'9', b'\0', 0xff, 0xba] {
                    let mut line = vec![other; len];
                    line[at] = b':';
                    line[len - 1] = b':';
                    assert_eq!(find_colon(&line), Some(at), "{len} {at} {other}");
                }
            }
        }
    }
}
