//! Virtual keys as a table: a row a key, with what is used of each limit.

use tidegate_gateway::view::{SpendingView, VirtualKeyView};
use tidegate_gateway::{Span, used_of};

use super::format::rate;
use super::render::{Colour, Style};
use super::style;
use super::table::{Cell, Column, lines};

/// The table, as standard output wants it.
#[must_use]
pub fn keys_table(keys: &[VirtualKeyView]) -> String {
    table(keys, &style(None))
}

pub(super) fn table(keys: &[VirtualKeyView], style: &Style) -> String {
    if keys.is_empty() {
        return "no virtual keys\n".into();
    }
    let columns = [
        Column::text("ID", 0),
        Column::flexible("NAME", 8, 0),
        Column::text("TOKEN", 3),
        Column::flexible("MODELS", 8, 2),
        Column::flexible("USED", 12, 1),
        Column::text("MADE (UTC)", 4),
        Column::text("ENDS (UTC)", 4),
    ];
    let row = |key: &VirtualKeyView| {
        let models = match key.limits.models.is_empty() {
            true => "all".to_owned(),
            false => key.limits.models.join(", "),
        };
        let used: Vec<String> = key.used.iter().map(used).collect();
        let spent = key.used.iter().any(|u| u.used >= u.limit);
        let colour = match spent {
            true => Colour::Bad,
            false => Colour::Plain,
        };
        vec![
            key.id.as_str().into(),
            Cell::new(&key.name, Colour::Strong),
            Cell::new(&key.fingerprint, Colour::Faint),
            models.into(),
            Cell::new(&used.join(", "), colour),
            date(key.created_at_ms).into(),
            key.expires_at_ms.map(date).unwrap_or_default().into(),
        ]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    lines(&columns, &rows, style.width, style.colour).join("\n") + "\n"
}

/// `12 of 60 requests this minute`, `$1.25 of $10.00 this month`.
fn used(spending: &SpendingView) -> String {
    let count = |n: u64| match n {
        n if n < 10_000 => n.to_string(),
        n => rate(n as f64),
    };
    let per = match spending.per.as_str() {
        "minute" => Span::Minute,
        "day" => Span::Day,
        _ => Span::Month,
    };
    let currency = spending.currency.as_deref().unwrap_or_default();
    let (used, limit) = (spending.used, spending.limit);
    used_of(used, limit, &spending.unit, per, currency, count)
}

/// A day in UTC, milliseconds since the Unix epoch: `2026-11-22`. By Howard Hinnant's `civil_from_days`.
fn date(at_ms: u64) -> String {
    let days = i64::try_from(at_ms / 86_400_000).unwrap_or(0) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_of_the_calendar() {
        let day = |days: u64| date(days * 86_400_000 + 5);
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(11_017), "2000-03-01");
        assert_eq!(day(20_779), "2026-11-22");
    }

    #[test]
    fn what_is_used_stands_beside_its_limit() {
        let spending = |unit: &str, per: &str, limit, used| {
            let currency = (unit == "micros").then(|| "USD".to_owned());
            let (unit, per) = (unit.into(), per.into());
            super::used(&SpendingView {
                unit,
                per,
                limit,
                used,
                currency,
            })
        };
        assert_eq!(
            spending("requests", "minute", 60, 12),
            "12 of 60 requests this minute"
        );
        assert_eq!(
            spending("tokens", "day", 2_000_000, 15_000),
            "15.0k of 2.00M tokens today"
        );
        assert_eq!(
            spending("micros", "month", 5_000_000, 1_250_000),
            "$1.25 of $5.00 this month"
        );
    }

    #[test]
    fn a_row_a_key() {
        let key = VirtualKeyView {
            id: "vk-0123456789ab".into(),
            name: "team search".into(),
            fingerprint: "tg-…a1B2".into(),
            limits: serde_json::from_str(r#"{"models": ["gpt-*", "claude-*"]}"#).unwrap(),
            created_at_ms: 20_779 * 86_400_000,
            expires_at_ms: None,
            used: Vec::new(),
        };
        let style = Style {
            width: 100,
            colour: false,
        };
        let text = table(&[key], &style);
        assert_eq!(
            text,
            "ID               NAME         TOKEN     MODELS           MADE (UTC)\n\
             vk-0123456789ab  team search  tg-…a1B2  gpt-*, claude-*  2026-11-22\n"
        );
    }
}
