//! A client and how it is made.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::balance::{Member, Members};
use crate::retry::Tokens;
use crate::{Balance, Call, Error, Retry};

/// Calls models at one or several addresses. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) members: Arc<Members>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) tokens: Mutex<Tokens>,
    #[cfg(feature = "consul")]
    _source: Option<crate::consul::Source>,
}

impl Inner {
    pub(crate) fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What holds for all calls unless they say otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) version: String,
    pub(crate) deadline: Option<Duration>,
    pub(crate) retry: Retry,
    pub(crate) silence: Duration,
    pub(crate) limit: usize,
    balance: Balance,
    connect_timeout: Duration,
    keepalive: (Duration, Duration),
    tls: Option<ClientTlsConfig>,
}

/// Makes a [`Client`].
#[derive(Debug, Clone)]
pub struct Builder {
    addresses: Vec<String>,
    settings: Settings,
    #[cfg(feature = "consul")]
    consul: Option<crate::consul::Consul>,
}

impl Client {
    /// A client of these addresses: `host:port` (without a port 50051), `http://host:port`, `https://host:port` or `unix:/path`. Connections are made when they are needed.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`]: one of them is none.
    pub fn new<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Result<Self, Error> {
        Self::builder(addresses).build()
    }

    /// A client with settings of its own.
    pub fn builder<A: Into<String>>(addresses: impl IntoIterator<Item = A>) -> Builder {
        Builder {
            addresses: addresses.into_iter().map(Into::into).collect(),
            settings: Settings {
                version: String::new(),
                deadline: None,
                retry: Retry::default(),
                silence: Duration::from_secs(10),
                limit: 256 << 20,
                balance: Balance::default(),
                connect_timeout: Duration::from_secs(5),
                keepalive: (Duration::from_secs(20), Duration::from_secs(20)),
                tls: None,
            },
            #[cfg(feature = "consul")]
            consul: None,
        }
    }

    /// A call of a public method of the model.
    pub fn call(&self, method: impl Into<String>) -> Call {
        Call::new(self.clone(), method.into())
    }

    /// `initialize`, unary.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn initialize<K: Serialize + ?Sized>(&self, kwargs: &K) -> Result<Value, Error> {
        self.call("initialize").kwargs(kwargs).unary().await
    }

    /// `train`, unary. One that takes long, or much data, is better called with [`Call::send`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn train<K: Serialize + ?Sized>(&self, kwargs: &K) -> Result<Value, Error> {
        self.call("train").kwargs(kwargs).unary().await
    }

    /// `predict`, unary.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn predict<K: Serialize + ?Sized>(&self, kwargs: &K) -> Result<Value, Error> {
        self.call("predict").kwargs(kwargs).unary().await
    }

    /// `log`, unary.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn log<K: Serialize + ?Sized>(&self, kwargs: &K) -> Result<Value, Error> {
        self.call("log").kwargs(kwargs).unary().await
    }

    /// Other addresses from now on; connections to those that stay are kept.
    ///
    /// # Errors
    /// [`Error::Address`]: one of them is none; nothing has changed then.
    pub fn set_addresses<A: Into<String>>(
        &self,
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<(), Error> {
        set(&self.inner.members, &self.inner.settings, addresses)
    }
}

