//! One process of a role, as its supervisor sees it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::control::beat;
use crate::control::message::{Hello, HostOrder, Order, Report, StartOrder};
use crate::control::{Channel, ChannelError, Received, Wait};
use crate::plan::clean_environment;
use crate::sockets::HeldSocket;

/// Time that a gateway has from its start until it serves. It resolves names and reads certificates meanwhile; one
/// that takes longer hangs.
const START_TIME: Duration = Duration::from_secs(60);

/// Time beyond the grace that a draining gateway has to end by itself.
const DRAIN_MARGIN: Duration = Duration::from_secs(3);

/// Time that control has to answer the calls it has taken and to close its file, as long as calls may take.
const CONTROL_GRACE: Duration = Duration::from_secs(5);

/// Time that a host has for its workers to end that could not say how long they may take.
const HOST_GRACE: Duration = Duration::from_secs(30);

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Started; does not serve yet.
    Starting,
    /// Serves.
    Serving,
    /// Finishes what it has in flight.
    Draining,
}

/// How a process ended, in words for the log.
#[derive(Debug)]
pub(super) struct End {
    /// `exit status: 1`, `signal: 9 (SIGKILL)`; of an adopted one the system tells nobody.
    pub(super) status: String,
    /// Whether it ended by itself and without fault.
    pub(super) clean: bool,
}

/// What a gateway accepted as its configuration, kept for the next one: the supervisor cannot read it and need not.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) hash: String,
    pub(super) texts: OwnedFd,
}

/// A gateway, host or control with the supervisor's end of its socket.
#[derive(Debug)]
pub(super) struct RoleProcess {
    channel: Channel,
    /// `None` for an adopted one, which is not our child.
    child: Option<Child>,
    /// A handle on an adopted one, where the system has such: its process id may be another's one day.
    handle: Option<OwnedFd>,
    pid: u32,
    stage: Stage,
    /// When it entered its stage.
    since: Instant,
    /// When it is killed if it is still in that stage.
    deadline: Option<Instant>,
    /// When it is taken for hung if it gives no sign of life; `None` until its first one: earlier versions give none.
    beat_due: Option<Instant>,
    /// `shutdown.grace` of its configuration.
    grace: Duration,
    /// The reason it gave for not starting.
    failure: Option<String>,
}

impl RoleProcess {
    /// Starts a gateway and gives it its sockets.
    ///
    /// # Errors
    /// The system's, when no process or descriptor can be had.
    pub(super) fn spawn(
        start: &StartOrder,
        accepted: Option<&Accepted>,
        sockets: &[HeldSocket],
        grace: Duration,
    ) -> io::Result<Self> {
        let gateway = Self::process("gateway", grace)?;
        // A send that fails means that it died already, which the next read tells.
        for held in sockets {
            let _ = gateway.channel.send(
                &Order::Socket {
                    id: held.id.clone(),
                },
                Some(held.as_fd()),
            );
        }
        if let Some(Accepted { hash, texts }) = accepted {
            let _ = gateway
                .channel
                .send(&Order::Accepted { hash: hash.clone() }, Some(texts.as_fd()));
        }
        let _ = gateway.channel.send(&Order::Start(start.clone()), None);
        Ok(gateway)
    }

    /// Starts control, which is a process with the same life: starting, serving, draining.
    ///
    /// # Errors
    /// The system's, when no process or descriptor can be had.
    pub(super) fn spawn_control(order: &Order) -> io::Result<Self> {
        let control = Self::process("control", CONTROL_GRACE)?;
        let _ = control.channel.send(order, None);
        Ok(control)
    }

    /// Starts a host with the accepted configuration.
    ///
    /// # Errors
    /// The system's, when no process or descriptor can be had.
    pub(super) fn spawn_host(order: HostOrder, accepted: &Accepted) -> io::Result<Self> {
        let host = Self::process("host", HOST_GRACE)?;
        host.order_accepted(accepted);
        let _ = host.channel.send(&Order::Host(order), None);
        Ok(host)
    }

    /// Hands the accepted configuration on.
    pub(super) fn order_accepted(&self, accepted: &Accepted) {
        let hash = accepted.hash.clone();
        let _ = self
            .channel
            .send(&Order::Accepted { hash }, Some(accepted.texts.as_fd()));
    }

    fn process(role: &str, grace: Duration) -> io::Result<Self> {
        let (channel, theirs) = Channel::pair()?;
        let mut command = crate::exe::command();
        clean_environment(&mut command).args(["role", role]);
        // Its own group: Ctrl-C in a terminal reaches the supervisor alone, which then has it drain.
        command
            .process_group(0)
            .stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn()?;
        // The command keeps a copy of the child's end; the end must be the child's alone, so that its death is seen.
        drop(command);
        let now = Instant::now();
        Ok(Self {
            channel,
            pid: child.id(),
            child: Some(child),
            handle: None,
            stage: Stage::Starting,
            since: now,
            deadline: Some(now + START_TIME),
            beat_due: None,
            grace,
            failure: None,
        })
    }

