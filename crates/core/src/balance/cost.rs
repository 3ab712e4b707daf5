//! Choosing by what a request would cost its caller: least request and peak EWMA.
//!
//! Few members are all looked at, of many some random ones: two unless the policy says more (power of two choices, Mitzenmacher 2001).
//!
//! Least request keeps to the weights whatever the load: what is compared is the requests in flight per weight, and among members that
//! are alike in it (idle ones, mostly) the choice is by chance in proportion to the weights; of many, the two that are compared are drawn
//! in that proportion. Comparing (requests + 1) / weight would give everything to the heaviest as long as it is idle. (Envoy's least
//! request with unequal weights draws by weight / (requests + 1).)
//!
//! The average latency is a measurement: it differs between equal members, and the one that happens to look fastest
//! must not get every request until its next slow answer. So the full scan of peak EWMA gives everybody a chance that
//! falls steeply with the cost: latencies within [`SLACK`] of the least count as equal, one that is several times
//! slower gets next to nothing, and an idle member is hardly ever passed over for a busy one.
//!
//! A member in its slow start takes its share of the requests by chance and stays out of the comparison of the others:
//! compared by a cost that its small weight makes high, it would get nothing as long as anybody else is idle, and
//! compared by its few requests in flight, far too much when all are busy.

use super::cycle::Shares;
use super::{Ask, Entry, TRIES};
use crate::policy::PoolPolicy;
use crate::rng::Rng;

/// Latencies within this factor of the least one count as equal to it.
const SLACK: f64 = 1.5;
/// How steeply the chance falls with the latency beyond the slack.
const LATENCY_POWER: i32 = 4;
/// How steeply it falls with the load.
const LOAD_POWER: i32 = 8;

/// Loads that differ by less than this part are equal.
const EQUAL: f64 = 1e-6;

/// What is compared.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Cost {
    /// Requests in flight.
    Requests,
    /// Average latency × requests in flight.
    Wait,
}

pub(crate) struct ByCost {
    cost: Cost,
    /// Up to so many members are all looked at.
    full_scan: usize,
    /// So many random ones otherwise.
    choices: usize,
    /// Shares by weight, for drawing two to compare; unless all are alike.
    shares: Option<Shares>,
    /// Members in their slow start, with the upper ends of their shares of all requests.
    ramping: Box<[(f64, usize)]>,
}

/// Requests in flight per weight in force, in the mean weight of the group, and this one; 1: idle.
#[inline]
fn load<T>(entry: &Entry<T>) -> f64 {
    f64::from(entry.member.hot.inflight()) * f64::from(entry.inverse_weight) + 1.0
}

/// Weight in force, in the mean weight of the group.
#[inline]
fn weight<T>(entry: &Entry<T>) -> f64 {
    1.0 / f64::from(entry.inverse_weight)
}

impl ByCost {
    pub(crate) fn new<T>(
        cost: Cost,
        policy: &PoolPolicy,
        shares: Shares,
        entries: &[Entry<T>],
    ) -> ByCost {
        let sum: f64 = entries.iter().map(weight).sum();
        let mut end = 0.0;
        let mut ramping = Vec::new();
        for (i, entry) in entries.iter().enumerate().filter(|(_, e)| e.ramping) {
            end += weight(entry) / sum;
            ramping.push((end, i));
        }
        ByCost {
            cost,
            full_scan: policy.full_scan.max(policy.choices),
            choices: policy.choices,
            shares: Some(shares).filter(|shares| cost == Cost::Requests && !shares.even()),
            ramping: ramping.into(),
        }
    }

    #[inline]
    fn latency<T>(&self, entry: &Entry<T>, ask: &Ask) -> f64 {
        match self.cost {
            Cost::Requests => 1.0,
            Cost::Wait => entry
                .member
                .hot
                .ewma
                .estimate(ask.now, ask.per_halving, ask.typical),
        }
    }

    /// For comparing two.
    #[inline]
    fn cost<T>(&self, entry: &Entry<T>, ask: &Ask) -> f64 {
        match self.cost {
            Cost::Requests => load(entry),
            Cost::Wait => {
                let waiting = f64::from(entry.member.hot.inflight() + 1);
                self.latency(entry, ask) * waiting * f64::from(entry.inverse_weight)
            }
        }
    }

    /// Two to compare.
    #[inline]
    fn two(&self, count: u32, rng: &mut impl Rng) -> (usize, usize) {
        if let Some(shares) = &self.shares {
            return (shares.at_random(rng), shares.at_random(rng));
        }
        let bits = rng.next_u64();
        let first = ((bits >> 32) * u64::from(count)) >> 32;
        let mut second = ((bits & 0xFFFF_FFFF) * u64::from(count - 1)) >> 32;
        second += u64::from(second >= first);
        (first as usize, second as usize)
    }

