//! How a supervisor comes into its place: on a free state folder, over gateways that outlived their supervisor, or
//! beside a running supervisor that it replaces.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::adopt::{self, Introduced};
use super::backoff::Backoff;
use super::control::Control;
use super::handover::{self, Predecessor, RequestError};
use super::host::Host;
use super::serve;
use super::signals::Signals;
use super::systemd::ServiceManager;
use super::{Phase, Seat, Supervisor};
use crate::plan::Plan;
use crate::rundir::{Adoptable, Lock, RunDir, RunDirError};
use crate::sockets::{self, HeldSocket, SocketId};

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The state folder is in use or unusable.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The running supervisor does not hand over.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Sockets that cannot be bound, all of them.
    #[error("{0}")]
    Sockets(String),
    /// Two that serve one model in the same place.
    #[error(
        "another `tidegate serve`{} has this name and port with the folder {}; stop it, or give this one another --port, --name, --data \
         or --state",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        state.display()
    )]
    Served {
        /// The state folder.
        state: PathBuf,
        /// The other's process id, if it could be read.
        pid: Option<u32>,
    },
    /// The configuration that `tidegate serve` stands for.
    #[error("cannot write {}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The system's refusal of something basic.
    #[error("cannot set up the supervisor: {0}")]
    System(#[from] io::Error),
}

/// What a supervisor finds where it wants to sit.
struct Place {
    /// `None` beside a running supervisor.
    seat: Option<Seat>,
    predecessor: Option<Predecessor>,
    orphans: Vec<Introduced>,
    /// Sockets of the predecessor or of the orphans.
    offered: Vec<HeldSocket>,
}

impl Place {
    fn over_orphans(run: &RunDir, lock: Lock) -> io::Result<Self> {
        let mut seat = Seat::take(run, lock)?;
        let mut orphans = adopt::introductions(run, Adoptable::Gateway, &mut seat, &[]);
        let offered = orphans
            .iter_mut()
            .flat_map(|orphan| orphan.sockets.drain(..))
            .collect();
        Ok(Self {
            seat: Some(seat),
            predecessor: None,
            orphans,
            offered,
        })
    }
}

impl Supervisor {
    /// Takes the place that the plan wants, and starts or adopts a gateway.
    ///
    /// # Errors
    /// See [`StartError`]; whatever ran before runs on untouched.
    pub(super) fn start(mut plan: Plan) -> Result<Self, StartError> {
        let signals = Signals::listen()?;
        crate::limits::raise().report(plan.connections, plan.asked_connections);
        let run = RunDir::open(&plan.start.run)?;
        let mut manager = ServiceManager::from_environment();
        let mut place = match run.lock() {
            Ok(lock) => Place::over_orphans(&run, lock)?,
            Err(RunDirError::Locked { .. }) if plan.upgrade => {
                let offer = handover::request(&run, plan.keep_hosts)?;
                manager = manager.or(offer.notify_socket);
                Place {
                    seat: None,
                    predecessor: Some(offer.predecessor),
                    orphans: Vec::new(),
                    offered: offer.sockets,
                }
            }
            Err(RunDirError::Locked { .. })
                if plan.serve.as_ref().is_some_and(|serve| serve.any_state) =>
            {
                // Two began at once.
                return Err(Plan::begin_anew().into());
            }
            Err(RunDirError::Locked { path, pid }) if plan.serve.is_some() => {
                let state = path.parent().map_or_else(|| path.clone(), Path::to_owned);
                return Err(StartError::Served { state, pid });
            }
            Err(error) => return Err(error.into()),
        };
        serve::settle_admin(&mut plan, &mut place.offered);
        // Not before: another one may run by that file.
        serve::keep_config(&mut plan).map_err(|source| StartError::Config {
            path: plan.start.paths.first().cloned().unwrap_or_default(),
            source,
        })?;
        let Place {
            seat,
            predecessor,
            orphans,
            offered,
        } = place;
        let (sockets, discarded) =
            gather(&plan.sockets, offered).map_err(|error| serve::in_words(error, &plan))?;
        if seat.is_some() && plan.store.is_none() {
            // One that an earlier run with another configuration left.
            run.dismiss_owner();
        }
        let control = Control::wanting(plan.store.clone());
        let host = Host::wanting(plan.hosted);
        let mut supervisor = Self {
            plan,
            run,
            seat,
            sockets,
            discarded,
            accepted: None,
            signals,
            manager,
            phase: Phase::Running,
            current: None,
            outgoing: Vec::new(),
            control,
            host,
            backoff: Backoff::default(),
            restart_at: None,
            served: false,
            fatal: None,
            failed: None,
            announced: false,
            predecessor,
            callers: Vec::new(),
            callers_at: None,
            successor: None,
            upgrade: None,
            stop_signalled: false,
            unclean: false,
            waited_for: None,
        };
        supervisor.adopt_host();
        supervisor.take_over(orphans);
        if supervisor.current.is_none() {
            supervisor.start_gateway(Instant::now());
        }
        Ok(supervisor)
    }

