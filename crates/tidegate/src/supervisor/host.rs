//! The host process, while the configuration has services: started with what the gateway accepted, restarted when it dies, told to go after
//! the last gateway.
//!
//! ```text
//! wanted:   a supervisor in charge whose configuration has services, until its last gateway has ended
//! started:  when wanted and a configuration was accepted; a host that lives by then (an upgrade, a supervisor that died) serves
//!           on until the new one's instances are ready, and is dismissed by that
//! told to go: when it is not wanted any more; after an upgrade the successor's host sees to it
//! ```

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::gateway::{Gateway, Stage};
use super::{Phase, Supervisor};
use crate::control::Received;
use crate::control::message::{HostOrder, Order, Report};
use crate::hostdir;

/// The host process with what is wanted of it.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Whether the configuration has services.
    pub(super) wanted: bool,
    pub(super) process: Option<Gateway>,
    backoff: Backoff,
    /// When the next one is started, while there is none after a death.
    restart_at: Option<Instant>,
    /// Whether an instance ever was ready.
    proven: bool,
    /// A signal asked for models to be loaded anew; done when the gateway has read the configuration again.
    reload: bool,
}

impl Host {
    pub(super) fn wanting(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Whether an instance ever was ready.
    pub(super) fn proven(&self) -> bool {
        self.proven
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let process = self.process.as_ref().and_then(Gateway::deadline);
        process.into_iter().chain(self.restart_at).min()
    }

    pub(super) fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// Models are to be loaded anew, once the configuration was read again.
    pub(super) fn reload_soon(&mut self) {
        self.reload = self.process.is_some();
    }

    /// The configuration was read again, whatever came of it.
    pub(super) fn reloaded(&mut self) {
        if std::mem::take(&mut self.reload)
            && let Some(process) = &self.process
        {
            process.order(&Order::Reload, None);
        }
    }
}

impl Supervisor {
    fn wants_host(&self) -> bool {
        let gateways = self.current.is_some() || !self.outgoing.is_empty();
        let needed = self.phase == Phase::Running || gateways && self.failed.is_none();
        self.host.wanted && needed && self.seat.is_some()
    }

    /// Passes what the gateway accepted on.
    pub(super) fn tell_host(&self) {
        if let (Some(process), Some(accepted)) = (&self.host.process, &self.accepted) {
            process.order_accepted(accepted);
        }
    }

    /// This supervisor is in charge: a host that an earlier one left is of no use where nothing is to be hosted.
    pub(super) fn dismiss_hosts(&self) {
        if !self.host.wanted && self.seat.is_some() {
            hostdir::dismiss_all(&self.plan.start.run);
        }
    }

    /// Starts, restarts and ends the process, as it is wanted.
    pub(super) fn on_host(&mut self, now: Instant) {
        if let Some(mut process) = self.host.process.take() {
            if self.listen_host(&mut process, now) {
                self.host.process = Some(process);
            } else {
                self.on_host_death(process, now);
            }
        }
        let wanted = self.wants_host();
        // After an upgrade it serves until the successor's is ready, which then dismisses it.
        let ours = self.seat.is_some();
        match &mut self.host.process {
            Some(process) if !wanted && ours => process.drain(false, now),
            Some(_) => {}
            None if wanted
                && self.accepted.is_some()
                && self.host.restart_at.is_none_or(|at| at <= now) =>
            {
                self.start_host(now);
            }
            None if !wanted => self.host.restart_at = None,
            None => {}
        }
    }

    /// Whether it lives.
    fn listen_host(&mut self, process: &mut Gateway, now: Instant) -> bool {
        loop {
            match process.report() {
                Received::Message(Report::Ready { grace_ms, .. }, _) => {
                    process.set_grace(Duration::from_millis(grace_ms));
                    if process.stage() == Stage::Starting {
                        let took_ms = process.serves(now).as_millis() as u64;
                        tracing::info!(pid = process.pid(), took_ms, "host ready");
                    }
                }
                Received::Message(Report::Draining, _) => process.drains(now),
                Received::Message(Report::Proven, _) => self.host.proven = true,
                Received::Message(Report::Hopeless { reason }, _) => {
                    if !self.host.proven {
                        self.fatal = Some(reason);
                    }
                }
                Received::Message(Report::Failed { reason }, _) => process.fail(reason),
                Received::Message(..) => {}
                Received::Nothing => break,
                Received::Closed => return false,
            }
        }
        process.kill_if_late("the host", now);
        true
    }

    fn on_host_death(&mut self, process: Gateway, now: Instant) {
        let (pid, served) = (process.pid(), process.served(now));
        let told = process.stage() == Stage::Draining;
        let failure = process.failure().map(str::to_owned);
        let end = process.end();
        if told || !self.wants_host() {
            tracing::info!(pid, status = end.status, "host ended");
            self.unclean |= told && failure.is_none() && !end.clean;
            return;
        }
        let reason = failure.unwrap_or_default();
        tracing::error!(
            pid,
            status = end.status,
            reason,
            "host died: its workers end, calls wait"
        );
        self.restart_host(served, now);
    }

    fn start_host(&mut self, now: Instant) {
        self.host.restart_at = None;
        let Some(accepted) = &self.accepted else {
            return;
        };
        let serve = self.plan.serve.as_ref();
        let order = HostOrder {
            run: self.plan.start.run.clone(),
            watch: serve.is_some_and(|serve| serve.watch),
            unproven: serve.is_some_and(|serve| !serve.watch) && !self.host.proven,
            plain: serve.is_some() && std::io::stderr().is_terminal(),
        };
        match Gateway::spawn_host(order, accepted) {
            Ok(process) => {
                tracing::info!(pid = process.pid(), "host started");
                self.host.process = Some(process);
            }
            Err(error) => {
                tracing::error!(%error, "cannot start a host");
                self.restart_host(Duration::ZERO, now);
            }
        }
    }

    fn restart_host(&mut self, served: Duration, now: Instant) {
        let restart = self.host.backoff.died(served);
        if restart.crash_loop {
            let wait_ms = restart.wait.as_millis() as u64;
            tracing::error!(
                deaths = restart.deaths,
                wait_ms,
                "the host dies again and again"
            );
        }
        self.host.restart_at = Some(now + restart.wait);
    }
}
