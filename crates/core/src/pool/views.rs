//! The immutable answer to "who may be picked, from here": what a pick reads.
//!
//! Members are sorted into tiers by priority, then by distance (same zone, same region, the rest) as seen from a place;
//! each place that matters has its view, made when first asked for. How much of the traffic a tier gets follows from
//! the share of its members that are fit, as Envoy computes it: a tier keeps everything until fit × 1.4 falls below
//! 100%, the rest spills over to the next ones.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::balance::{Candidate, Group};
use crate::health::ledger::Fitness;
use crate::member::{Locality, Member};
use crate::policy::{Percent, PoolPolicy, WhenExhausted};
use crate::rng::Rng;
use crate::time::Time;

/// A member as the views see it. Members without weight and draining ones have no seat.
pub(crate) struct Seat<T> {
    pub(crate) member: Arc<Member<T>>,
    pub(crate) weight: u32,
    pub(crate) factor: f64,
    pub(crate) locality: Locality,
    pub(crate) priority: u32,
    pub(crate) fitness: Fitness,
    /// Out by statistics alone.
    pub(crate) statistical: bool,
    /// When it returns, if it is out; `NEVER` if only a check brings it back.
    pub(crate) returns_at: Option<Time>,
}

/// All views of one scope.
pub(crate) struct Views<T> {
    seats: Box<[Seat<T>]>,
    pub(crate) policy: Arc<PoolPolicy>,
    built_at: Time,
    /// The first is the view from nowhere.
    views: Box<[View<T>]>,
    /// What `WhenExhausted::UseLeastBad` takes, best first; empty unless nothing is usable.
    pub(crate) least_bad: Box<[Arc<Member<T>>]>,
    /// Earliest return of a member that is out.
    pub(crate) returns_at: Option<Time>,
    pub(crate) panic: bool,
    pub(crate) fit: usize,
}

struct View<T> {
    from: Locality,
    body: OnceLock<Body<T>>,
}

/// A view's tiers, nearest first.
pub(crate) struct Body<T> {
    pub(crate) tiers: Box<[Tier<T>]>,
    /// The tier that takes everything, if one does.
    only: Option<usize>,
}

pub(crate) struct Tier<T> {
    rank: (u32, Distance),
    pub(crate) group: Group<T>,
    /// Upper end of its share of the traffic, in parts of `WHOLE`.
    end: u32,
    panic: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Zone,
    Region,
    Far,
}

/// Shares of traffic are counted in parts of this.
const WHOLE: u64 = 1_000_000;

fn distance(from: &Locality, to: &Locality) -> Distance {
    if from.region() != to.region() || from.region().is_empty() {
        // Zones have meaning within a region; without any regions they still tell places apart.
        let zones_only =
            from.region().is_empty() && to.region().is_empty() && !from.zone().is_empty();
        return if zones_only && from.zone() == to.zone() {
            Distance::Zone
        } else {
            Distance::Far
        };
    }
    if from.zone() == to.zone() && !from.zone().is_empty() {
        Distance::Zone
    } else {
        Distance::Region
    }
}

