//! Listening sockets: named, bound once by the supervisor, handed from process to process.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tidegate_gateway::ListenSocket;

/// Connections that may wait to be accepted. Callers wait here while a gateway is restarted or replaced, so it is
/// far above the 128 or 511 that is usual; the kernel lowers it to `net.core.somaxconn` (4096 since Linux 5.4).
const BACKLOG: i32 = 4096;

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Use {
    /// A listener of the configuration: traffic.
    Listener,
    /// The admin port.
    Admin,
}

/// Which socket: two configurations that say the same here mean the same socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct SocketId {
    /// What it is for.
    #[serde(rename = "use")]
    pub(crate) usage: Use,
    /// Name of the listener; `admin`.
    pub(crate) name: String,
    /// Address as the configuration says it: `IP:PORT` or `unix:PATH`.
    pub(crate) address: String,
}

impl SocketId {
    /// Removes the file of a Unix socket: before the socket is closed for good, not when another process goes on
    /// with it.
    pub(crate) fn remove_file(&self) {
        if let Some(path) = self.address.strip_prefix("unix:") {
            // Someone may have removed it already; nothing depends on it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.usage {
            Use::Listener => write!(out, "listener {} ({})", self.name, self.address),
            Use::Admin => write!(out, "admin ({})", self.address),
        }
    }
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindError {
    /// Neither `IP:PORT` nor `unix:PATH`.
    #[error("{id}: not an address to listen on")]
    Address {
        /// Which socket.
        id: SocketId,
    },
    /// Something else listens there.
    #[error("{id}: the address is in use by another process; stop it or choose another address")]
    InUse {
        /// Which socket.
        id: SocketId,
    },
    /// The file at the path of a Unix socket is no socket; it is not removed.
    #[error("{id}: the path is taken by a file that is not a socket")]
    NotASocket {
        /// Which socket.
        id: SocketId,
    },
    /// Any other answer of the system.
    #[error("{id}: cannot listen: {source}")]
    System {
        /// Which socket.
        id: SocketId,
        /// That answer.
        source: io::Error,
    },
}

/// A listening socket that this process holds open.
#[derive(Debug)]
pub(crate) struct HeldSocket {
    pub(crate) id: SocketId,
    socket: OwnedFd,
}

impl HeldSocket {
    /// Takes a socket that another process bound.
    pub(crate) fn received(id: SocketId, socket: OwnedFd) -> Self {
        Self { id, socket }
    }

    /// Binds and listens. The socket is non-blocking, as everyone who accepts on it wants it.
    ///
    /// # Errors
    /// See [`BindError`].
    pub(crate) fn bind(id: SocketId) -> Result<Self, BindError> {
        let bound = match id.address.strip_prefix("unix:") {
            Some(path) => bind_unix(&id, Path::new(path)),
            None => bind_tcp(&id),
        };
        Ok(Self {
            socket: bound?.into(),
            id,
        })
    }

    /// The same socket for another purpose of the same kind: a listener under a new name.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(crate) fn renamed(&self, id: SocketId) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            id,
        })
    }

    /// A duplicate in the gateway's terms.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(crate) fn listen_socket(&self) -> io::Result<ListenSocket> {
        let duplicate = self.socket.try_clone()?;
        Ok(if self.id.address.starts_with("unix:") {
            ListenSocket::Unix(UnixListener::from(duplicate))
        } else {
            ListenSocket::Tcp(TcpListener::from(duplicate))
        })
    }

    /// The address in use, with the port that the system chose if the configuration said 0.
    pub(crate) fn local_address(&self) -> String {
        let address = self
            .socket
            .try_clone()
            .and_then(|duplicate| TcpListener::from(duplicate).local_addr());
        match address {
            Ok(address) if !self.id.address.starts_with("unix:") => address.to_string(),
            _ => self.id.address.clone(),
        }
    }
}

