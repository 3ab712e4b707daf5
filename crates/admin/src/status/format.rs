//! Numbers as people read them: three figures, a unit, nothing where there is nothing to say.

/// A duration in microseconds: `850 µs`, `12.3 ms`, `1.20 s`, `75 s`.
pub(super) fn micros(us: f64) -> String {
    match us {
        us if us < 1.0 => "–".into(),
        us if us < 999.5 => format!("{us:.0} µs"),
        us if us < 9_995.0 => format!("{:.2} ms", us / 1e3),
        us if us < 99_950.0 => format!("{:.1} ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.0} ms", us / 1e3),
        us if us < 9_995_000.0 => format!("{:.2} s", us / 1e6),
        us => format!("{:.0} s", us / 1e6),
    }
}

/// A span in milliseconds, two units at most: `4.2 s`, `3 min 20 s`, `2 h 14 min`, `5 d 3 h`.
pub(super) fn span(ms: u64) -> String {
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        small => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match ms / 1000 {
        0..10 => format!("{:.1} s", ms as f64 / 1e3),
        s @ 10..60 => format!("{s} s"),
        s @ 60..3600 => two(s / 60, "min", s % 60, "s"),
        s @ 3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        s => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// A rate a second: `0`, `0.25`, `7.5`, `512`, `12.3k`.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        r if r < 0.005 => "0".into(),
        r if r < 0.995 => format!("{r:.2}"),
        r if r < 99.95 => format!("{r:.1}"),
        r if r < 9_999.5 => format!("{r:.0}"),
        r if r < 999_500.0 => format!("{:.1}k", r / 1e3),
        r => format!("{:.2}M", r / 1e6),
    }
}

/// A count in few characters: `7`, `9999`, `15.0k`, `2.00M`.
pub(super) fn amount(count: u64) -> String {
    match count {
        exact @ ..10_000 => exact.to_string(),
        many => rate(many as f64),
    }
}

/// A share as percent: `0%`, `<0.1%`, `2.5%`, `37%`.
pub(super) fn percent(part: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return "–".into();
    }
    match part / whole * 100.0 {
        p if p <= 0.0 => "0%".into(),
        p if p < 0.1 => "<0.1%".into(),
        p if p < 9.95 => format!("{p:.1}%"),
        p => format!("{p:.0}%"),
    }
}

/// Time of day in UTC, milliseconds since the Unix epoch: `13:05:07`.
pub(super) fn clock(at_ms: u64) -> String {
    let s = at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3600, s % 3600 / 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_keep_three_figures() {
        for (us, text) in [
            (0.0, "–"),
            (850.0, "850 µs"),
            (1234.0, "1.23 ms"),
            (12_345.0, "12.3 ms"),
            (123_456.0, "123 ms"),
            (999_499.0, "999 ms"),
            (1_200_000.0, "1.20 s"),
            (75_000_000.0, "75 s"),
        ] {
            assert_eq!(micros(us), text);
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (ms, text) in [
            (0, "0.0 s"),
            (4_200, "4.2 s"),
            (59_999, "59 s"),
            (200_000, "3 min 20 s"),
            (180_000, "3 min"),
            (8_040_000, "2 h 14 min"),
            (442_800_000, "5 d 3 h"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn rates_percents_and_clocks() {
        for (r, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (7.5, "7.5"),
            (99.95, "100"),
            (12_345.0, "12.3k"),
            (2e6, "2.00M"),
        ] {
            assert_eq!(rate(r), text);
        }
        for (count, text) in [(0, "0"), (105, "105"), (9_999, "9999"), (15_000, "15.0k")] {
            assert_eq!(amount(count), text);
        }
        for (part, whole, text) in [
            (0.0, 0.0, "–"),
            (0.0, 5.0, "0%"),
            (1.0, 10_000.0, "<0.1%"),
            (5.0, 200.0, "2.5%"),
            (5.0, 5.0, "100%"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
        assert_eq!(clock(47_107_000), "13:05:07");
    }
}
