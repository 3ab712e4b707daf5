//! Upstreams: named pools of endpoints and how they are found and spoken to.

use super::{
    Balance, ConnectionPool, HealthCheck, Http2, LocalityPolicy, OutlierDetection, SlowStart,
    UpstreamTls, WhenExhausted,
};
use crate::checks::{By, Defines, Lasting, NotEmpty, TIMER, Within};
use crate::names::Namespace;
use crate::record::{choice, one_of, record};
use crate::values::{Address, HttpUrl, Percent, Secret};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

record! {
    /// A named pool of endpoints. Exactly one of `endpoints` and `discover` is set.
    pub struct Upstream {
        /// Unique name; routes refer to it.
        name: String => Defines(Namespace::Upstream),
        /// A fixed list.
        endpoints: Vec<Endpoint> => By(crate::validate::endpoints),
        /// Where the list comes from instead.
        discover: Option<Discover>,
        /// What is spoken to endpoints. Default auto.
        protocol: Protocol = Protocol::Auto,
        /// TLS towards endpoints; without it they are spoken to in clear text.
        tls: Option<UpstreamTls>,
        /// How a member is picked. Default peak_ewma.
        balance: Balance = Balance::PeakEwma(super::PeakEwma::default()),
        /// With the hash balancers: no member gets more than this factor of the mean load, above 1 (e.g. 1.25). Default: off.
        bounded_load: Option<f64> => Within(1.0, 100.0),
        /// Bounds on connections and requests (circuit breaking).
        connection_pool: ConnectionPool = ConnectionPool::default(),
        /// HTTP/2 towards endpoints.
        http2: Http2 = Http2::default(),
        /// Ejection by outcomes of real requests; `off` turns it off. Default: on, with the defaults below.
        outlier_detection: Option<OutlierDetection> = Some(OutlierDetection::default()),
        /// Active checks. Default: off.
        health_check: Option<HealthCheck>,
        /// New and returning members get their share gradually. Default: off. A duration is short for `{ window }`.
        slow_start: Option<SlowStart>,
        /// When fewer than this share of the members are fit, all are used; 0: never. Default 50%.
        panic_threshold: Percent = Percent::of(50),
        /// Which members come first.
        locality: LocalityPolicy = LocalityPolicy::default(),
        /// What happens when no member is fit. Default error (503).
        when_exhausted: WhenExhausted = WhenExhausted::Error,
        ; inspect crate::validate::upstream_keys
        ; finish crate::validate::upstream
    }
}

choice! {
    /// What is spoken to endpoints.
    pub enum Protocol {
        /// With TLS what ALPN agrees on; in clear text HTTP/2 for gRPC requests and for those that came over HTTP/2 where the
        /// endpoint has shown that it speaks it, HTTP/1.1 otherwise.
        Auto = "auto",
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2, by prior knowledge when in clear text.
        Http2 = "http2",
    }
}

record! {
    /// One member.
    pub struct Endpoint {
        /// `ip:port`, `name:port` or `unix:PATH`.
        address: Address,
        /// Share relative to the others, 1 to 1000000; 0 gets nothing. Default 1.
        weight: u32 = 1 => Within(0, 1_000_000),
        /// Region that it runs in. Default empty: unknown.
        region: String = String::new(),
        /// Zone that it runs in. Default empty: unknown.
        zone: String = String::new(),
        /// 0 is used first; higher numbers as health of the lower falls. Default 0.
        priority: u32 = 0 => Within(0, 127),
    }
}

one_of! {
    /// Where endpoints come from.
    pub enum Discover {
        /// Healthy instances of a Consul service.
        Consul(ConsulDiscovery) = "consul",
        /// Addresses of a DNS name.
        Dns(DnsDiscovery) = "dns",
        /// A watched file that holds `{ endpoints: [ … ] }`, JSON or YAML.
        File(PathBuf) = "file",
        ; later "kubernetes"
    }
}

record! {
    /// Instances of a Consul service, by blocking queries; the last good list stays in use while Consul is away.
    pub struct ConsulDiscovery {
        /// The agent's HTTP API. Default http://127.0.0.1:8500.
        address: HttpUrl = HttpUrl::consul(),
        /// Service name.
        service: String => NotEmpty,
        /// Tags that an instance must all have.
        tags: Vec<String>,
        /// Datacenter. Default: the agent's own.
        datacenter: Option<String>,
        /// ACL token.
        token: Option<Secret>,
        /// Only instances whose checks all pass; else those with warnings too, with their warning weight. Default true.
        passing: bool = true,
        /// Any server may answer, not only the leader. Default true.
        stale: bool = true,
        /// Longest time that one blocking query waits, 1s to 10m. Default 5m.
        wait: Duration = Duration::from_secs(300) => Lasting(Duration::from_secs(1), Duration::from_secs(600)),
    }
}

record! {
    /// Addresses of a DNS name, asked again when their time to live is over.
    pub struct DnsDiscovery {
        /// The name.
        name: String => By(crate::validate::dns_name),
        /// Port of the endpoints; needed unless the records are SRV.
        port: Option<u16> => Within(1, 65_535),
        /// Which records. Default a (A and AAAA), or srv when no port is given.
        record: Option<DnsRecord>,
        /// Name servers, `ip:port`. Default: the system's.
        servers: Vec<SocketAddr>,
        /// Shortest time between two questions, whatever the time to live. Default 1s.
        min_interval: Duration = Duration::from_secs(1) => TIMER,
        /// Longest time between two questions, whatever the time to live. Default 30s.
        max_interval: Duration = Duration::from_secs(30) => TIMER,
        ; finish crate::validate::dns
    }
}

choice! {
    /// Which DNS records.
    pub enum DnsRecord {
        /// A and AAAA: addresses.
        A = "a",
        /// SRV: names, ports, weights and priorities.
        Srv = "srv",
    }
}

record! {
    /// The content of a `discover: { file }`.
    pub struct EndpointsFile {
        /// The members; may be empty.
        endpoints: Vec<Endpoint>,
        ; inspect crate::validate::endpoints_file
    }
}
