//! How simulated members behave, and what is done to them when.

use std::time::Duration;

use crate::member::MemberSpec;
use crate::policy::PoolPolicy;
use crate::rng::Rng;
use crate::verdict::{FailureKind, Verdict};

/// How a member answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// How long an answer takes while fewer requests are in flight than it has slots.
    pub latency: Latency,
    /// Share of attempts that fail, 0.0 to 1.0.
    pub fails: f64,
    /// How they fail.
    pub kind: FailureKind,
    /// How long a failure takes.
    pub fails_after: Duration,
    /// How many requests it works on at a time; more make all of them slower. 0: any number.
    pub slots: u32,
}

/// A distribution of latencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Latency {
    /// Always the same.
    Fixed(Duration),
    /// Evenly between two.
    Uniform(Duration, Duration),
    /// Many short and few long ones, with this mean.
    Exponential(Duration),
}

impl Behaviour {
    /// Answers after exactly this time.
    pub fn steady(latency: Duration) -> Behaviour {
        Behaviour::with(Latency::Fixed(latency))
    }

    /// Answers with these latencies, never fails, has room for any number.
    pub fn with(latency: Latency) -> Behaviour {
        Behaviour {
            latency,
            fails: 0.0,
            kind: FailureKind::Status5xx,
            fails_after: Duration::from_millis(1),
            slots: 0,
        }
    }

    /// Refuses every connection at once.
    pub fn down() -> Behaviour {
        Behaviour::with(Latency::Fixed(Duration::ZERO)).failing(1.0, FailureKind::LocalOrigin)
    }

    /// Fails this share of the attempts.
    #[must_use]
    pub fn failing(mut self, share: f64, kind: FailureKind) -> Behaviour {
        (self.fails, self.kind) = (share, kind);
        self
    }

    /// Works on at most so many at a time.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Behaviour {
        self.slots = slots;
        self
    }

    /// Whether an active check would find it dead.
    pub fn is_down(&self) -> bool {
        self.fails >= 1.0 && self.kind == FailureKind::LocalOrigin
    }

    pub(super) fn outcome(&self, inflight: u32, rng: &mut impl Rng) -> (Duration, Verdict) {
        if self.fails > 0.0 && rng.unit() < self.fails {
            return (self.fails_after, Verdict::Failure(self.kind));
        }
        let latency = match self.latency {
            Latency::Fixed(latency) => latency,
            Latency::Uniform(least, most) => least + most.saturating_sub(least).mul_f64(rng.unit()),
            Latency::Exponential(mean) => mean.mul_f64(-(1.0 - rng.unit()).ln()),
        };
        let rounds = if self.slots == 0 {
            1
        } else {
            inflight.div_ceil(self.slots).max(1)
        };
        (latency * rounds, Verdict::Ok)
    }
}

/// Something done at a time.
#[derive(Clone, Debug)]
pub enum Action {
    /// A member behaves otherwise from now on.
    Behave {
        /// Its id.
        member: String,
        /// How.
        behaviour: Behaviour,
    },
    /// A member joins.
    Add {
        /// What the pool is told.
        spec: MemberSpec<()>,
        /// How it behaves.
        behaviour: Behaviour,
    },
    /// A member is no longer listed.
    Remove {
        /// Its id.
        member: String,
    },
    /// A member is drained, or no longer.
    Drain {
        /// Its id.
        member: String,
        /// Whether.
        draining: bool,
    },
    /// Evidence from outside.
    Report {
        /// The member's id.
        member: String,
        /// What it says.
        verdict: Verdict,
    },
    /// Another load.
    Load {
        /// Requests a second.
        per_second: f64,
        /// Attempts a request.
        attempts: u32,
    },
    /// Another policy.
    Policy(Box<PoolPolicy>),
}

impl Action {
    /// [`Action::Behave`].
    pub fn behave(member: &str, behaviour: Behaviour) -> Action {
        Action::Behave {
            member: member.to_owned(),
            behaviour,
        }
    }

    /// [`Action::Add`] with weight 1.
    pub fn add(member: &str, behaviour: Behaviour) -> Action {
        Action::Add {
            spec: MemberSpec::new(member, ()),
            behaviour,
        }
    }

    /// [`Action::Remove`].
    pub fn remove(member: &str) -> Action {
        Action::Remove {
            member: member.to_owned(),
        }
    }

    /// [`Action::Report`].
    pub fn report(member: &str, verdict: Verdict) -> Action {
        Action::Report {
            member: member.to_owned(),
            verdict,
        }
    }
}
