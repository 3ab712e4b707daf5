//! Listening sockets: those that the supervisor holds, and those of a gateway that runs without one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_config::model::Listener as ListenerConfig;
use tidegate_config::values::ListenAddress;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Control;
use crate::listener::accept;
use crate::snapshot::Snapshot;
use crate::{ListenSocket, StartError};

/// A listening socket at work.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) address: String,
    pub(super) socket: Arc<ListenSocket>,
    pub(super) stop: Arc<Notify>,
    pub(super) task: JoinHandle<()>,
}

impl Control {
    pub(crate) fn offer(&self, sockets: Vec<(String, ListenSocket)>) {
        self.state().offered = sockets;
    }

    /// Sockets for the listeners of `snapshot` that have none yet.
    pub(super) fn bind(
        &self,
        snapshot: &Snapshot,
    ) -> Result<Vec<(String, Arc<ListenSocket>)>, StartError> {
        let mut state = self.state();
        let mut offered = std::mem::take(&mut state.offered);
        let mut bound = Vec::new();
        for listener in &snapshot.loaded.config.listeners {
            let address = listener.address.to_string();
            if state
                .acceptors
                .get(&listener.name)
                .is_some_and(|a| a.address == address)
            {
                continue;
            }
            let socket = match offered.iter().position(|(name, _)| *name == listener.name) {
                Some(at) => offered.swap_remove(at).1,
                None => bind(listener).map_err(|source| StartError::Bind {
                    name: listener.name.clone(),
                    address: address.clone(),
                    source,
                })?,
            };
            bound.push((listener.name.clone(), Arc::new(socket)));
        }
        Ok(bound)
    }

    /// Starts accepting on new sockets, stops on those of listeners that are gone or moved.
    pub(super) fn listen(
        self: &Arc<Self>,
        snapshot: &Snapshot,
        sockets: Vec<(String, Arc<ListenSocket>)>,
    ) {
        let mut state = self.state();
        let wanted: HashMap<&str, String> = snapshot
            .loaded
            .config
            .listeners
            .iter()
            .map(|l| (&*l.name, l.address.to_string()))
            .collect();
        state.acceptors.retain(|name, acceptor| {
            let keep = wanted
                .get(&**name)
                .is_some_and(|address| *address == acceptor.address);
            if !keep {
                acceptor.stop.notify_one();
                self.shared
                    .events
                    .push("listener_removed", name, "", &acceptor.address);
            }
            keep
        });
        for (name, socket) in sockets {
            let stop = Arc::new(Notify::new());
            let shared = self.shared.clone();
            let of = name.clone();
            let current = move || shared.snapshot.load().listeners.get(&of).cloned();
            let door = self.door.clone();
            let (listening, stopped) = (socket.clone(), stop.clone());
            let of = name.clone();
            let task = tokio::spawn(async move {
                if let Err(e) = accept(listening, current, door, stopped).await {
                    tracing::error!(listener = %of, cause = %e, "listener failed");
                }
            });
            let address = wanted.get(&*name).cloned().unwrap_or_default();
            self.shared
                .events
                .push("listener_added", &name, "", &address);
            state.acceptors.insert(
                name,
                Acceptor {
                    address,
                    socket,
                    stop,
                    task,
                },
            );
        }
    }
}

/// Binds a listener's address: for gateways that run without a supervisor.
fn bind(listener: &ListenerConfig) -> std::io::Result<ListenSocket> {
    match &listener.address {
        ListenAddress::Ip(at) => {
            let domain = if at.is_ipv4() {
                socket2::Domain::IPV4
            } else {
                socket2::Domain::IPV6
            };
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&(*at).into())?;
            socket.listen(4096)?;
            socket.set_nonblocking(true)?;
            Ok(ListenSocket::Tcp(socket.into()))
        }
        ListenAddress::Unix(path) => {
            let socket = std::os::unix::net::UnixListener::bind(path)?;
            socket.set_nonblocking(true)?;
            Ok(ListenSocket::Unix(socket))
        }
    }
}

pub(super) fn local_address(socket: &ListenSocket) -> Option<SocketAddr> {
    match socket {
        ListenSocket::Tcp(l) => l.local_addr().ok(),
        ListenSocket::Unix(_) => None,
    }
}
