//! The supervisor: holds the listening sockets, keeps a gateway alive behind them, hands both on.
//!
//! One thread, no runtime, no allocation to speak of: it waits in `poll` for a signal, a message or a deadline. All
//! it knows of a gateway is its control socket; the end of that socket is the gateway's death, whoever its parent is.
//!
//! ```text
//!            ready                       signal, or a successor's commit
//! starting ─────────→ running ─────────────────────────────────────────→ draining ─→ exit
//!     │                  │  gateway died: start another (back-off)
//!     └ failed: exit 1   └  gateway drains by itself: start another beside it
//! ```
//!
//! At most one gateway is *current*; the others are *outgoing* and drain as soon as the current one serves. An
//! upgrade, the take-over of an orphan that runs something else, and a gateway that was told to drain by its own
//! signal are all this same rule.

mod adopt;
mod backoff;
mod control;
mod gateways;
mod handover;
mod host;
mod process;
mod serve;
mod signals;
mod start;
mod systemd;
mod watchdog;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::{Child, ExitCode};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::backoff::Backoff;
use self::control::Control;
use self::handover::{Predecessor, Successor};
use self::host::Host;
use self::process::{Accepted, RoleProcess, Stage};
use self::signals::Signals;
use self::systemd::ServiceManager;
use crate::control::Channel;
use crate::control::message::Order;
use crate::hostdir;
use crate::plan::Plan;
use crate::rundir::{Lock, RunDir};
use crate::sockets::{HeldSocket, SocketId};

/// Runs until a signal or a successor ends it.
pub(crate) fn run(plan: Plan) -> ExitCode {
    match Supervisor::start(plan) {
        Ok(supervisor) => supervisor.serve(),
        Err(error) => {
            tracing::error!(reason = %error, "not started");
            ExitCode::FAILURE
        }
    }
}

/// The sign of being in charge: the lock of the state folder, and the socket where a successor knocks. During an
/// upgrade the new supervisor gets both when the old one lets go.
#[derive(Debug)]
struct Seat {
    lock: Lock,
    control: UnixListener,
    /// Higher than that of any supervisor before on this state folder, see [`crate::control::message`].
    epoch: u64,
}

impl Seat {
    /// Of whoever holds the lock, which nobody else did.
    fn take(run: &RunDir, lock: Lock) -> io::Result<Self> {
        let control = run.listen_control(&lock)?;
        control.set_nonblocking(true)?;
        Self::over(run, lock, control)
    }

    /// Of whoever got both from the supervisor before.
    fn over(run: &RunDir, lock: Lock, control: UnixListener) -> io::Result<Self> {
        let epoch = run.next_epoch(&lock, 0)?;
        Ok(Self {
            lock,
            control,
            epoch,
        })
    }

