//! A worker: one thread, one current-thread runtime, its own connections in both directions.
//!
//! What a worker shares with others is behind [`Shared`]: the snapshot of the configuration, the pools, the counters.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use tidegate_core::{self as core, Member, MemberKey, Rng, SmallRng};
use tidegate_wire::headers::Via;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::access::AccessLog;
use crate::clock;
use crate::events::Events;
use crate::io::Raw;
use crate::io::turn::flush_dirty;
use crate::io::{late, spare};
use crate::listener::{ListenerState, OpenConnection};
use crate::serve;
use crate::snapshot::Snapshot;
use crate::stats::{Registry, Traffic};
use crate::trace::Exports;
use crate::up::conns::{EndpointConns, Siblings};
use crate::upstream::{Target, Upstream};
use crate::watch::{TICK, Watches};

/// What all workers and the control tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) stats: Registry,
    pub(crate) events: Events,
    pub(crate) access: AccessLog,
    pub(crate) exports: Exports,
    pub(crate) providers: crate::provider::Shared,
    /// Requests that no route took.
    pub(crate) unrouted: Arc<Traffic>,
    pub(crate) via: Via,
    /// Start of the process, and what the engine's time was then: nanoseconds since the Unix epoch, so that fixed windows are in
    /// step with the clock on the wall.
    pub(crate) origin: (Instant, u64),
    pub(crate) draining: AtomicBool,
}

impl Shared {
    /// The engine's time.
    pub(crate) fn now(&self) -> core::Time {
        let (start, epoch) = self.origin;
        let since = clock::now().saturating_duration_since(start);
        core::Time(epoch + since.as_nanos() as u64)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// An accepted socket, not yet registered with any runtime.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) open: OpenConnection,
}

#[derive(Debug)]
enum Job {
    Connection(Accepted, Loaded),
    /// Look at the shared state again: a drain has begun, or members have gone.
    Look,
    Stop,
}

/// A worker's connections, counted while they are open.
#[derive(Debug)]
struct Loaded(Arc<AtomicUsize>);

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way in to the workers.
#[derive(Debug)]
pub(crate) struct Door {
    desks: Vec<Desk>,
    turn: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    /// A worker that made no round between two looks of the [`Pulse`].
    hung: AtomicUsize,
}

/// No worker.
const NONE: usize = usize::MAX;

#[derive(Debug)]
struct Desk {
    jobs: UnboundedSender<Job>,
    connections: Arc<AtomicUsize>,
    /// Counts the worker's looks at its deadlines: one that hangs makes none.
    rounds: Arc<AtomicU64>,
}

impl Door {
    /// Gives the connection to the worker that has the fewest; in turn among equals. One that is no longer there has none at all, and
    /// would get them all.
    pub(crate) fn enter(&self, accepted: Accepted) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let n = self.desks.len();
        let desk = (0..n)
            .map(|i| &self.desks[(first + i) % n])
            .filter(|desk| !desk.jobs.is_closed())
            .min_by_key(|desk| desk.connections.load(Ordering::Relaxed));
        if let Some(desk) = desk {
            desk.connections.fetch_add(1, Ordering::Relaxed);
            // A worker that has stopped drops the connection: the process is ending.
            let _ = desk
                .jobs
                .send(Job::Connection(accepted, Loaded(desk.connections.clone())));
        }
    }

    /// Connections open on all workers.
    pub(crate) fn connections(&self) -> usize {
        self.desks
            .iter()
            .map(|d| d.connections.load(Ordering::Relaxed))
            .sum()
    }

    /// A worker that nothing can be expected of: its thread has ended, or it hangs.
    pub(crate) fn unwell(&self) -> Option<usize> {
        let hung = self.hung.load(Ordering::Relaxed);
        self.desks
            .iter()
            .position(|desk| desk.jobs.is_closed())
            .or_else(|| (hung != NONE).then_some(hung))
    }

    pub(crate) fn look(&self) {
        for desk in &self.desks {
            let _ = desk.jobs.send(Job::Look);
        }
    }

    pub(crate) fn stop(&self) {
        for desk in &self.desks {
            let _ = desk.jobs.send(Job::Stop);
        }
    }
}

