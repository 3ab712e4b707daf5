//! The host process, while the configuration has services: adopted or started, restarted when it dies, told to go after the last gateway.
//!
//! ```text
//! wanted:   a supervisor in charge whose configuration has services, until its last gateway has ended
//! adopted:  when this supervisor takes charge and there is one that its own supervisor has left: after a death, in an upgrade
//!           only with `--keep-hosts`. It goes on as it is, and follows what the gateway accepts
//! started:  when wanted, not adopted, and a configuration was accepted; a host that lives by then (of another build, an upgrade) serves
//!           on until the new one's instances are ready, and is dismissed by that
//! told to go: when it is not wanted any more; after an upgrade the successor's host sees to it, unless the successor has adopted it
//! ```

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::adopt;
use super::backoff::Backoff;
use super::process::{RoleProcess, Stage};
use super::{Phase, Supervisor};
use crate::control::Received;
use crate::control::message::{HostOrder, Order, Report};
use crate::hostdir;
use crate::rundir::Adoptable;

/// The host process with what is wanted of it.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Whether the configuration has services.
    pub(super) wanted: bool,
    pub(super) process: Option<RoleProcess>,
    backoff: Backoff,
    /// When the next one is started, while there is none after a death.
    restart_at: Option<Instant>,
    /// Whether an instance ever was ready.
    proven: bool,
    /// A signal asked for models to be loaded anew; done when the gateway has read the configuration again.
    reload: bool,
    /// Whether a supervisor of a higher epoch has taken the host: none is started here any more.
    taken: bool,
}

/// What has become of the process.
enum Life {
    Lives,
    Dead,
    /// Another supervisor has it.
    Taken,
    /// It lives, and can't host what was accepted.
    Unfit,
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
        let process = self.process.as_ref().and_then(RoleProcess::deadline);
        process.into_iter().chain(self.restart_at).min()
    }

    pub(super) fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    /// The command failed before anything was its own: a host that was there before stays.
    pub(super) fn leave_adopted(&mut self) {
        self.process.take_if(|process| process.is_adopted());
    }

    /// The successor adopts it.
    pub(super) fn hand_over(&mut self) {
        if let Some(process) = self.process.take() {
            tracing::info!(pid = process.pid(), "the host is handed on");
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
        self.host.wanted && needed && self.seat.is_some() && !self.host.taken
    }

    /// Takes over the host that another supervisor has left, with its workers as they are. One that does not fit is replaced by one
    /// beside it, as soon as a configuration is accepted.
    pub(super) fn adopt_host(&mut self) {
        let Some(seat) = &mut self.seat else {
            return;
        };
        if !self.host.wanted || self.host.process.is_some() {
            return;
        }
        let exe = crate::exe::identity();
        let wish = adopt::Wish::of(self.plan.upgrade, self.plan.keep_hosts);
        for one in adopt::introductions(&self.run, Adoptable::Host, seat, &[]) {
            let pid = one.hello.pid;
            let fits = adopt::fits(&one.hello, &exe, wish);
            match fits {
                Ok(()) if self.host.process.is_none() => {
                    tracing::info!(pid, hash = one.hello.hash, "host adopted");
                    self.host.process = Some(one.process);
                }
                // The adopted one dismisses it, when its instances are ready.
                Ok(()) => tracing::info!(pid, "another host of an earlier run is replaced"),
                Err(reason) => {
                    tracing::info!(pid, %reason, "a host of an earlier run is replaced");
                }
            }
        }
        if let Some(process) = &self.host.process {
            process.order(&Order::Host(self.host_order()), None);
            self.tell_host();
        }
    }

    /// Passes what the gateway accepted on.
    pub(super) fn tell_host(&self) {
        if let (Some(process), Some(accepted)) = (&self.host.process, &self.accepted) {
            process.order_accepted(accepted);
        }
    }

    /// This supervisor is in charge: a host that an earlier one left is of no use where nothing is to be hosted.
    pub(super) fn dismiss_hosts(&self) {
        if let Some(seat) = self.seat.as_ref().filter(|_| !self.host.wanted) {
            hostdir::dismiss_all(&self.plan.start.run, seat.epoch);
        }
    }

    /// Starts, restarts and ends the process, as it is wanted.
    pub(super) fn on_host(&mut self, now: Instant) {
        if let Some(mut process) = self.host.process.take() {
            match self.listen_host(&mut process, now) {
                Life::Lives => self.host.process = Some(process),
                Life::Dead => self.on_host_death(process, now),
                Life::Taken => self.host.taken = true,
                // The next one dismisses it.
                Life::Unfit => {}
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

    fn listen_host(&mut self, process: &mut RoleProcess, now: Instant) -> Life {
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
                Received::Message(Report::Outranked { epoch }, _) => {
                    let pid = process.pid();
                    tracing::warn!(pid, epoch, "another supervisor has adopted the host");
                    return Life::Taken;
                }
                Received::Message(Report::Refused { reason, .. }, _) => {
                    let pid = process.pid();
                    tracing::warn!(pid, reason, "the adopted host is replaced");
                    return Life::Unfit;
                }
                Received::Message(..) => {}
                Received::Nothing => break,
                Received::Closed => return Life::Dead,
            }
        }
        process.kill_if_late("the host", now);
        Life::Lives
    }

    fn on_host_death(&mut self, process: RoleProcess, now: Instant) {
        let (pid, served) = (process.pid(), process.served(now));
        let told = process.stage() == Stage::Draining;
        let failure = process.failure().map(str::to_owned);
        let end = process.end();
        self.run.remove_adoption(Adoptable::Host, pid);
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

    /// What this supervisor wants of a host, whoever started it.
    fn host_order(&self) -> HostOrder {
        let serve = self.plan.serve.as_ref();
        HostOrder {
            run: self.plan.start.run.clone(),
            watch: serve.is_some_and(|serve| serve.watch),
            unproven: serve.is_some_and(|serve| !serve.watch) && !self.host.proven,
            plain: serve.is_some() && std::io::stderr().is_terminal(),
            epoch: self.seat.as_ref().map_or(0, |seat| seat.epoch),
        }
    }

    fn start_host(&mut self, now: Instant) {
        self.host.restart_at = None;
        let Some(accepted) = &self.accepted else {
            return;
        };
        match RoleProcess::spawn_host(self.host_order(), accepted) {
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
