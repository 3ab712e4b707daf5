//! A service's workers and the calls for them.
//!
//! ```text
//! call -> free worker of its own door -> any free worker -> the socket of a busy one, if its calls are short
//!      -> queue -> whichever worker is free first
//! ```
//!
//! All of it is one state behind one lock, which is held for the decision alone: bytes are sent, callers woken and
//! events told after it was given back ([`Effects`]).

mod answers;
mod dispatch;
mod effects;
mod fall;
mod job;
mod lanes;
mod member;
mod pulse;
mod send;
mod stream;
mod tick;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::call::{Call, Code, Fault};
use crate::events::Events;
use crate::frame::Kind;
use crate::message::Incoming;
use crate::state::ServiceCounts;

use effects::Effects;
use fall::Left;
pub(crate) use job::Facts;
use job::{Job, Outcome, What};
use lanes::Lanes;
use member::Fate;
pub(crate) use member::Member;
pub(crate) use send::version_meta;
pub(crate) use stream::CancelOnDrop;

/// Workers that a call may lose before it is given up: it may be what kills them.
const DEATHS: u8 = 3;

/// How long a version that is not there is taken as that: each look for it takes a worker's time.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// Versions that are not there or do not load, of which that much is known.
const UNKNOWN: usize = 256;

/// What of a service's configuration concerns its calls.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Calls that may wait.
    pub(crate) queue: usize,
    pub(crate) call_time: Option<Duration>,
    /// Bytes that a worker may take.
    pub(crate) memory: Option<u64>,
    /// Bytes of a worker beyond which versions go.
    pub(crate) versions_memory: Option<u64>,
    /// How long a call waits while there is no worker.
    pub(crate) start_timeout: Duration,
    /// Versions that a worker may have in memory.
    pub(crate) most_versions: u32,
}

/// The workers of a service.
#[derive(Debug)]
pub(crate) struct Group {
    service: Arc<str>,
    events: Arc<dyn Events>,
    settings: ArcSwap<Settings>,
    state: Mutex<State>,
    /// Whether `State::unknown` has anything, for who would ask at each call.
    any_unknown: AtomicBool,
    itself: Weak<Group>,
}

#[derive(Debug, Default)]
struct State {
    group: Weak<Group>,
    members: Vec<Member>,
    lanes: Lanes,
    tickets: u64,
    /// No new calls: the service is ending.
    closed: bool,
    /// Why no worker is to be expected soon.
    hopeless: Option<String>,
    /// How long loads take, for how long a version stays before another may take its place.
    load_time: Duration,
    /// Versions whose files a method changed, and when: a worker that starts may have loaded them before.
    changed: Vec<(String, Instant)>,
    /// Versions that were asked for and are not there, the latest last.
    unknown: VecDeque<(String, Instant, Fault)>,
    /// Versions whose last load failed, the latest last: nothing goes for them until they load.
    failed: VecDeque<String>,
    /// When a batch that waits is to go; a task waits for it.
    wake: Option<Instant>,
    counts: ServiceCounts,
}

impl Group {
    pub(crate) fn new(service: Arc<str>, settings: Settings, events: Arc<dyn Events>) -> Arc<Self> {
        let counts = ServiceCounts {
            service: service.to_string(),
            ..ServiceCounts::default()
        };
        let group = Arc::new_cyclic(|itself| Self {
            service,
            events,
            settings: ArcSwap::from_pointee(settings),
            state: Mutex::new(State {
                group: itself.clone(),
                counts,
                ..State::default()
            }),
            any_unknown: AtomicBool::new(false),
            itself: itself.clone(),
        });
        tick::start(&group);
        group
    }

    pub(crate) fn set(&self, settings: Settings) {
        let most = settings.most_versions;
        self.settings.store(Arc::new(settings));
        for member in &mut self.lock().members {
            member.pool.set_most(most);
        }
    }

