//! When a limit ends, from everything a provider says about it.
//!
//! What it says outright (`retry-after`) comes first. Then the reset of the dimension that is *exhausted*: an answer names
//! the resets of requests, tokens, input tokens and more at once, and the smallest of them is the wrong one. Then a delay
//! in the body; a sentence in the message comes last. Whatever is found is a floor: the key is out at least so long.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

/// No statement is believed beyond this: the longest quota known is a month's.
const LONGEST: Duration = Duration::from_secs(32 * 86_400);

/// The delay for a rate limit, from all sources in their order.
pub(super) fn of_limit(
    headers: &HeaderMap,
    delay: Option<Duration>,
    text: &str,
    now_unix: u64,
) -> Option<Duration> {
    sane(stated(headers, now_unix))
        .or_else(|| sane(exhausted(headers, text, now_unix)))
        .or_else(|| sane(delay))
        .or_else(|| sane(said(text, now_unix)))
}

/// The delay for a quota: only what speaks of it. The resets of rate limits say nothing about an empty account.
pub(super) fn of_quota(
    headers: &HeaderMap,
    delay: Option<Duration>,
    text: &str,
    now_unix: u64,
) -> Option<Duration> {
    sane(stated(headers, now_unix))
        .or_else(|| sane(delay))
        .or_else(|| sane(said(text, now_unix)))
}

/// Until Gemini's daily quotas reset: midnight in California, where the summer has seven hours to UTC and the winter
/// eight. A floor has to hold in both, so between the two midnights only the later one is known not to have been.
pub(super) fn until_pacific_midnight(now_unix: u64) -> Duration {
    const HOUR: u64 = 3_600;
    let today = now_unix % (24 * HOUR);
    let next = match today / HOUR {
        0..7 => 7,
        7 => 8,
        _ => 24 + 7,
    };
    Duration::from_secs(next * HOUR - today)
}

fn sane(delay: Option<Duration>) -> Option<Duration> {
    delay
        .filter(|delay| !delay.is_zero())
        .map(|delay| delay.min(LONGEST))
}

/// `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110, section 10.2.3).
fn stated(headers: &HeaderMap, now_unix: u64) -> Option<Duration> {
    let value = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    if let Some(delay) = value("retry-after-ms").and_then(|text| scaled(text, 1e-3)) {
        return Some(delay);
    }
    let text = value("retry-after")?;
    scaled(text, 1.0).or_else(|| until(httpdate::parse_http_date(text).ok()?, now_unix))
}

/// The reset of the exhausted dimension: those with nothing remaining, or else the one that the message blames. Of
/// several the latest.
pub(super) fn exhausted(headers: &HeaderMap, text: &str, now_unix: u64) -> Option<Duration> {
    let dimensions = || {
        headers.iter().filter_map(|(name, value)| {
            let name = name.as_str();
            if !name.contains("ratelimit") || !name.contains("remaining") {
                return None;
            }
            let reset = headers.get(name.replace("remaining", "reset").as_str())?;
            let left: f64 = value.to_str().ok()?.trim().parse().ok()?;
            Some((name, left, instant(reset.to_str().ok()?.trim(), now_unix)?))
        })
    };
    let empty = dimensions()
        .filter(|(_, left, _)| *left <= 0.0)
        .map(|(_, _, delay)| delay)
        .max();
    empty.or_else(|| {
        let text = text.to_ascii_lowercase();
        let blamed = ["output-tokens", "input-tokens", "tokens", "requests"]
            .into_iter()
            .find(|dimension| {
                text.contains(&dimension.replace('-', " "))
                    && dimensions().any(|(name, ..)| name.contains(dimension))
            })?;
        dimensions()
            .filter(|(name, ..)| name.contains(blamed))
            .map(|(_, _, delay)| delay)
            .max()
    })
}

/// A reset in any of the forms in use: seconds, `6m0s`, a moment in Unix time (seconds or milliseconds), RFC 3339.
fn instant(text: &str, now_unix: u64) -> Option<Duration> {
    if let Ok(number) = text.parse::<f64>() {
        return match number {
            1e12.. => seconds(number / 1e3 - now_unix as f64),
            1e9.. => seconds(number - now_unix as f64),
            _ => seconds(number),
        };
    }
    duration(text).or_else(|| moment(text, now_unix))
}

