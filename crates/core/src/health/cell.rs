//! The counters behind outlier detection: one set for each member × scope.
//!
//! Written by every thread without a lock. The three consecutive counters share one word, so that "one more 5xx, and
//! the run of gateway failures is over" is one step, and a threshold that is reached fires exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use crate::policy::{ErrorsWithin, OutlierDetection};
use crate::time::{Time, nanos};
use crate::verdict::FailureKind;

/// Counters of one member in one scope.
#[derive(Default)]
pub(crate) struct Cell {
    /// [`Runs`], packed.
    runs: AtomicU64,
    /// Outcomes and failures of this interval.
    total: AtomicU32,
    failed: AtomicU32,
    /// Times of the last failures, where the windowed rule is on.
    window: ArcSwapOption<Window>,
}

/// The thresholds, where every thread can read them.
#[derive(Default)]
pub(crate) struct Thresholds {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    split: AtomicBool,
}

/// Rules that fired on one failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fired {
    pub(crate) consecutive_5xx: bool,
    pub(crate) consecutive_gateway: bool,
    pub(crate) consecutive_local: bool,
    pub(crate) window: bool,
    /// What the run of 5xx that fired consisted of.
    pub(crate) bad: Origin,
    /// What the run of gateway failures that fired consisted of.
    pub(crate) gateway: Origin,
    /// What fired counted refusals of our own: 5xx, gateway, local origin, window.
    pub(crate) refused: [bool; 4],
}

/// Where the failures of a run came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The member answered.
    #[default]
    Answers,
    /// It did not: connect failures, resets, timeouts.
    Connections,
    /// Some of both.
    Mixed,
}

impl Fired {
    pub(crate) fn any(self) -> bool {
        self != Fired::default()
    }
}

/// Runs of failures and what they consist of: 19 bits for each run, three bits for their origins, three for refusals.
#[derive(Clone, Copy)]
struct Runs {
    /// 5xx, gateway, local origin.
    lengths: [u32; 3],
    /// The run of 5xx holds an answer; it holds a failure without one; the run of gateway failures holds an answer.
    held: [bool; 3],
    /// The run of this place holds a refusal of our own.
    refused: [bool; 3],
}

const BITS: u32 = 19;
const MASK: u64 = (1 << BITS) - 1;

impl Runs {
    fn unpack(word: u64) -> Runs {
        let bits = |from| [0, 1, 2].map(|i| word >> (BITS * 3 + from + i) & 1 == 1);
        Runs {
            lengths: [0, 1, 2].map(|i| (word >> (BITS * i) & MASK) as u32),
            held: bits(0),
            refused: bits(3),
        }
    }

    fn pack(self) -> u64 {
        let bits = self.held.iter().chain(&self.refused).rev();
        let bits = bits.fold(0, |word, bit| word << 1 | u64::from(*bit));
        self.lengths
            .iter()
            .rev()
            .fold(bits, |word, run| word << BITS | u64::from(*run).min(MASK))
    }

    fn add(&mut self, kind: FailureKind, split: bool) {
        let [bad, gateway, local] = &mut self.lengths;
        let [answer, no_answer, gateway_answer] = &mut self.held;
        match kind {
            FailureKind::Status5xx => {
                (*bad, *gateway, *local) = (*bad + 1, 0, 0);
                (*answer, *gateway_answer) = (true, false);
            }
            FailureKind::Gateway => {
                (*bad, *gateway, *local) = (*bad + 1, *gateway + 1, 0);
                (*answer, *gateway_answer) = (true, true);
            }
            FailureKind::LocalOrigin | FailureKind::Refused if split => *local += 1,
            FailureKind::LocalOrigin | FailureKind::Refused => {
                (*bad, *gateway, *local) = (*bad + 1, *gateway + 1, *local + 1);
                *no_answer = true;
            }
        }
        if kind == FailureKind::Refused {
            self.refused = [self.refused[0] || !split, self.refused[1] || !split, true];
        }
    }

    /// Ends the runs that reached their limits, or have none; tells which did.
    fn take_reached(&mut self, limits: [u32; 3]) -> Fired {
        let mut reached = [false; 3];
        for ((run, limit), reached) in self.lengths.iter_mut().zip(limits).zip(&mut reached) {
            *reached = limit > 0 && *run >= limit;
            if *reached || limit == 0 {
                *run = 0;
            }
        }
        let mut fired = Fired {
            consecutive_5xx: reached[0],
            consecutive_gateway: reached[1],
            consecutive_local: reached[2],
            ..Fired::default()
        };
        if fired.consecutive_5xx {
            fired.bad = match self.held {
                [true, false, _] => Origin::Answers,
                [false, ..] => Origin::Connections,
                [true, true, _] => Origin::Mixed,
            };
        }
        if fired.consecutive_gateway && !self.held[2] {
            fired.gateway = Origin::Connections;
        }
        for (i, (run, refused)) in self.lengths.iter().zip(&mut self.refused).enumerate() {
            fired.refused[i] = reached[i] && *refused;
            *refused &= *run > 0;
        }
        if self.lengths[0] == 0 {
            (self.held[0], self.held[1]) = (false, false);
        }
        if self.lengths[1] == 0 {
            self.held[2] = false;
        }
        fired
    }
}