    /// Goes on with an epoch above one that a role has seen.
    fn rise_above(&mut self, run: &RunDir, seen: u64) -> io::Result<()> {
        self.epoch = run.next_epoch(&self.lock, seen)?;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Keeps a gateway alive.
    Running,
    /// Waits for the gateways to finish what they have in flight.
    Draining,
}

#[derive(Debug)]
struct Supervisor {
    plan: Plan,
    run: RunDir,
    /// `None` while an upgrade is not committed, and after the seat was handed on.
    seat: Option<Seat>,
    sockets: Vec<HeldSocket>,
    /// Sockets that were taken over and that this configuration does not have: their files go when it serves.
    discarded: Vec<SocketId>,
    /// The configuration of the current gateway, or of the last one.
    accepted: Option<Accepted>,
    signals: Signals,
    manager: ServiceManager,
    phase: Phase,
    current: Option<RoleProcess>,
    outgoing: Vec<RoleProcess>,
    control: Control,
    host: Host,
    backoff: Backoff,
    /// When the next gateway is started, while there is none.
    restart_at: Option<Instant>,
    /// Whether a gateway of this supervisor ever served. Until then a failure is the answer to the command.
    served: bool,
    /// Why the command failed.
    fatal: Option<String>,
    /// The same, once what this supervisor had started is told to end.
    failed: Option<String>,
    /// Whether it was said where a model serves.
    announced: bool,
    /// The supervisor that this one is replacing.
    predecessor: Option<Predecessor>,
    /// Whoever connected to the control socket and has not asked for anything yet.
    callers: Vec<Channel>,
    /// When the control socket is looked at again, after one who knocked could not be let in.
    callers_at: Option<Instant>,
    /// The supervisor that is replacing this one.
    successor: Option<Successor>,
    /// The process that SIGUSR2 started.
    upgrade: Option<Child>,
    /// A signal to end has come; the next one ends at once.
    stop_signalled: bool,
    /// Whether anything went wrong while draining: requests cut, gateways that did not end by themselves.
    unclean: bool,
    /// The deadline that the last wait was for.
    waited_for: Option<Instant>,
}

impl Supervisor {
    fn serve(mut self) -> ExitCode {
        loop {
            self.on_signals();
            self.on_predecessor();
            self.on_callers();
            self.on_successor();
            self.on_gateways();
            self.on_time(Instant::now());
            self.on_silence(Instant::now());
            self.on_host(Instant::now());
            self.on_control(Instant::now());
            self.on_serving();
            if let Some(code) = self.over() {
                return code;
            }
            if let Err(error) = self.wait() {
                tracing::error!(%error, "cannot wait for events");
                return ExitCode::FAILURE;
            }
        }
    }

    /// The exit code, when there is nothing left to do.
    fn over(&mut self) -> Option<ExitCode> {
        if let Some(reason) = self.fatal.take() {
            self.fail(reason);
        }
        let own =
            self.current.is_some() || self.control.process.is_some() || self.host.process.is_some();
        if let Some(reason) = &self.failed {
            if own {
                return None;
            }
            tracing::error!(reason, "not started");
            self.leave();
            return Some(ExitCode::FAILURE);
        }
        if self.phase == Phase::Draining && !own && self.outgoing.is_empty() {
            tracing::info!(clean = !self.unclean, "ended");
            self.leave();
            return Some(if self.unclean {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            });
        }
        None
    }

    /// Has all end that was started for a command that failed: nothing of it goes on behind the command's end. What was to be replaced
    /// stays.
    fn fail(&mut self, reason: String) {
        if self.failed.is_some() {
            return;
        }
        self.failed = Some(reason);
        self.phase = Phase::Draining;
        self.restart_at = None;
        self.predecessor = None;
        self.successor = None;
        self.callers.clear();
        if let Some(current) = &mut self.current {
            current.kill();
        }
        if !self.served {
            self.host.leave_adopted();
        }
        // What is not wanted any more is told to end.
        let now = Instant::now();
        self.on_gateways();
        self.on_host(now);
        self.on_control(now);
    }

    /// Leaves the state folder as the next start wants to find it. Gateways that were to be replaced and were not
    /// stay: they serve, and a later start takes them over.
    fn leave(&mut self) {
        if let Some(seat) = &self.seat {
            if self.failed.is_none() {
                // A host that was to be replaced, and its successor did not come so far.
                hostdir::dismiss_all(&self.plan.start.run, seat.epoch);
            }
            self.run.remove_control(&seat.lock);
            if self.outgoing.is_empty() {
                self.sockets.iter().for_each(|held| held.id.remove_file());
            }
            if self.failed.is_none() && !self.unclean {
                serve::forget_state(&self.plan);
            }
        }
    }

