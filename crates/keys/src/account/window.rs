//! Spans of the calendar that limits count by.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A span of time that a limit holds for, aligned to the calendar in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Span {
    /// From one full minute to the next.
    Minute,
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;

/// Year and month (0 to 11) of a day since 1970 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(day: u64) -> (u64, u64) {
    let z = day + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years begin in March here: month 0.
    let month = (5 * day_of_year + 2) / 153;
    let year = year_of_era + era * 400 + u64::from(month >= 10);
    (year, (month + 2) % 12)
}

/// Days since 1970 of the first of a month.
fn first_of(year: u64, month: u64) -> u64 {
    let shifted = if month < 2 { year - 1 } else { year };
    let month_of_year = (month + 10) % 12;
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let day_of_year = (153 * month_of_year + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

impl Span {
    /// The number of the window that a moment (milliseconds since 1970) lies in.
    pub fn index(self, unix_ms: u64) -> u64 {
        match self {
            Span::Minute => unix_ms / MINUTE,
            Span::Day => unix_ms / DAY,
            Span::Month => {
                let (year, month) = civil(unix_ms / DAY);
                (year - 1970) * 12 + month
            }
        }
    }

    /// How long until the window ends.
    pub fn left(self, unix_ms: u64) -> Duration {
        let end = match self {
            Span::Minute => (self.index(unix_ms) + 1) * MINUTE,
            Span::Day => (self.index(unix_ms) + 1) * DAY,
            Span::Month => {
                let next = self.index(unix_ms) + 1;
                first_of(1970 + next / 12, next % 12) * DAY
            }
        };
        Duration::from_millis(end.saturating_sub(unix_ms))
    }

    /// How long a counter of such a window is kept: the window, and a while for those whose clock is late.
    pub(crate) const fn kept(self) -> Duration {
        Duration::from_secs(match self {
            Span::Minute => 180,
            Span::Day => 2 * 86_400,
            Span::Month => 33 * 86_400,
        })
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Span::Minute => "minute",
            Span::Day => "day",
            Span::Month => "month",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn months_begin_when_the_calendar_says() {
        // 2024-02-29T23:59:59.999Z and a millisecond later.
        let last = 1_709_251_199_999;
        assert_eq!(Span::Month.index(last), 54 * 12 + 1);
        assert_eq!(Span::Month.left(last), Duration::from_millis(1));
        assert_eq!(Span::Month.index(last + 1), 54 * 12 + 2);
        assert_eq!(Span::Month.left(last + 1), Duration::from_secs(31 * 86_400));
        assert_eq!(Span::Month.index(0), 0);
        // 2026-12-31T23:59:59Z.
        assert_eq!(Span::Month.left(1_798_761_599_000), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn a_window_ends_exactly_where_the_next_one_begins(at in 0u64..4_102_444_800_000) {
            for span in [Span::Minute, Span::Day, Span::Month] {
                let left = span.left(at).as_millis() as u64;
                prop_assert!(left > 0);
                prop_assert_eq!(span.index(at + left - 1), span.index(at));
                prop_assert_eq!(span.index(at + left), span.index(at) + 1);
            }
        }
    }
}
