//! What is asked of a virtual key: a new one, and changes to one that there is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::key::{Amount, Budget, Limits, VirtualKey, Written, given};
use super::window::Span;
use super::words::money;

/// The largest limit: what the store's counters and JSON's numbers hold exactly.
const MOST: u64 = 1 << 52;

/// What is asked for when a key is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyRequest {
    /// A name for people, 1 to 200 bytes; no two keys have the same.
    pub name: String,
    /// What it may use.
    pub limits: Limits,
    /// Seconds until it ends by itself; none: it stays until it is revoked.
    pub expires_in: Option<u64>,
}

impl KeyRequest {
    pub(crate) fn expires(&self) -> Option<Duration> {
        self.expires_in.map(Duration::from_secs)
    }

    /// What is wrong with it, in words.
    pub(crate) fn check(&self) -> Result<(), String> {
        check_name(&self.name)?;
        check_time(self.expires_in)?;
        self.limits.check()
    }
}

/// Changes to a key, as a JSON merge patch (RFC 7396): what is not named stays, `null` removes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyUpdate {
    /// Another name.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Other limits.
    #[serde(skip_serializing_if = "LimitsUpdate::is_empty")]
    pub limits: LimitsUpdate,
    /// Seconds from now until it ends by itself; `null`: it stays until it is revoked.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<Option<u64>>,
}

/// Changes to [`Limits`]: outer `None` keeps, inner `None` removes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsUpdate {
    /// All the models; removed: every model.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub models: Option<Option<Vec<String>>>,
    /// Requests in a minute.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<Option<u64>>,
    /// Tokens in a minute.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<Option<u64>>,
    /// All the budgets.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Option<Vec<Budget>>>,
    /// Single budgets; the others stay. Whoever changes one needs not know the others, which somebody else may change at the same
    /// moment.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub change_budgets: Vec<BudgetChange>,
}

/// Another amount for the budget of a kind and span: `{"tokens": 1000, "per": "day"}`, or without one, where the amount is `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written<Option<u64>>")]
pub struct BudgetChange {
    /// How much from now on.
    #[serde(flatten)]
    pub to: NewAmount,
    /// In what time.
    pub per: Span,
}

/// An [`Amount`], or that there is none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NewAmount {
    /// Tokens, prompt and answer together.
    Tokens(Option<u64>),
    /// Millionths of the currency's unit.
    Micros(Option<u64>),
}

impl TryFrom<Written<Option<u64>>> for BudgetChange {
    type Error = &'static str;

    fn try_from(written: Written<Option<u64>>) -> Result<Self, Self::Error> {
        let per = written.per;
        let to = written.amount(NewAmount::Tokens, NewAmount::Micros)?;
        Ok(Self { to, per })
    }
}

impl From<Budget> for BudgetChange {
    fn from(budget: Budget) -> Self {
        let to = match budget.amount {
            Amount::Tokens(n) => NewAmount::Tokens(Some(n)),
            Amount::Micros(n) => NewAmount::Micros(Some(n)),
        };
        let per = budget.per;
        Self { to, per }
    }
}

impl BudgetChange {
    fn apply(&self, budgets: &mut Vec<Budget>) {
        let is_money = matches!(self.to, NewAmount::Micros(_));
        let kind = |b: &Budget| (matches!(b.amount, Amount::Micros(_)), b.per);
        budgets.retain(|budget| kind(budget) != (is_money, self.per));
        let amount = match self.to {
            NewAmount::Tokens(n) => n.map(Amount::Tokens),
            NewAmount::Micros(n) => n.map(Amount::Micros),
        };
        let per = self.per;
        budgets.extend(amount.map(|amount| Budget { amount, per }));
    }
}

impl LimitsUpdate {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == LimitsUpdate::default()
    }

    /// Changes limits.
    pub fn apply(&self, limits: &mut Limits) {
        if let Some(models) = &self.models {
            limits.models = models.clone().unwrap_or_default();
        }
        if let Some(requests) = self.requests_per_minute {
            limits.requests_per_minute = requests;
        }
        if let Some(tokens) = self.tokens_per_minute {
            limits.tokens_per_minute = tokens;
        }
        if let Some(budgets) = &self.budgets {
            limits.budgets = budgets.clone().unwrap_or_default();
        }
        for change in &self.change_budgets {
            change.apply(&mut limits.budgets);
        }
    }
}

impl KeyUpdate {
    /// The key after it, and what is wrong with it in words.
    pub(crate) fn apply(&self, key: &VirtualKey, unix_ms: u64) -> Result<VirtualKey, String> {
        let mut key = key.clone();
        if let Some(name) = &self.name {
            check_name(name)?;
            name.trim().clone_into(&mut key.name);
        }
        self.limits.apply(&mut key.limits);
        key.limits.check()?;
        if let Some(expires_in) = self.expires_in {
            check_time(expires_in)?;
            key.expires_at = expires_in.map(|s| unix_ms.saturating_add(s.saturating_mul(1000)));
        }
        Ok(key)
    }
}