    /// Sleeps until something happens. What it was is found by looking at everything: there are a handful of sources
    /// and seldom anything to do.
    fn wait(&mut self) -> io::Result<()> {
        self.waited_for = self.next_deadline();
        let channels = [
            self.predecessor.as_ref().map(AsFd::as_fd),
            self.successor.as_ref().map(AsFd::as_fd),
            self.current.as_ref().map(AsFd::as_fd),
            self.control
                .process
                .as_ref()
                .map(|(process, _)| process.as_fd()),
            self.host.process.as_ref().map(AsFd::as_fd),
            self.seat
                .as_ref()
                .filter(|_| self.callers_at.is_none())
                .map(|seat| seat.control.as_fd()),
            Some(self.signals.as_fd()),
        ];
        let many = self
            .outgoing
            .iter()
            .map(AsFd::as_fd)
            .chain(self.callers.iter().map(AsFd::as_fd));
        let mut sources: Vec<PollFd<'_>> = channels
            .into_iter()
            .flatten()
            .chain(many)
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        let now = Instant::now();
        let timeout = self
            .waited_for
            .map(|deadline| deadline.saturating_duration_since(now));
        // A wait that does not fit is longer than any process lives: none.
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let gateways = self
            .current
            .iter()
            .chain(&self.outgoing)
            .filter_map(RoleProcess::due);
        let predecessor = self.predecessor.as_ref().and_then(Predecessor::deadline);
        gateways
            .chain(self.restart_at)
            .chain(predecessor)
            .chain(self.callers_at)
            .chain(self.control.deadline())
            .chain(self.host.deadline())
            .min()
    }

    fn on_signals(&mut self) {
        let signalled = self.signals.take();
        if signalled.stop {
            self.on_stop(Instant::now());
        }
        if signalled.reload && self.phase == Phase::Running {
            self.host.reload_soon();
            match &self.current {
                Some(current) => {
                    self.manager.reloading();
                    current.order(&Order::Reload, None);
                }
                // It waits to be started again, perhaps because of the configuration.
                None => self.restart_at = Some(Instant::now()),
            }
        }
        if signalled.child {
            self.on_upgrade_ended();
        }
        if signalled.upgrade {
            self.start_upgrade();
        }
    }

    fn on_stop(&mut self, now: Instant) {
        let again = std::mem::replace(&mut self.stop_signalled, true);
        match self.phase {
            Phase::Running => {
                tracing::info!(grace_ms = self.plan.grace_ms, "draining");
                self.manager.stopping();
                self.phase = Phase::Draining;
                self.restart_at = None;
                // Their channels close: an upgrade that is not committed is off.
                self.predecessor = None;
                self.successor = None;
                self.callers.clear();
                if self.seat.is_some() {
                    self.sockets.iter().for_each(|held| held.id.remove_file());
                }
                // With the gateway's copies the last ones: from then on connections are refused, not left waiting.
                self.sockets.clear();
                for gateway in self.current.iter_mut().chain(&mut self.outgoing) {
                    gateway.drain(true, now);
                }
            }
            Phase::Draining if again => {
                tracing::warn!("a second signal: ending at once");
                self.unclean = true;
                for gateway in self.current.iter_mut().chain(&mut self.outgoing) {
                    gateway.kill();
                }
                self.control.kill();
                self.host.kill();
            }
            Phase::Draining => {}
        }
    }

    fn on_time(&mut self, now: Instant) {
        for gateway in self.current.iter_mut().chain(&mut self.outgoing) {
            if gateway.deadline().is_some_and(|deadline| deadline <= now) {
                let pid = gateway.pid();
                match gateway.stage() {
                    Stage::Draining => {
                        tracing::error!(pid, "the gateway did not end after its grace: killed");
                        self.unclean = true;
                    }
                    Stage::Starting | Stage::Serving => {
                        tracing::error!(pid, "the gateway did not start in time: killed");
                        gateway.fail("the gateway did not start in time".to_owned());
                    }
                }
                gateway.kill();
                gateway.no_deadline();
            }
        }
        if self
            .predecessor
            .as_ref()
            .and_then(Predecessor::deadline)
            .is_some_and(|deadline| deadline <= now)
        {
            self.fatal = Some("the running supervisor did not let go in time".to_owned());
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.start_gateway(now);
        }
    }
}
