//! One instance: keeps a worker running, replaces it, ends it.
//!
//! ```text
//! starting -> ready -> (death) -> back-off -> starting
//!                   -> (replace) -> a new worker starts beside the old one -> ready; the old one drains
//!                   -> (end) -> draining -> gone
//! ```

mod command;
mod live;
mod model;
mod reconnect;

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tidegate_config::model::{Run, Service};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backoff::{Backoff, Life};
use crate::doorway::Doorway;
use crate::events::{Event, What};
use crate::host::Shared;
use crate::model::Slot;
use crate::state::State;
use live::{Death, Live, Unstarted};

/// What a worker is started with.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) service: Service,
    pub(crate) revision: u64,
}

/// What an instance is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Another worker takes the place of the one that runs, once it is ready.
    Replace {
        spec: Arc<Spec>,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// No more calls; running ones end within `grace`; then everything of it goes.
    End { end: End, done: oneshot::Sender<()> },
}

/// How an instance ends.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// For the calls under way.
    pub(crate) grace: Duration,
    /// Of instances that end together: no worker goes before all doors are closed, since it may have calls that came through others.
    pub(crate) together: Arc<Barrier>,
}

impl End {
    /// Of so many instances.
    pub(crate) fn new(grace: Duration, together: usize) -> Self {
        Self {
            grace,
            together: Arc::new(Barrier::new(together)),
        }
    }
}

/// An instance that runs. Dropping it ends its worker at once.
#[derive(Debug)]
pub(crate) struct Instance {
    orders: mpsc::UnboundedSender<Order>,
    task: JoinHandle<()>,
}