impl VirtualKey {
    /// What differs from what it was before, for a log: `requests_per_minute: 60 → none`. `currency`: what money is counted in.
    pub fn differs_from(&self, before: &VirtualKey, currency: &str) -> String {
        let count = |n: Option<u64>| n.map_or("none".to_owned(), |n| n.to_string());
        let models = |models: &[String]| match models {
            [] => "all".to_owned(),
            some => some.join(","),
        };
        let budgets = |budgets: &[Budget]| match budgets {
            [] => "none".to_owned(),
            some => {
                let one = |b: &Budget| match b.amount {
                    Amount::Tokens(n) => format!("{n} tokens/{}", b.per.as_str()),
                    Amount::Micros(n) => format!("{}/{}", money(n, currency), b.per.as_str()),
                };
                some.iter().map(one).collect::<Vec<_>>().join(",")
            }
        };
        let ends = |at: Option<u64>| match at {
            Some(ms) => httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_millis(ms)),
            None => "never".to_owned(),
        };
        let (old, new) = (&before.limits, &self.limits);
        let rows = [
            ("name", before.name.clone(), self.name.clone()),
            ("models", models(&old.models), models(&new.models)),
            (
                "requests_per_minute",
                count(old.requests_per_minute),
                count(new.requests_per_minute),
            ),
            (
                "tokens_per_minute",
                count(old.tokens_per_minute),
                count(new.tokens_per_minute),
            ),
            ("budgets", budgets(&old.budgets), budgets(&new.budgets)),
            ("ends", ends(before.expires_at), ends(self.expires_at)),
        ];
        let told = rows.into_iter().filter(|(_, old, new)| old != new);
        let told: Vec<String> = told
            .map(|(what, old, new)| format!("{what}: {old} → {new}"))
            .collect();
        match told.is_empty() {
            true => "nothing".to_owned(),
            false => told.join("; "),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("name: a key needs one, for those who look at the list".to_owned());
    }
    if name.len() > 200 || name.chars().any(char::is_control) {
        return Err("name: at most 200 bytes, no control characters".to_owned());
    }
    Ok(())
}

fn check_time(expires_in: Option<u64>) -> Result<(), String> {
    match expires_in {
        Some(0) => Err("expires_in: at least 1 second".to_owned()),
        _ => Ok(()),
    }
}

