//! What the supervisor does with its gateways: start, listen, replace.

use std::time::{Duration, Instant};

use super::process::{Accepted, RoleProcess, Stage};
use super::{Phase, Supervisor};
use crate::control::Received;
use crate::control::message::{Order, Report};
use crate::rundir::Adoptable;
use crate::sockets::{self, SocketId};

impl Supervisor {
    /// Starts a gateway as the current one.
    pub(super) fn start_gateway(&mut self, now: Instant) {
        let grace = Duration::from_millis(self.plan.grace_ms);
        match RoleProcess::spawn(
            &self.plan.start,
            self.accepted.as_ref(),
            &self.sockets,
            grace,
        ) {
            Ok(gateway) => {
                tracing::info!(pid = gateway.pid(), "gateway started");
                self.current = Some(gateway);
            }
            Err(error) => {
                tracing::error!(%error, "cannot start a gateway");
                self.plan_restart(Duration::ZERO, now);
            }
        }
    }

    /// Handles what all gateways have to say.
    pub(super) fn on_gateways(&mut self) {
        if let Some(mut gateway) = self.current.take() {
            match self.listen(&mut gateway, true) {
                Life::Current => self.current = Some(gateway),
                Life::Outgoing => {
                    self.outgoing.push(gateway);
                    if self.phase == Phase::Running {
                        self.start_gateway(Instant::now());
                    }
                }
                Life::Over => self.on_death(gateway),
            }
        }
        for mut gateway in std::mem::take(&mut self.outgoing) {
            match self.listen(&mut gateway, false) {
                Life::Current | Life::Outgoing => self.outgoing.push(gateway),
                Life::Over => {
                    let pid = gateway.pid();
                    let end = gateway.end();
                    tracing::info!(pid, status = end.status, "the outgoing gateway ended");
                    self.unclean |= self.phase == Phase::Draining && !end.clean;
                }
            }
        }
    }

    fn listen(&mut self, gateway: &mut RoleProcess, current: bool) -> Life {
        loop {
            let (report, fd) = match gateway.report() {
                Received::Message(report, fd) => (report, fd),
                Received::Nothing => {
                    return if current {
                        Life::Current
                    } else {
                        Life::Outgoing
                    };
                }
                Received::Closed => return Life::Over,
            };
            match report {
                Report::Ready { .. } if gateway.stage() == Stage::Draining => {
                    // It was told to drain while it started.
                }
                Report::Ready { grace_ms, .. } => self.on_ready(gateway, grace_ms),
                Report::Accepted { hash } => {
                    if let (true, Some(texts)) = (current, fd) {
                        self.accepted = Some(Accepted { hash, texts });
                        self.tell_host();
                    }
                }
                Report::Beat => gateway.beats(Instant::now()),
                Report::Failed { reason } => gateway.fail(reason),
                Report::Store { folder } if current => self.control.wanted = folder,
                Report::Services { hosted } if current => self.host.wanted = hosted,
                Report::Need { id } => self.on_need(gateway, id),
                Report::Reloaded {
                    hash,
                    grace_ms,
                    sockets,
                } => {
                    tracing::info!(pid = gateway.pid(), hash, "configuration reloaded");
                    gateway.set_grace(Duration::from_millis(grace_ms));
                    if current {
                        self.plan.grace_ms = grace_ms;
                        self.keep_sockets(&sockets);
                        self.manager.ready(std::process::id());
                        self.host.reloaded();
                    }
                }
                Report::Refused { reason, sockets } => {
                    tracing::warn!(
                        pid = gateway.pid(),
                        reason,
                        "configuration refused: the running one stays"
                    );
                    if current {
                        self.keep_sockets(&sockets);
                        self.manager.reload_refused();
                        self.host.reloaded();
                    }
                }
                Report::Draining => {
                    tracing::info!(
                        pid = gateway.pid(),
                        "the gateway drains by a signal of its own"
                    );
                    gateway.drains(Instant::now());
                    if current {
                        return Life::Outgoing;
                    }
                }
                Report::Drained { cut } => {
                    if cut > 0 {
                        tracing::warn!(
                            pid = gateway.pid(),
                            cut,
                            "requests were cut at the end of the grace"
                        );
                        self.unclean |= self.phase == Phase::Draining;
                    }
                }
                // Its channel closes now.
                Report::Outranked { .. } => gateway.is_anothers(),
                // Part of an adoption, which is over.
                Report::Socket { .. } | Report::Hello(_) => {}
                Report::Store { .. } | Report::Services { .. } => {}
                // A host's.
                Report::Proven | Report::Hopeless { .. } => {}
            }
        }
    }

