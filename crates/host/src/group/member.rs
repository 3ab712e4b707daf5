//! A worker as dispatch sees it: what it runs, what it has loaded, how fast it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::job::{Job, What};
use super::pulse::Pulse;
use super::stream::Flow;
use crate::call::Fault;
use crate::versions::Pool;
use crate::worker::link::Link;

/// Calls are sent ahead to a busy worker for so much of its time, no more: they could not go elsewhere meanwhile.
const AHEAD: Duration = Duration::from_millis(2);
/// Most calls sent ahead.
const MOST_AHEAD: usize = 32;

/// A worker that has been ready.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) slot: usize,
    pub(crate) revision: u64,
    pub(crate) instance: Arc<str>,
    pub(crate) pid: Option<u32>,
    pub(crate) link: Arc<Link>,
    /// Whether it sees the same files.
    pub(crate) files: bool,
    /// Calls that it runs at a time.
    pub(crate) concurrency: usize,
    /// Whether it gets new calls.
    pub(crate) open: bool,
    pub(crate) pool: Pool,
    /// Has its worker killed, and says why.
    pub(crate) kill: mpsc::UnboundedSender<String>,
    pub(super) state: Doing,
}

/// What a worker does.
#[derive(Debug, Default)]
pub(crate) struct Doing {
    /// In the order in which they were sent.
    pub(super) running: VecDeque<Running>,
    /// Calls and loads, and batches as one.
    pub(super) units: usize,
    /// How many of `running` wait in the worker's socket.
    pub(super) unstarted: usize,
    /// Batches under way: the ticket that names them, and the calls without an answer.
    pub(super) batches: Vec<(u64, usize)>,
    pub(super) loads: Vec<Loading>,
    pub(super) pace: Pace,
    pub(super) pulse: Pulse,
    /// Whether it has answered any call.
    pub(super) answered: bool,
    /// What the calls that it runs are told when it has been killed.
    pub(super) blame: Option<Fault>,
    pub(super) killed: bool,
    pub(super) idle: Vec<oneshot::Sender<()>>,
}

/// A version that the worker loads.
#[derive(Debug)]
pub(super) struct Loading {
    pub(super) ticket: u64,
    pub(super) version: String,
    pub(super) since: Instant,
}

/// A call in a worker.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) job: Box<Job>,
    /// When the worker began it, as far as the host can know; `None`: it waits in the worker's socket.
    pub(super) started: Option<Instant>,
    pub(super) batch: Option<u64>,
    pub(super) fate: Fate,
    /// Where its items go, once there was one.
    pub(super) items: Option<mpsc::UnboundedSender<Flow>>,
    /// How many items the worker may still send.
    pub(super) credit: usize,
    /// Tells the task that sends its input how much the worker wants.
    pub(super) want: Option<mpsc::UnboundedSender<u64>>,
}

/// What becomes of a running call's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Somebody waits for it.
    Wanted,
    /// Nobody does; the worker was told to stop it.
    Abandoned,
    /// As abandoned, and beyond its time since then: the worker is killed if it does not stop.
    Expired(Instant),
    /// The worker was told to give it back, for another that has nothing to do.
    Recalled,
}

