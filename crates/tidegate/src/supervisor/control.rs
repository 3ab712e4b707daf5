//! The control process, while the configuration needs one: started, restarted when it dies, ended last.
//!
//! ```text
//! wanted:   a supervisor in charge whose configuration has an embedded store, until its last gateway and its host have ended
//! started:  when wanted; the one that owns the store by then goes by itself
//! told to go: when it is not wanted any more, or another store is
//! ```

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::Supervisor;
use super::backoff::Backoff;
use super::process::{RoleProcess, Stage};
use crate::control::Received;
use crate::control::message::{Order, OwnOrder, Report};

/// The control process with what is wanted of it.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The folder of the store that the configuration needs served.
    pub(super) wanted: Option<PathBuf>,
    /// A process, and the folder that it was started for.
    pub(super) process: Option<(RoleProcess, PathBuf)>,
    backoff: Backoff,
    /// When the next one is started, while there is none after a death.
    restart_at: Option<Instant>,
}

impl Control {
    pub(super) fn wanting(folder: Option<PathBuf>) -> Self {
        Self {
            wanted: folder,
            ..Self::default()
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let process = self
            .process
            .as_ref()
            .and_then(|(process, _)| process.deadline());
        process.into_iter().chain(self.restart_at).min()
    }

    pub(super) fn kill(&mut self) {
        if let Some((process, _)) = &mut self.process {
            process.kill();
        }
    }
}

impl Supervisor {
    /// What is wanted, as the supervisor stands.
    fn wanted_store(&self) -> Option<&PathBuf> {
        // A host that ends takes its instances out of the store.
        let outgoing = !self.outgoing.is_empty() && self.failed.is_none();
        let others = self.current.is_some() || outgoing || self.host.process.is_some();
        let needed = self.phase == super::Phase::Running || others;
        self.control
            .wanted
            .as_ref()
            .filter(|_| needed && self.seat.is_some())
    }

    /// Starts, restarts and ends the process, as it is wanted.
    pub(super) fn on_control(&mut self, now: Instant) {
        if let Some((mut process, folder)) = self.control.process.take() {
            if self.listen_control(&mut process, now) {
                self.control.process = Some((process, folder));
            } else {
                self.on_control_death(process, now);
            }
        }
        let wanted = self.wanted_store().cloned();
        match (&mut self.control.process, wanted) {
            (Some((_, folder)), Some(wanted)) if *folder == wanted => {}
            // After an upgrade it goes by itself, when the successor's takes the store: not while gateways need it.
            (Some((process, _)), other)
                if other.is_some()
                    || self.seat.is_some()
                    || (self.current.is_none()
                        && self.outgoing.is_empty()
                        && self.host.process.is_none()) =>
            {
                process.drain(false, now);
            }
            (Some(_), _) => {}
            (None, Some(wanted)) => {
                if self.control.restart_at.is_none_or(|at| at <= now) {
                    self.start_control(wanted, now);
                }
            }
            (None, None) => self.control.restart_at = None,
        }
    }

    /// Whether it lives.
    fn listen_control(&mut self, process: &mut RoleProcess, now: Instant) -> bool {
        loop {
            match process.report() {
                Received::Message(Report::Ready { .. }, _) => {
                    if process.stage() == Stage::Starting {
                        let took_ms = process.serves(now).as_millis() as u64;
                        tracing::info!(pid = process.pid(), took_ms, "control ready");
                    }
                }
                Received::Message(Report::Failed { reason }, _) => process.fail(reason),
                Received::Message(..) => {}
                Received::Nothing => break,
                Received::Closed => return false,
            }
        }
        process.kill_if_late("control", now);
        true
    }

    fn on_control_death(&mut self, process: RoleProcess, now: Instant) {
        let (pid, served) = (process.pid(), process.served(now));
        let told = process.stage() == Stage::Draining;
        let failure = process.failure().map(str::to_owned);
        let end = process.end();
        if told || self.wanted_store().is_none() {
            tracing::info!(pid, status = end.status, "control ended");
            // One that could not even start had nothing to lose.
            self.unclean |= told && failure.is_none() && !end.clean;
            return;
        }
        let reason = failure.unwrap_or_default();
        tracing::error!(
            pid,
            status = end.status,
            reason,
            "control died: the store is away"
        );
        self.restart_control(served, now);
    }

    fn start_control(&mut self, folder: PathBuf, now: Instant) {
        self.control.restart_at = None;
        let order = Order::Own(OwnOrder {
            folder: folder.clone(),
            run: self.plan.start.run.clone(),
        });
        match RoleProcess::spawn_control(&order) {
            Ok(process) => {
                tracing::info!(pid = process.pid(), "control started");
                self.control.process = Some((process, folder));
            }
            Err(error) => {
                tracing::error!(%error, "cannot start control");
                self.restart_control(Duration::ZERO, now);
            }
        }
    }

    fn restart_control(&mut self, served: Duration, now: Instant) {
        let restart = self.control.backoff.died(served);
        if restart.crash_loop {
            let wait_ms = restart.wait.as_millis() as u64;
            tracing::error!(
                deaths = restart.deaths,
                wait_ms,
                "control dies again and again"
            );
        }
        self.control.restart_at = Some(now + restart.wait);
    }
}
