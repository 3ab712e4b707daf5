//! What `tidegate up` is going to run, as far as the supervisor needs to know it.
//!
//! The supervisor stays small: reading YAML, checking it and parsing the command line touch megabytes of code and
//! heap that it would keep for its whole life. So `tidegate up` does all that, and then replaces itself (`exec`, same
//! process id, same arguments) with the supervisor, which gets only this plan, as JSON in one environment variable.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use tidegate_config::model::ListenerLimits;
use tidegate_config::values::{ListenAddress, StateUrl};
use tidegate_config::{Config, Loaded};

use crate::control::message::StartOrder;
use crate::sockets::{SocketId, Use};

const VARIABLE: &str = "TIDEGATE_SUPERVISE";

/// A checked configuration in the supervisor's terms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What a gateway is started with.
    pub(crate) start: StartOrder,
    /// Hash of the configuration.
    pub(crate) hash: String,
    /// `shutdown.grace` in milliseconds.
    pub(crate) grace_ms: u64,
    /// The sockets to listen on.
    pub(crate) sockets: Vec<SocketId>,
    /// Connections that all listeners together allow.
    pub(crate) connections: u64,
    /// Those of them that the configuration asks for, beyond the default of a listener.
    pub(crate) asked_connections: u64,
    /// The folder of the embedded store that control has to serve, absolute; `None`: nothing needs control.
    pub(crate) store: Option<PathBuf>,
    /// Whether there are services, for which a host is needed.
    pub(crate) hosted: bool,
    /// Whether to replace a running one.
    pub(crate) upgrade: bool,
    /// Whether a host of another build is adopted, too.
    pub(crate) keep_hosts: bool,
    /// Set by `tidegate serve`.
    pub(crate) serve: Option<ServePlan>,
}

/// What `tidegate serve` wants beyond its configuration: a model that never becomes ready is the answer to the command.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServePlan {
    /// `module:Class`.
    pub(crate) class: String,
    /// Name of the service.
    pub(crate) name: String,
    /// The text of the configuration. Whoever holds the state folder writes it to the file that the plan names: another one may run by that.
    pub(crate) config: String,
    /// Load models anew when their source changes; one that does not start yet may be mended then.
    pub(crate) watch: bool,
    /// The state folder is one that nobody ran on: if somebody does by now, another one will do.
    pub(crate) any_state: bool,
    /// What runs instead where the admin port, which nobody named, is in use.
    pub(crate) elsewhere: Option<Elsewhere>,
}

/// The same configuration with its admin port on whatever port is free.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Elsewhere {
    /// Its text.
    pub(crate) config: String,
    /// Its hash.
    pub(crate) hash: String,
    /// The sockets to listen on.
    pub(crate) sockets: Vec<SocketId>,
}

impl Plan {
    /// Makes the plan of a configuration.
    ///
    /// # Errors
    /// When the current folder is gone, so that relative paths mean nothing.
    pub(crate) fn new(
        loaded: &Loaded,
        paths: &[PathBuf],
        workers: usize,
        upgrade: bool,
    ) -> std::io::Result<Self> {
        let config = &loaded.config;
        let state = config.state.folder.as_deref().unwrap_or(Path::new("."));
        let paths = paths
            .iter()
            .map(std::path::absolute)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            start: StartOrder {
                paths,
                workers,
                run: std::path::absolute(state)?.join("run"),
            },
            hash: loaded.hash.clone(),
            grace_ms: grace_ms(config),
            sockets: sockets(config),
            connections: connections(config).sum(),
            asked_connections: connections(config)
                .filter(|most| *most != u64::from(ListenerLimits::default().connections))
                .sum(),
            store: store_folder(config),
            hosted: hosts(config),
            upgrade,
            keep_hosts: false,
            serve: None,
        })
    }

    /// The plan that this process was replaced with, if it was.
    pub(crate) fn from_environment() -> Option<Self> {
        let text = std::env::var(VARIABLE).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Begins the command anew, which makes another plan. Returns only when that fails, with the reason.
    pub(crate) fn begin_anew() -> std::io::Error {
        use std::os::unix::process::CommandExt;
        let mut command = crate::exe::command();
        command.args(std::env::args_os().skip(1));
        command.env_remove(VARIABLE).exec()
    }

    /// Replaces this process with the supervisor of the plan. Returns only when that fails, with the reason.
    pub(crate) fn execute(&self, log: &str) -> std::io::Error {
        use std::os::unix::process::CommandExt;
        let text = match serde_json::to_string(self) {
            Ok(text) => text,
            Err(error) => return error.into(),
        };
        let mut command = crate::exe::command();
        command
            .args(std::env::args_os().skip(1))
            .env(VARIABLE, text)
            .env(crate::log::VARIABLE, log);
        command.exec()
    }
}

/// Keeps what is meant for the supervisor alone out of a child's environment.
pub(crate) fn clean_environment(command: &mut Command) -> &mut Command {
    command.env_remove(VARIABLE).env_remove("NOTIFY_SOCKET")
}

/// Connections that each listener allows.
fn connections(config: &Config) -> impl Iterator<Item = u64> {
    let limits = config.listeners.iter().map(|listener| &listener.limits);
    limits.map(|limits| u64::from(limits.connections))
}

/// `shutdown.grace` in milliseconds.
pub(crate) fn grace_ms(config: &Config) -> u64 {
    u64::try_from(config.shutdown.grace.as_millis()).unwrap_or(u64::MAX)
}

/// The sockets that a configuration listens on.
pub(crate) fn sockets(config: &Config) -> Vec<SocketId> {
    let listeners = config.listeners.iter().map(|listener| SocketId {
        usage: Use::Listener,
        name: listener.name.clone(),
        address: address(&listener.address),
    });
    let admin = config.admin.iter().map(|admin| SocketId {
        usage: Use::Admin,
        name: "admin".into(),
        address: address(&admin.address),
    });
    listeners.chain(admin).collect()
}

/// Whether a control process is needed: something keeps state, and in a file of this machine.
pub(crate) fn needs_control(config: &Config) -> bool {
    matches!(config.state.url, StateUrl::File(_)) && (!config.providers.is_empty() || hosts(config))
}

/// Whether a host process is needed.
pub(crate) fn hosts(config: &Config) -> bool {
    !config.services.is_empty()
}

/// The folder of the embedded store that control has to serve, absolute.
pub(crate) fn store_folder(config: &Config) -> Option<PathBuf> {
    match &config.state.url {
        StateUrl::File(folder) if needs_control(config) => Some(absolute(folder)),
        _ => None,
    }
}

/// Unix paths are absolute, for they are compared with those of a process started in another folder.
fn address(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Ip(address) => address.to_string(),
        ListenAddress::Unix(path) => format!("unix:{}", absolute(path).display()),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_that_the_configuration_asks_for_must_be_possible() {
        let text = "listeners:\n\
            - { name: a, address: 127.0.0.1:1 }\n\
            - { name: b, address: 127.0.0.1:2, limits: { connections: 50000 } }\n\
            - { name: c, address: 127.0.0.1:3, limits: { streams: 8 } }\n";
        let loaded = tidegate_config::load_str("t.yaml", text).expect("a configuration");
        let plan = Plan::new(&loaded, &[], 1, false).expect("a plan");
        assert_eq!((plan.connections, plan.asked_connections), (90_000, 50_000));
    }
}
