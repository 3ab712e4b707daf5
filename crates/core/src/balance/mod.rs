//! Choosing one member of a group.
//!
//! A group is immutable: the members of one tier (priority and distance) that may be used, with what the balancer
//! prepared for them. Choosing reads the group and the members' counters; nothing is locked, nothing is allocated. The
//! only thing that a choice writes is the shared cursor of the ones that go in turn.

mod cost;
pub(crate) mod cycle;
pub(crate) mod ewma;
pub(crate) mod hashed;
pub(crate) mod orca;

use std::sync::Arc;

use crate::hash::{hash64, rendezvous};
use crate::member::Member;
use crate::policy::{Balance, Maglev, PoolPolicy};
use crate::rng::Rng;
use crate::time::Time;
use cost::{ByCost, Cost};
use cycle::{Cursor, Shares};
use hashed::{Hashed, Table};

/// A member that may be chosen.
pub(crate) struct Entry<T> {
    pub(crate) member: Arc<Member<T>>,
    /// Mean weight in force of the group / its own.
    pub(crate) inverse_weight: f32,
    /// In its slow start, and not as far in it as others.
    pub(crate) ramping: bool,
    /// Probing: chosen for trials only.
    pub(crate) trial: bool,
}

/// A candidate for a group, from which it is built.
pub(crate) struct Candidate<'a, T> {
    pub(crate) member: &'a Arc<Member<T>>,
    /// As configured; at least 1.
    pub(crate) weight: u32,
    /// Slow start, 0.0 to 1.0.
    pub(crate) factor: f64,
    /// Of those that are not, only the hash balancers must know: their tables keep every member, so that keys move back.
    pub(crate) usable: bool,
    pub(crate) trial: bool,
}

/// What one choice needs to know beside the group.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) hash: Option<u64>,
    pub(crate) now: Time,
    /// Of the peak EWMA's decay.
    pub(crate) per_halving: f64,
    /// Latency assumed of a member without measurements, nanoseconds.
    pub(crate) typical: f64,
    /// Requests in flight in the whole pool; kept for bounded load only.
    pub(crate) pool_inflight: u32,
}

pub(crate) struct Group<T> {
    pub(crate) entries: Box<[Entry<T>]>,
    pub(crate) has_trials: bool,
    chooser: Chooser,
}

enum Chooser {
    InTurn(Cursor),
    InTurnByShare(Cursor, Shares),
    Random,
    RandomByShare(Shares),
    ByCost(ByCost),
    Hashed(Hashed),
    /// Hash of the id and weight of each entry.
    Rendezvous(Box<[(u64, u32)]>),
}

/// After so many choices that were not eligible, the rest is scanned.
const TRIES: usize = 8;