impl AsFd for HeldSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The one of `sockets` that serves `wanted`: the same id, or the same use and address under another name (a listener
/// was renamed). A port of 0 is a different address each time, so only its name identifies it.
fn position(sockets: &[HeldSocket], wanted: &SocketId) -> Option<usize> {
    sockets
        .iter()
        .position(|held| held.id == *wanted)
        .or_else(|| {
            sockets.iter().position(|held| {
                held.id.usage == wanted.usage
                    && held.id.address == wanted.address
                    && !wanted.address.ends_with(":0")
            })
        })
}

/// Binds a socket, or finds it among those that are held already.
///
/// # Errors
/// See [`BindError`].
pub(crate) fn bind_or_share(
    sockets: &[HeldSocket],
    wanted: &SocketId,
) -> Result<HeldSocket, BindError> {
    match position(sockets, wanted) {
        Some(index) => sockets[index]
            .renamed(wanted.clone())
            .map_err(|source| BindError::System {
                id: wanted.clone(),
                source,
            }),
        None => HeldSocket::bind(wanted.clone()),
    }
}

/// Takes out of `sockets` the one that serves `wanted`.
pub(crate) fn take(sockets: &mut Vec<HeldSocket>, wanted: &SocketId) -> Option<HeldSocket> {
    let index = position(sockets, wanted)?;
    let mut held = sockets.swap_remove(index);
    held.id = wanted.clone();
    Some(held)
}

fn bind_tcp(id: &SocketId) -> Result<Socket, BindError> {
    let address: SocketAddr = id
        .address
        .parse()
        .map_err(|_| BindError::Address { id: id.clone() })?;
    listen_tcp(address).map_err(|source| refused(id, source))
}

fn listen_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    listen(socket)
}

fn bind_unix(id: &SocketId, path: &Path) -> Result<Socket, BindError> {
    remove_stale(id, path)?;
    let make = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        listen(socket)
    };
    make().map_err(|source| refused(id, source))
}

fn listen(socket: Socket) -> io::Result<Socket> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A Unix socket's file outlives its process. It is removed if nobody answers behind it.
fn remove_stale(id: &SocketId, path: &Path) -> Result<(), BindError> {
    let Ok(file) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !file.file_type().is_socket() {
        return Err(BindError::NotASocket { id: id.clone() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| BindError::System {
                id: id.clone(),
                source,
            })
        }
        Err(source) if source.kind() != io::ErrorKind::WouldBlock => Err(BindError::System {
            id: id.clone(),
            source,
        }),
        // It answers, or its queue is full.
        _ => Err(BindError::InUse { id: id.clone() }),
    }
}

fn refused(id: &SocketId, source: io::Error) -> BindError {
    if source.kind() == io::ErrorKind::AddrInUse {
        BindError::InUse { id: id.clone() }
    } else {
        BindError::System {
            id: id.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(name: &str, address: &str) -> SocketId {
        SocketId {
            usage: Use::Listener,
            name: name.into(),
            address: address.into(),
        }
    }

    #[test]
    fn a_socket_in_use_is_named_with_its_listener() {
        let first = HeldSocket::bind(tcp("a", "127.0.0.1:0")).unwrap();
        let error = HeldSocket::bind(tcp("b", &first.local_address())).unwrap_err();
        assert!(error.to_string().contains("listener b"), "{error}");
        assert!(matches!(error, BindError::InUse { .. }));
    }

    #[test]
    fn the_file_of_a_dead_process_is_replaced_and_that_of_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let id = tcp("u", &format!("unix:{}", folder.path().join("s").display()));
        let first = HeldSocket::bind(id.clone()).unwrap();
        assert!(matches!(
            HeldSocket::bind(id.clone()),
            Err(BindError::InUse { .. })
        ));
        drop(first);
        HeldSocket::bind(id).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = HeldSocket::bind(tcp("u", &format!("unix:{}", path.display()))).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "data");
    }

    #[test]
    fn a_renamed_listener_keeps_its_socket_but_two_chosen_ports_are_never_mixed_up() {
        let mut held = vec![
            HeldSocket::bind(tcp("old", "127.0.0.1:0")).unwrap(),
            HeldSocket::bind(tcp("other", "127.0.0.1:0")).unwrap(),
        ];
        assert!(take(&mut held, &tcp("new", "127.0.0.1:0")).is_none());
        let fixed = held[0].local_address();
        held[0].id.address = fixed.clone();
        let taken = take(&mut held, &tcp("new", &fixed)).unwrap();
        assert_eq!(taken.id.name, "new");
        assert_eq!(held.len(), 1);
    }
}