    pub(crate) fn service(&self) -> &Arc<str> {
        &self.service
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then does what follows from it.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Effects) -> T) -> T {
        let mut effects = Effects::default();
        let (result, wake) = {
            let mut state = self.lock();
            let result = change(&mut state, &mut effects);
            let any = !state.unknown.is_empty();
            self.any_unknown.store(any, Ordering::Relaxed);
            (result, state.wake())
        };
        if let Some(due) = wake {
            self.wake_at(due);
        }
        effects.apply(&self.service, &*self.events);
        result
    }

    /// Gives a call to a worker, or to the queue.
    ///
    /// # Errors
    /// The queue is full, the service is ending, or no worker is to be expected.
    pub(crate) fn submit(
        &self,
        home: usize,
        revision: u64,
        call: Call,
        facts: Facts,
    ) -> Result<(u64, oneshot::Receiver<Outcome>), Fault> {
        self.enter(home, revision, What::Call(call, facts))
    }

    /// Has a version loaded by a worker unless one has it. `made_up`: nothing but the caller says that there is such a version.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub(crate) fn load(
        &self,
        home: usize,
        revision: u64,
        version: &str,
        made_up: bool,
    ) -> Result<(u64, oneshot::Receiver<Outcome>), Fault> {
        self.enter(
            home,
            revision,
            What::Load {
                version: version.to_owned(),
                made_up,
            },
        )
    }

    fn enter(
        &self,
        home: usize,
        revision: u64,
        what: What,
    ) -> Result<(u64, oneshot::Receiver<Outcome>), Fault> {
        let (reply, outcome) = oneshot::channel();
        let mut job = Box::new(Job {
            ticket: 0,
            what,
            reply,
            home,
            revision,
            arrived: Instant::now(),
            deaths: 0,
        });
        let queue = self.settings.load().queue;
        let ticket = self.change(|state, effects| {
            let refused = state
                .refusal(queue)
                .or_else(|| state.unknown(job.version()));
            state.counts.calls += 1;
            if let Some(fault) = refused {
                *state.counts.faults.entry(fault.reason).or_default() += 1;
                return Err(fault);
            }
            state.tickets += 1;
            job.ticket = state.tickets;
            let ticket = job.ticket;
            state.arrive(job, effects);
            Ok(ticket)
        })?;
        Ok((ticket, outcome))
    }

    /// A batch that waits goes then, full or not.
    fn wake_at(&self, due: Instant) {
        let group = self.itself.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(due).await;
            if let Some(group) = group.upgrade() {
                group.change(|state, effects| {
                    if state.wake == Some(due) {
                        state.wake = None;
                    }
                    state.pump_all(effects);
                });
            }
        });
    }

    /// Nobody waits for a call any longer.
    pub(crate) fn cancel(&self, ticket: u64) {
        self.change(|state, effects| {
            if state.lanes.remove(ticket).is_some() {
                return;
            }
            for member in &mut state.members {
                if let Some(running) = member.find(ticket) {
                    if running.fate == Fate::Wanted || running.fate == Fate::Recalled {
                        if running.fate == Fate::Wanted {
                            member.link.out().put(Kind::Cancel, ticket, b"", b"");
                            effects.flush(&member.link);
                        }
                        if let Some(running) = member.find(ticket) {
                            running.fate = Fate::Abandoned;
                        }
                    }
                    return;
                }
            }
        });
    }

    /// A door has taken items of a stream.
    fn credit(&self, ticket: u64, items: usize) {
        self.change(|state, effects| {
            for member in &mut state.members {
                if let Some(running) = member.find(ticket) {
                    running.credit += items;
                    let meta = format!("{{\"items\":{items}}}");
                    member
                        .link
                        .out()
                        .put(Kind::Credit, ticket, meta.as_bytes(), b"");
                    effects.flush(&member.link);
                    return;
                }
            }
        });
    }

    /// A worker is ready.
    pub(crate) fn join(&self, mut member: Member) {
        member.pool.set_most(self.settings.load().most_versions);
        self.change(|state, effects| {
            state.hopeless = None;
            // Another class may know others.
            state.unknown.clear();
            for (version, changed) in &state.changed {
                if member.pool.is_older(version, *changed) && member.pool.outdate(version) {
                    send::release(&member, version, effects);
                }
            }
            state.counts.loads += member.pool.loaded().count() as u64;
            state.members.push(member);
            state.pump_all(effects);
        });
    }

    /// A worker has sent something. `messages` is emptied.
    pub(crate) fn heard(self: &Arc<Self>, member: u64, messages: &mut Vec<Incoming>) {
        self.change(|state, effects| state.heard(self, member, messages, effects));
    }

    /// A worker gets no more calls.
    pub(crate) fn close_member(&self, member: u64) {
        self.change(|state, effects| {
            if let Some(member) = state.members.iter_mut().find(|other| other.id == member) {
                member.open = false;
            }
            state.pump_all(effects);
        });
    }

    /// Has a worker without calls let go of everything, and end.
    pub(crate) fn drain(&self, member: u64) {
        self.change(|state, effects| {
            if let Some(member) = state.members.iter().find(|other| other.id == member) {
                member.link.out().put(Kind::Drain, 0, b"", b"");
                effects.flush(&member.link);
            }
        });
    }

    /// Resolves when a worker that gets no more calls has none.
    pub(crate) async fn idle(&self, member: u64) {
        let idle = {
            let mut state = self.lock();
            let Some(member) = state.members.iter_mut().find(|other| other.id == member) else {
                return;
            };
            if member.state.units == 0 {
                return;
            }
            let (told, idle) = oneshot::channel();
            member.state.idle.push(told);
            idle
        };
        let _ = idle.await;
    }

    /// A worker is gone: what it had runs elsewhere, or fails. Returns whether it had answered any call, or died of one.
    pub(crate) fn leave(&self, member: u64, cause: &str, expected: bool) -> bool {
        let how = if expected { Left::Told } else { Left::Died };
        self.change(|state, effects| state.leave(member, cause, how, effects))
    }

    /// The connection of a worker is gone, which may connect again: what it had runs elsewhere, or waits for it, or fails. Returns whether
    /// it had answered any call.
    pub(crate) fn lose(&self, member: u64, cause: &str) -> bool {
        self.change(|state, effects| state.leave(member, cause, Left::Lost, effects))
    }

    /// Why no worker is to be expected soon, if that is so.
    pub(crate) fn hopeless(&self) -> Option<Fault> {
        let state = self.lock();
        state
            .hopeless
            .as_deref()
            .filter(|_| state.members.is_empty())
            .map(no_worker)
    }

    /// Workers are started anew, or otherwise: why there were none says nothing of them.
    pub(crate) fn hope(&self) {
        self.change(|state, _| state.hopeless = None);
    }

    /// No worker is to be expected soon: those that wait are told.
    pub(crate) fn give_up(&self, cause: &str) {
        self.change(|state, effects| {
            state.hopeless = Some(cause.to_owned());
            if state.members.is_empty() {
                for job in state.lanes.take(|_| true) {
                    state.fail(job, no_worker(cause), effects);
                }
            }
        });
    }

    /// Fails what waits: nobody will run it.
    pub(crate) fn abandon(&self) {
        self.change(|state, effects| {
            state.closed = true;
            for job in state.lanes.take(|_| true) {
                state.fail(job, ending(), effects);
            }
        });
    }

    /// Whether no call waits or runs.
    pub(crate) fn is_quiet(&self) -> bool {
        let state = self.lock();
        state.lanes.waiting() == 0 && state.members.iter().all(|member| member.state.units == 0)
    }

    /// Has every worker let a version go, each after the calls that it runs on it.
    pub(crate) fn release(&self, version: &str) {
        self.change(|state, effects| {
            for index in 0..state.members.len() {
                state.dismiss(index, version, crate::events::Release::Asked, effects);
            }
        });
    }

    /// Whether calls of a version are refused since it was not there a moment ago.
    pub(crate) fn is_unknown(&self, version: &str) -> bool {
        self.any_unknown.load(Ordering::Relaxed) && self.lock().unknown(version).is_some()
    }

    /// A version may be there by now.
    pub(crate) fn look_again(&self, version: &str) {
        self.change(|state, _| state.unknown.retain(|(unknown, ..)| unknown != version));
    }

    /// A call that runs can't go on: its caller is told, and its worker stops it.
    fn end_running(&self, ticket: u64, fault: Fault) {
        self.change(|state, effects| {
            let of = |member: &mut Member| {
                let running = member.find(ticket);
                running.is_some_and(|running| running.fate == Fate::Wanted)
            };
            let Some(index) = state.members.iter_mut().position(of) else {
                return;
            };
            state.reply_running(index, ticket, fault, effects);
            let member = &mut state.members[index];
            if let Some(running) = member.find(ticket) {
                running.fate = Fate::Abandoned;
            }
            member.link.out().put(Kind::Cancel, ticket, b"", b"");
            effects.flush(&member.link);
        });
    }

    /// Whether a worker takes calls of a version.
    pub(crate) fn has(&self, version: &str) -> bool {
        self.lock()
            .members
            .iter()
            .any(|member| member.pool.takes_calls(version))
    }

    /// Versions that are in memory of any worker.
    pub(crate) fn loaded(&self) -> Vec<String> {
        let state = self.lock();
        let mut versions: Vec<String> = state
            .members
            .iter()
            .flat_map(|member| member.pool.loaded().map(str::to_owned))
            .collect();
        versions.sort();
        versions.dedup();
        versions
    }

    /// Versions in memory of one worker, and its calls.
    pub(crate) fn doing(&self, member: u64) -> (Vec<String>, usize) {
        let state = self.lock();
        let member = state.members.iter().find(|other| other.id == member);
        member.map_or_else(Default::default, |member| {
            (
                member.pool.loaded().map(str::to_owned).collect(),
                member.state.running.len(),
            )
        })
    }

    pub(crate) fn counts(&self) -> ServiceCounts {
        let state = self.lock();
        ServiceCounts {
            waiting: state.lanes.waiting(),
            running: state
                .members
                .iter()
                .map(|member| member.state.running.len())
                .sum(),
            ..state.counts.clone()
        }
    }
}