/// Looks whether every worker goes round.
#[derive(Debug)]
pub(crate) struct Pulse {
    door: Arc<Door>,
    /// Rounds of each worker at the last look.
    seen: Vec<u64>,
}

impl Pulse {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        Self {
            // None has made so many: the first look finds everybody well.
            seen: vec![u64::MAX; door.desks.len()],
            door,
        }
    }

    /// The worker that has not gone round since the last look, if there is one. Workers do so every [`TICK`], also idle ones.
    pub(crate) fn look(&mut self) -> Option<usize> {
        let mut hung = NONE;
        for (worker, (desk, seen)) in self.door.desks.iter().zip(&mut self.seen).enumerate() {
            let rounds = desk.rounds.load(Ordering::Relaxed);
            if std::mem::replace(seen, rounds) == rounds {
                hung = hung.min(worker);
            }
        }
        self.door.hung.store(hung, Ordering::Relaxed);
        self.door.unwell()
    }
}

/// Starts the worker threads.
pub(crate) fn start(
    shared: &Arc<Shared>,
    count: usize,
) -> std::io::Result<(Door, Vec<std::thread::JoinHandle<()>>)> {
    let mut desks = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for index in 0..count {
        let (jobs, queue) = unbounded_channel();
        let shared = shared.clone();
        let rounds = Arc::<AtomicU64>::default();
        let counted = rounds.clone();
        let runtime = std::thread::Builder::new().name(format!("worker-{index}"));
        threads.push(runtime.spawn(move || {
            if let Err(e) = run(index, shared, queue, &counted) {
                tracing::error!(worker = index, cause = %e, "worker could not start");
            }
        })?);
        desks.push(Desk {
            jobs,
            connections: Arc::default(),
            rounds,
        });
    }
    Ok((
        Door {
            desks,
            turn: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            hung: AtomicUsize::new(NONE),
        },
        threads,
    ))
}

fn run(
    index: usize,
    shared: Arc<Shared>,
    mut queue: UnboundedReceiver<Job>,
    rounds: &AtomicU64,
) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(|| {
            late::end_turn();
            flush_dirty();
        })
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        let worker = Rc::new(Worker::new(index, shared));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                job = queue.recv() => match job {
                    Some(Job::Connection(accepted, loaded)) => worker.take(accepted, loaded),
                    Some(Job::Look) => {
                        // Ten thousand idle connections need not look up whenever a member goes.
                        if worker.shared.is_draining() {
                            worker.watches.wake_all();
                        }
                        worker.retire_gone();
                    }
                    Some(Job::Stop) | None => break,
                },
                _ = tick.tick() => {
                    rounds.fetch_add(1, Ordering::Relaxed);
                    #[cfg(debug_assertions)]
                    crate::fault::at_round(index);
                    worker.sweep(Instant::now());
                }
            }
        }
    });
    Ok(())
}

/// Connections of one worker that may wait for their next request without being parked.
const HOT: usize = 128;

/// A place among the connections that are not parked, given back when dropped.
pub(crate) struct Hot(Rc<Cell<usize>>);

