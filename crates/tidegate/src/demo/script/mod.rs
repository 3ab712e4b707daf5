//! What happens to the instances, the keys, the workers and the gateway, one thing after the other, each until its effect
//! was seen. An act is a file.

mod gateway;
mod instances;
mod keys;
mod workers;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DemoError;
use super::callers::Callers;
use super::fleet::Fleet;
use super::model::Version;
use super::observer::{Observer, unix_ms};
use super::provider::Provider;
use super::scene::{Outcome, Scene};
use super::stack::Stack;
use super::traffic::{Totals, Traffic};
use super::words::sentence;

/// An effect that was not seen by then is not going to be.
const EFFECT: Duration = Duration::from_secs(8);
/// How closely the callers' side is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A round of all events that has this much time per event is pleasant to follow.
const PLEASANT: Duration = Duration::from_secs(4);
/// Shortest time that a state is shown.
const SHOWN: Duration = Duration::from_millis(300);
/// Events of one round, the rolling restart counted twice for its length; one more with a hosted model.
const ROUND: u32 = 14;
/// Weights before and after the reload.
pub(crate) const WEIGHTS: [[u32; 2]; 2] = [[90, 10], [50, 50]];

/// What a script acts on and looks at.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) fleet: Fleet,
    pub(crate) stack: Stack,
    pub(crate) provider: Provider,
    /// Whether a model is hosted.
    pub(crate) hosted: bool,
    pub(crate) callers: Arc<Callers>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) observer: Observer,
    pub(crate) scene: Arc<Scene>,
    pub(crate) start: Instant,
    pub(crate) deadline: Instant,
}

/// The script while it is played.
#[derive(Debug)]
pub(crate) struct Script {
    parts: Parts,
    /// Events of the round that are still to come.
    left: u32,
    /// Letters given to instances of v1 so far.
    letters: u8,
    /// Reloads so far.
    reloads: usize,
    /// Keys spoiled so far.
    keys: usize,
}

/// The moment before an event.
struct Begun {
    at: Instant,
    at_ms: u64,
    totals: Totals,
    retries: u64,
    /// When the next event may begin.
    until: Instant,
}

impl Deref for Script {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl DerefMut for Script {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }
}

impl Script {
    /// Nothing has happened yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let first = parts.fleet.members().filter(|m| m.version == Version::V1);
        Self {
            letters: u8::try_from(first.count()).unwrap_or(u8::MAX),
            left: ROUND + u32::from(parts.hosted),
            parts,
            reloads: 0,
            keys: 0,
        }
    }

    /// Events of a round.
    fn round_length(&self) -> u32 {
        ROUND + u32::from(self.hosted)
    }

    /// What is to be stopped, in this order.
    pub(crate) fn into_parts(self) -> (Stack, Fleet, Provider) {
        (self.parts.stack, self.parts.fleet, self.parts.provider)
    }

    /// Round after round until the time is over; the first round is finished in any case.
    pub(crate) async fn run(&mut self) -> Result<(), DemoError> {
        self.scene.begin(
            "Steady traffic",
            &["Every request is balanced by itself: each instance gets the share that fits its latency and load."],
            None,
        );
        self.hold(Instant::now() + self.slot().min(Duration::from_secs(3)))
            .await;
        loop {
            self.round().await?;
            if self.remaining() < PLEASANT * self.round_length() {
                break;
            }
            self.left = self.round_length();
        }
        self.scene
            .begin("Steady traffic again", &["Everything was shown."], None);
        tokio::time::sleep(self.remaining()).await;
        Ok(())
    }

    async fn round(&mut self) -> Result<(), DemoError> {
        self.instances().await?;
        self.revoke_key().await?;
        self.limit_key().await?;
        if self.hosted {
            self.kill_worker().await?;
        }
        self.kill_gateway().await?;
        self.reload().await?;
        self.rolling_restart().await?;
        self.upgrade().await
    }

    /// Milliseconds from `since` to the awaited first answer of an instance, key or worker.
    async fn first_answer(&self, name: &str, since: Instant) -> Option<u64> {
        eventually(EFFECT, || self.traffic.first_answer(name))
            .await
            .map(|first| as_ms(first.saturating_duration_since(since)))
    }

    fn begin(&self, title: &str, lines: &[&str], member: Option<&str>) -> Begun {
        self.scene.begin(title, lines, member);
        let at = Instant::now();
        Begun {
            at,
            at_ms: unix_ms(),
            totals: self.traffic.totals(),
            retries: self.further_attempts(),
            until: at + self.slot(),
        }
    }

    async fn finish(&mut self, begun: Begun, mut outcome: Outcome) {
        let totals = self.traffic.totals();
        outcome.at_s = begun.at.saturating_duration_since(self.start).as_secs_f64();
        outcome.requests = totals.answered - begun.totals.answered;
        outcome.failures = totals.failed - begun.totals.failed;
        outcome.retries = self.further_attempts() - begun.retries;
        let twice = outcome.event == "rolling_restart";
        self.left = self.left.saturating_sub(1 + u32::from(twice));
        self.scene.tell(&sentence(&outcome.result));
        self.scene.finish(outcome);
        self.hold(begun.until).await;
    }

    fn further_attempts(&self) -> u64 {
        self.observer.retries() + self.observer.failovers()
    }

    /// The time for the next event, so that all that are left fit.
    fn slot(&self) -> Duration {
        (self.remaining() / (self.left + 1)).min(PLEASANT * 2)
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    async fn hold(&self, until: Instant) {
        let until = until.max(Instant::now() + SHOWN);
        tokio::time::sleep_until(until.into()).await;
    }
}

impl Begun {
    /// The middle of the event's time: until then its fault is shown.
    fn half(&self) -> Instant {
        self.at + self.until.saturating_duration_since(self.at) / 2
    }
}

async fn eventually<T>(at_most: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(at_most, found).await.ok()
}

fn elapsed_ms(since: Instant) -> u64 {
    as_ms(since.elapsed())
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
