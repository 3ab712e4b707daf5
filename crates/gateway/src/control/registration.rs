//! Listeners registered with Consul, as the running configuration wants them.
//!
//! Telling a catalogue takes as long as it takes to answer, seconds when it is away. Nobody waits for that but a drain: a reload leaves it
//! to a task. Tasks work one after the other, each towards the configuration that is the running one when its turn comes, so that they
//! never undo each other, and what has to go is gone before something else takes its id.

use std::sync::Arc;

use tidegate_config::model::{self, ConsulRegistration};
use tidegate_discovery::{ListenerFacts, Registration};

use super::Control;
use super::sockets::local_address;

/// A listener that is registered, with what that depends on.
#[derive(Debug)]
pub(super) struct Registered {
    wanted: Wanted,
    registration: Registration,
}

/// What a registration is made of: another one is another registration.
#[derive(Debug, PartialEq)]
struct Wanted {
    name: String,
    address: String,
    tls: bool,
    consul: ConsulRegistration,
}

impl Wanted {
    fn of(listener: &model::Listener) -> Option<Self> {
        Some(Self {
            name: listener.name.clone(),
            address: listener.address.to_string(),
            tls: listener.tls.is_some(),
            consul: listener.register.as_ref()?.consul.clone(),
        })
    }
}

impl Control {
    /// Has the registrations follow the running configuration, some time.
    pub(super) fn reregister(self: &Arc<Self>) {
        let control = self.clone();
        tokio::spawn(async move { control.follow_registrations().await });
    }

    async fn follow_registrations(&self) {
        let mut registered = self.registered.lock().await;
        // A drain takes everything back; what is registered meanwhile would stay.
        if self.shared.is_draining() {
            return;
        }
        let snapshot = self.shared.snapshot.load_full();
        let listeners = &snapshot.loaded.config.listeners;
        let mut wanted: Vec<Wanted> = listeners.iter().filter_map(Wanted::of).collect();
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut *registered)
            .into_iter()
            .partition(|one| wanted.contains(&one.wanted));
        wanted.retain(|one| kept.iter().all(|kept| kept.wanted != *one));
        *registered = kept;
        deregister(gone).await;
        if self.shared.is_draining() {
            return;
        }
        for wanted in wanted {
            registered.extend(self.register(wanted));
        }
    }

    fn register(&self, wanted: Wanted) -> Option<Registered> {
        let address = self
            .state()
            .acceptors
            .get(&wanted.name)
            .and_then(|a| local_address(&a.socket));
        let facts = ListenerFacts {
            name: wanted.name.clone(),
            address,
            tls: wanted.tls,
        };
        match Registration::start(&wanted.consul, &facts, &self.resolver) {
            Ok(registration) => Some(Registered {
                wanted,
                registration,
            }),
            Err(e) => {
                tracing::error!(listener = %wanted.name, cause = %e, "registration could not start");
                self.shared
                    .events
                    .push("registration_failed", &wanted.name, "", &e.to_string());
                None
            }
        }
    }

    /// Takes everything back. A change that is under way comes first, so that nothing is registered afterwards.
    pub(super) async fn deregister(&self) {
        let mut registered = self.registered.lock().await;
        deregister(std::mem::take(&mut *registered)).await;
    }
}

async fn deregister(registered: Vec<Registered>) {
    let leaving: Vec<_> = registered
        .into_iter()
        .map(|one| tokio::spawn(one.registration.deregister()))
        .collect();
    for left in leaving {
        if let Ok(Err(e)) = left.await {
            tracing::warn!(cause = %e, "could not deregister");
        }
    }
}
