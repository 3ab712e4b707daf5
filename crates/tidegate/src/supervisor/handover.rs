//! `up --upgrade`: how one supervisor gives its place to another.
//!
//! ```text
//! new                                   running
//!  │ upgrade                              │
//!  │─────────────────────────────────────→│
//!  │         sockets…, offer              │     both hold the sockets; the old gateway serves
//!  │←─────────────────────────────────────│
//!  │ (starts its gateway, waits until it  │
//!  │  is ready: both gateways serve)      │
//!  │ commit                               │
//!  │─────────────────────────────────────→│
//!  │         lock, control, released      │     the old gateway drains, then the old supervisor ends
//!  │←─────────────────────────────────────│
//! ```
//!
//! Until `commit` the running one has promised nothing: when the connection closes, it goes on as if nobody had
//! asked. The lock is handed over as an open file, so that at no moment a third one could take it.
//!
//! With `--keep-hosts` the old supervisor lets its host go with `released`, and the new one adopts it as one whose supervisor has died
//! ([`super::host`]). Without, the old one's host serves until the new one's has taken over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use super::adopt;
use super::process::RoleProcess;
use super::{Phase, Seat, Supervisor};
use crate::control::message::{Ask, Grant, HOST_PROTOCOL};
use crate::control::{Channel, ChannelError, Received, Wait};
use crate::plan::clean_environment;
use crate::rundir::{Adoptable, Lock, RunDir};
use crate::sockets::HeldSocket;

/// How long the running supervisor may take for an answer. It does nothing that takes time; longer means stopped.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Connections to the control socket that have not asked for anything yet.
const CALLERS: usize = 8;

/// Pause after one of them could not be let in.
const CALLERS_PAUSE: Duration = Duration::from_secs(1);

/// Why an upgrade did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The running supervisor cannot be reached.
    #[error("the running supervisor cannot be asked for its sockets: {0}")]
    Unreachable(#[from] ChannelError),
    /// It does not want to.
    #[error("the running supervisor refuses: {0}")]
    Refused(String),
    /// It ended, or does not answer.
    #[error("the running supervisor does not answer")]
    Silent,
    /// Its host can't be handed on to this build.
    #[error(
        "the running hosts cannot be kept: they speak version {0} of the hosts' protocol, this build {HOST_PROTOCOL}; without --keep-hosts the \
         upgrade starts new ones"
    )]
    Hosts(u32),
}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.into())
    }
}

/// The supervisor that this one is replacing.
#[derive(Debug)]
pub(super) struct Predecessor {
    channel: Channel,
    /// When its answer to `commit` is due; `None` before that was said.
    deadline: Option<Instant>,
    lock: Option<OwnedFd>,
    control: Option<OwnedFd>,
}

impl Predecessor {
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl AsFd for Predecessor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// The supervisor that is replacing this one.
#[derive(Debug)]
pub(super) struct Successor {
    channel: Channel,
    pid: u32,
    /// It adopts the host.
    keep_hosts: bool,
}

impl AsFd for Successor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// What the running supervisor offers.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) predecessor: Predecessor,
    pub(super) sockets: Vec<HeldSocket>,
    pub(super) notify_socket: Option<String>,
}

/// Asks the running supervisor for its sockets, and for its hosts if those are to be kept.
///
/// # Errors
/// See [`RequestError`]; the running one is untouched then.
pub(super) fn request(run: &RunDir, keep_hosts: bool) -> Result<Offer, RequestError> {
    let mut channel = Channel::new(run.connect_control()?)?;
    channel.set_read_timeout(Some(ANSWER_TIME))?;
    channel.send(
        &Ask::Upgrade {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            keep_hosts,
        },
        None,
    )?;
    let mut sockets = Vec::new();
    loop {
        match channel.receive(Wait::Yes)? {
            Received::Message(Grant::Socket { id }, Some(fd)) => {
                sockets.push(HeldSocket::received(id, fd))
            }
            Received::Message(
                Grant::Offer {
                    pid,
                    version,
                    notify_socket,
                    host_protocol,
                },
                _,
            ) => {
                if keep_hosts && host_protocol != HOST_PROTOCOL {
                    return Err(RequestError::Hosts(host_protocol));
                }
                tracing::info!(
                    pid,
                    version,
                    sockets = sockets.len(),
                    "replacing the running supervisor"
                );
                let predecessor = Predecessor {
                    channel,
                    deadline: None,
                    lock: None,
                    control: None,
                };
                return Ok(Offer {
                    predecessor,
                    sockets,
                    notify_socket,
                });
            }
            Received::Message(Grant::Refused { reason }, _) => {
                return Err(RequestError::Refused(reason));
            }
            Received::Message(..) => {}
            Received::Nothing | Received::Closed => return Err(RequestError::Silent),
        }
    }
}

