//! Durations as people write them: `30s`, `1m30s`, `25ms`.

use super::Wrong;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

const HELP: &str =
    "write a number with its unit, e.g. 25ms, 30s, 1m30s, 2h (units: ms, s, m, h, d)";

/// A year: longer than any timer here should wait, and far from every overflow.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Nanoseconds of one unit, largest first so that formatting is canonical.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a duration: one or more numbers with units, each number with at most nine decimals (`1.5s`).
///
/// # Errors
/// A number without unit, an unknown unit, or more than a year.
pub fn parse_duration(text: &str) -> Result<Duration, Wrong> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(Wrong::new("an empty duration", HELP));
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(Wrong::new("not a duration", HELP));
        }
        if unit.is_empty() {
            let help = if tail.is_empty() {
                format!("write {text}s for seconds or {text}ms for milliseconds")
            } else {
                HELP.into()
            };
            return Err(Wrong::new("a duration without its unit", help));
        }
        let unit = if unit == "µs" { "us" } else { unit };
        let Some((_, size)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(Wrong::new(format!("unknown unit of time `{unit}`"), HELP));
        };
        total = scaled(number, *size)
            .and_then(|part| total.checked_add(part))
            .filter(|t| *t <= LONGEST.as_nanos())
            .ok_or_else(|| Wrong::new("not a duration up to a year", HELP))?;
        rest = tail;
    }
    Ok(Duration::from_nanos(
        u64::try_from(total).unwrap_or(u64::MAX),
    ))
}

/// `number` × `size` without rounding through floating point.
fn scaled(number: &str, size: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 9 || fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut parts = whole.checked_mul(size)?;
    if !fraction.is_empty() {
        let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
        parts = parts.checked_add(fraction.parse::<u128>().ok()?.checked_mul(size)? / scale)?;
    }
    Some(parts)
}

/// Writes a duration so that [`parse_duration`] reads the same one: `1m30s`, `25ms`, `0s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    let mut text = String::new();
    for (unit, size) in UNITS {
        if nanos >= size {
            text.push_str(&format!("{}{unit}", nanos / size));
            nanos %= size;
        }
    }
    text
}

/// The period of a rate limit: `second`, `minute`, `hour`, `day`, or any duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Period(pub Duration);

const PERIODS: [(&str, u64); 4] = [
    ("second", 1),
    ("minute", 60),
    ("hour", 3_600),
    ("day", 86_400),
];

impl FromStr for Period {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        if let Some((_, seconds)) = PERIODS.iter().find(|(name, _)| *name == text) {
            return Ok(Self(Duration::from_secs(*seconds)));
        }
        match parse_duration(text) {
            Ok(Duration::ZERO) => Err(Wrong::new(
                "a period of no length",
                "write second, minute, hour, day or a duration such as 10s",
            )),
            Ok(length) => Ok(Self(length)),
            Err(_) => Err(Wrong::new(
                "not a period",
                "write second, minute, hour, day or a duration such as 10s",
            )),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PERIODS
            .iter()
            .find(|(_, seconds)| self.0 == Duration::from_secs(*seconds))
        {
            Some((name, _)) => f.write_str(name),
            None => f.write_str(&format_duration(self.0)),
        }
    }
}
