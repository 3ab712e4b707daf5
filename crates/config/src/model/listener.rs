//! Listeners: where callers connect, with the bounds that hold there.

use crate::checks::{By, Defines, Lasting, NotEmpty, Pem, SizeWithin, TIMER, True, Within};
use crate::names::Namespace;
use crate::record::{choice, one_of, record};
use crate::values::{ByteSize, HostPort, HttpUrl, ListenAddress, Secret};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

record! {
    /// A socket that callers connect to: HTTP/1.1, HTTP/2 (ALPN or prior knowledge) and gRPC on one port.
    pub struct Listener {
        /// Unique name, used in metrics and status.
        name: String => Defines(Namespace::Listener),
        /// `ip:port` or `unix:PATH`.
        address: ListenAddress,
        /// TLS for callers; without it the listener speaks clear text.
        tls: Option<ListenerTls>,
        /// Bounds on what one caller can take.
        limits: ListenerLimits = ListenerLimits::default(),
        /// How many proxies in front of this listener are trusted to have written `X-Forwarded-*`. Default 0: the peer's
        /// own address is the caller's.
        trusted_hops: u32 = 0 => Within(0, 64),
        /// A connection is asked to close (GOAWAY, `Connection: close`) after this time. Default: never.
        max_connection_age: Option<Duration> => TIMER,
        /// A connection is asked to close after this many requests. Default 0: never.
        max_requests_per_connection: u64 = 0,
        /// Registers this listener in a service catalogue while it serves.
        register: Option<Register>,
    }
}

record! {
    /// TLS of a listener. Files are read again when they change.
    pub struct ListenerTls {
        /// PEM file with the certificate chain.
        certificate: PathBuf => Pem("CERTIFICATE"),
        /// PEM file with the private key.
        key: PathBuf => Pem("PRIVATE KEY"),
        /// PEM file with the authorities that sign callers' certificates (mTLS).
        client_ca: Option<PathBuf> => Pem("CERTIFICATE"),
        /// Whether a caller without a certificate is refused. Default require; needs `client_ca`.
        client_auth: ClientAuth = ClientAuth::Require,
        ; finish crate::validate::listener_tls
        ; tidy crate::validate::listener_tls_tidy
    }
}

choice! {
    /// What happens to a caller without a certificate.
    pub enum ClientAuth {
        /// The handshake fails.
        Require = "require",
        /// The caller is let in; a certificate that is presented must be good.
        Optional = "optional",
    }
}

record! {
    /// Bounds on what one caller can take.
    pub default struct ListenerLimits {
        /// Bytes of a request's head. Default 64KiB. Beyond: 431.
        header_bytes: ByteSize = ByteSize::kib(64) => SizeWithin(ByteSize::kib(1), ByteSize::kib(1024)),
        /// Number of header fields. Default 100. Beyond: 431.
        headers: u32 = 100 => Within(1, 10_000),
        /// Time from the first byte of a request's head to its end. Default 10s. Beyond: 408.
        header_timeout: Duration = Duration::from_secs(10) => TIMER,
        /// A connection without a request in flight is closed after this time; `off`: never. Default 5m.
        idle_timeout: Option<Duration> = Some(Duration::from_secs(300)) => TIMER,
        /// Connections that are open at once. Default 20000. Further ones wait in the accept queue.
        connections: u32 = 20_000 => Within(1, 10_000_000),
        /// HTTP/2 streams that are open at once on one connection. Default 256.
        streams: u32 = 256 => Within(1, 65_536),
        /// Bytes of a request's body. Default 0: no limit. Beyond: 413. A route may set its own.
        body_bytes: ByteSize = ByteSize::ZERO,
    }
}

record! {
    /// Registration in a service catalogue.
    pub struct Register {
        /// The Consul agent to register with.
        consul: ConsulRegistration,
    }
}

record! {
    /// Registration with a Consul agent: on start, refreshed when the agent forgets, and removed while draining.
    pub struct ConsulRegistration {
        /// The agent's HTTP API. Default http://127.0.0.1:8500.
        address: HttpUrl = HttpUrl::consul(),
        /// Service name.
        service: String => NotEmpty,
        /// Unique id of this instance. Default: made of service, host name and port.
        id: Option<String> => NotEmpty,
        /// Address under which others reach the listener; needed when it listens on all addresses of a
        /// machine whose agent does not know the right one.
        advertise: Option<HostPort>,
        /// Tags of the service.
        tags: Vec<String>,
        /// Metadata of the service.
        meta: BTreeMap<String, String>,
        /// Datacenter that the agent is asked about. Default: the agent's own.
        datacenter: Option<String>,
        /// ACL token.
        token: Option<Secret>,
        /// Health check that Consul runs, or that Tidegate reports (`ttl`).
        check: Option<ConsulCheck>,
    }
}

record! {
    /// The health check of a registration.
    pub struct ConsulCheck {
        /// Time between two checks. Default 10s. Not used by `ttl`.
        interval: Duration = Duration::from_secs(10) => TIMER,
        /// Time that one check may take. Default 5s. Not used by `ttl`.
        timeout: Duration = Duration::from_secs(5) => TIMER,
        /// Consul removes the service when it has been critical for this long (its own minimum is 1m). Default: never.
        deregister_after: Option<Duration> => Lasting(Duration::from_secs(60), Duration::from_secs(30 * 86_400)),
        ; flatten
        /// What is checked.
        kind: ConsulCheckKind
    }
}

one_of! {
    /// What Consul checks.
    pub enum ConsulCheckKind {
        /// A URL, or a path on the listener's advertised address.
        Http(String) = "http" => By(crate::validate::consul_http),
        /// The gRPC health service on the listener's address; the value is the service asked about (empty: the whole server).
        Grpc(String) = "grpc",
        /// A TCP connection to the listener's address.
        Tcp(bool) = "tcp" => True,
        /// Tidegate reports by itself at least this often (it does so at a third of it).
        Ttl(Duration) = "ttl" => Lasting(Duration::from_secs(1), Duration::from_secs(86_400)),
    }
}