    /// The best of more than two that are drawn, each independently of the others; `None` if none of them is eligible.
    fn of_several<T>(
        &self,
        entries: &[Entry<T>],
        ask: &Ask,
        rng: &mut impl Rng,
        eligible: impl Fn(&Entry<T>) -> bool,
    ) -> Option<usize> {
        let mut best: Option<(usize, f64)> = None;
        for _ in 0..self.choices {
            let drawn = match &self.shares {
                Some(shares) => shares.at_random(rng),
                None => rng.below(entries.len() as u32) as usize,
            };
            let Some(entry) = entries.get(drawn).filter(|e| eligible(e)) else {
                continue;
            };
            let cost = self.cost(entry, ask);
            // The first drawn wins among equals: chance decided that already.
            if best.is_none_or(|(_, least)| cost < least) {
                best = Some((drawn, cost));
            }
        }
        best.map(|(i, _)| i)
    }

    /// Index of the chosen entry, or `None` if none is eligible.
    #[inline]
    pub(crate) fn choose<T>(
        &self,
        entries: &[Entry<T>],
        ask: &Ask,
        rng: &mut impl Rng,
        eligible: impl Fn(&Entry<T>) -> bool,
    ) -> Option<usize> {
        if self.ramping.is_empty() {
            return self.settled(entries, ask, rng, eligible);
        }
        self.newcomer(entries, ask, rng, &eligible)
            .or_else(|| self.settled(entries, ask, rng, |e| !e.ramping && eligible(e)))
            .or_else(|| self.settled(entries, ask, rng, eligible))
    }

    /// One of the members in their slow start, if the dice give it this request. One that is slower, or more loaded for
    /// its weight, than some settled member passes the request on to those, the more often the worse it stands.
    fn newcomer<T>(
        &self,
        entries: &[Entry<T>],
        ask: &Ask,
        rng: &mut impl Rng,
        eligible: impl Fn(&Entry<T>) -> bool,
    ) -> Option<usize> {
        let point = rng.unit();
        let place = self.ramping.partition_point(|(end, _)| *end <= point);
        let (_, index) = *self.ramping.get(place)?;
        let entry = entries.get(index).filter(|e| eligible(e))?;
        let start = rng.below(entries.len() as u32) as usize;
        let (head, tail) = entries.split_at(start.min(entries.len()));
        let Some(other) = tail.iter().chain(head).find(|e| !e.ramping && eligible(e)) else {
            return Some(index);
        };
        let least = self.latency(other, ask);
        let equal = chance(load(other), 1.0);
        let own = chance(load(entry), self.latency(entry, ask) / least);
        (own >= equal || rng.unit() * equal < own).then_some(index)
    }

    fn settled<T>(
        &self,
        entries: &[Entry<T>],
        ask: &Ask,
        rng: &mut impl Rng,
        eligible: impl Fn(&Entry<T>) -> bool,
    ) -> Option<usize> {
        let count = entries.len() as u32;
        if entries.len() > self.full_scan && count > 1 {
            for _ in 0..TRIES {
                if self.choices > 2 {
                    match self.of_several(entries, ask, rng, &eligible) {
                        None => continue,
                        found => return found,
                    }
                }
                let (first, second) = self.two(count, rng);
                let (a, b) = (entries.get(first)?, entries.get(second)?);
                match (eligible(a), eligible(b)) {
                    (true, true) => {
                        let second_wins = self.cost(b, ask) < self.cost(a, ask);
                        return Some(if second_wins { second } else { first });
                    }
                    (true, false) => return Some(first),
                    (false, true) => return Some(second),
                    (false, false) => {}
                }
            }
        }
        let all = entries.iter().enumerate().filter(|(_, e)| eligible(e));
        match self.cost {
            Cost::Requests => cheapest(all.map(|(i, e)| (i, load(e), weight(e))), rng),
            Cost::Wait => {
                let least = all
                    .clone()
                    .map(|(_, e)| self.latency(e, ask))
                    .fold(f64::INFINITY, f64::min);
                let chances = all.map(|(i, e)| {
                    let chance = chance(load(e), self.latency(e, ask) / least);
                    (i, chance / f64::from(e.inverse_weight))
                });
                drawn(chances, rng)
            }
        }
    }
}

/// Chance of a member, 0.0 to 1.0, by its load and by how many times the least latency its own is.
#[inline]
fn chance(load: f64, latency: f64) -> f64 {
    ((latency / SLACK).max(1.0).powi(LATENCY_POWER) * load.powi(LOAD_POWER)).recip()
}

/// The cheapest. Among equals one at random, in proportion to the weights: the first seen would inherit from its neighbour.
fn cheapest(costs: impl Iterator<Item = (usize, f64, f64)>, rng: &mut impl Rng) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    let mut equals = 0.0;
    for (i, cost, weight) in costs {
        match best {
            // Products of fractions: the last digits mean nothing.
            Some((_, least)) if cost > least * (1.0 + EQUAL) => continue,
            Some((_, least)) if cost >= least * (1.0 - EQUAL) => {
                equals += weight;
                if rng.unit() * equals < weight {
                    best = Some((i, least));
                }
            }
            _ => {
                equals = weight;
                best = Some((i, cost));
            }
        }
    }
    best.map(|(i, _)| i)
}

/// One at random in proportion to the chances, in one pass.
fn drawn(chances: impl Iterator<Item = (usize, f64)>, rng: &mut impl Rng) -> Option<usize> {
    let (mut chosen, mut sum) = (None, 0.0);
    for (i, chance) in chances {
        sum += chance;
        if chosen.is_none() || rng.unit() * sum < chance {
            chosen = Some(i);
        }
    }
    chosen
}
