//! Listening sockets: those that the supervisor holds, and those of a gateway that runs without one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tidegate_config::Config;
use tidegate_config::model::Listener as ListenerConfig;
use tidegate_config::values::ListenAddress;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::Control;
use crate::listener::{Socket, accept};
use crate::snapshot::Snapshot;
use crate::{ListenSocket, StartError};

/// A listening socket at work.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) address: String,
    pub(super) socket: ListenSocket,
    pub(super) stop: Arc<Notify>,
    pub(super) task: JoinHandle<()>,
}

/// A socket that is ready to accept, for a listener that had none.
#[derive(Debug)]
pub(super) struct Bound {
    name: String,
    address: String,
    socket: ListenSocket,
    accepting: Socket,
}

impl Control {
    pub(crate) fn offer(&self, sockets: Vec<(String, ListenSocket)>) {
        self.state().offered = sockets;
    }

    /// What was offered for this load, whether it uses it or not.
    pub(super) fn take_offered(&self) -> Vec<(String, ListenSocket)> {
        std::mem::take(&mut self.state().offered)
    }

    /// Sockets for the listeners of `config` that have none yet.
    pub(super) fn bind(
        &self,
        config: &Config,
        mut offered: Vec<(String, ListenSocket)>,
    ) -> Result<Vec<Bound>, StartError> {
        let state = self.state();
        let mut bound = Vec::new();
        for listener in &config.listeners {
            let address = listener.address.to_string();
            if state
                .acceptors
                .get(&listener.name)
                .is_some_and(|a| a.address == address)
            {
                continue;
            }
            let offer = offered.iter().position(|(name, _)| *name == listener.name);
            let socket = match offer {
                Some(at) => Ok(offered.swap_remove(at).1),
                None => bind(listener),
            };
            let registered = socket.and_then(|socket| Ok((Socket::register(&socket)?, socket)));
            let (accepting, socket) = registered.map_err(|source| StartError::Bind {
                name: listener.name.clone(),
                address: address.clone(),
                source,
            })?;
            bound.push(Bound {
                name: listener.name.clone(),
                address,
                socket,
                accepting,
            });
        }
        Ok(bound)
    }

    /// Starts accepting on new sockets, stops on those of listeners that are gone or moved.
    pub(super) fn listen(self: &Arc<Self>, snapshot: &Snapshot, sockets: Vec<Bound>) {
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
        for bound in sockets {
            let Bound {
                name,
                address,
                socket,
                accepting,
            } = bound;
            let stop = Arc::new(Notify::new());
            let shared = self.shared.clone();
            let of = name.clone();
            let current = move || shared.snapshot.load().listeners.get(&of).cloned();
            let task = tokio::spawn(accept(accepting, current, self.door.clone(), stop.clone()));
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