impl<T> Group<T> {
    /// Prepares the choice among `candidates`; cursor and tables of the group that this one replaces are taken over.
    pub(crate) fn build(
        candidates: &[Candidate<'_, T>],
        policy: &PoolPolicy,
        now: Time,
        old: Option<&Group<T>>,
    ) -> Group<T> {
        let usable: Vec<_> = candidates.iter().filter(|c| c.usable).collect();
        let in_force = |c: &&Candidate<'_, T>| f64::from(c.weight) * c.factor;
        let mean = usable.iter().map(in_force).sum::<f64>() / usable.len().max(1) as f64;
        // Where all began together nobody is new.
        let longest = usable.iter().map(|c| c.factor).fold(0.0, f64::max);
        let entries: Box<[Entry<T>]> = usable
            .iter()
            .map(|c| Entry {
                member: c.member.clone(),
                inverse_weight: (mean / in_force(c)) as f32,
                ramping: c.factor < longest,
                trial: c.trial,
            })
            .collect();
        let ramping = usable.iter().any(|c| c.factor < 1.0);
        let cursor = || Cursor::starting_at(old.and_then(Group::cursor));
        let shares = |by_weight: bool| {
            let weight = |c: &&Candidate<'_, T>| if by_weight { u64::from(c.weight) } else { 1 };
            if ramping {
                Shares::new(
                    usable
                        .iter()
                        .map(|c| ((weight(c) as f64 * c.factor * 1000.0).round() as u64).max(1)),
                )
            } else {
                Shares::new(usable.iter().map(weight))
            }
        };
        let in_turn = |by_weight: bool| match shares(by_weight) {
            shares if shares.even() => Chooser::InTurn(cursor()),
            shares => Chooser::InTurnByShare(cursor(), shares),
        };
        let at_random = |by_weight: bool| match shares(by_weight) {
            shares if shares.even() => Chooser::Random,
            shares => Chooser::RandomByShare(shares),
        };
        let by_cost = |cost| Chooser::ByCost(ByCost::new(cost, policy, shares(true), &entries));
        let hashed =
            |table: Arc<Table>, bounded| Chooser::Hashed(Hashed::new(table, candidates, bounded));
        let old_table = old.and_then(|old| match &old.chooser {
            Chooser::Hashed(hashed) => Some(hashed.table()),
            _ => None,
        });
        let chooser = match &policy.balance {
            Balance::RoundRobin => in_turn(false),
            Balance::WeightedRoundRobin => in_turn(true),
            Balance::Random => at_random(false),
            Balance::WeightedRandom => at_random(true),
            Balance::LeastRequest => by_cost(Cost::Requests),
            Balance::PeakEwma(_) => by_cost(Cost::Wait),
            Balance::SourceIpHash => hashed(
                Table::maglev(candidates, Maglev::default().table_size, old_table),
                None,
            ),
            Balance::Rendezvous => Chooser::Rendezvous(
                usable
                    .iter()
                    .map(|c| (hash64(c.member.id().as_bytes(), 0), c.weight))
                    .collect(),
            ),
            Balance::Maglev(maglev) => hashed(
                Table::maglev(candidates, maglev.table_size, old_table),
                maglev.bounded_load,
            ),
            Balance::RingHash(ring) => {
                hashed(Table::ring(candidates, ring, old_table), ring.bounded_load)
            }
            Balance::BackendLoad(load) => {
                let reported: Vec<_> = usable
                    .iter()
                    .map(|c| c.member.hot.load.weight(load, now))
                    .collect();
                match orca::schedule(&reported) {
                    None => in_turn(false),
                    Some(weights) => {
                        let ramped = weights
                            .iter()
                            .zip(&usable)
                            .map(|(w, c)| ((*w as f64 * c.factor).round() as u64).max(1));
                        Chooser::InTurnByShare(cursor(), Shares::new(ramped))
                    }
                }
            }
        };
        Group {
            has_trials: entries.iter().any(|e| e.trial),
            entries,
            chooser,
        }
    }

    fn cursor(&self) -> Option<u64> {
        match &self.chooser {
            Chooser::InTurn(cursor) | Chooser::InTurnByShare(cursor, _) => Some(cursor.position()),
            _ => None,
        }
    }

    /// Index of the chosen entry, or `None` if none is eligible.
    #[inline]
    pub(crate) fn choose(
        &self,
        ask: &Ask,
        rng: &mut impl Rng,
        eligible: impl Fn(&Entry<T>) -> bool,
    ) -> Option<usize> {
        let count = u32::try_from(self.entries.len())
            .ok()
            .filter(|count| *count > 0)?;
        let several = |rng: &mut dyn FnMut() -> usize| {
            (0..TRIES)
                .map(|_| rng())
                .find(|i| self.entries.get(*i).is_some_and(&eligible))
        };
        let found = match &self.chooser {
            Chooser::InTurn(cursor) => several(&mut || cursor.even(count)),
            Chooser::InTurnByShare(cursor, shares) => several(&mut || shares.in_turn(cursor)),
            Chooser::Random => several(&mut || rng.below(count) as usize),
            Chooser::RandomByShare(shares) => several(&mut || shares.at_random(rng)),
            Chooser::ByCost(costs) => return costs.choose(&self.entries, ask, rng, eligible),
            Chooser::Rendezvous(choices) => {
                let hash = ask.hash.unwrap_or_else(|| rng.next_u64());
                return self
                    .entries
                    .iter()
                    .zip(choices)
                    .enumerate()
                    .filter(|(_, (entry, _))| eligible(entry))
                    .map(|(i, (_, (id, weight)))| (i, rendezvous(hash, *id, *weight)))
                    .max_by(|a, b| a.1.total_cmp(&b.1))
                    .map(|(i, _)| i);
            }
            Chooser::Hashed(hashed) => {
                // Without a hash: at random, through the table, so that the weights hold.
                let hash = ask.hash.unwrap_or_else(|| rng.next_u64());
                let inflight =
                    |i: usize| self.entries.get(i).map_or(0, |e| e.member.hot.inflight());
                hashed.find(
                    hash,
                    ask.pool_inflight,
                    |i| self.entries.get(i).is_some_and(&eligible),
                    inflight,
                )
            }
        };
        // Not by taking the next one: that would hand all of an excluded member's share to its neighbour.
        found.or_else(|| {
            self.scan(rng.below(count))
                .find(|(_, e)| eligible(e))
                .map(|(i, _)| i)
        })
    }

    /// All entries once, from `start` on.
    fn scan(&self, start: u32) -> impl Iterator<Item = (usize, &Entry<T>)> {
        let (head, tail) = self
            .entries
            .split_at((start as usize).min(self.entries.len()));
        let offset = head.len();
        tail.iter()
            .enumerate()
            .map(move |(i, e)| (i + offset, e))
            .chain(head.iter().enumerate())
    }
}