fn until(date: SystemTime, now_unix: u64) -> Option<Duration> {
    date.duration_since(SystemTime::UNIX_EPOCH + Duration::from_secs(now_unix))
        .ok()
}

fn scaled(text: &str, unit: f64) -> Option<Duration> {
    seconds(text.parse::<f64>().ok()? * unit)
}

/// Whole seconds and parts; what lies in the past or is no number is nothing.
fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number.min(LONGEST.as_secs_f64())).ok()
}

/// `8.64s`, `2m59.56s`, `1h2m`, `120ms`, `5 minutes`: numbers with units, all of the text.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (delay, rest) = leading_duration(text.trim())?;
    rest.is_empty().then_some(delay)
}

/// The duration at the start of a text, and what follows it.
fn leading_duration(text: &str) -> Option<(Duration, &str)> {
    let mut total = 0.0;
    let mut rest = text;
    let mut found = false;
    loop {
        let next = if found {
            rest.trim_start_matches([' ', ','])
        } else {
            rest
        };
        let digits = next
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(next.len());
        let Ok(number) = next[..digits].parse::<f64>() else {
            break;
        };
        let unit = next[digits..].trim_start_matches(' ');
        let letters = unit
            .find(|letter: char| !letter.is_alphabetic())
            .unwrap_or(unit.len());
        let scale = match unit[..letters].to_ascii_lowercase().as_str() {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" | "millisecond" | "milliseconds" => 1e-3,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            _ => break,
        };
        total += number * scale;
        rest = &unit[letters..];
        found = true;
    }
    if found {
        Some((seconds(total)?, rest))
    } else {
        None
    }
}

/// What a sentence in the message says.
fn said(text: &str, now_unix: u64) -> Option<Duration> {
    const BEFORE_DELAY: [&str; 7] = [
        "again in ",
        "again after ",
        "retry in ",
        "retry after ",
        "please wait ",
        "reset after ",
        "resets in ",
    ];
    const BEFORE_MOMENT: [&str; 4] = ["resets at ", "reset at ", "regain access on ", "again at "];
    // ASCII only, so that places in the two texts agree.
    let lower = text.to_ascii_lowercase();
    let after = |marker: &str| lower.find(marker).map(|at| &text[at + marker.len()..]);
    let delay = BEFORE_DELAY
        .iter()
        .filter_map(|marker| Some(leading_duration(after(marker)?)?.0))
        .max();
    delay.or_else(|| {
        BEFORE_MOMENT
            .iter()
            .find_map(|marker| moment(after(marker)?, now_unix))
    })
}

/// The moment at the start of a text: RFC 3339, or as Anthropic writes it, `2025-07-01 at 00:00 UTC`.
fn moment(text: &str, now_unix: u64) -> Option<Duration> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?;
    let month = digits(step(&mut rest, "-")?, 2)?;
    let day = digits(step(&mut rest, "-")?, 2)?;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let between = ["T", "t", " at ", " "]
        .into_iter()
        .find(|between| rest.starts_with(between))?;
    let hour = digits(step(&mut rest, between)?, 2)?;
    let minute = digits(step(&mut rest, ":")?, 2)?;
    let second = if rest.starts_with(':') {
        digits(step(&mut rest, ":")?, 2)?
    } else {
        0
    };
    let fraction = rest.strip_prefix('.').map_or(rest, |tail| {
        tail.trim_start_matches(|letter: char| letter.is_ascii_digit())
    });
    let offset = match fraction.as_bytes() {
        [sign @ (b'+' | b'-'), ..] => {
            let mut zone = &fraction[1..];
            let hours = digits(&mut zone, 2)?;
            let minutes = digits(step(&mut zone, ":")?, 2)?;
            let east = hours * 3_600 + minutes * 60;
            if *sign == b'+' { -east } else { east }
        }
        _ => 0,
    };
    let at = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second + offset;
    seconds(at as f64 - now_unix as f64)
}

/// Takes `length` digits.
fn digits(rest: &mut &str, length: usize) -> Option<i64> {
    let number = rest
        .get(..length)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    *rest = &rest[length..];
    number.parse().ok()
}

/// Takes a piece of fixed text.
fn step<'r, 't>(rest: &'r mut &'t str, fixed: &str) -> Option<&'r mut &'t str> {
    *rest = rest.strip_prefix(fixed)?;
    Some(rest)
}

/// Days since 1970-01-01 in the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}
