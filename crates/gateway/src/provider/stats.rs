//! What is counted of a provider's answers: tokens by model, the wait for the first token and between two.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_core::StripedCounter;
use tidegate_llm::usage::Usage;

use crate::stats::histogram::{Histogram, Total};

/// Models that are told apart; the names come from callers where nothing maps them.
const MODELS: usize = 64;
/// What all further models count as.
const OTHER: &str = "other";

/// Kinds of tokens, as labels.
pub(crate) const KINDS: [&str; 4] = ["input", "output", "cached", "reasoning"];

/// Counters of one provider, kept by name across reloads.
#[derive(Debug)]
pub(crate) struct ProviderStats {
    workers: usize,
    shards: Box<[Shard]>,
    models: ArcSwap<BTreeMap<Arc<str>, Arc<Tokens>>>,
    went_on: StripedCounter,
    /// One new model at a time.
    adding: Mutex<()>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    first_token: Histogram,
    between_tokens: Histogram,
}

/// Tokens of one model.
#[derive(Debug)]
struct Tokens([StripedCounter; KINDS.len()]);

impl ProviderStats {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            shards: (0..workers).map(|_| Shard::default()).collect(),
            models: ArcSwap::default(),
            went_on: StripedCounter::new(workers),
            adding: Mutex::default(),
        }
    }

    /// From the attempt's start to the first content.
    pub(crate) fn first_token(&self, worker: usize, after: Duration) {
        self.shards[worker].first_token.record(after);
    }

    /// Between two pieces of content of a stream.
    pub(crate) fn next_token(&self, worker: usize, after: Duration) {
        self.shards[worker].between_tokens.record(after);
    }

    /// A stream that had broken off goes on with another attempt.
    pub(crate) fn went_on(&self, worker: usize) {
        self.went_on.add(worker, 1);
    }

    /// How many did.
    pub(crate) fn streams_gone_on(&self) -> u64 {
        self.went_on.sum()
    }

    pub(crate) fn used(&self, worker: usize, model: &str, usage: &Usage) {
        let tokens = self.tokens(model);
        let counts = [usage.input, usage.output, usage.cached, usage.reasoning];
        for (counter, n) in tokens.0.iter().zip(counts) {
            if n > 0 {
                counter.add(worker, i64::try_from(n).unwrap_or(i64::MAX));
            }
        }
    }

    fn tokens(&self, model: &str) -> Arc<Tokens> {
        let known = self.models.load();
        if let Some(tokens) = known.get(model) {
            return tokens.clone();
        }
        // No lock once the table is full: which models are asked for is up to callers.
        if known.len() > MODELS
            && let Some(tokens) = known.get(OTHER)
        {
            return tokens.clone();
        }
        drop(known);
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.models.load_full();
        let name = if known.len() < MODELS { model } else { OTHER };
        if let Some(tokens) = known.get(name) {
            return tokens.clone();
        }
        let tokens = Arc::new(Tokens(std::array::from_fn(|_| {
            StripedCounter::new(self.workers)
        })));
        let mut more = BTreeMap::clone(&known);
        more.insert(name.into(), tokens.clone());
        self.models.store(Arc::new(more));
        tokens
    }

    /// Tokens by model and kind, without those that are 0.
    pub(crate) fn token_counts(&self) -> Vec<(Arc<str>, &'static str, u64)> {
        let models = self.models.load();
        let all = models.iter().flat_map(|(model, tokens)| {
            let kinds = KINDS.iter().zip(&tokens.0);
            kinds.map(|(kind, counter)| (model.clone(), *kind, counter.sum()))
        });
        all.filter(|(_, _, n)| *n > 0).collect()
    }

    /// The wait for the first token, and between two, of all workers together.
    pub(crate) fn waits(&self) -> (Total, Total) {
        let (mut first, mut between) = (Total::default(), Total::default());
        for shard in &self.shards {
            first.add(&shard.first_token);
            between.add(&shard.between_tokens);
        }
        (first, between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_callers_make_up_do_not_grow_the_table_for_ever() {
        let stats = ProviderStats::new(2);
        let usage = Usage {
            input: 1,
            output: 2,
            ..Usage::default()
        };
        for i in 0..1000 {
            stats.used(i % 2, &format!("m{i}"), &usage);
        }
        let counts = stats.token_counts();
        assert_eq!(counts.len(), (MODELS + 1) * 2);
        let sum = |kind| -> u64 { counts.iter().filter(|c| c.1 == kind).map(|c| c.2).sum() };
        assert_eq!((sum("input"), sum("output")), (1000, 2000));
    }
}
