//! Listeners registered with Consul.

use tidegate_discovery::{ListenerFacts, Registration};

use super::Control;
use super::sockets::local_address;
use crate::snapshot::Snapshot;

impl Control {
    pub(super) fn register(&self, snapshot: &Snapshot) {
        for listener in &snapshot.loaded.config.listeners {
            let Some(register) = &listener.register else {
                continue;
            };
            let address = self
                .state()
                .acceptors
                .get(&listener.name)
                .and_then(|a| local_address(&a.socket));
            let facts = ListenerFacts {
                name: listener.name.clone(),
                address,
                tls: listener.tls.is_some(),
            };
            match Registration::start(&register.consul, &facts, &self.resolver) {
                Ok(registration) => self.state().registrations.push(registration),
                Err(e) => {
                    tracing::error!(listener = %listener.name, cause = %e, "registration could not start");
                    self.shared.events.push(
                        "registration_failed",
                        &listener.name,
                        "",
                        &e.to_string(),
                    );
                }
            }
        }
    }

    pub(super) async fn deregister(&self) {
        let registrations = std::mem::take(&mut self.state().registrations);
        let leaving: Vec<_> = registrations
            .into_iter()
            .map(|r| tokio::spawn(r.deregister()))
            .collect();
        for left in leaving {
            if let Ok(Err(e)) = left.await {
                tracing::warn!(cause = %e, "could not deregister");
            }
        }
    }
}
