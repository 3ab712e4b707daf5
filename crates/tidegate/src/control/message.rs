//! What the processes say to each other.
//!
//! Fields and variants are only added: during an upgrade two versions talk.
//!
//! Whoever takes charge of a state folder gets an **epoch**, one more than whoever was in charge before. A role remembers the highest that it
//! has seen and obeys none that is lower: a supervisor, or another host, that does not know yet that its time is over does no harm.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::sockets::SocketId;

/// What a host has in common with supervisors and gateways: these messages, the file of what was accepted, its records in the store, its reports.
/// Raised where any of it would mean something else to a build before: a host of another number is not adopted. 0: builds whose hosts could not be.
pub(crate) const HOST_PROTOCOL: u32 = 1;

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
    /// To a host instead of `start`, after `accepted`: host its services. Later ones of `accepted` are to be followed. To one that was
    /// adopted: what holds from now on.
    Host(HostOrder),
    /// Read the configuration again; to a host: load the models anew.
    Reload,
    /// Take no new connection, finish what is in flight, end.
    Drain {
        /// Whether the admin port stays answered meanwhile. Not when another gateway has taken it over.
        keep_admin: bool,
        /// The epoch of whoever asks, where it is not the supervisor on its own connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
    /// First word on an adoption socket: tell who you are and hand over duplicates of your sockets; this connection
    /// is your control socket from now on. The descriptor beside it, if any, is where your log goes.
    Adopt {
        /// The supervisor's. Builds that know of no epochs adopt only what has no supervisor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
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
    /// The supervisor's epoch.
    #[serde(default)]
    pub(crate) epoch: u64,
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
    /// A supervisor of a higher epoch is in charge: the answer to [`Order::Adopt`] of another, and the last word to the one before.
    Outranked {
        /// The highest epoch that was seen.
        epoch: u64,
    },
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
    /// A reload was refused; the running configuration stays. From a host: it can't follow what was accepted.
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

/// A gateway or a host introduces itself to the supervisor that adopts it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Process id.
    pub(crate) pid: u32,
    /// The executable it runs, see [`crate::exe::identity`].
    pub(crate) exe: String,
    /// What a gateway was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<StartOrder>,
    /// Hash of the configuration it runs.
    pub(crate) hash: String,
    /// Time that it takes to drain, in milliseconds: of a gateway `shutdown.grace`.
    pub(crate) grace_ms: u64,
    /// Its [`HOST_PROTOCOL`].
    #[serde(default)]
    pub(crate) protocol: u32,
    /// The highest epoch that it saw before this supervisor's.
    #[serde(default)]
    pub(crate) epoch: u64,
}

impl Hello {
    /// What every role says of itself.
    pub(crate) fn of_this_process(epoch: u64) -> Self {
        Self {
            pid: std::process::id(),
            exe: crate::exe::identity(),
            start: None,
            hash: String::new(),
            grace_ms: 0,
            protocol: HOST_PROTOCOL,
            epoch,
        }
    }
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
        /// The hosts are to be handed on, not drained.
        #[serde(default)]
        keep_hosts: bool,
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
        /// Its [`HOST_PROTOCOL`]: whether its hosts can be handed on.
        #[serde(default)]
        host_protocol: u32,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told<'a, M: Deserialize<'a>>(text: &'a str) -> M {
        serde_json::from_str(text).unwrap()
    }

    /// Lines of builds before epochs and adoption of hosts.
    #[test]
    fn a_build_before_is_understood() {
        assert!(matches!(
            told(r#"{"type":"adopt"}"#),
            Order::Adopt { epoch: None }
        ));
        assert!(matches!(
            told(r#"{"type":"drain","keep_admin":false}"#),
            Order::Drain { epoch: None, .. }
        ));
        assert!(matches!(
            told(r#"{"type":"upgrade","pid":7,"version":"0.1.0"}"#),
            Ask::Upgrade {
                keep_hosts: false,
                ..
            }
        ));
        assert!(matches!(
            told(r#"{"type":"offer","pid":7,"version":"0.1.0","notify_socket":null}"#),
            Grant::Offer {
                host_protocol: 0,
                ..
            }
        ));
        let text = r#"{"type":"hello","pid":7,"exe":"0.1.0","start":{"paths":["/c.yaml"],"workers":2,"run":"/r"},"hash":"h","grace_ms":5}"#;
        let Report::Hello(hello) = told(text) else {
            panic!("no hello");
        };
        assert_eq!((hello.protocol, hello.epoch), (0, 0));
        assert_eq!(hello.start.map(|start| start.workers), Some(2));
    }

    /// What builds before can read: they know the variant without fields.
    #[test]
    fn an_adoption_is_said_so_that_a_build_before_understands_it() {
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Before {
            Adopt,
        }
        let text = serde_json::to_string(&Order::Adopt { epoch: Some(7) }).unwrap();
        assert!(matches!(told(&text), Before::Adopt));
    }
}