/// The new supervisor's side, after the request.
impl Supervisor {
    /// The new gateway serves: asks the predecessor to go.
    pub(super) fn commit(&mut self, now: Instant) {
        let Some(predecessor) = &mut self.predecessor else {
            return;
        };
        // Said only once, also when the gateway is restarted in between.
        if predecessor.deadline.is_none() {
            predecessor.deadline = Some(now + ANSWER_TIME);
            if let Err(error) = predecessor.channel.send(&Ask::Commit, None) {
                tracing::warn!(%error, "the running supervisor was not reached");
            }
        }
    }

    pub(super) fn on_predecessor(&mut self) {
        while let Some(predecessor) = &mut self.predecessor {
            match predecessor.channel.receive(Wait::No) {
                Ok(Received::Message(Grant::Lock, fd)) => predecessor.lock = fd,
                Ok(Received::Message(Grant::Control, fd)) => predecessor.control = fd,
                Ok(Received::Message(Grant::Released, _)) => {
                    let parts = (predecessor.lock.take(), predecessor.control.take());
                    self.predecessor = None;
                    self.sit_down(parts);
                }
                Ok(Received::Message(..)) => {}
                Ok(Received::Nothing) => return,
                Err(error @ ChannelError::Unknown { .. }) => {
                    tracing::warn!(%error, "grant ignored")
                }
                Ok(Received::Closed) | Err(_) => {
                    let committed = predecessor.deadline.is_some();
                    self.predecessor = None;
                    if committed {
                        // It died while letting go. Its lock died with it.
                        self.sit_down((None, None));
                    } else {
                        self.fatal = Some(
                            "the running supervisor ended during the upgrade; start again"
                                .to_owned(),
                        );
                    }
                }
            }
        }
    }

    fn sit_down(&mut self, parts: (Option<OwnedFd>, Option<OwnedFd>)) {
        let seat = || -> Result<Seat, String> {
            let seat = match parts {
                (Some(lock), Some(control)) => {
                    let lock = Lock::received(lock).map_err(|error| error.to_string())?;
                    Seat::over(&self.run, lock, UnixListener::from(control))
                }
                _ => Seat::take(
                    &self.run,
                    self.run.lock().map_err(|error| error.to_string())?,
                ),
            };
            seat.map_err(|error| error.to_string())
        };
        match seat() {
            Ok(seat) => {
                self.seat = Some(seat);
                tracing::info!(pid = std::process::id(), "in charge");
                if self.plan.keep_hosts {
                    self.adopt_host();
                }
                self.settled();
            }
            Err(reason) => self.fatal = Some(reason),
        }
    }
}

/// The running supervisor's side.
impl Supervisor {
    pub(super) fn on_callers(&mut self) {
        let now = Instant::now();
        if self.callers_at.is_none_or(|at| at <= now) {
            self.callers_at = None;
            if let Err(error) = self.let_in() {
                // Out of descriptors, most likely. Who knocks goes on waiting, and would wake this process without end.
                let pause_ms = CALLERS_PAUSE.as_millis() as u64;
                tracing::warn!(%error, pause_ms, "cannot let in who asks to take over");
                self.callers_at = Some(now + CALLERS_PAUSE);
            }
        }
        for mut caller in std::mem::take(&mut self.callers) {
            match caller.receive(Wait::No) {
                Ok(Received::Nothing) => self.callers.push(caller),
                Ok(Received::Message(
                    Ask::Upgrade {
                        pid,
                        version,
                        keep_hosts,
                    },
                    _,
                )) => self.offer(caller, pid, &version, keep_hosts),
                Ok(Received::Message(Ask::Commit, _) | Received::Closed) | Err(_) => {}
            }
        }
    }