impl<T> Views<T> {
    /// Builds the views; those that were used in `old` are ready at once, so that no request pays for it.
    pub(crate) fn build(
        seats: Vec<Seat<T>>,
        policy: Arc<PoolPolicy>,
        now: Time,
        old: Option<&Views<T>>,
    ) -> Views<T> {
        let mut places = vec![Locality::NOWHERE];
        if policy.locality.prefer_local
            && seats
                .windows(2)
                .any(|pair| pair[0].locality != pair[1].locality)
        {
            let mut known: Vec<Locality> = seats
                .iter()
                .flat_map(|s| [s.locality.clone(), Locality::new(s.locality.region(), "")])
                .filter(|place| *place != Locality::NOWHERE)
                .collect();
            known.sort();
            known.dedup();
            places.extend(known);
        }
        let fit = seats.iter().filter(|s| s.fitness <= Fitness::Trial).count();
        let returns_at = seats
            .iter()
            .filter_map(|s| s.returns_at)
            .filter(|at| *at != Time::NEVER)
            .min();
        let mut views = Views {
            seats: seats.into(),
            policy,
            built_at: now,
            views: places
                .into_iter()
                .map(|from| View {
                    from,
                    body: OnceLock::new(),
                })
                .collect(),
            least_bad: Box::default(),
            returns_at,
            panic: false,
            fit,
        };
        for (index, view) in views.views.iter().enumerate() {
            let used = old
                .and_then(|old| old.views.iter().find(|v| v.from == view.from))
                .and_then(|v| v.body.get());
            if used.is_some() || index == 0 {
                view.body.get_or_init(|| views.body(&view.from, used));
            }
        }
        let nowhere = views.view(&Locality::NOWHERE);
        let panic = nowhere.tiers.iter().any(|tier| tier.panic);
        let nobody = nowhere
            .tiers
            .iter()
            .all(|tier| tier.group.entries.is_empty());
        views.panic = panic;
        if nobody && views.policy.when_exhausted == WhenExhausted::UseLeastBad {
            let mut bad: Vec<&Seat<T>> = views.seats.iter().collect();
            bad.sort_by_key(|s| (s.fitness, s.returns_at.unwrap_or(Time::NEVER)));
            views.least_bad = bad.into_iter().map(|s| s.member.clone()).collect();
        }
        views
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    pub(crate) fn inflight(&self) -> u64 {
        self.seats
            .iter()
            .map(|seat| u64::from(seat.member.inflight()))
            .sum()
    }

    /// The view from `from`: of its zone, else of its region, else from nowhere.
    #[inline]
    pub(crate) fn view(&self, from: &Locality) -> &Body<T> {
        let mut chosen = &self.views[0];
        if self.views.len() > 1 && *from != Locality::NOWHERE {
            let place = |v: &&View<T>| v.from == *from;
            let region = |v: &&View<T>| {
                v.from.zone().is_empty()
                    && v.from.region() == from.region()
                    && !from.region().is_empty()
            };
            let rest = &self.views[1..];
            chosen = rest
                .iter()
                .find(place)
                .or_else(|| rest.iter().find(region))
                .unwrap_or(chosen);
        }
        chosen.body.get_or_init(|| self.body(&chosen.from, None))
    }

    /// As far as the policy tells distances apart.
    fn distance(&self, from: &Locality, to: &Locality) -> Distance {
        match distance(from, to) {
            Distance::Zone if !self.policy.locality.prefer_zone => {
                if from.region().is_empty() {
                    Distance::Far
                } else {
                    Distance::Region
                }
            }
            distance => distance,
        }
    }

    fn body(&self, from: &Locality, old: Option<&Body<T>>) -> Body<T> {
        let mut ranks: BTreeMap<(u32, Distance), Vec<&Seat<T>>> = BTreeMap::new();
        for seat in &self.seats {
            ranks
                .entry((seat.priority, self.distance(from, &seat.locality)))
                .or_default()
                .push(seat);
        }
        let sizes: Vec<_> = ranks.values().map(|seats| Size::of(seats)).collect();
        let shares = share_out(&sizes, &self.policy, self.fit == 0);
        let mut end = 0;
        let tiers: Box<[Tier<T>]> = ranks
            .iter()
            .zip(&shares)
            .map(|((rank, seats), share)| {
                end += share.traffic;
                let candidates: Vec<_> = seats
                    .iter()
                    .map(|s| Candidate {
                        member: &s.member,
                        weight: s.weight,
                        factor: s.factor,
                        usable: s.fitness <= Fitness::Trial
                            || share.admits(s.fitness, s.statistical),
                        trial: s.fitness == Fitness::Trial,
                    })
                    .collect();
                let before = old.and_then(|old| old.tiers.iter().find(|t| t.rank == *rank));
                let group = Group::build(
                    &candidates,
                    &self.policy,
                    self.built_at,
                    before.map(|t| &t.group),
                );
                Tier {
                    rank: *rank,
                    group,
                    end: end as u32,
                    panic: share.panic,
                }
            })
            .collect();
        let only = shares.iter().position(|s| s.traffic == WHOLE);
        Body { tiers, only }
    }
}

impl<T> Body<T> {
    /// Index of the tier for the next request.
    #[inline]
    pub(crate) fn tier(&self, rng: &mut impl Rng) -> usize {
        match self.only {
            Some(tier) => tier,
            None => {
                let point = rng.below(WHOLE as u32);
                self.tiers
                    .partition_point(|tier| tier.end <= point)
                    .min(self.tiers.len().saturating_sub(1))
            }
        }
    }
}

/// How many members a tier has, by use.
#[derive(Clone, Copy, Debug)]
struct Size {
    all: u64,
    fit: u64,
    /// Out by statistics, or warming.
    doubtful: u64,
}

impl Size {
    fn of<T>(seats: &[&Seat<T>]) -> Size {
        let count =
            |wanted: fn(Fitness) -> bool| seats.iter().filter(|s| wanted(s.fitness)).count() as u64;
        Size {
            all: seats.len() as u64,
            fit: count(|f| f <= Fitness::Trial),
            doubtful: count(|f| f == Fitness::Doubtful),
        }
    }
}

/// What a tier gets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Share {
    traffic: u64,
    /// Under the panic threshold: doubtful members are used.
    panic: bool,
    /// Nobody is fit anywhere: statistics must not keep the last one out.
    last_resort: bool,
}

impl Share {
    fn admits(self, fitness: Fitness, statistical: bool) -> bool {
        fitness == Fitness::Doubtful && (self.panic || (self.last_resort && statistical))
    }
}