impl State {
    /// When somebody must look again, unless that was told already: no worker's word brings a batch on its way that is not full.
    fn wake(&mut self) -> Option<Instant> {
        if self.lanes.waiting() == 0 {
            return None;
        }
        let due = self.lanes.next_ripe(Instant::now())?;
        if self.wake.is_some_and(|wake| wake <= due) {
            return None;
        }
        self.wake = Some(due);
        Some(due)
    }

    /// Why no call is taken.
    fn refusal(&self, queue: usize) -> Option<Fault> {
        if self.closed {
            return Some(ending());
        }
        if self.members.is_empty()
            && let Some(cause) = &self.hopeless
        {
            return Some(no_worker(cause));
        }
        if self.lanes.waiting() >= queue
            && !self
                .members
                .iter()
                .any(|member| member.open && member.is_free())
        {
            return Some(Fault::new(
                Code::ResourceExhausted,
                "queue_full",
                format!(
                    "{} calls wait already; `limits.queue` allows no more",
                    self.lanes.waiting()
                ),
            ));
        }
        None
    }

    /// Why calls of a version are refused that was not there a moment ago.
    fn unknown(&self, version: &str) -> Option<Fault> {
        let (.., since, fault) = self.unknown.iter().find(|(name, ..)| name == version)?;
        (since.elapsed() < UNKNOWN_FOR).then(|| fault.clone())
    }

    /// Ends a job without an answer.
    fn fail(&mut self, job: Box<Job>, fault: Fault, effects: &mut Effects) {
        *self.counts.faults.entry(fault.reason).or_default() += 1;
        effects.reply(job.reply, Err(fault));
    }
}

fn ending() -> Fault {
    Fault::new(Code::Unavailable, "draining", "the service is ending")
}

fn no_worker(cause: &str) -> Fault {
    Fault::new(
        Code::Unavailable,
        "no_worker",
        format!("no worker can be started: {cause}"),
    )
}