    /// Adopts the gateway that runs just what the plan wants; the others are replaced.
    fn take_over(&mut self, orphans: Vec<Introduced>) {
        let exe = crate::exe::identity();
        for Introduced { process, hello, .. } in orphans {
            let gateway = process;
            let same = hello.exe == exe
                && hello.start.as_ref() == Some(&self.plan.start)
                && hello.hash == self.plan.hash;
            if same && self.current.is_none() {
                tracing::info!(pid = hello.pid, "gateway adopted");
                self.current = Some(gateway);
                self.served = true;
            } else {
                tracing::info!(pid = hello.pid, "a gateway of an earlier run is replaced");
                self.outgoing.push(gateway);
            }
        }
        if self.served {
            let now = Instant::now();
            self.outgoing
                .iter_mut()
                .for_each(|gateway| gateway.drain(false, now));
            self.settled();
        }
    }
}

/// The sockets of the plan: those that were offered, the others bound now. Also tells which offered ones are not
/// used.
fn gather(
    wanted: &[SocketId],
    mut offered: Vec<HeldSocket>,
) -> Result<(Vec<HeldSocket>, Vec<SocketId>), StartError> {
    let mut gathered = Vec::with_capacity(wanted.len());
    let mut bound: Vec<SocketId> = Vec::new();
    let mut failures = Vec::new();
    for id in wanted {
        if let Some(held) = sockets::take(&mut offered, id) {
            gathered.push(held);
            continue;
        }
        match HeldSocket::bind(id.clone()) {
            Ok(held) => {
                tracing::info!(
                    listener = id.name,
                    address = held.local_address(),
                    "listening"
                );
                bound.push(id.clone());
                gathered.push(held);
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() {
        let used = |id: &SocketId| gathered.iter().any(|held| held.id.address == id.address);
        let unused = offered
            .into_iter()
            .map(|held| held.id)
            .filter(|id| !used(id))
            .collect();
        return Ok((gathered, unused));
    }
    bound.iter().for_each(SocketId::remove_file);
    Err(StartError::Sockets(failures.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockets::Use;

    fn id(name: &str, address: &str) -> SocketId {
        SocketId {
            usage: Use::Listener,
            name: name.into(),
            address: address.into(),
        }
    }

    #[test]
    fn every_socket_that_cannot_be_bound_is_named_and_none_is_left_behind() {
        let taken = HeldSocket::bind(id("taken", "127.0.0.1:0"))
            .unwrap()
            .local_address();
        let holder = HeldSocket::bind(id("holder", &taken)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("free");
        let wanted = [
            id("a", &taken),
            id("b", &format!("unix:{}", path.display())),
            id("c", "unix:/nowhere/at/all"),
        ];
        let error = gather(&wanted, Vec::new()).unwrap_err().to_string();
        assert!(
            error.contains("listener a") && error.contains("listener c"),
            "{error}"
        );
        assert!(!error.contains("listener b") && !path.exists());
        drop(holder);
    }

    #[test]
    fn offered_sockets_are_used_and_those_without_a_listener_are_told() {
        let kept = HeldSocket::bind(id("kept", "127.0.0.1:0")).unwrap();
        let gone = HeldSocket::bind(id("gone", "127.0.0.1:0")).unwrap();
        let port = kept.local_address();
        let (sockets, unused) = gather(&[id("kept", "127.0.0.1:0")], vec![gone, kept]).unwrap();
        assert_eq!(sockets[0].local_address(), port);
        assert_eq!(unused, []);
    }
}