    fn on_ready(&mut self, gateway: &mut RoleProcess, grace_ms: u64) {
        let now = Instant::now();
        let took = gateway.serves(now);
        tracing::info!(
            pid = gateway.pid(),
            took_ms = took.as_millis() as u64,
            "gateway ready"
        );
        gateway.set_grace(Duration::from_millis(grace_ms));
        self.plan.grace_ms = grace_ms;
        self.served = true;
        for old in &mut self.outgoing {
            old.drain(false, now);
        }
        if self.predecessor.is_some() {
            self.commit(now);
        } else {
            self.settled();
        }
    }

    /// This supervisor serves and is in charge.
    pub(super) fn settled(&mut self) {
        for id in self.discarded.drain(..) {
            id.remove_file();
        }
        self.manager.ready(std::process::id());
        self.dismiss_hosts();
    }

    fn on_need(&mut self, gateway: &RoleProcess, id: SocketId) {
        if let Some(held) = self.sockets.iter().find(|held| held.id == id) {
            gateway.order(&Order::Socket { id }, Some(held));
            return;
        }
        match sockets::bind_or_share(&self.sockets, &id) {
            Ok(held) => {
                tracing::info!(socket = %id, "listening");
                gateway.order(&Order::Socket { id }, Some(&held));
                self.sockets.push(held);
            }
            Err(error) => gateway.order(
                &Order::SocketRefused {
                    id,
                    reason: error.to_string(),
                },
                None,
            ),
        }
    }

    fn keep_sockets(&mut self, used: &[SocketId]) {
        let addresses: Vec<&str> = used.iter().map(|id| id.address.as_str()).collect();
        self.sockets.retain(|held| {
            let keep = used.contains(&held.id);
            if !keep && !addresses.contains(&held.id.address.as_str()) {
                tracing::info!(socket = %held.id, "not listening any more");
                held.id.remove_file();
            }
            keep
        });
    }

    fn on_death(&mut self, gateway: RoleProcess) {
        let now = Instant::now();
        let (pid, served) = (gateway.pid(), gateway.served(now));
        let failure = gateway.failure().map(str::to_owned);
        let end = gateway.end();
        self.run.remove_adoption(Adoptable::Gateway, pid);
        if self.phase == Phase::Draining {
            tracing::info!(pid, status = end.status, "gateway ended");
            // One that was still starting and did not get that far cut nothing.
            self.unclean |= failure.is_none() && !end.clean;
            return;
        }
        let replacing = self.predecessor.is_some() || !self.outgoing.is_empty();
        match failure {
            Some(reason) if !self.served => self.fatal = Some(reason),
            None if !self.served && replacing => {
                self.fatal = Some(format!(
                    "the gateway ended before it served ({})",
                    end.status
                ));
            }
            failure => {
                let reason = failure.unwrap_or_default();
                tracing::error!(
                    pid,
                    status = end.status,
                    served_ms = served.as_millis() as u64,
                    reason,
                    "gateway died"
                );
                self.plan_restart(served, now);
            }
        }
    }

    fn plan_restart(&mut self, served: Duration, now: Instant) {
        let restart = self.backoff.died(served);
        if restart.crash_loop {
            let wait_ms = restart.wait.as_millis() as u64;
            tracing::error!(
                deaths = restart.deaths,
                wait_ms,
                "the gateway dies again and again"
            );
        }
        self.restart_at = Some(now + restart.wait);
    }
}

enum Life {
    Current,
    Outgoing,
    Over,
}
