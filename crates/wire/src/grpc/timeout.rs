//! `grpc-timeout`: how long the caller will wait, as at most eight digits and a unit.

use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::h1::put_decimal;

/// The header's name.
pub static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The largest number of eight digits.
const MAX: u128 = 99_999_999;

/// The units from the finest, with their nanoseconds.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// Reads a timeout; `None` if it is malformed (which the protocol leaves to the server to judge).
#[must_use]
pub fn parse_timeout(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0u64, |sum, b| sum * 10 + u64::from(b - b'0'));
    Some(match unit {
        b'n' => Duration::from_nanos(number),
        b'u' => Duration::from_micros(number),
        b'm' => Duration::from_millis(number),
        b'S' => Duration::from_secs(number),
        b'M' => Duration::from_secs(number * 60),
        b'H' => Duration::from_secs(number * 3600),
        _ => return None,
    })
}

/// Writes a timeout in the finest unit that holds it in eight digits, rounded down: a deadline may
/// shrink on its way, never grow.
#[must_use]
pub fn encode_timeout(timeout: Duration) -> HeaderValue {
    let nanos = timeout.as_nanos();
    let (unit, number) = UNITS
        .iter()
        .map(|(unit, size)| (*unit, nanos / size))
        .find(|(_, number)| *number <= MAX)
        .unwrap_or((b'H', MAX));
    let mut text = BytesMut::with_capacity(9);
    // Eight digits fit.
    put_decimal(&mut text, number as u64);
    text.extend_from_slice(&[unit]);
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

/// Makes the deadline that goes upstream no longer than `remaining`, and gives what it is now. A
/// request without a readable deadline gets `remaining` as its own.
pub fn shorten_timeout(headers: &mut HeaderMap, remaining: Duration) -> Duration {
    let asked = headers
        .get(&GRPC_TIMEOUT)
        .and_then(|value| parse_timeout(value.as_bytes()));
    match asked {
        Some(asked) if asked <= remaining => asked,
        _ => {
            headers.insert(&GRPC_TIMEOUT, encode_timeout(remaining));
            remaining
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_unit_is_read() {
        for (text, expected) in [
            ("1n", Duration::from_nanos(1)),
            ("20u", Duration::from_micros(20)),
            ("300m", Duration::from_millis(300)),
            ("4S", Duration::from_secs(4)),
            ("5M", Duration::from_secs(300)),
            ("6H", Duration::from_secs(6 * 3600)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn malformed_timeouts_are_none() {
        for bad in [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1S ",
            "123456789n",
            "1x",
        ] {
            assert_eq!(parse_timeout(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_finest_unit_that_fits_is_used() {
        assert_eq!(encode_timeout(Duration::ZERO), "0n");
        assert_eq!(encode_timeout(Duration::from_millis(99)), "99000000n");
        assert_eq!(encode_timeout(Duration::from_secs(1)), "1000000u");
        assert_eq!(encode_timeout(Duration::from_secs(100)), "100000m");
        assert_eq!(encode_timeout(Duration::from_secs(100_000)), "100000S");
        assert_eq!(encode_timeout(Duration::MAX), "99999999H");
    }

    #[test]
    fn a_deadline_shrinks_and_never_grows() {
        let mut headers = HeaderMap::new();
        headers.insert(&GRPC_TIMEOUT, HeaderValue::from_static("5S"));
        assert_eq!(
            shorten_timeout(&mut headers, Duration::from_secs(9)),
            Duration::from_secs(5)
        );
        assert_eq!(headers[&GRPC_TIMEOUT], "5S");
        assert_eq!(
            shorten_timeout(&mut headers, Duration::from_secs(2)),
            Duration::from_secs(2)
        );
        assert_eq!(headers[&GRPC_TIMEOUT], "2000000u");
        headers.insert(&GRPC_TIMEOUT, HeaderValue::from_static("soon"));
        assert_eq!(
            shorten_timeout(&mut headers, Duration::from_secs(1)),
            Duration::from_secs(1)
        );
        assert_eq!(headers[&GRPC_TIMEOUT], "1000000u");
    }

    proptest! {
        #[test]
        fn a_written_timeout_reads_as_no_more_and_hardly_less(secs in 0u64..=u64::from(u32::MAX), nanos in 0u32..1_000_000_000) {
            let timeout = Duration::new(secs, nanos);
            let read = parse_timeout(encode_timeout(timeout).as_bytes()).expect("what we write is valid");
            prop_assert!(read <= timeout);
            // Eight digits of the finest unit that fits: at least 1/100 of 1/60 of itself, usually far less.
            prop_assert!((timeout - read).as_secs_f64() <= timeout.as_secs_f64() * 1e-4 + 1e-9);
        }
    }
}
