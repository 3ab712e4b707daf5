//! `grpc-message`: a text for people, percent-encoded so that any UTF-8 fits a header.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};
use http::HeaderValue;

/// Encodes a message: everything but printable ASCII, and the percent sign, as `%XX`.
#[must_use]
pub fn encode_message(message: &str) -> HeaderValue {
    let mut out = BytesMut::with_capacity(message.len() + 16);
    for byte in message.bytes() {
        if matches!(byte, 0x20..=0x7e) && byte != b'%' {
            out.put_u8(byte);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.put_slice(&[
                b'%',
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]);
        }
    }
    // Printable ASCII only.
    HeaderValue::from_maybe_shared(out.freeze()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Decodes a message. As the protocol asks, nothing is an error: a broken escape stays as it is, and
/// what is not UTF-8 is replaced.
#[must_use]
pub fn decode_message(value: &HeaderValue) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    if !bytes.contains(&b'%') {
        return String::from_utf8_lossy(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, after @ ..]) = (*first, tail)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push(high << 4 | low);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn digit(byte: u8) -> Option<u8> {
    // A base-16 digit is below 16.
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn printable_text_stays_and_the_rest_is_escaped() {
        assert_eq!(encode_message("no such model"), "no such model");
        assert_eq!(encode_message("100%\r\nüb"), "100%25%0D%0A%C3%BCb");
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for text in ["%", "%2", "%zz", "a%", "%%"] {
            assert_eq!(decode_message(&HeaderValue::from_static(text)), text);
        }
        assert_eq!(
            decode_message(&HeaderValue::from_static("%FFx%41%4")),
            "\u{fffd}xA%4"
        );
    }

    proptest! {
        #[test]
        fn every_text_survives(text in any::<String>()) {
            let value = encode_message(&text);
            prop_assert_eq!(decode_message(&value), text);
        }
    }
}
