//! What the processes say to each other.
//!
//! Fields and variants are only added: during an upgrade two versions talk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sockets::SocketId;

/// Supervisor to gateway, control or host.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Order {
    /// A listening socket, in the descriptor beside it: before `start`, or as the answer to [`Report::Need`].
    Socket {
        /// What it is for.
        id: SocketId,
    },
    /// A socket that was asked for could not be bound.
    SocketRefused {
        /// Which.
        id: SocketId,
        /// Why, in words.
        reason: String,
    },
    /// What the last gateway accepted as its configuration, in the descriptor beside it, before `start`: to be used if
    /// the files are bad by now. See `role::accepted`.
    Accepted {
        /// Hash of the configuration.
        hash: String,
    },
    /// All sockets are given: serve.
    Start(StartOrder),
    /// To control instead of `start`: own the embedded store and serve it.
    Own(OwnOrder),
    /// To a host instead of `start`, after `accepted`: host its services. Later ones of `accepted` are to be followed.
    Host(HostOrder),
    /// Read the configuration again; to a host: load the models anew.
    Reload,
    /// Take no new connection, finish what is in flight, end.
    Drain {
        /// Whether the admin port stays answered meanwhile. Not when another gateway has taken it over.
        keep_admin: bool,
    },
    /// First word on an adoption socket: tell who you are and hand over duplicates of your sockets; this connection
    /// is your control socket from now on.
    Adopt,
}

/// What a gateway is started with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartOrder {
    /// Configuration files and folders, absolute.
    pub(crate) paths: Vec<PathBuf>,
    /// Worker threads.
    pub(crate) workers: usize,
    /// The folder for runtime files, absolute.
    pub(crate) run: PathBuf,
}

/// What control is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OwnOrder {
    /// The folder with the state file, absolute.
    pub(crate) folder: PathBuf,
    /// The folder for runtime files, absolute.
    pub(crate) run: PathBuf,
}

/// What a host is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HostOrder {
    /// The folder for runtime files, absolute.
    pub(crate) run: PathBuf,
    /// Watch the folders of models, and load them anew when something changes.
    #[serde(default)]
    pub(crate) watch: bool,
    /// Nothing was ever ready here: a worker that dies before it is ready is to be reported.
    #[serde(default)]
    pub(crate) unproven: bool,
    /// What workers write goes to stderr as it is, for a person.
    #[serde(default)]
    pub(crate) plain: bool,
}

/// Gateway, control or host to supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Report {
    /// One of its listening sockets, in the descriptor beside it: the answer to [`Order::Adopt`], before `hello`.
    Socket {
        /// What it is for.
        id: SocketId,
    },
    /// The end of the answer to [`Order::Adopt`].
    Hello(Hello),
    /// What it accepted as its configuration, in the descriptor beside it, for the next gateway.
    Accepted {
        /// Hash of the configuration.
        hash: String,
    },
    /// It serves.
    Ready {
        /// Hash of the configuration.
        hash: String,
        /// `shutdown.grace` in milliseconds.
        grace_ms: u64,
    },
    /// It could not start, and ends.
    Failed {
        /// Why, in words, possibly several lines.
        reason: String,
    },
    /// A reload wants a socket that it was not given.
    Need {
        /// Which.
        id: SocketId,
    },
    /// A reload was accepted.
    Reloaded {
        /// Hash of the configuration.
        hash: String,
        /// `shutdown.grace` in milliseconds.
        grace_ms: u64,
        /// The sockets in use now; the supervisor closes the others.
        sockets: Vec<SocketId>,
    },
    /// A reload was refused; the running configuration stays.
    Refused {
        /// Why, in words, possibly several lines.
        reason: String,
        /// The sockets of the running configuration; the supervisor closes the others, bound for this reload.
        sockets: Vec<SocketId>,
    },
    /// Its configuration needs the embedded store in this folder served, or none: before `ready` and `reloaded`.
    Store {
        /// Absolute.
        folder: Option<PathBuf>,
    },
    /// It works: every few seconds, see [`super::beat`].
    Beat,
    /// Whether its configuration has services, for which a host is needed: before `ready` and `reloaded`.
    Services {
        /// Whether.
        hosted: bool,
    },
    /// From a host: an instance is ready for the first time.
    Proven,
    /// From a host that is not proven: a worker died before anything was ready.
    Hopeless {
        /// Why, in words, possibly several lines.
        reason: String,
    },
    /// It drains because it was told by a signal of its own.
    Draining,
    /// It has drained, and ends.
    Drained {
        /// Requests that were still in flight when the grace was over.
        cut: u64,
    },
}

/// A gateway introduces itself to the supervisor that adopts it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Process id.
    pub(crate) pid: u32,
    /// The executable it runs, see [`crate::exe::identity`].
    pub(crate) exe: String,
    /// What it was started with.
    pub(crate) start: StartOrder,
    /// Hash of the configuration it runs.
    pub(crate) hash: String,
    /// `shutdown.grace` in milliseconds.
    pub(crate) grace_ms: u64,
}

/// New supervisor to the running one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// `up --upgrade`: hand me your sockets.
    Upgrade {
        /// Process id of the new supervisor.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// My gateway serves: let yours drain, give me the lock and go. Not saying it (closing the connection) takes
    /// the request back.
    Commit,
}

/// Running supervisor to the new one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Grant {
    /// A listening socket, in the descriptor beside it.
    Socket {
        /// What it is for.
        id: SocketId,
    },
    /// All sockets are given.
    Offer {
        /// Process id of the running supervisor.
        pid: u32,
        /// Its version.
        version: String,
        /// Its `NOTIFY_SOCKET`, when it runs under a service manager: the new one reports there from now on.
        notify_socket: Option<String>,
    },
    /// Not now.
    Refused {
        /// Why, in words.
        reason: String,
    },
    /// The lock of the state folder, in the descriptor beside it: the answer to [`Ask::Commit`].
    Lock,
    /// The supervisor's own control listener, in the descriptor beside it.
    Control,
    /// The end of the answer to [`Ask::Commit`]: the new one is in charge.
    Released,
}
