//! What `tidegate serve` has its supervisor do beyond `tidegate up`: keep the configuration that it stands for, and say when the model serves.

use std::io::{self, IsTerminal, Write};

use super::start::StartError;
use super::{Phase, Supervisor};
use crate::plan::Plan;
use crate::sockets::{BindError, HeldSocket, Use};

/// Writes the configuration to where all that run by it read it. Only for whoever holds the lock, or takes it over.
///
/// # Errors
/// The system's.
pub(super) fn keep_config(plan: &mut Plan) -> io::Result<()> {
    let Some(serve) = &mut plan.serve else {
        return Ok(());
    };
    let text = std::mem::take(&mut serve.config);
    match plan.start.paths.first() {
        Some(file) => std::fs::write(file, text),
        None => Ok(()),
    }
}

/// Settles where the admin port is that nobody named: where it was, else at the usual port, which is bound here, else at any free one.
pub(super) fn settle_admin(plan: &mut Plan, offered: &mut Vec<HeldSocket>) {
    let Some(elsewhere) = plan.serve.as_mut().and_then(|serve| serve.elsewhere.take()) else {
        return;
    };
    let usual = plan.sockets.iter().find(|id| id.usage == Use::Admin);
    let Some(usual) = usual.cloned() else {
        return;
    };
    let offers = |offered: &[HeldSocket], id| offered.iter().any(|held| held.id == id);
    if offers(offered, usual.clone()) {
        return;
    }
    let was_elsewhere = elsewhere
        .sockets
        .iter()
        .any(|id| id.usage == Use::Admin && offers(offered, id.clone()));
    if !was_elsewhere {
        match HeldSocket::bind(usual) {
            Ok(held) => return offered.push(held),
            Err(BindError::InUse { .. }) => {}
            // Whoever binds the others tells it.
            Err(_) => return,
        }
    }
    plan.hash = elsewhere.hash;
    plan.sockets = elsewhere.sockets;
    if let Some(serve) = &mut plan.serve {
        serve.config = elsewhere.config;
    }
}

/// Removes the state of a port that nobody named: no other run is going to look for it. Only for whoever holds the lock, at the end.
pub(super) fn forget_state(plan: &Plan) {
    if !plan.serve.as_ref().is_some_and(|serve| serve.any_state) {
        return;
    }
    let Some(state) = plan.start.run.parent() else {
        return;
    };
    if let Err(error) = std::fs::remove_dir_all(state) {
        tracing::warn!(folder = %state.display(), %error, "the state folder stays");
    }
    // Fails, as it should, while there are others.
    let _ = state.parent().map(std::fs::remove_dir);
}

/// Sockets that can't be had, in words of the flags that they are of.
pub(super) fn in_words(error: StartError, plan: &Plan) -> StartError {
    match error {
        StartError::Sockets(text) if plan.serve.is_some() => StartError::Sockets(
            text.replace("listener main (", "--port (")
                .replace("admin (", "--admin ("),
        ),
        error => error,
    }
}

impl Supervisor {
    /// Says once where the model serves, as soon as it does.
    pub(super) fn on_serving(&mut self) {
        let Some(serve) = &self.plan.serve else {
            return;
        };
        let serves = self.served && self.host.proven() && self.phase == Phase::Running;
        if self.announced || !serves {
            return;
        }
        self.announced = true;
        let find = |usage| self.sockets.iter().find(|held| held.id.usage == usage);
        let at = |usage| {
            find(usage)
                .map(HeldSocket::local_address)
                .unwrap_or_default()
        };
        let (address, admin) = (at(Use::Listener), at(Use::Admin));
        let (class, service) = (&serve.class, &serve.name);
        if !io::stderr().is_terminal() {
            tracing::info!(class, service, address, admin, "serving");
            return;
        }
        let mut told = format!("serving {class} as {service} on {address} (HTTP and gRPC)\n");
        if !admin.is_empty() && !admin.starts_with("unix:") {
            told.push_str(&format!("dashboard and metrics on http://{admin}\n"));
        }
        // A terminal that is gone is no reason to end.
        let _ = io::stderr().write_all(told.as_bytes());
    }
}
