//! Pools under load in virtual time: the real engine, with members that are scripts.
//!
//! Requests come in at random times, an attempt takes as long as the member's behaviour says and fails as it says, a
//! failed one is tried again elsewhere. Nothing sleeps: the clock jumps from event to event. The same seed gives the
//! same run, so a finding can be repeated; a thousand members get through a week in about a second.
//!
//! ```
//! use std::time::Duration;
//! use tidegate_core::sim::{Action, Behaviour, Sim};
//! use tidegate_core::{FailureKind, PoolPolicy, Time};
//!
//! let mut sim = Sim::new(PoolPolicy::default(), 42);
//! for name in ["a", "b", "c"] {
//!     sim.member(name, Behaviour::steady(Duration::from_millis(5)));
//! }
//! sim.load(100.0, 3); // requests a second, attempts a request
//! sim.at(Time::from_secs(10), Action::behave("b", Behaviour::down()));
//! sim.at(Time::from_secs(60), Action::behave("b", Behaviour::steady(Duration::from_millis(5))));
//! let report = sim.run_until(Time::from_secs(300));
//! assert_eq!(report.failed, 0, "the caller saw nothing of it");
//! assert!(report.member("b").failures > 0);
//! ```

mod report;
mod script;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

pub use report::{Histogram, MemberReport, Report};
pub use script::{Action, Behaviour, Latency};

use crate::member::{Locality, MemberKey, MemberSpec, Scope};
use crate::policy::PoolPolicy;
use crate::pool::{Pick, PickRequest, Pool};
use crate::rng::{Rng, SmallRng};
use crate::time::Time;
use crate::verdict::Verdict;

/// A pool, its members' scripts, and the load on it.
pub struct Sim {
    pool: Pool<()>,
    specs: Vec<MemberSpec<()>>,
    /// By id: several updates may bring a member and take it away.
    behaviours: BTreeMap<Arc<str>, Behaviour>,
    now: Time,
    rng: SmallRng,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    sequence: u64,
    actions: Vec<Option<Action>>,
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    /// Mean time between requests; `None`: no load.
    gap: Option<Duration>,
    attempts: u32,
    keys: Option<u32>,
    local: Locality,
    checks: Option<Duration>,
    report: Report,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Done(usize),
    Act(usize),
    Check,
    Tick,
}

struct Request {
    began: Time,
    attempt_began: Time,
    hash: Option<u64>,
    tried: Vec<MemberKey>,
    pick: Option<Pick<()>>,
    verdict: Verdict,
}

impl Sim {
    /// An empty pool at time 0. The seed decides everything that is left to chance.
    pub fn new(policy: PoolPolicy, seed: u64) -> Sim {
        let pool = Pool::new(policy, Vec::new(), seed, Time::ZERO);
        let mut sim = Sim {
            pool,
            specs: Vec::new(),
            behaviours: BTreeMap::new(),
            now: Time::ZERO,
            rng: SmallRng::new(seed ^ 0x7364_6174_6964_6567),
            queue: BinaryHeap::new(),
            sequence: 0,
            actions: Vec::new(),
            requests: Vec::new(),
            free: Vec::new(),
            gap: None,
            attempts: 1,
            keys: None,
            local: Locality::NOWHERE,
            checks: None,
            report: Report::default(),
        };
        sim.schedule(Time::ZERO, Event::Tick);
        sim
    }

    /// Adds a member of weight 1.
    pub fn member(&mut self, id: &str, behaviour: Behaviour) {
        self.member_with(MemberSpec::new(id, ()), behaviour);
    }

    /// Adds a member with weight, locality, priority.
    pub fn member_with(&mut self, spec: MemberSpec<()>, behaviour: Behaviour) {
        self.members([(spec, behaviour)]);
    }

    /// Adds many at once.
    pub fn members(&mut self, members: impl IntoIterator<Item = (MemberSpec<()>, Behaviour)>) {
        for (spec, behaviour) in members {
            self.behaviours.insert(spec.id.clone(), behaviour);
            self.specs.retain(|s| s.id != spec.id);
            self.specs.push(spec);
        }
        self.pool.update(self.specs.clone(), self.now);
    }

    /// Requests a second (Poisson) and attempts a request, the first included. Takes effect with the next request.
    pub fn load(&mut self, per_second: f64, attempts: u32) {
        let idle = self.gap.is_none();
        self.gap = (per_second > 0.0).then(|| Duration::from_secs_f64(1.0 / per_second));
        self.attempts = attempts.max(1);
        if idle && self.gap.is_some() {
            self.schedule(self.now, Event::Arrive);
        }
    }

    /// Requests carry a hash, drawn from so many keys.
    pub fn keys(&mut self, count: u32) {
        self.keys = Some(count);
    }

    /// Where the requests come from.
    pub fn local(&mut self, local: Locality) {
        self.local = local;
    }

    /// Active checks of every member, one each interval: down is evidence, anything else is fit.
    pub fn checks(&mut self, interval: Duration) {
        if self
            .checks
            .replace(interval.max(Duration::from_millis(1)))
            .is_none()
        {
            self.schedule(self.now + interval, Event::Check);
        }
    }

    /// Does something at a time (now, if that is past).
    pub fn at(&mut self, time: Time, action: Action) {
        self.actions.push(Some(action));
        self.schedule(time.max(self.now), Event::Act(self.actions.len() - 1));
    }