/// Envoy's distribution over priorities, tiers in order. Panic only where all tiers together can't take the traffic.
fn share_out(sizes: &[Size], policy: &PoolPolicy, nobody_fit: bool) -> Vec<Share> {
    let factor = u64::from(policy.locality.overprovisioning.max(100));
    let health = |size: &Size| (size.fit * WHOLE * factor / 100 / size.all.max(1)).min(WHOLE);
    let total = sizes.iter().map(health).sum::<u64>().min(WHOLE);
    let threshold = u64::from(policy.panic_percent().get());
    let all_may_go = policy
        .outlier
        .as_ref()
        .is_some_and(|o| o.max_ejection_percent == Percent::HUNDRED);
    let mut shares: Vec<Share> = sizes
        .iter()
        .map(|size| Share {
            traffic: 0,
            panic: total < WHOLE && size.fit * 100 < threshold * size.all,
            last_resort: nobody_fit && !all_may_go,
        })
        .collect();
    // With nobody fit, traffic goes by the number of members that are used all the same.
    let demand: Vec<u64> = match total {
        0 => {
            let usable = |(size, share): (&Size, &Share)| {
                if share.panic || share.last_resort {
                    size.doubtful
                } else {
                    0
                }
            };
            let counts: Vec<_> = sizes.iter().zip(&shares).map(usable).collect();
            let sum = counts.iter().sum::<u64>().max(1);
            counts.iter().map(|count| count * WHOLE / sum).collect()
        }
        total => sizes
            .iter()
            .map(|size| health(size) * WHOLE / total)
            .collect(),
    };
    let mut left = WHOLE;
    for (share, demand) in shares.iter_mut().zip(&demand) {
        share.traffic = (*demand).min(left);
        left -= share.traffic;
    }
    // What rounding left over goes to the first that takes any.
    if let Some(first) = shares.iter_mut().find(|share| share.traffic > 0) {
        first.traffic += left;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percents(sizes: &[(u64, u64)], policy: &PoolPolicy) -> Vec<(u64, bool)> {
        let sizes: Vec<_> = sizes
            .iter()
            .map(|(all, fit)| Size {
                all: *all,
                fit: *fit,
                doubtful: all - fit,
            })
            .collect();
        let nobody = sizes.iter().all(|s| s.fit == 0);
        share_out(&sizes, policy, nobody)
            .iter()
            .map(|s| (s.traffic * 100 / WHOLE, s.panic))
            .collect()
    }

    #[test]
    fn a_tier_keeps_all_until_its_fit_share_times_one_point_four_falls_below_one() {
        let policy = PoolPolicy::default();
        assert_eq!(
            percents(&[(100, 100), (100, 100)], &policy),
            [(100, false), (0, false)]
        );
        assert_eq!(
            percents(&[(100, 72), (100, 100)], &policy),
            [(100, false), (0, false)]
        );
        assert_eq!(
            percents(&[(100, 50), (100, 100)], &policy),
            [(70, false), (30, false)]
        );
        assert_eq!(
            percents(&[(100, 25), (100, 100)], &policy),
            [(35, false), (65, false)]
        );
        assert_eq!(
            percents(&[(100, 0), (100, 100)], &policy),
            [(0, false), (100, false)]
        );
    }

    #[test]
    fn panic_is_disregarded_while_the_tiers_together_suffice() {
        let policy = PoolPolicy::default();
        // 25% + 75% of need: 35% + 105% ≥ 100%.
        assert_eq!(
            percents(&[(100, 25), (100, 75)], &policy),
            [(35, false), (65, false)]
        );
        // 28% + 28% of need: shares are scaled up and both panic.
        assert_eq!(
            percents(&[(100, 20), (100, 20)], &policy),
            [(50, true), (50, true)]
        );
        // One above its threshold does not.
        assert_eq!(
            percents(&[(100, 20), (100, 50)], &policy),
            [(28, true), (71, false)]
        );
    }

    #[test]
    fn with_nobody_fit_traffic_goes_by_size() {
        assert_eq!(
            percents(&[(30, 0), (10, 0)], &PoolPolicy::default()),
            [(75, true), (25, true)]
        );
        let off = PoolPolicy {
            panic_threshold: Some(Percent::ZERO),
            ..PoolPolicy::default()
        };
        assert_eq!(
            percents(&[(30, 0), (10, 0)], &off),
            [(75, false), (25, false)]
        );
    }

    #[test]
    fn distance_wants_region_before_zone() {
        let from = Locality::new("eu", "a");
        assert_eq!(distance(&from, &Locality::new("eu", "a")), Distance::Zone);
        assert_eq!(distance(&from, &Locality::new("eu", "b")), Distance::Region);
        assert_eq!(distance(&from, &Locality::new("us", "a")), Distance::Far);
        assert_eq!(
            distance(&Locality::new("eu", ""), &Locality::new("eu", "")),
            Distance::Region
        );
        assert_eq!(
            distance(&Locality::NOWHERE, &Locality::NOWHERE),
            Distance::Far
        );
        assert_eq!(
            distance(&Locality::new("", "a"), &Locality::new("", "a")),
            Distance::Zone
        );
    }
}
