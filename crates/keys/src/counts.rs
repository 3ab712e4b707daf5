//! What is counted of a provider, on the stripe of the worker that counts.

use tidegate_core::{StripedCounter, Verdict};

use crate::judge::{Judgement, Next, NoAnswer, Outcome, class_name};

/// Stripes; more workers share.
const WORKERS: usize = 8;

/// Names of outcomes, as labels.
const OUTCOMES: [&str; 15] = [
    "ok",
    "caller_fault",
    "key_dead",
    "model_denied",
    "limited",
    "quota_exhausted",
    "provider_down",
    "region",
    "broken",
    "connect_failure",
    "timeout",
    "reset",
    "stale_connection",
    "refused_here",
    "cancelled",
];

/// Names of verdicts, as labels.
const VERDICTS: [&str; 4] = ["ok", "neutral", "failure", "evidence"];

/// The place of `neutral` among them.
const NEUTRAL: usize = 1;

/// Counters of a provider since it was made. Labels are bounded: names from the code alone.
#[derive(Debug)]
pub struct Counts {
    attempts: [StripedCounter; OUTCOMES.len()],
    failovers: [StripedCounter; OUTCOMES.len()],
    verdicts: [StripedCounter; VERDICTS.len()],
    exhausted: StripedCounter,
    sticky_moves: StripedCounter,
}

impl Default for Counts {
    fn default() -> Counts {
        let counter = |_| StripedCounter::new(WORKERS);
        Counts {
            attempts: std::array::from_fn(counter),
            failovers: std::array::from_fn(counter),
            verdicts: std::array::from_fn(counter),
            exhausted: counter(0),
            sticky_moves: counter(0),
        }
    }
}

fn index(outcome: &Outcome<'_>) -> usize {
    let name = match outcome {
        Outcome::Answer(evidence) => class_name(&evidence.class),
        Outcome::NoAnswer(why) => NoAnswer::as_str(*why),
        Outcome::Cancelled => "cancelled",
    };
    OUTCOMES
        .iter()
        .position(|known| *known == name)
        .unwrap_or(0)
}

impl Counts {
    pub(crate) fn attempt(&self, worker: usize, outcome: &Outcome<'_>, judgement: &Judgement) {
        let index = index(outcome);
        self.attempts[index].add(worker, 1);
        if !matches!(judgement.next, Next::Done) {
            self.failovers[index].add(worker, 1);
        }
        let verdict = match judgement.verdict {
            Verdict::Ok => 0,
            Verdict::Neutral => NEUTRAL,
            Verdict::Failure(_) => 2,
            Verdict::Evidence { .. } => 3,
        };
        self.verdicts[verdict].add(worker, 1);
    }

    /// An attempt on a connection that was closed when it was used again: the request goes on, the key is not to blame.
    pub(crate) fn stale(&self, worker: usize) {
        let index = index(&Outcome::NoAnswer(NoAnswer::Stale));
        self.attempts[index].add(worker, 1);
        self.failovers[index].add(worker, 1);
        self.verdicts[NEUTRAL].add(worker, 1);
    }

    pub(crate) fn exhausted(&self, worker: usize) {
        self.exhausted.add(worker, 1);
    }

    pub(crate) fn sticky_move(&self, worker: usize) {
        self.sticky_moves.add(worker, 1);
    }

    /// Attempts by outcome.
    pub fn attempts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES
            .iter()
            .copied()
            .zip(self.attempts.iter().map(StripedCounter::sum))
    }

    /// Attempts by what they meant for the key's health: `ok`, `neutral`, `failure`, `evidence`.
    pub fn verdicts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        VERDICTS
            .iter()
            .copied()
            .zip(self.verdicts.iter().map(StripedCounter::sum))
    }

    /// Attempts after which the request went on to another key, attempt or provider, by outcome.
    pub fn failovers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES
            .iter()
            .copied()
            .zip(self.failovers.iter().map(StripedCounter::sum))
    }

    /// Requests that found no fit key.
    pub fn no_key(&self) -> u64 {
        self.exhausted.sum()
    }

    /// Sessions that had to leave their key.
    pub fn session_moves(&self) -> u64 {
        self.sticky_moves.sum()
    }
}