impl Member {
    #[expect(
        clippy::too_many_arguments,
        reason = "all of a worker's identity, once"
    )]
    pub(crate) fn new(
        id: u64,
        slot: usize,
        revision: u64,
        instance: Arc<str>,
        pid: Option<u32>,
        link: Arc<Link>,
        files: bool,
        concurrency: u32,
        pool: Pool,
        kill: mpsc::UnboundedSender<String>,
    ) -> Self {
        Self {
            id,
            slot,
            revision,
            instance,
            pid,
            link,
            files,
            concurrency: concurrency.max(1) as usize,
            open: true,
            pool,
            kill,
            state: Doing::default(),
        }
    }

    pub(super) fn may_run(&self, job: &Job) -> bool {
        self.open && self.revision >= job.revision
    }

    pub(super) fn is_free(&self) -> bool {
        self.state.units < self.concurrency
    }

    /// Whether one more short call may wait in its socket.
    pub(super) fn takes_ahead(&self, now: Instant) -> bool {
        let doing = &self.state;
        doing.units < self.concurrency + doing.pace.ahead()
            && doing.loads.is_empty()
            && doing.running.front().is_none_or(|first| {
                first.items.is_none()
                    && first.job.may_go_ahead()
                    && first
                        .started
                        .is_none_or(|started| now.duration_since(started) < AHEAD)
            })
    }

    /// A place is free: the next of those that wait in its socket are begun.
    pub(super) fn promote(&mut self, now: Instant) {
        if self.state.unstarted == 0 {
            return;
        }
        let begun = self.state.units - self.state.unstarted;
        let free = self.concurrency.saturating_sub(begun);
        let waiting = self
            .state
            .running
            .iter_mut()
            .filter(|running| running.started.is_none());
        for running in waiting.take(free) {
            running.started = Some(now);
            self.state.unstarted -= 1;
        }
    }

    /// Takes a call out that has been answered or given up.
    pub(super) fn take(&mut self, ticket: u64) -> Option<Running> {
        let doing = &mut self.state;
        let place = doing
            .running
            .iter()
            .position(|running| running.job.ticket == ticket)?;
        let running = doing.running.remove(place)?;
        if running.started.is_none() {
            doing.unstarted -= 1;
        }
        match running.batch {
            None => doing.units -= 1,
            Some(batch) => {
                if let Some(place) = doing
                    .batches
                    .iter()
                    .position(|(ticket, _)| *ticket == batch)
                {
                    doing.batches[place].1 -= 1;
                    if doing.batches[place].1 == 0 {
                        doing.batches.swap_remove(place);
                        doing.units -= 1;
                    }
                }
            }
        }
        Some(running)
    }

    pub(super) fn find(&mut self, ticket: u64) -> Option<&mut Running> {
        self.state
            .running
            .iter_mut()
            .find(|running| running.job.ticket == ticket)
    }

    /// A call tells how far it is: whoever asked for that hears it, of a batch all of them. Returns what names the call in log events.
    pub(super) fn told(&self, ticket: u64, progress: &serde_json::Value) -> String {
        let all = &self.state.running;
        let Some(teller) = all.iter().find(|running| running.job.ticket == ticket) else {
            return String::new();
        };
        for running in all {
            let same = running.job.ticket == ticket
                || (running.batch.is_some() && running.batch == teller.batch);
            if same
                && let What::Call(call, _) = &running.job.what
                && let Some(hears) = &call.progress
            {
                hears.tell(progress);
            }
        }
        teller.job.id().to_owned()
    }

    /// Has it killed, once.
    pub(super) fn kill(&mut self, cause: String) {
        if !self.state.killed {
            self.state.killed = true;
            self.open = false;
            let _ = self.kill.send(cause);
        }
    }
}

/// How long the calls of a worker take: a moving average that is quick to learn that they are slow.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Seconds a call; 0: not known.
    each: f64,
    last: Option<Instant>,
}

impl Pace {
    /// So many answers came at once; the oldest of their calls was sent at `sent`.
    pub(super) fn answered(&mut self, now: Instant, sent: Instant, count: usize) {
        let since = self.last.map_or(sent, |last| last.max(sent));
        self.last = Some(now);
        let each = now.duration_since(since).as_secs_f64() / count.max(1) as f64;
        self.each = if self.each == 0.0 || each > AHEAD.as_secs_f64() {
            each
        } else {
            self.each * 0.8 + each * 0.2
        };
    }

    /// Calls that may be sent ahead.
    fn ahead(&self) -> usize {
        if self.each == 0.0 {
            return 0;
        }
        ((AHEAD.as_secs_f64() / self.each) as usize).min(MOST_AHEAD)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_calls_are_sent_ahead_and_one_long_call_ends_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.ahead(), 0);
        let start = Instant::now();
        pace.answered(start + Duration::from_micros(400), start, 4);
        assert_eq!(pace.ahead(), 20);
        let later = start + Duration::from_secs(1);
        pace.answered(later + Duration::from_millis(30), later, 1);
        assert_eq!(pace.ahead(), 0);
    }

    #[test]
    fn time_without_calls_is_no_time_of_a_call() {
        let mut pace = Pace::default();
        let start = Instant::now();
        pace.answered(start + Duration::from_micros(100), start, 1);
        let later = start + Duration::from_secs(100);
        pace.answered(later + Duration::from_micros(100), later, 1);
        assert_eq!(pace.ahead(), 20);
    }

    proptest! {
        #[test]
        fn never_more_than_their_share_of_time_is_ahead(gaps in proptest::collection::vec((0_u64..10_000, 1_usize..20), 1..50)) {
            let mut pace = Pace::default();
            let mut now = Instant::now();
            for (gap, count) in gaps {
                let sent = now;
                now += Duration::from_micros(gap);
                pace.answered(now, sent, count);
                prop_assert!(pace.ahead() <= MOST_AHEAD);
                prop_assert!(pace.ahead() as f64 * pace.each <= AHEAD.as_secs_f64() * 1.001);
            }
        }
    }
}