impl Drop for Hot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// State of one worker, on its thread only.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) watches: Rc<Watches>,
    pub(crate) rng: RefCell<SmallRng>,
    /// Copies to shadow upstreams under way.
    pub(crate) mirrors: Cell<usize>,
    hot: Rc<Cell<usize>>,
    conns: RefCell<HashMap<(u64, MemberKey), Rc<EndpointConns>, foldhash::fast::FixedState>>,
    /// Connections of this worker by upstream.
    siblings: RefCell<HashMap<u64, Rc<Siblings>, foldhash::fast::FixedState>>,
    swept: Cell<Instant>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({})", self.index)
    }
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Self {
        // Different on each worker and in each process, or all would pick in step.
        let seed = std::hash::BuildHasher::hash_one(
            &std::collections::hash_map::RandomState::new(),
            index,
        );
        Self {
            index,
            shared,
            watches: Rc::default(),
            rng: RefCell::new(SmallRng::new(seed)),
            mirrors: Cell::new(0),
            hot: Rc::default(),
            conns: RefCell::default(),
            siblings: RefCell::default(),
            swept: Cell::new(Instant::now()),
        }
    }

    /// A place for a connection that waits for its next request without being parked, if there is one.
    pub(crate) fn hot(&self) -> Option<Hot> {
        if self.hot.get() >= HOT {
            return None;
        }
        self.hot.set(self.hot.get() + 1);
        Some(Hot(self.hot.clone()))
    }

    /// The engine's time.
    pub(crate) fn now(&self) -> core::Time {
        self.shared.now()
    }

    pub(crate) fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// The running configuration; held for one exchange, so that a reload never mixes two.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// This worker's connections to a member.
    pub(crate) fn conns(
        &self,
        upstream: &Arc<Upstream>,
        member: &Member<Arc<Target>>,
    ) -> Rc<EndpointConns> {
        let key = (upstream.id, member.key());
        if let Some(conns) = self.conns.borrow().get(&key) {
            return conns.clone();
        }
        let siblings = self
            .siblings
            .borrow_mut()
            .entry(upstream.id)
            .or_default()
            .clone();
        let conns = EndpointConns::new(upstream.clone(), member.payload().clone(), siblings);
        self.conns.borrow_mut().insert(key, conns.clone());
        conns
    }

    fn take(self: &Rc<Self>, accepted: Accepted, loaded: Loaded) {
        let Accepted {
            stream,
            peer,
            listener,
            open,
        } = accepted;
        let raw = match stream {
            Stream::Tcp(s) => TcpStream::from_std(s).map(Raw::Tcp),
            Stream::Unix(s) => UnixStream::from_std(s).map(Raw::Unix),
        };
        match raw {
            Ok(raw) => {
                raw.set_nodelay();
                tokio::task::spawn_local(serve::connection(
                    self.clone(),
                    raw,
                    peer,
                    listener,
                    (open, loaded),
                ));
            }
            Err(e) => {
                tracing::warn!(listener = %listener.name, cause = %e, "connection lost before it was served")
            }
        }
    }

    fn sweep(&self, now: Instant) {
        self.watches.sweep(now);
        for conns in self.conns.borrow().values() {
            conns.yield_idle();
        }
        // Idle upstream connections want no more than a look a second.
        if now.duration_since(self.swept.get()).as_millis() >= 1000 {
            self.swept.set(now);
            spare::trim();
            let all: Vec<_> = self.conns.borrow().values().cloned().collect();
            for conns in all {
                conns.sweep(now);
            }
        }
    }

    /// Closes the connections to members that are no longer in their pool, and of upstreams that are gone or made anew.
    fn retire_gone(&self) {
        let snapshot = self.snapshot();
        let current: HashSet<u64> = snapshot.pools().map(|u| u.id).collect();
        let members: HashSet<(u64, MemberKey)> = snapshot
            .pools()
            .flat_map(|u| u.live.pool.members().into_iter().map(|m| (u.id, m.key())))
            .collect();
        self.conns.borrow_mut().retain(|key, conns| {
            let keep = members.contains(key);
            if !keep {
                conns.retire();
            }
            keep
        });
        self.siblings
            .borrow_mut()
            .retain(|upstream, all| current.contains(upstream) || all.open() > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_unwell_when_it_makes_no_round_or_its_thread_has_ended() {
        let (mut desks, mut queues) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (jobs, queue) = unbounded_channel();
            queues.push(queue);
            desks.push(Desk {
                jobs,
                connections: Arc::default(),
                rounds: Arc::default(),
            });
        }
        let door = Arc::new(Door {
            desks,
            turn: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            hung: AtomicUsize::new(NONE),
        });
        let round = |worker: usize| door.desks[worker].rounds.fetch_add(1, Ordering::Relaxed);
        let mut pulse = Pulse::new(door.clone());
        assert_eq!(pulse.look(), None, "nobody had to go round before");
        round(0);
        assert_eq!((pulse.look(), door.unwell()), (Some(1), Some(1)));
        round(0);
        round(1);
        assert_eq!((pulse.look(), door.unwell()), (None, None), "well again");
        drop(queues.remove(0));
        assert_eq!(door.unwell(), Some(0), "at once, without a look");
    }
}
