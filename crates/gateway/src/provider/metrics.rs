//! What is measured of providers. Label values are names of the configuration, fingerprints, and at most so many models as
//! [`super::stats`] tells apart.

use std::time::Duration;

use tidegate_keys::Counts;

use crate::Handle;
use crate::observe::{STATES, family, number};
use crate::stats::histogram::Total;
use crate::view::{Family, Kind, Sample, Value};

/// Upper bounds of the wait for the first token, in seconds.
const FIRST_TOKEN: [f64; 13] = [
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// Upper bounds of the time between two tokens, in seconds.
const BETWEEN_TOKENS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
];

impl Handle {
    pub(crate) fn provider_metrics(&self) -> Vec<Family> {
        let mut tokens = family(
            "tidegate_tokens_total",
            "Tokens, by provider, model (by the provider's name) and kind.",
            Kind::Counter,
        );
        let mut first = family(
            "tidegate_time_to_first_token_seconds",
            "Time from an attempt's start to the first content of its answer.",
            Kind::Histogram,
        );
        let mut between = family(
            "tidegate_inter_token_latency_seconds",
            "Time between two pieces of content of a stream.",
            Kind::Histogram,
        );
        let mut attempts = family(
            "tidegate_provider_attempts_total",
            "Attempts at a provider, by outcome.",
            Kind::Counter,
        );
        let mut failovers = family(
            "tidegate_failovers_total",
            "Attempts after which a request went on to another key, attempt or provider, by cause.",
            Kind::Counter,
        );
        let mut exhausted = family(
            "tidegate_keys_exhausted_total",
            "Requests that found no fit key at a provider.",
            Kind::Counter,
        );
        let mut moves = family(
            "tidegate_session_moves_total",
            "Sessions that had to leave the key they stuck to.",
            Kind::Counter,
        );
        let mut gone_on = family(
            "tidegate_streams_continued_total",
            "Streams that broke off after content and went on with another attempt.",
            Kind::Counter,
        );
        let mut models_out = family(
            "tidegate_key_models_out",
            "Models for which a key is spared, apart from all of them together.",
            Kind::Gauge,
        );
        for provider in self.providers() {
            for key in provider.keys {
                let out = key.models.iter().filter(|m| m.health.state == "ejected");
                let labels = vec![("pool", provider.name.clone()), ("member", key.name)];
                models_out.samples.push(number(labels, out.count() as f64));
            }
        }
        let shared = &self.control.shared;
        for provider in &shared.snapshot.load().providers {
            let named = || vec![("provider", provider.name().to_string())];
            let and = |label: &'static str, value: &str| {
                let mut labels = named();
                labels.push((label, value.to_owned()));
                labels
            };
            for (model, kind, n) in provider.stats.token_counts() {
                let mut labels = and("model", &model);
                labels.push(("kind", kind.to_owned()));
                tokens.samples.push(number(labels, n as f64));
            }
            let (to_first, to_next) = provider.stats.waits();
            first
                .samples
                .extend(histogram(named(), &to_first, &FIRST_TOKEN));
            between
                .samples
                .extend(histogram(named(), &to_next, &BETWEEN_TOKENS));
            let counts: &Counts = provider.keys.counts();
            let of =
                |(outcome, n): (&'static str, u64), label| number(and(label, outcome), n as f64);
            let some = |(_, n): &(&str, u64)| *n > 0;
            let made = counts.attempts().filter(some);
            attempts
                .samples
                .extend(made.map(|count| of(count, "outcome")));
            let moved = counts.failovers().filter(some);
            failovers
                .samples
                .extend(moved.map(|count| of(count, "cause")));
            exhausted
                .samples
                .push(number(named(), counts.no_key() as f64));
            gone_on
                .samples
                .push(number(named(), provider.stats.streams_gone_on() as f64));
            moves
                .samples
                .push(number(named(), counts.session_moves() as f64));
        }
        let one = |name, help, value: f64| Family {
            samples: vec![number(Vec::new(), value)],
            ..family(name, help, Kind::Gauge)
        };
        vec![
            tokens,
            first,
            between,
            attempts,
            failovers,
            exhausted,
            moves,
            gone_on,
            models_out,
            one(
                "tidegate_request_bodies_bytes",
                "Memory that bodies of requests to providers take.",
                shared.providers.bodies.used() as f64,
            ),
            one(
                "tidegate_store_connected",
                "1 while the store of durable state can be reached, or none is needed.",
                f64::from(u8::from(self.store().connected)),
            ),
        ]
    }

    /// Attempts with keys by verdict, as those at endpoints are counted.
    pub(crate) fn key_attempts(&self, attempts: &mut Family) {
        for provider in &self.control.shared.snapshot.load().providers {
            let pool = provider.name().to_string();
            let verdicts = provider.keys.counts().verdicts();
            attempts.samples.extend(verdicts.map(|(verdict, n)| {
                let labels = vec![("pool", pool.clone()), ("verdict", verdict.to_owned())];
                number(labels, n as f64)
            }));
        }
    }

    /// Keys are members of pools like endpoints: their provider is the pool.
    pub(crate) fn key_metrics(
        &self,
        state: &mut Family,
        ejections: &mut Family,
        busy: &mut Family,
    ) {
        let now = self.control.shared.now();
        for provider in &self.control.shared.snapshot.load().providers {
            let gone = provider.keys.pool().whole_status(now).gone_ejections;
            if gone > 0 {
                let labels = vec![("pool", provider.name().to_string())];
                ejections.samples.push(number(labels, gone as f64));
            }
        }
        for provider in self.providers() {
            for key in &provider.keys {
                let labels = || {
                    vec![
                        ("pool", provider.name.clone()),
                        ("member", key.name.clone()),
                    ]
                };
                for word in STATES {
                    let mut labels = labels();
                    labels.push(("state", word.to_owned()));
                    let is = f64::from(u8::from(key.health.state == word));
                    state.samples.push(number(labels, is));
                }
                ejections
                    .samples
                    .push(number(labels(), key.ejections as f64));
                busy.samples.push(number(labels(), key.inflight as f64));
            }
        }
    }
}

fn histogram(labels: Vec<(&'static str, String)>, total: &Total, bounds: &[f64]) -> Option<Sample> {
    (total.count > 0).then(|| Sample {
        labels,
        value: Value::Histogram {
            buckets: total.cumulative(bounds),
            sum: Duration::from_micros(total.sum_us).as_secs_f64(),
            count: total.count,
        },
    })
}
