//! `x-request-id`: one name for a request in every log it passes.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header's name.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is kept: what logs and metrics of others are made for.
const MAX_LEN: usize = 128;

/// The id of a request: the caller's if it is sane (one line, 1 to 128 characters that need no
/// quoting in logs), otherwise a new one made of `fresh`, which should be random. The map holds it
/// afterwards.
pub fn ensure_request_id(headers: &mut HeaderMap, fresh: u128) {
    let mut given = headers.get_all(&REQUEST_ID).iter();
    match given.next() {
        None => {
            headers.append(&REQUEST_ID, format_request_id(fresh));
        }
        Some(id) if given.next().is_none() && is_sane(id.as_bytes()) => {}
        Some(_) => {
            headers.insert(&REQUEST_ID, format_request_id(fresh));
        }
    }
}

/// Both digits of each byte.
static HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    table
};

/// Where the digits of each byte of a UUID stand in its text.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// `fresh` in the form of a version 4 UUID (RFC 9562 §5.4), which most log tools know.
#[must_use]
pub fn format_request_id(fresh: u128) -> HeaderValue {
    let id = (fresh & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    let mut text = [b'-'; 36];
    for (place, byte) in PLACES.into_iter().zip(id.to_be_bytes()) {
        [text[place], text[place + 1]] = HEX[usize::from(byte)];
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}

fn is_sane(id: &[u8]) -> bool {
    (1..=MAX_LEN).contains(&id.len())
        && id.iter().all(|b| {
            b.is_ascii_alphanumeric()
                || matches!(b, b'-' | b'_' | b'.' | b'~' | b':' | b'/' | b'+' | b'=')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept() {
        for id in [
            "a",
            "7f3c2a9e-4d1b-4b52-9a57-0f2f1f6f3d11",
            "Root=1-67891233:abc/def+=",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(&REQUEST_ID, HeaderValue::from_static(id));
            ensure_request_id(&mut headers, 1);
            assert_eq!(headers[&REQUEST_ID], id);
        }
    }

    #[test]
    fn a_missing_repeated_or_strange_id_is_replaced() {
        let long = "x".repeat(129);
        for given in [
            &[][..],
            &["a", "b"],
            &[""],
            &["a b"],
            &["\"quoted\""],
            &["${jndi}"],
            &[&long],
        ] {
            let mut headers = HeaderMap::new();
            for id in given {
                headers.append(&REQUEST_ID, HeaderValue::from_str(id).expect("a value"));
            }
            ensure_request_id(&mut headers, u128::MAX);
            assert_eq!(
                headers.get_all(&REQUEST_ID).iter().collect::<Vec<_>>(),
                ["ffffffff-ffff-4fff-bfff-ffffffffffff"]
            );
        }
    }

    #[test]
    fn an_id_is_a_version_4_uuid_of_the_given_bits() {
        assert_eq!(format_request_id(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(
            format_request_id(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            "01234567-89ab-4def-8123-456789abcdef"
        );
    }
}
