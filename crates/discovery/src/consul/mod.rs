//! Consul: endpoints of a service ([`crate::watch`]) and registration of our own listeners ([`Registration`]).

mod cursor;
mod description;
mod health;
mod register;
mod watch;

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use tidegate_config::model::{ConsulDiscovery, UpstreamTls};
use tidegate_config::values::{HttpUrl, Secret};

use crate::client::{ClientError, Server};
use crate::connect::{ClientTls, Connector};
use crate::endpoint::tcp;
use crate::resolve::Resolver;
use crate::source::Watch;
use crate::tls::{SetupError, client_config};

pub use description::ListenerFacts;
pub use register::{RegisterError, Registration, RegistrationState};

/// Connecting to an agent, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why Consul's answer cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsulError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{status}: {text}")]
    Status {
        status: http::StatusCode,
        text: String,
    },
    #[error("the answer is not that of a Consul agent ({source}): {excerpt:?}")]
    Malformed {
        source: serde_json::Error,
        excerpt: String,
    },
    #[error("{age}, and asking the leader failed: {source}")]
    Stale {
        age: String,
        source: Box<ConsulError>,
    },
}

/// What is asked, and whom.
#[derive(Clone, Debug)]
struct Query {
    server: Server,
    service: String,
    tags: Vec<String>,
    datacenter: Option<String>,
    passing: bool,
    stale: bool,
    wait: Duration,
    /// Longest answer that is read, in bytes.
    max_answer: usize,
}

/// Follows a service. See the `watch` module for what an answer means.
///
/// # Errors
/// When `https` cannot be set up.
pub(crate) fn follow(config: &ConsulDiscovery, resolver: &Resolver) -> Result<Watch, SetupError> {
    let query = Query {
        server: server(&config.address, config.token.as_ref(), resolver)?,
        service: config.service.clone(),
        tags: config.tags.clone(),
        datacenter: config.datacenter.clone(),
        passing: config.passing,
        stale: config.stale,
        wait: config.wait,
        max_answer: watch::MAX_ANSWER,
    };
    let what = query.service.clone();
    Ok(Watch::start(
        "consul",
        &what,
        resolver.runtime(),
        |publisher| watch::run(query, publisher),
    ))
}

/// Whether [`follow`] would begin.
pub(crate) fn check(config: &ConsulDiscovery, resolver: &Resolver) -> Result<(), SetupError> {
    server(&config.address, config.token.as_ref(), resolver).map(drop)
}

fn server(
    url: &HttpUrl,
    token: Option<&Secret>,
    resolver: &Resolver,
) -> Result<Server, SetupError> {
    let tls = match url.tls {
        false => None,
        true => Some(ClientTls {
            config: client_config(&UpstreamTls::default(), &[b"http/1.1"])?,
            server_name: None,
        }),
    };
    let mut headers = Vec::new();
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(token.expose()).map_err(|_| SetupError::Token)?;
        value.set_sensitive(true);
        headers.push((HeaderName::from_static("x-consul-token"), value));
    }
    Ok(Server {
        address: tcp(&url.authority.host, url.authority.port),
        authority: url.authority.to_string(),
        headers,
        connector: Connector {
            resolver: resolver.clone(),
            tls,
            timeout: CONNECT_TIMEOUT,
        },
    })
}
