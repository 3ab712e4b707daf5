//! The typed configuration: what every other room reads. Fields are named as the keys of the YAML; defaults
//! are applied and cross references resolved by the time a [`Config`] exists.

mod listener;
mod provider;
mod route;
mod route_match;
mod service;
mod tracing;
mod traffic;
mod upstream;
mod upstream_policy;

pub use listener::*;
pub use provider::*;
pub use route::*;
pub use route_match::*;
pub use service::*;
pub use tracing::*;
pub use traffic::*;
pub use upstream::*;
pub use upstream_policy::*;

use crate::checks::Lasting;
use crate::record::record;
use crate::values::{ListenAddress, LogTarget, Percent, Secret, StateUrl};
use std::path::PathBuf;
use std::time::Duration;

record! {
    /// The whole configuration. Keys that begin with `x-` are skipped: a place for shared pieces with YAML anchors.
    pub default struct Config {
        /// Where this Tidegate runs.
        node: Node = Node::default(),
        /// The admin API, dashboard and metrics; `off` turns them off. Default: `{ address: 127.0.0.1:9900 }`.
        admin: Option<Admin> = Some(Admin::default()),
        /// Where durable state lives.
        state: State = State::default(),
        /// How a process ends.
        shutdown: Shutdown = Shutdown::default(),
        /// One JSON line for every request; off by default. `access_log: stdout` is short for `{ to: stdout }`.
        access_log: Option<AccessLog>,
        /// Distributed traces by OpenTelemetry's protocol; off by default. `tracing: http://127.0.0.1:4318` is short for `{ otlp: … }`.
        tracing: Option<Tracing>,
        /// Sockets that callers connect to.
        listeners: Vec<Listener>,
        /// Rules in order; the first whose match holds decides.
        routes: Vec<Route>,
        /// Named pools of endpoints.
        upstreams: Vec<Upstream>,
        /// Providers of language models, each a pool of keys.
        providers: Vec<Provider>,
        /// Bodies of requests to providers.
        request_bodies: RequestBodies = RequestBodies::default(),
        /// Models that Tidegate runs itself.
        services: Vec<Service>,
        /// Prices of models, for budgets in money.
        prices: Prices = Prices::default(),
        ; later "alerts", "notifiers", "keeper"
        ; finish crate::validate::config
    }
}

record! {
    /// Where this Tidegate runs; decides which endpoints are local.
    pub default struct Node {
        /// Region, compared with endpoints' `region`. Empty: no preference.
        region: String = String::new(),
        /// Zone inside the region, compared with endpoints' `zone`. Empty: no preference.
        zone: String = String::new(),
    }
}

record! {
    /// The admin port.
    pub default struct Admin {
        /// `ip:port` or `unix:PATH`. Default 127.0.0.1:9900. Anything but loopback or a Unix socket needs a token.
        address: ListenAddress = ListenAddress::loopback(9900),
        /// Bearer token that every admin request must carry.
        token: Option<Secret>,
        ; finish crate::validate::admin
    }
}

record! {
    /// Where durable state lives.
    pub default struct State {
        /// `file:PATH` (a folder). Default: the folder in $STATE_DIRECTORY (systemd sets it, so does the container image), else `file:./tidegate-data`.
        url: StateUrl = StateUrl::File("./tidegate-data".into()),
        /// Folder for what belongs to this machine alone (sockets of the running roles). Default: that of `file:`, else as for `url`.
        folder: Option<PathBuf>,
    }
}

record! {
    /// How a process ends.
    pub default struct Shutdown {
        /// Time that requests in flight have to finish after SIGTERM or SIGINT. Default 30s.
        grace: Duration = Duration::from_secs(30) => Lasting(Duration::ZERO, Duration::from_secs(86_400)),
    }
}

record! {
    /// One JSON line for every request.
    pub default struct AccessLog {
        /// `stdout`, `stderr` or a file's path. Default stdout.
        to: LogTarget = LogTarget::Stdout,
        /// Share of the requests that are logged; those that failed always are. Default 100%.
        sample: Percent = Percent::HUNDRED,
        /// Prompts and answers too: the first 64 KiB of the body of each request to a provider, and of what its caller was given. Otherwise no
        /// line holds anything of what was said.
        log_bodies: bool = false,
        ; short "to"
    }
}
