//! What the tests of the pool share.

#![allow(dead_code)] // each test program uses a part

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::*;

pub(crate) const MS: Duration = Duration::from_millis(1);

/// A pool with a clock and dice: one hand on everything.
pub(crate) struct Bench {
    pub(crate) pool: Pool<u32>,
    pub(crate) now: Time,
    pub(crate) rng: SmallRng,
}

pub(crate) fn specs(count: u32) -> Vec<MemberSpec<u32>> {
    (0..count).map(|i| MemberSpec::new(name(i), i)).collect()
}

pub(crate) fn name(i: u32) -> String {
    format!("m{i}")
}

pub(crate) fn policy(balance: Balance) -> PoolPolicy {
    PoolPolicy {
        balance,
        ..PoolPolicy::default()
    }
}

pub(crate) fn outlier(change: impl FnOnce(&mut OutlierDetection)) -> PoolPolicy {
    let mut rules = OutlierDetection::default();
    change(&mut rules);
    PoolPolicy {
        outlier: Some(rules),
        ..policy(Balance::RoundRobin)
    }
}

pub(crate) fn evidence(until: Option<Time>) -> Verdict {
    Verdict::Evidence {
        cause: "limited".into(),
        until,
    }
}

pub(crate) const BAD: Verdict = Verdict::Failure(FailureKind::Status5xx);

impl Bench {
    pub(crate) fn new(policy: PoolPolicy, specs: Vec<MemberSpec<u32>>) -> Bench {
        let now = Time::from_secs(1000);
        Bench {
            pool: Pool::new(policy, specs, 1, now),
            now,
            rng: SmallRng::new(2),
        }
    }

    pub(crate) fn of(policy: PoolPolicy, count: u32) -> Bench {
        Bench::new(policy, specs(count))
    }

    pub(crate) fn pick(&mut self) -> Result<Pick<u32>, NoPick> {
        self.pool
            .pick(&PickRequest::default(), self.now, &mut self.rng)
    }

    pub(crate) fn pick_with(&mut self, request: PickRequest<'_>) -> Result<Pick<u32>, NoPick> {
        self.pool.pick(&request, self.now, &mut self.rng)
    }

    pub(crate) fn key(&self, member: u32) -> MemberKey {
        let status = self.pool.status(self.now);
        status
            .iter()
            .find(|m| *m.id == *name(member))
            .expect("known")
            .key
    }

    /// Outcomes of attempts at a member, as its threads report them.
    pub(crate) fn outcomes(&mut self, member: u32, verdict: &Verdict, times: u32) {
        let key = self.key(member);
        for _ in 0..times {
            if *verdict == Verdict::Ok {
                // Through an attempt: from outside it would be an active check.
                let others: Vec<_> = self
                    .pool
                    .members()
                    .iter()
                    .map(|m| m.key())
                    .filter(|k| *k != key)
                    .collect();
                let pick = self
                    .pick_with(PickRequest {
                        exclude: &others,
                        ..PickRequest::default()
                    })
                    .expect("fit");
                assert_eq!(pick.member().key(), key, "{} can be picked", name(member));
                pick.finish(Verdict::Ok, None, self.now);
            } else {
                assert!(
                    self.pool
                        .report(key, &Scope::EMPTY, verdict.clone(), self.now)
                );
            }
        }
    }

    pub(crate) fn fail(&mut self, member: u32, times: u32) {
        self.outcomes(member, &BAD, times);
    }

    pub(crate) fn report(&mut self, member: u32, verdict: Verdict) {
        let (key, now) = (self.key(member), self.now);
        assert!(self.pool.report(key, &Scope::EMPTY, verdict, now));
    }

    pub(crate) fn health(&self, member: u32) -> HealthStatus {
        let status = self.pool.status(self.now);
        status
            .iter()
            .find(|m| *m.id == *name(member))
            .expect("known")
            .health
            .clone()
    }

    pub(crate) fn state(&self, member: u32) -> MemberState {
        self.health(member).state
    }

    pub(crate) fn ejected(&self) -> usize {
        self.pool
            .status(self.now)
            .iter()
            .filter(|m| m.health.state == MemberState::Ejected)
            .count()
    }

    /// Lets time pass, with the ticks that somebody would make.
    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let due = self.pool.tick(self.now);
            assert!(due > self.now, "a tick leaves nothing due");
            if due > end {
                break;
            }
            self.now = due;
        }
        self.now = end;
        self.pool.tick(end);
    }

    /// Picks so many, finishes them well, and counts by member.
    pub(crate) fn shares(&mut self, picks: u32) -> BTreeMap<u32, u32> {
        self.shares_with(picks, |_| PickRequest::default())
    }

    pub(crate) fn shares_with<'a>(
        &mut self,
        picks: u32,
        request: impl Fn(u32) -> PickRequest<'a>,
    ) -> BTreeMap<u32, u32> {
        let mut counts = BTreeMap::new();
        for i in 0..picks {
            let pick = self.pick_with(request(i)).expect("someone is fit");
            *counts.entry(*pick.payload()).or_default() += 1;
        }
        counts
    }

    pub(crate) fn events(&self) -> Vec<(Arc<str>, MemberState, MemberState, String)> {
        self.pool
            .drain_events()
            .into_iter()
            .map(|e| (e.member, e.from, e.to, e.cause.to_string()))
            .collect()
    }
}

/// Every balancer.
pub(crate) fn all() -> Vec<Balance> {
    vec![
        Balance::RoundRobin,
        Balance::Random,
        Balance::WeightedRoundRobin,
        Balance::WeightedRandom,
        Balance::SourceIpHash,
        Balance::LeastRequest,
        Balance::PeakEwma(PeakEwma::default()),
        Balance::RingHash(RingHash::default()),
        Balance::Maglev(Maglev::default()),
        Balance::BackendLoad(BackendLoad::default()),
    ]
}

pub(crate) fn weighted(weights: &[u32]) -> Vec<MemberSpec<u32>> {
    specs(weights.len() as u32)
        .into_iter()
        .zip(weights)
        .map(|(spec, weight)| spec.weight(*weight))
        .collect()
}
