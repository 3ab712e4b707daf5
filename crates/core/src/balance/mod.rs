//! Choosing one member of a group.
//!
//! A group is immutable: the members of one tier (priority and distance) that may be used, with what the balancer
//! prepared for them. Choosing reads the group and the members' counters; nothing is locked, nothing is allocated. The
//! only thing that a choice writes is the shared cursor of the ones that go in turn.

pub(crate) mod cycle;
pub(crate) mod ewma;
pub(crate) mod hashed;
pub(crate) mod orca;

use std::sync::Arc;

use crate::member::Member;
use crate::policy::{Balance, PoolPolicy};
use crate::rng::Rng;
use crate::time::Time;
use cycle::{Cursor, Shares};
use hashed::{Hashed, Table};

/// A member that may be chosen.
pub(crate) struct Entry<T> {
    pub(crate) member: Arc<Member<T>>,
    /// 1 / weight in force.
    pub(crate) inverse_weight: f32,
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
    full_scan: usize,
    chooser: Chooser,
}

enum Chooser {
    InTurn(Cursor),
    InTurnByShare(Cursor, Shares),
    Random,
    RandomByShare(Shares),
    LeastRequest,
    PeakEwma,
    Hashed(Hashed),
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
        let entries: Box<[Entry<T>]> = usable
            .iter()
            .map(|c| Entry {
                member: c.member.clone(),
                inverse_weight: (1.0 / (f64::from(c.weight) * c.factor)) as f32,
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
            Balance::LeastRequest => Chooser::LeastRequest,
            Balance::PeakEwma(_) => Chooser::PeakEwma,
            Balance::SourceIpHash => hashed(Table::maglev(candidates, old_table), None),
            Balance::Maglev(maglev) => {
                hashed(Table::maglev(candidates, old_table), maglev.bounded_load)
            }
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
            full_scan: policy.full_scan,
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
            Chooser::LeastRequest => {
                let cost = |e: &Entry<T>| {
                    f64::from(e.member.hot.inflight() + 1) * f64::from(e.inverse_weight)
                };
                return self.cheapest(count, rng, cost, eligible);
            }
            Chooser::PeakEwma => {
                let cost = |e: &Entry<T>| {
                    let hot = &e.member.hot;
                    let waiting = f64::from(hot.inflight() + 1);
                    hot.ewma.estimate(ask.now, ask.per_halving, ask.typical)
                        * waiting
                        * f64::from(e.inverse_weight)
                };
                return self.cheapest(count, rng, cost, eligible);
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

    /// The cheapest of all (few members) or of two at random (power of two choices, Mitzenmacher 2001).
    #[inline]
    fn cheapest(
        &self,
        count: u32,
        rng: &mut impl Rng,
        cost: impl Fn(&Entry<T>) -> f64,
        eligible: impl Fn(&Entry<T>) -> bool,
    ) -> Option<usize> {
        if count as usize > self.full_scan && count > 1 {
            for _ in 0..TRIES {
                let bits = rng.next_u64();
                let first = ((bits >> 32) * u64::from(count)) >> 32;
                let mut second = ((bits & 0xFFFF_FFFF) * u64::from(count - 1)) >> 32;
                second += u64::from(second >= first);
                let (first, second) = (first as usize, second as usize);
                let (a, b) = (self.entries.get(first)?, self.entries.get(second)?);
                match (eligible(a), eligible(b)) {
                    (true, true) => return Some(if cost(b) < cost(a) { second } else { first }),
                    (true, false) => return Some(first),
                    (false, true) => return Some(second),
                    (false, false) => {}
                }
            }
        }
        // Among equals one at random, each with the same chance: the first seen would inherit from its neighbour.
        let mut best: Option<(usize, f64)> = None;
        let mut equals = 0;
        for (i, entry) in self.entries.iter().enumerate().filter(|(_, e)| eligible(e)) {
            let cost = cost(entry);
            match best {
                Some((_, least)) if cost > least => continue,
                Some((_, least)) if cost == least => equals += 1,
                _ => equals = 1,
            }
            if equals == 1 || rng.below(equals) == 0 {
                best = Some((i, cost));
            }
        }
        best.map(|(i, _)| i)
    }
}