    /// Lets in everybody who knocks.
    fn let_in(&mut self) -> io::Result<()> {
        let Some(seat) = &self.seat else {
            return Ok(());
        };
        loop {
            let stream = match seat.control.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(()),
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                    _ => return Err(error),
                },
            };
            if self.callers.len() >= CALLERS {
                self.callers.remove(0);
            }
            self.callers.extend(Channel::new(stream));
        }
    }

    fn offer(&mut self, channel: Channel, pid: u32, version: &str, keep_hosts: bool) {
        if self.phase != Phase::Running || self.successor.is_some() || self.predecessor.is_some() {
            let reason = "it is being replaced or ended already".to_owned();
            let _ = channel.send(&Grant::Refused { reason }, None);
            return;
        }
        tracing::info!(pid, version, "another supervisor asks to take over");
        let send = || {
            for held in &self.sockets {
                channel.send(
                    &Grant::Socket {
                        id: held.id.clone(),
                    },
                    Some(held.as_fd()),
                )?;
            }
            let offer = Grant::Offer {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").into(),
                notify_socket: self.manager.socket(),
                host_protocol: HOST_PROTOCOL,
            };
            channel.send(&offer, None)
        };
        match send() {
            Ok(()) => {
                self.successor = Some(Successor {
                    channel,
                    pid,
                    keep_hosts,
                });
            }
            Err(error) => tracing::warn!(pid, %error, "it was not reached"),
        }
    }

    pub(super) fn on_successor(&mut self) {
        while let Some(successor) = &mut self.successor {
            match successor.channel.receive(Wait::No) {
                Ok(Received::Message(Ask::Commit, _)) => self.hand_over(),
                Ok(Received::Message(Ask::Upgrade { .. }, _)) => {}
                Ok(Received::Nothing) => return,
                Ok(Received::Closed) | Err(_) => {
                    tracing::warn!(pid = successor.pid, "the upgrade was taken back: going on");
                    self.successor = None;
                    self.end_strangers();
                }
            }
        }
    }

    /// Has the gateways end that a successor has started and left: nobody else does.
    fn end_strangers(&mut self) {
        let Some(seat) = &mut self.seat else {
            return;
        };
        let gateways = self.current.iter().chain(&self.outgoing);
        let own: Vec<u32> = gateways.map(RoleProcess::pid).collect();
        let now = Instant::now();
        for stranger in adopt::introductions(&self.run, Adoptable::Gateway, seat, &own) {
            let mut gateway = stranger.process;
            tracing::info!(pid = gateway.pid(), "a gateway of the upgrade ends");
            gateway.drain(false, now);
            self.outgoing.push(gateway);
        }
    }

    fn hand_over(&mut self) {
        let (Some(successor), Some(seat)) = (self.successor.take(), self.seat.take()) else {
            return;
        };
        let send = || {
            successor
                .channel
                .send(&Grant::Lock, Some(seat.lock.as_fd()))?;
            successor
                .channel
                .send(&Grant::Control, Some(seat.control.as_fd()))?;
            // Before the successor may say anything: the service manager listens to the main process.
            self.manager.main_process(successor.pid);
            successor.channel.send(&Grant::Released, None)
        };
        if let Err(error) = send() {
            tracing::warn!(pid = successor.pid, %error, "the upgrade failed: going on");
            self.manager.main_process(std::process::id());
            self.seat = Some(seat);
            self.end_strangers();
            return;
        }
        tracing::info!(pid = successor.pid, "replaced: draining");
        if successor.keep_hosts {
            self.host.hand_over();
        }
        self.phase = Phase::Draining;
        self.restart_at = None;
        self.callers.clear();
        // The successor goes on with them; their files stay.
        self.sockets.clear();
        let now = Instant::now();
        for gateway in self.current.iter_mut().chain(&mut self.outgoing) {
            gateway.drain(false, now);
        }
    }

    /// SIGUSR2: starts what lies at the executable's path now as the successor.
    pub(super) fn start_upgrade(&mut self) {
        if self.phase != Phase::Running || self.seat.is_none() || self.upgrade.is_some() {
            tracing::warn!("an upgrade is under way already");
            return;
        }
        let mut arguments: Vec<_> = std::env::args_os()
            .skip(1)
            .filter(|argument| argument != "--upgrade")
            .collect();
        let place = arguments
            .iter()
            .position(|argument| argument == "up" || argument == "serve")
            .map_or(0, |index| index + 1);
        arguments.insert(place, "--upgrade".into());
        if self
            .plan
            .serve
            .as_ref()
            .is_some_and(|serve| serve.any_state)
            && let Some(state) = self.plan.start.run.parent()
        {
            // Not the next one that is free.
            arguments.insert(place, state.into());
            arguments.insert(place, "--state".into());
        }
        let path = crate::exe::path();
        let mut command = std::process::Command::new(&path);
        match clean_environment(&mut command).args(arguments).spawn() {
            Ok(child) => {
                tracing::info!(pid = child.id(), path = %path.display(), "upgrade started");
                self.upgrade = Some(child);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot start the upgrade")
            }
        }
    }

    /// SIGCHLD: perhaps the process that [`Self::start_upgrade`] started failed.
    pub(super) fn on_upgrade_ended(&mut self) {
        let Some(child) = &mut self.upgrade else {
            return;
        };
        if let Ok(Some(status)) = child.try_wait() {
            tracing::error!(pid = child.id(), %status, "the upgrade failed: going on");
            self.upgrade = None;
        }
    }
}