impl Limits {
    fn check(&self) -> Result<(), String> {
        if self.models.len() > 1_000 || self.models.iter().any(|m| m.is_empty() || m.len() > 512) {
            return Err("models: at most 1000 globs of 1 to 512 bytes".to_owned());
        }
        let counts = [self.requests_per_minute, self.tokens_per_minute];
        let amounts = self.budgets.iter().map(|b| match b.amount {
            Amount::Tokens(n) | Amount::Micros(n) => n,
        });
        let mut all = counts.into_iter().flatten().chain(amounts);
        if all.any(|n| n == 0 || n > MOST) {
            return Err("limits: at least 1 and at most 2^52".to_owned());
        }
        if self.budgets.len() > 8 {
            return Err("budgets: at most 8".to_owned());
        }
        for (i, budget) in self.budgets.iter().enumerate() {
            let kind = |b: &Budget| (std::mem::discriminant(&b.amount), b.per);
            let same = |other: &Budget| kind(other) == kind(budget);
            if self.budgets[..i].iter().any(same) {
                return Err(format!("budgets: two for a {}", budget.per.as_str()));
            }
            // Both would count on one counter.
            let tokens_a_minute =
                matches!(budget.amount, Amount::Tokens(_)) && budget.per == Span::Minute;
            if tokens_a_minute && self.tokens_per_minute.is_some() {
                return Err("budgets: tokens_per_minute is a limit of tokens a minute".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(limits: Limits) -> KeyRequest {
        KeyRequest {
            name: "team".into(),
            limits,
            expires_in: None,
        }
    }

    #[test]
    fn a_budget_is_written_in_plain_words() {
        let limits: Limits = serde_json::from_str(
            r#"{"models":["gpt-*"],"requests_per_minute":60,"budgets":[{"tokens":1000,"per":"day"},{"micros":5000000,"per":"month"}]}"#,
        )
        .unwrap();
        assert_eq!(limits.budgets[1], Budget::money(5.0, Span::Month));
        let twice = Limits {
            budgets: vec![limits.budgets[0]; 2],
            ..Limits::default()
        };
        assert_eq!(
            request(twice).check(),
            Err("budgets: two for a day".to_owned())
        );
        assert_eq!(request(limits).check(), Ok(()));
    }

    #[test]
    fn a_budget_is_in_exactly_one_unit_and_says_nothing_else() {
        let (whole, change) = (
            serde_json::from_str::<Budget>,
            serde_json::from_str::<BudgetChange>,
        );
        for wrong in [
            r#"{"tokens": 5, "micros": 9, "per": "day"}"#,
            r#"{"per": "day"}"#,
            r#"{"tokens": 5}"#,
            r#"{"tokens": 5, "per": "day", "until": 7}"#,
        ] {
            assert!(whole(wrong).is_err(), "{wrong}");
            assert!(change(wrong).is_err(), "{wrong}");
        }
        assert!(change(r#"{"tokens": null, "micros": 9, "per": "day"}"#).is_err());
        let none = r#"{"micros": null, "per": "day"}"#;
        assert!(whole(none).is_err());
        let gone = BudgetChange {
            to: NewAmount::Micros(None),
            per: Span::Day,
        };
        assert_eq!(change(none).unwrap(), gone);
        let made = Budget::money(5.0, Span::Month);
        let written = serde_json::to_string(&made).unwrap();
        assert_eq!(written, r#"{"micros":5000000,"per":"month"}"#);
        assert_eq!(whole(&written).unwrap(), made);
        assert_eq!(change(&written).unwrap(), made.into());
    }

    #[test]
    fn a_key_needs_a_name() {
        for name in ["", "  ", "\t"] {
            let nameless = KeyRequest {
                name: name.into(),
                ..KeyRequest::default()
            };
            assert!(nameless.check().is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_not_named_stays_and_null_removes() {
        let made = KeyRequest {
            expires_in: Some(60),
            ..request(Limits {
                requests_per_minute: Some(60),
                tokens_per_minute: Some(9),
                ..Limits::default()
            })
        };
        let (before, ..) = VirtualKey::new(&made, 0);
        let apply = |patch: &str| {
            let update: KeyUpdate = serde_json::from_str(patch).unwrap();
            update.apply(&before, 5)
        };
        assert_eq!(apply("{}"), Ok(before.clone()));
        let after = apply(
            r#"{"name": "b", "limits": {"requests_per_minute": null, "budgets": [{"tokens": 7, "per": "day"}]}, "expires_in": null}"#,
        )
        .unwrap();
        assert_eq!(
            (after.limits.requests_per_minute, after.expires_at),
            (None, None)
        );
        assert_eq!(after.limits.tokens_per_minute, Some(9));
        assert_eq!(
            after.differs_from(&before, "USD"),
            "name: team → b; requests_per_minute: 60 → none; budgets: none → 7 tokens/day; ends: Thu, 01 Jan 1970 00:01:00 GMT → never"
        );
        let more = r#"{"limits": {"change_budgets": [{"micros": 9, "per": "month"}, {"tokens": 8, "per": "day"}]}}"#;
        let more: KeyUpdate = serde_json::from_str(more).unwrap();
        let budgets = |key: &VirtualKey| key.limits.budgets.clone();
        let both = more.apply(&after, 5).unwrap();
        let day = |amount| Budget {
            amount,
            per: Span::Day,
        };
        let month = Budget {
            amount: Amount::Micros(9),
            per: Span::Month,
        };
        assert_eq!(budgets(&both), [month, day(Amount::Tokens(8))]);
        let less = r#"{"limits": {"change_budgets": [{"micros": null, "per": "month"}, {"micros": null, "per": "day"}]}}"#;
        let less: KeyUpdate = serde_json::from_str(less).unwrap();
        assert_eq!(
            budgets(&less.apply(&both, 5).unwrap()),
            [day(Amount::Tokens(8))]
        );
        assert!(apply(r#"{"name": ""}"#).is_err());
        assert!(apply(r#"{"limits": {"change_budgets": [{"tokens": 0, "per": "day"}]}}"#).is_err());
        assert!(apply(r#"{"limits": {"tokens_per_minute": 0}}"#).is_err());
        for no_patch in [r#"{"name": null}"#, r#"{"limits": null}"#, r#"{"id": "x"}"#] {
            assert!(
                serde_json::from_str::<KeyUpdate>(no_patch).is_err(),
                "{no_patch}"
            );
        }
    }

    proptest! {
        #[test]
        fn an_update_is_read_as_it_is_written(
            name in proptest::option::of("[a-z]{1,5}"),
            models in proptest::option::of(proptest::option::of(proptest::collection::vec("[a-z*]{1,4}", 0..3))),
            requests_per_minute in proptest::option::of(proptest::option::of(1u64..100)),
            expires_in in proptest::option::of(proptest::option::of(1u64..100)),
            changes in proptest::collection::vec((any::<bool>(), proptest::option::of(1u64..100)), 0..3),
        ) {
            let change = |(money, to)| BudgetChange {
                to: if money { NewAmount::Micros(to) } else { NewAmount::Tokens(to) },
                per: Span::Day,
            };
            let change_budgets = changes.into_iter().map(change).collect();
            let limits = LimitsUpdate { models, requests_per_minute, change_budgets, ..LimitsUpdate::default() };
            let update = KeyUpdate { name, limits, expires_in };
            let text = serde_json::to_string(&update).unwrap();
            prop_assert_eq!(serde_json::from_str::<KeyUpdate>(&text).unwrap(), update);
        }
    }
}