    /// The pool, to look at or to act on between runs.
    pub fn pool(&self) -> &Pool<()> {
        &self.pool
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// What happened so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Forgets what was counted so far: for looking at one stretch of time.
    pub fn reset_report(&mut self) {
        self.report = Report::default();
    }

    /// Lets time pass until `end`, and tells what happened since the start (or the last reset).
    pub fn run_until(&mut self, end: Time) -> &Report {
        while let Some(Reverse((at, _, _))) = self.queue.peek()
            && *at <= end
            && let Some(Reverse((at, _, event))) = self.queue.pop()
        {
            self.now = at;
            match event {
                Event::Arrive => self.arrive(),
                Event::Done(slot) => self.done(slot),
                Event::Act(index) => self.act(index),
                Event::Check => self.check(),
                Event::Tick => {
                    let due = self.pool.tick(at);
                    // Evidence may come in between with an earlier end; a tick a second is often enough to see it.
                    self.schedule(due.max(at + Duration::from_millis(100)), Event::Tick);
                }
            }
        }
        self.now = end.max(self.now);
        self.report.events.extend(self.pool.drain_events());
        &self.report
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, event)));
    }

    fn arrive(&mut self) {
        let Some(gap) = self.gap else { return };
        let wait = gap.mul_f64(-(1.0 - self.rng.unit()).ln());
        self.schedule(self.now + wait, Event::Arrive);
        self.report.requests += 1;
        let hash = self
            .keys
            .map(|keys| crate::hash::mix(u64::from(self.rng.below(keys)) + 1));
        let request = Request {
            began: self.now,
            attempt_began: self.now,
            hash,
            tried: Vec::new(),
            pick: None,
            verdict: Verdict::Ok,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.requests[slot] = Some(request);
                slot
            }
            None => {
                self.requests.push(Some(request));
                self.requests.len() - 1
            }
        };
        self.attempt(slot);
    }

    /// Sends the request to a member; what will come of it is known at once, and told when its time has passed.
    fn attempt(&mut self, slot: usize) {
        let Some(request) = self.requests[slot].as_mut() else {
            return;
        };
        let wanted = PickRequest {
            hash: request.hash,
            exclude: &request.tried,
            local: &self.local,
            ..PickRequest::default()
        };
        let Ok(pick) = self.pool.pick(&wanted, self.now, &mut self.rng) else {
            self.report.no_member += 1;
            return self.end(slot, false);
        };
        self.report.attempts += 1;
        let behaviour = self.behaviours.get(pick.member().id());
        let (latency, verdict) = match behaviour {
            Some(behaviour) => behaviour.outcome(pick.member().inflight(), &mut self.rng),
            None => (Duration::ZERO, Verdict::Ok),
        };
        request.tried.push(pick.member().key());
        (request.pick, request.verdict, request.attempt_began) = (Some(pick), verdict, self.now);
        self.schedule(self.now + latency, Event::Done(slot));
    }

    fn done(&mut self, slot: usize) {
        let Some(request) = self.requests[slot].as_mut() else {
            return;
        };
        let Some(pick) = request.pick.take() else {
            return;
        };
        let verdict = std::mem::replace(&mut request.verdict, Verdict::Ok);
        let (ok, again) = (
            verdict == Verdict::Ok,
            (request.tried.len() as u32) < self.attempts,
        );
        let member = self
            .report
            .members
            .entry(pick.member().id().clone())
            .or_default();
        member.attempts += 1;
        member.failures += u64::from(!ok);
        pick.finish(verdict, Some(self.now - request.attempt_began), self.now);
        if ok || !again {
            self.end(slot, ok);
        } else {
            self.attempt(slot);
        }
    }

    fn end(&mut self, slot: usize, ok: bool) {
        if let Some(request) = self.requests[slot].take() {
            self.report.latency.add(self.now - request.began);
            self.report.failed += u64::from(!ok);
            self.free.push(slot);
        }
    }

    fn check(&mut self) {
        if let Some(interval) = self.checks {
            self.schedule(self.now + interval, Event::Check);
        }
        for member in self.pool.members() {
            let down = self
                .behaviours
                .get(member.id())
                .is_none_or(Behaviour::is_down);
            let verdict = if down {
                Verdict::Evidence {
                    cause: "active check failed".into(),
                    until: None,
                }
            } else {
                Verdict::Ok
            };
            self.pool
                .report(member.key(), &Scope::EMPTY, verdict, self.now);
        }
    }

    fn act(&mut self, index: usize) {
        let Some(action) = self.actions[index].take() else {
            return;
        };
        match action {
            Action::Behave { member, behaviour } => {
                self.behaviours.insert(member.into(), behaviour);
            }
            Action::Add { spec, behaviour } => self.member_with(spec, behaviour),
            Action::Remove { member } => {
                self.specs.retain(|s| *s.id != *member);
                self.pool.update(self.specs.clone(), self.now);
            }
            Action::Load {
                per_second,
                attempts,
            } => self.load(per_second, attempts),
            Action::Policy(policy) => self.pool.set_policy(*policy, self.now),
            Action::Drain { member, draining } => {
                let status = self.pool.status(self.now);
                if let Some(found) = status.iter().find(|m| *m.id == *member) {
                    self.pool.drain(found.key, draining, self.now);
                }
            }
            Action::Report { member, verdict } => {
                if let Some(found) = self.pool.members().iter().find(|m| **m.id() == *member) {
                    self.pool
                        .report(found.key(), &Scope::EMPTY, verdict, self.now);
                }
            }
        }
        // What was done may be due before the next tick was.
        self.pool.tick(self.now);
    }
}