    /// Takes a process that serves already and outlived its supervisor.
    pub(super) fn adopted(channel: Channel, hello: &Hello, handle: Option<OwnedFd>) -> Self {
        Self {
            channel,
            child: None,
            handle,
            pid: hello.pid,
            stage: Stage::Serving,
            since: Instant::now(),
            deadline: None,
            beat_due: None,
            grace: Duration::from_millis(hello.grace_ms),
            failure: None,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Another supervisor has it from now on: it is not to be killed here any more.
    pub(super) fn is_anothers(&mut self) {
        (self.child, self.handle) = (None, None);
    }

    /// Whether another supervisor started it.
    pub(super) fn is_adopted(&self) -> bool {
        self.child.is_none()
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// It was acted on.
    pub(super) fn no_deadline(&mut self) {
        self.deadline = None;
    }

    /// Kills one that does not start or end in its time.
    pub(super) fn kill_if_late(&mut self, what: &str, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            tracing::error!(
                pid = self.pid,
                "{what} does not start or end in time: killed"
            );
            self.kill();
            self.no_deadline();
        }
    }

    /// It gave a sign of life. One that drains has a deadline for that.
    pub(super) fn beats(&mut self, now: Instant) {
        if self.stage != Stage::Draining {
            self.beat_due = Some(now + beat::deadline());
        }
    }

    /// When the next sign of life is due at the latest.
    pub(super) fn beat_due(&self) -> Option<Instant> {
        self.beat_due
    }

    /// Its silence was acted on.
    pub(super) fn no_beat_due(&mut self) {
        self.beat_due = None;
    }

    /// When somebody has to look after it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.beat_due).min()
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.failure = Some(reason);
    }

    /// How long it has served, zero if it never did.
    pub(super) fn served(&self, now: Instant) -> Duration {
        if self.stage == Stage::Starting {
            Duration::ZERO
        } else {
            now.saturating_duration_since(self.since)
        }
    }

    /// It serves. Returns how long it took to start.
    pub(super) fn serves(&mut self, now: Instant) -> Duration {
        let took = now.saturating_duration_since(self.since);
        (self.stage, self.since, self.deadline) = (Stage::Serving, now, None);
        took
    }

    /// Its configuration was reloaded.
    pub(super) fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Has it drain. One that is starting reads the order when it serves: it may have accepted a connection before its
    /// supervisor learned that it is ready.
    pub(super) fn drain(&mut self, keep_admin: bool, now: Instant) {
        if self.stage != Stage::Draining {
            let order = Order::Drain {
                keep_admin,
                epoch: None,
            };
            let _ = self.channel.send(&order, None);
            self.drains(now);
        }
    }

    /// It drains.
    pub(super) fn drains(&mut self, now: Instant) {
        let deadline = now + self.grace + DRAIN_MARGIN;
        (self.stage, self.since, self.deadline) = (Stage::Draining, now, Some(deadline));
        self.beat_due = None;
    }

    /// Sends an order; one that cannot be sent is lost, as its receiver is.
    pub(super) fn order(&self, order: &Order, socket: Option<&HeldSocket>) {
        if let Err(error) = self.channel.send(order, socket.map(AsFd::as_fd)) {
            tracing::warn!(pid = self.pid, %error, "an order did not reach the gateway");
        }
    }

    /// The next report, without waiting.
    pub(super) fn report(&mut self) -> Received<Report> {
        loop {
            match self.channel.receive(Wait::No) {
                Ok(received) => return received,
                Err(error @ ChannelError::Unknown { .. }) => {
                    tracing::warn!(pid = self.pid, %error, "report ignored")
                }
                Err(error) => {
                    tracing::warn!(pid = self.pid, %error, "the control socket failed");
                    return Received::Closed;
                }
            }
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        match (&mut self.child, &self.handle) {
            (Some(child), _) => drop(child.kill()),
            (None, Some(handle)) => kill_by(handle),
            // Only while its control socket is open: the process id is its own until then.
            (None, None) => {
                if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                }
            }
        }
    }

    /// After its control socket closed: how it ended. A gateway that only closed the socket is of no use any more and
    /// is killed first; the status of one that has ended is not changed by that.
    pub(super) fn end(mut self) -> End {
        match &mut self.child {
            Some(child) => {
                let _ = child.kill();
                match child.wait() {
                    Ok(status) => End {
                        status: status.to_string(),
                        clean: status.success(),
                    },
                    Err(error) => End {
                        status: error.to_string(),
                        clean: false,
                    },
                }
            }
            None => {
                if let Some(handle) = &self.handle {
                    kill_by(handle);
                }
                End {
                    status: "unknown (adopted)".into(),
                    clean: self.stage == Stage::Draining,
                }
            }
        }
    }
}

impl AsFd for RoleProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

#[cfg(target_os = "linux")]
fn kill_by(handle: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(handle, Signal::KILL);
}

/// There are no handles here.
#[cfg(not(target_os = "linux"))]
fn kill_by(_: &OwnedFd) {}