/// Replaces the members by those of the addresses.
pub(crate) fn set<A: Into<String>>(
    members: &Members,
    settings: &Settings,
    addresses: impl IntoIterator<Item = A>,
) -> Result<(), Error> {
    let known = members.list();
    let list = addresses
        .into_iter()
        .map(|address| {
            let address = address.into();
            match known.iter().find(|member| *member.address == *address) {
                Some(member) => Ok(Arc::clone(member)),
                None => settings.member(address),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    members.replace(list);
    Ok(())
}

impl Builder {
    /// Version of the model for calls that name none. Default: the service's own.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.settings.version = version.into();
        self
    }

    /// Time for a whole call, all attempts and waits included. Default: none.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = Some(deadline);
        self
    }

    /// How failed calls are tried again.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.retry = retry;
        self
    }

    /// How one of several addresses is chosen. Default: round robin.
    #[must_use]
    pub fn balance(mut self, balance: Balance) -> Self {
        self.settings.balance = balance;
        self
    }

    /// A streamed call whose host has begun to answer and is silent for so long, without a heartbeat even, has lost its connection. Until the
    /// answer's head a call waits for its deadline: the service may be starting. Default 10 s.
    #[must_use]
    pub fn heartbeat_timeout(mut self, silence: Duration) -> Self {
        self.settings.silence = silence;
        self
    }

    /// Most bytes of one result, after decompression. Default 256 MiB.
    #[must_use]
    pub fn result_limit(mut self, bytes: usize) -> Self {
        self.settings.limit = bytes;
        self
    }

    /// Time for making a connection. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.settings.connect_timeout = time;
        self
    }

    /// While calls are under way: a ping each `interval`, and the end of the connection when its answer takes longer than `timeout`. Default 20 s each.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.settings.keepalive = (interval, timeout);
        self
    }

    /// Certificates and names for `https://` addresses. Default: the system's certificates.
    #[must_use]
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// Addresses come from Consul, and change when its list does; those of [`Client::builder`] count until the first list.
    #[cfg(feature = "consul")]
    #[must_use]
    pub fn consul(mut self, consul: crate::consul::Consul) -> Self {
        self.consul = Some(consul);
        self
    }

    /// Makes the client. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Address`]: one of the addresses is none, or what TLS needs is wrong.
    pub fn build(self) -> Result<Client, Error> {
        let settings = Arc::new(self.settings);
        let list = self
            .addresses
            .into_iter()
            .map(|address| settings.member(address))
            .collect::<Result<Vec<_>, _>>()?;
        let members = Arc::new(Members::new(settings.balance, list));
        let tokens = Mutex::new(Tokens::new(settings.retry.throttling));
        Ok(Client {
            inner: Arc::new(Inner {
                tokens,
                #[cfg(feature = "consul")]
                _source: self
                    .consul
                    .map(|consul| crate::consul::Source::start(consul, &members, &settings))
                    .transpose()?,
                members,
                settings,
            }),
        })
    }
}

impl Settings {
    /// A member; it connects with its first call.
    fn member(&self, address: String) -> Result<Arc<Member>, Error> {
        let wrong = |message: String| Error::Address {
            address: address.clone(),
            message,
        };
        let bare = !address.starts_with("unix:") && !address.contains("://");
        let uri = if bare {
            format!("http://{}", with_port(&address))
        } else {
            address.clone()
        };
        let mut endpoint = Endpoint::from_shared(uri).map_err(|error| wrong(chain(&error)))?;
        if !address.starts_with("unix:")
            && endpoint
                .uri()
                .authority()
                .is_none_or(|name| name.host().is_empty())
        {
            return Err(wrong("no host".to_owned()));
        }
        if endpoint.uri().scheme_str() == Some("https") {
            let tls = self
                .tls
                .clone()
                .unwrap_or_else(|| ClientTlsConfig::new().with_native_roots());
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|error| wrong(chain(&error)))?;
        }
        let channel: Channel = endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keepalive.0)
            .keep_alive_timeout(self.keepalive.1)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .connect_lazy();
        Ok(Member::new(address.as_str().into(), channel))
    }
}

/// Where `tidegate serve` listens unless it is told another port.
const PORT: u16 = 50051;

/// A host with its port, as a URI has it.
fn with_port(host: &str) -> String {
    let colons = host.matches(':').count();
    if host.is_empty() || (colons == 1 && !host.starts_with('[')) || host.contains("]:") {
        host.to_owned()
    } else if colons > 1 && !host.starts_with('[') {
        format!("[{host}]:{PORT}")
    } else {
        format!("{host}:{PORT}")
    }
}

/// An error with its cause.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_may_be_written_in_four_ways() {
        Client::new([
            "127.0.0.1:50051",
            "http://model.local:80",
            "https://model.local",
            "unix:/run/model.sock",
        ])
        .unwrap();
    }

    #[test]
    fn an_address_without_a_port_means_that_of_tidegate_serve() {
        for (given, meant) in [
            ("model.local", "model.local:50051"),
            ("model.local:80", "model.local:80"),
            ("::1", "[::1]:50051"),
            ("[::1]", "[::1]:50051"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(with_port(given), meant);
        }
    }

    #[tokio::test]
    async fn what_is_no_address_is_named() {
        for address in ["", "a b:1", "http://"] {
            let error = Client::new([address]).unwrap_err();
            assert!(
                matches!(&error, Error::Address { address: told, .. } if told == address),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn members_that_stay_keep_their_connections() {
        let client = Client::new(["127.0.0.1:1", "127.0.0.1:2"]).unwrap();
        let before = client.inner.members.list();
        client
            .set_addresses(["127.0.0.1:2", "127.0.0.1:3"])
            .unwrap();
        let after = client.inner.members.list();
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        assert!(client.set_addresses(["b a d"]).is_err());
        assert_eq!(client.inner.members.list().len(), 2);
    }
}