impl Instance {
    pub(crate) fn start(
        shared: Arc<Shared>,
        slot: Arc<Slot>,
        spec: Arc<Spec>,
        doorway: Option<Doorway>,
    ) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let service: Arc<str> = spec.service.name.as_str().into();
        // It is seen from now on: who waits for all to be ready must not find none.
        shared.board.update(&service, slot.number, |state| {
            state.state = State::Starting;
            state.revision = spec.revision;
        });
        let keeper = Keeper {
            shared,
            slot,
            service,
            spec,
            orders: received,
            doorway,
            backoff: Backoff::default(),
            epoch: 0,
            died_of: None,
            waiting: Vec::new(),
        };
        Self {
            orders,
            task: tokio::spawn(keeper.run()),
        }
    }

    /// Resolves when the new worker has taken the place, with why it has not.
    pub(crate) async fn replace(&self, spec: Arc<Spec>) -> Result<(), String> {
        let (done, outcome) = oneshot::channel();
        let _ = self.orders.send(Order::Replace { spec, done });
        outcome
            .await
            .unwrap_or_else(|_| Err("the instance is ending".to_owned()))
    }

    /// Resolves when nothing of it is left.
    pub(crate) async fn end(self, end: End) {
        let (done, ended) = oneshot::channel();
        if self.orders.send(Order::End { end, done }).is_ok() {
            let _ = ended.await;
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps one instance.
struct Keeper {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    service: Arc<str>,
    spec: Arc<Spec>,
    orders: mpsc::UnboundedReceiver<Order>,
    doorway: Option<Doorway>,
    backoff: Backoff,
    epoch: u64,
    /// Why the last worker died or did not start.
    died_of: Option<String>,
    /// Who waits for the worker that is being started.
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
}

/// Why a stage was left.
enum Left {
    Ready(Live),
    Ended(Option<Live>, End, oneshot::Sender<()>),
    /// The host is gone.
    Dropped,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let mut live = match self.make_ready().await {
                Left::Ready(live) => live,
                Left::Ended(live, end, done) => return self.end(live, end, done).await,
                Left::Dropped => return,
            };
            let wait = loop {
                tokio::select! {
                    death = live.died() => break self.bury(&death, &live),
                    order = self.orders.recv() => match order {
                        Some(Order::Replace { spec, done }) => match self.replace(live, spec, done).await {
                            Left::Ready(next) => live = next,
                            Left::Ended(live, end, done) => return self.end(live, end, done).await,
                            Left::Dropped => return,
                        },
                        Some(Order::End { end, done }) => return self.end(Some(live), end, done).await,
                        None => return,
                    },
                }
            };
            match self.wait(wait).await {
                None | Some(Left::Ready(_)) => {}
                Some(Left::Ended(live, end, done)) => return self.end(live, end, done).await,
                Some(Left::Dropped) => return,
            }
        }
    }

    /// Starts workers until one is ready.
    async fn make_ready(&mut self) -> Left {
        loop {
            let spec = Arc::clone(&self.spec);
            let unstarted = tokio::select! {
                started = start(&self.shared, &self.slot, &spec, self.epoch + 1) => match started {
                    Ok(live) => {
                        self.epoch += 1;
                        self.publish(&live);
                        for done in self.waiting.drain(..) {
                            let _ = done.send(Ok(()));
                        }
                        return Left::Ready(live);
                    }
                    Err(unstarted) => unstarted,
                },
                order = self.orders.recv() => match self.taken(order) {
                    Some(left) => return left,
                    None => continue,
                },
            };
            self.epoch += 1;
            for done in self.waiting.drain(..) {
                let _ = done.send(Err(unstarted.cause.clone()));
            }
            let wait = self.died(&unstarted.cause, Life::STILLBORN, None);
            // Behind the cause, which whoever waits for this tells.
            self.board(|state| state.certain = unstarted.certain);
            if let Some(left) = self.wait(wait).await {
                return left;
            }
        }
    }

    /// The time before the next start, or until somebody orders one.
    async fn wait(&mut self, wait: Duration) -> Option<Left> {
        tokio::select! {
            () = tokio::time::sleep(wait) => None,
            order = self.orders.recv() => self.taken(order),
        }
    }

    /// An order while there is no worker. `None`: one is to be started at once.
    fn taken(&mut self, order: Option<Order>) -> Option<Left> {
        match order {
            Some(Order::Replace { spec, done }) => {
                self.adopt(spec);
                self.waiting.push(done);
                None
            }
            Some(Order::End { end, done }) => Some(Left::Ended(None, end, done)),
            None => Some(Left::Dropped),
        }
    }

    /// From now on workers are started so.
    fn adopt(&mut self, spec: Arc<Spec>) {
        if let Some(doorway) = &mut self.doorway {
            doorway.follow(&spec.service);
        }
        // How often the ones before died says nothing of those that come.
        self.backoff = Backoff::default();
        self.spec = spec;
    }

    /// Starts a worker beside the one that runs; the old one goes when the new one is ready.
    async fn replace(
        &mut self,
        mut live: Live,
        spec: Arc<Spec>,
        done: oneshot::Sender<Result<(), String>>,
    ) -> Left {
        let (mut spec, mut done) = (spec, done);
        let started = 'newer: loop {
            self.epoch += 1;
            let wanted = Arc::clone(&spec);
            let starting = start(&self.shared, &self.slot, &wanted, self.epoch);
            tokio::pin!(starting);
            loop {
                tokio::select! {
                    started = &mut starting => break 'newer started,
                    death = live.died() => {
                        // Its calls wait for the new one.
                        self.slot.ready.send_replace(false);
                        self.event(live.pid, What::Died { cause: death.cause.clone(), restart_in: Duration::ZERO });
                        self.died_of = Some(death.cause.clone());
                        self.board(|state| {
                            state.state = State::Starting;
                            state.pid = None;
                            state.unwell = None;
                            state.restarts += 1;
                            state.cause = Some(death.cause);
                        });
                    }
                    order = self.orders.recv() => match order {
                        Some(Order::End { end, done: ended }) => {
                            let _ = done.send(Err("the instance is ending".to_owned()));
                            return Left::Ended(live.is_alive().then_some(live), end, ended);
                        }
                        Some(Order::Replace { spec: newer, done: newer_done }) => {
                            let _ = done.send(Err("a newer one came".to_owned()));
                            (spec, done) = (newer, newer_done);
                            continue 'newer;
                        }
                        None => return Left::Dropped,
                    },
                }
            }
        };
        match started {
            Ok(new) => {
                self.adopt(spec);
                self.publish(&new);
                let (group, seen) = (Arc::clone(&self.slot.group), self.shared.settle);
                let (events, service, instance) = (
                    Arc::clone(&self.shared.events),
                    Arc::clone(&self.service),
                    Arc::clone(&self.slot.instance),
                );
                let pid = live.pid;
                let grace = self.spec.service.stop_grace;
                if live.is_alive() {
                    self.shared.retiring.spawn(async move {
                        let event = |what| {
                            events.event(Event {
                                service: Arc::clone(&service),
                                instance: Arc::clone(&instance),
                                pid,
                                what,
                            })
                        };
                        event(What::Draining);
                        if live.member.is_none() {
                            // Whoever sends it requests must have seen that another took its place.
                            tokio::time::sleep(seen).await;
                        }
                        live.retire(&group, grace).await;
                        event(What::Stopped);
                    });
                }
                let _ = done.send(Ok(()));
                Left::Ready(new)
            }
            Err(Unstarted { cause, .. }) => {
                self.event(
                    None,
                    What::ReloadFailed {
                        cause: cause.clone(),
                    },
                );
                self.board(|state| state.cause = Some(cause.clone()));
                let _ = done.send(Err(cause));
                if live.is_alive() {
                    return Left::Ready(live);
                }
                Box::pin(self.make_ready()).await
            }
        }
    }

    /// A worker is ready: calls may come.
    fn publish(&mut self, live: &Live) {
        if let Some(about) = &live.about {
            self.slot.about.store(Arc::clone(about));
        }
        self.slot.revision.store(live.revision, Ordering::Relaxed);
        self.slot.ready.send_replace(true);
        self.event(live.pid, What::Ready { took: live.took });
        let versions = live
            .member
            .map(|member| self.slot.group.doing(member).0)
            .unwrap_or_default();
        let address = match (&self.doorway, live.port) {
            (Some(doorway), _) => Some(doorway.address()),
            (None, port) => port.map(crate::state::Address::Port),
        };
        self.slot
            .member
            .store(live.member.unwrap_or(0), Ordering::Relaxed);
        let retryable = live.about.as_ref().map(|about| {
            let methods = about.methods.iter().filter(|(_, method)| method.retry);
            methods.map(|(name, _)| name.clone()).collect()
        });
        let died_of = self.died_of.clone();
        self.board(|state| {
            state.state = State::Ready;
            state.unwell = None;
            // What it waited for meanwhile is over.
            state.cause = died_of;
            state.retryable = retryable;
            state.address = address;
            state.revision = live.revision;
            state.pid = live.pid;
            state.versions = versions;
            // A new worker in the same place is news, too.
            state.since = SystemTime::now();
        });
    }

    /// The worker is gone. Returns when the next one is started.
    fn bury(&mut self, death: &Death, live: &Live) -> Duration {
        let life = Life {
            ready: Some(live.ready.elapsed().saturating_sub(death.unwell)),
            served: death.served,
            unwell: death.unwell,
        };
        self.died(&death.cause, life, live.pid)
    }

    /// Tells of a death; returns when the next worker is started.
    fn died(&mut self, cause: &str, life: Life, pid: Option<u32>) -> Duration {
        let restart = self.backoff.died(Instant::now(), life);
        self.slot.ready.send_replace(false);
        self.event(
            pid,
            What::Died {
                cause: cause.to_owned(),
                restart_in: restart.wait,
            },
        );
        self.died_of = Some(cause.to_owned());
        self.board(|state| {
            state.unwell = None;
            state.state = if restart.crash_loop {
                State::CrashLoop
            } else {
                State::Starting
            };
            state.pid = None;
            state.restarts += 1;
            state.cause = Some(cause.to_owned());
            state.versions.clear();
            state.in_flight = 0;
            state.memory = 0;
        });
        if restart.crash_loop {
            self.event(
                pid,
                What::CrashLoop {
                    cause: cause.to_owned(),
                },
            );
            if self.shared.board.is_hopeless(&self.service) {
                self.slot.group.give_up(cause);
            }
        }
        restart.wait
    }

    async fn end(mut self, live: Option<Live>, end: End, done: oneshot::Sender<()>) {
        let deadline = Instant::now() + end.grace;
        let pid = live.as_ref().and_then(|live| live.pid);
        self.slot.ready.send_replace(false);
        self.event(pid, What::Draining);
        self.board(|state| state.state = State::Draining);
        if let Some(doorway) = self.doorway.take() {
            doorway.close(deadline).await;
        } else if live.is_some() {
            // Whoever sends it requests must have seen that it goes.
            tokio::time::sleep(self.shared.settle).await;
        }
        let _ = tokio::time::timeout_at(deadline, end.together.wait()).await;
        if let Some(mut live) = live {
            live.retire(
                &self.slot.group,
                deadline.saturating_duration_since(Instant::now()),
            )
            .await;
        }
        self.event(pid, What::Stopped);
        self.shared.board.leave(&self.service, self.slot.number);
        let _ = done.send(());
    }

    fn event(&self, pid: Option<u32>, what: What) {
        self.shared.events.event(Event {
            service: Arc::clone(&self.service),
            instance: Arc::clone(&self.slot.instance),
            pid,
            what,
        });
    }

    fn board(&self, change: impl FnOnce(&mut crate::state::InstanceState)) {
        self.shared
            .board
            .update(&self.service, self.slot.number, change);
    }
}

async fn start(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    spec: &Arc<Spec>,
    epoch: u64,
) -> Result<Live, Unstarted> {
    // Of the configuration as it is now; `spec` may be older where no new worker was needed.
    let limit = slot.group.settings().start_timeout;
    let unfit = command::Unfit::default();
    let ready = async {
        match &spec.service.run {
            Run::Python(python) => model::start(shared, slot, spec, python, epoch).await,
            Run::Command(words) => command::start(shared, slot, spec, words, epoch, &unfit).await,
        }
    };
    tokio::time::timeout(limit, ready)
        .await
        .unwrap_or_else(|_| {
            let mut cause = format!(
                "it was not ready within `start_timeout` ({} s)",
                limit.as_secs_f64()
            );
            let unfit = unfit.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(unfit) = &*unfit {
                cause.push_str(": ");
                cause.push_str(unfit);
            }
            Err(cause.into())
        })
}