impl Thresholds {
    pub(crate) fn set(&self, outlier: Option<&OutlierDetection>) {
        let (a, b, c, split) = outlier.map_or((0, 0, 0, false), |o| {
            (
                o.consecutive_5xx,
                o.consecutive_gateway_failure,
                o.consecutive_local_origin,
                o.split_local_origin,
            )
        });
        self.consecutive_5xx.store(a, Relaxed);
        self.consecutive_gateway.store(b, Relaxed);
        self.consecutive_local.store(c, Relaxed);
        self.split.store(split, Relaxed);
    }
}

impl Cell {
    /// A success: every run is over.
    #[inline]
    pub(crate) fn ok(&self) {
        self.total.fetch_add(1, Relaxed);
        self.end_runs();
    }

    /// Ends the runs without counting for the interval. Reads first: the line stays shared while all is well.
    #[inline]
    pub(crate) fn end_runs(&self) {
        if self.runs.load(Relaxed) != 0 {
            self.runs.store(0, Relaxed);
        }
    }

    /// A failure. The runs that it continues and the ones that it ends are Envoy's: a failure without an answer is
    /// also a 5xx and a gateway failure (503, 504) unless the origins are split; any answer ends the run without one.
    pub(crate) fn failure(&self, kind: FailureKind, thresholds: &Thresholds, now: Time) -> Fired {
        let limits = [
            thresholds.consecutive_5xx.load(Relaxed),
            thresholds.consecutive_gateway.load(Relaxed),
            thresholds.consecutive_local.load(Relaxed),
        ];
        let split = thresholds.split.load(Relaxed);
        let unanswered = matches!(kind, FailureKind::LocalOrigin | FailureKind::Refused);
        if !(split && unanswered) {
            self.total.fetch_add(1, Relaxed);
            self.failed.fetch_add(1, Relaxed);
        }
        let mut fired;
        let mut word = self.runs.load(Relaxed);
        loop {
            let mut runs = Runs::unpack(word);
            runs.add(kind, split);
            fired = runs.take_reached(limits);
            match self
                .runs
                .compare_exchange_weak(word, runs.pack(), Relaxed, Relaxed)
            {
                Ok(_) => break,
                Err(current) => word = current,
            }
        }
        if let Some(window) = self.window.load().as_ref() {
            let refused = kind == FailureKind::Refused;
            (fired.window, fired.refused[3]) = window.failure(refused, now);
        }
        fired
    }

    /// Outcomes and failures since the last call.
    pub(crate) fn take_interval(&self) -> (u32, u32) {
        if self.total.load(Relaxed) == 0 {
            return (0, 0);
        }
        // Failures first: one that comes in between is then counted as a success at worst, never more failures than outcomes.
        let failed = self.failed.swap(0, Relaxed);
        let total = self.total.swap(0, Relaxed);
        (total.max(failed), failed)
    }

    /// Forgets every count: the member is back and starts anew.
    pub(crate) fn reset(&self) {
        self.runs.store(0, Relaxed);
        self.failed.store(0, Relaxed);
        self.total.store(0, Relaxed);
        if let Some(window) = self.window.load().as_ref() {
            window.clear();
        }
    }

    /// Sets up, changes or drops the windowed rule; an unchanged one keeps its record.
    pub(crate) fn set_window(&self, rule: Option<&ErrorsWithin>) {
        let current = self.window.load();
        if current.as_ref().map(|w| &w.rule) != rule {
            self.window
                .store(rule.map(|rule| Arc::new(Window::new(rule.clone()))));
        }
    }

    /// True if nothing is on record at `now`, so that the cell may be dropped.
    pub(crate) fn is_idle(&self, now: Time) -> bool {
        self.runs.load(Relaxed) == 0
            && self.failed.load(Relaxed) == 0
            && !self
                .window
                .load()
                .as_ref()
                .is_some_and(|w| w.holds_any(now))
    }
}

/// A ring of the times of the last `count − 1` failures: the one that is overwritten is the `count`-th from the end, so
/// one swap tells whether `count` failures lie within the time.
struct Window {
    rule: ErrorsWithin,
    within: u64,
    /// Twice the time + 2, and 1 more for a refusal of our own; 0: empty.
    slots: Box<[AtomicU64]>,
    next: AtomicU32,
}

impl Window {
    fn new(rule: ErrorsWithin) -> Window {
        let slots = rule.count.clamp(1, 4096) as usize - 1;
        Window {
            within: nanos(rule.within),
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            next: AtomicU32::new(0),
            rule,
        }
    }

    /// Whether the rule fires, and with a refusal of our own among the failures.
    fn failure(&self, refused: bool, now: Time) -> (bool, bool) {
        let at = now.0.saturating_add(1).min(u64::MAX >> 1);
        let Some(len) = u32::try_from(self.slots.len()).ok().filter(|len| *len > 0) else {
            return (true, refused);
        };
        let slot = self.next.fetch_add(1, Relaxed) % len;
        let oldest = self.slots[slot as usize].swap(at << 1 | u64::from(refused), Relaxed);
        let fired = oldest != 0 && at.saturating_sub(oldest >> 1) <= self.within;
        if !fired {
            return (false, false);
        }
        let others = self.slots.iter().map(|slot| slot.swap(0, Relaxed));
        let held = others.fold(oldest, |held, stamp| held | stamp);
        (true, held & 1 == 1)
    }

    fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Relaxed));
    }

    fn holds_any(&self, now: Time) -> bool {
        let horizon = (now - Duration::from_nanos(self.within)).0;
        self.slots.iter().any(|slot| {
            let stamp = slot.load(Relaxed) >> 1;
            stamp != 0 && stamp > horizon
        })
    }
}

#[cfg(test)]
mod tests;
