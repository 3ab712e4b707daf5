//! Amounts in words, for people.

use super::window::Span;

/// An amount of money: `$1.25`, `12.50 CHF`. What is less than a hundredth of a unit is told exactly.
pub fn money(micros: u64, currency: &str) -> String {
    let units = micros as f64 / 1e6;
    let number = match micros {
        1..10_000 => format!("{units:.6}").trim_end_matches('0').to_owned(),
        _ => format!("{units:.2}"),
    };
    match currency {
        "USD" => format!("${number}"),
        "EUR" => format!("€{number}"),
        "GBP" => format!("£{number}"),
        other => format!("{number} {other}"),
    }
}

/// What is used of a limit: `$1.25 of $10.00 this month`, `12 of 60 requests this minute`. `unit` is `requests`, `tokens` or
/// `micros`; `count` writes numbers that are no money.
pub fn used_of(
    used: u64,
    limit: u64,
    unit: &str,
    per: Span,
    currency: &str,
    count: impl Fn(u64) -> String,
) -> String {
    let when = match per {
        Span::Minute => "this minute",
        Span::Day => "today",
        Span::Month => "this month",
    };
    match unit {
        "micros" => format!(
            "{} of {} {when}",
            money(used, currency),
            money(limit, currency)
        ),
        unit => format!("{} of {} {unit} {when}", count(used), count(limit)),
    }
}

/// Why a request is refused that would reserve `wanted` of a limit. What is used and what is wanted are more than the limit together.
pub(super) fn no_more(
    used: u64,
    limit: u64,
    wanted: u64,
    unit: &str,
    per: Span,
    currency: &str,
) -> String {
    let told = |used| used_of(used, limit, unit, per, currency, |n| n.to_string());
    let left = limit.saturating_sub(used);
    // Where the store knows of more than is known here, it is reached all the same.
    if left == 0 || wanted <= left {
        return format!(
            "a limit of the virtual key is used up: {}",
            told(used.max(limit))
        );
    }
    let wanted = match unit {
        "micros" => money(wanted, currency),
        unit => format!("{wanted} {unit}"),
    };
    format!(
        "the request does not fit into what is left of a limit of the virtual key: it may use {wanted}, and {} is left",
        told(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_told_in_units_of_its_currency() {
        for (micros, currency, text) in [
            (1_250_000, "USD", "$1.25"),
            (10_000_000, "EUR", "€10.00"),
            (0, "GBP", "£0.00"),
            (12_500_000, "CHF", "12.50 CHF"),
            (4_200, "USD", "$0.0042"),
            (1, "USD", "$0.000001"),
        ] {
            assert_eq!(money(micros, currency), text);
        }
    }

    #[test]
    fn a_limit_is_used_up_only_when_it_is() {
        let told = |used, wanted| no_more(used, 50_000, wanted, "micros", Span::Day, "EUR");
        let up = "a limit of the virtual key is used up: €0.05 of €0.05 today";
        assert_eq!(told(50_000, 1), up);
        assert_eq!(
            told(61_000, 1),
            "a limit of the virtual key is used up: €0.06 of €0.05 today"
        );
        // Known better by the store.
        assert_eq!(told(30_000, 10_000), up);
        assert_eq!(
            told(30_000, 50_000),
            "the request does not fit into what is left of a limit of the virtual key: it may use €0.05, and €0.02 of €0.05 today is left"
        );
        assert_eq!(
            no_more(90, 100, 20, "tokens", Span::Month, "EUR"),
            "the request does not fit into what is left of a limit of the virtual key: it may use 20 tokens, and 10 of 100 tokens this month is left"
        );
    }

    #[test]
    fn what_is_used_stands_beside_its_limit() {
        let told =
            |used, limit, unit, per| used_of(used, limit, unit, per, "USD", |n| n.to_string());
        assert_eq!(
            told(1_250_000, 10_000_000, "micros", Span::Month),
            "$1.25 of $10.00 this month"
        );
        assert_eq!(
            told(12, 60, "requests", Span::Minute),
            "12 of 60 requests this minute"
        );
        assert_eq!(told(0, 9, "tokens", Span::Day), "0 of 9 tokens today");
    }
}
