//! An upstream at work: its pool of members, its bounds, and how its endpoints are spoken to.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tidegate_config::model as config;
use tidegate_core::{self as core, Gate, Pool, PoolPolicy};
use tidegate_discovery::tls;
use tidegate_discovery::{Address, Endpoint, Resolver, SetupError};

use crate::io::pulse::Keepalive;
use crate::limits::secret;
use crate::stats::{Attempts, Registry};
use crate::up::slots::Slots;

/// What is spoken to endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Auto,
    Http1,
    Http2,
}

/// A member's payload: where it is and what all workers count of it.
pub(crate) struct Target {
    pub(crate) id: Arc<str>,
    pub(crate) address: Address,
    /// Open connections, all workers together.
    pub(crate) open: AtomicU64,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.id)
    }
}

/// Two targets are the same member while their address is: weight and locality may change without losing connections.
impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

/// What outlives a reload as long as the upstream's name stays.
pub(crate) struct Live {
    pub(crate) pool: Pool<Arc<Target>>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) pending: Arc<Gate>,
    pub(crate) requests: Arc<Gate>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

/// TLS towards endpoints.
#[derive(Debug)]
pub(crate) struct UpstreamTls {
    pub(crate) http1: Arc<ClientConfig>,
    pub(crate) http2: Arc<ClientConfig>,
    /// Offers both; the endpoint chooses.
    pub(crate) either: Arc<ClientConfig>,
    /// Of what the certificates' files held: they may change although the config does not.
    files: [u8; 32],
    pub(crate) server_name: Option<ServerName<'static>>,
}

/// How endpoints are spoken to.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) protocol: Protocol,
    pub(crate) tls: Option<UpstreamTls>,
    pub(crate) resolver: Resolver,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) tcp_keepalive: Option<Duration>,
    pub(crate) max_requests_per_connection: u64,
    pub(crate) http2_streams: usize,
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) max_age: Option<Duration>,
}

/// One upstream of the running configuration.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    /// Another one whenever connections made under the old settings must not be used any more.
    pub(crate) id: u64,
    pub(crate) config: Arc<config::Upstream>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) live: Arc<Live>,
    pub(crate) attempts: Arc<Attempts>,
    /// Endpoints report their load (ORCA).
    pub(crate) wants_load: bool,
}

/// Why an upstream can't be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("upstream {name}: {source}")]
    Tls { name: String, source: SetupError },
    #[error("upstream {name}: {sni:?} is no server name")]
    ServerName { name: String, sni: String },
    #[error("upstream {name}: its name servers cannot be used: {source}")]
    NameServers {
        name: String,
        source: tidegate_discovery::ResolveError,
    },
    #[error("upstream {name}: {source}")]
    Discovery { name: String, source: SetupError },
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// An upstream that can be set up: what may fail was done, and nothing that runs was touched.
#[derive(Debug)]
pub(crate) enum Draft {
    /// The running one serves as it is.
    Same(Arc<Upstream>),
    Changed {
        wanted: Arc<config::Upstream>,
        settings: Arc<Settings>,
        id: u64,
        /// The running one of this name.
        before: Option<Arc<Upstream>>,
    },
}

impl Draft {
    /// What `old` (of the same name) has that is still good will be taken over.
    pub(crate) fn new(
        wanted: &config::Upstream,
        old: Option<&Arc<Upstream>>,
        resolver: &Resolver,
    ) -> Result<Draft, UpstreamError> {
        let files = Files::read(wanted)?;
        let spoken_to = old.filter(|old| {
            speaks_alike(&old.config, wanted) && files.digest == old.settings.files()
        });
        if let Some(old) = spoken_to
            && *old.config == *wanted
        {
            return Ok(Draft::Same(old.clone()));
        }
        tidegate_discovery::check(wanted, resolver).map_err(|source| UpstreamError::Discovery {
            name: wanted.name.clone(),
            source,
        })?;
        Ok(Draft::Changed {
            settings: match spoken_to {
                Some(old) => old.settings.clone(),
                None => Arc::new(settings(wanted, &files, resolver)?),
            },
            id: spoken_to.map_or_else(next_id, |old| old.id),
            wanted: Arc::new(wanted.clone()),
            before: old.cloned(),
        })
    }

    /// Puts it to work: from here on the policy and the bounds of a living pool are the new ones.
    pub(crate) fn commit(self, registry: &Registry, now: core::Time) -> Arc<Upstream> {
        let (wanted, settings, id, before) = match self {
            Draft::Same(upstream) => return upstream,
            Draft::Changed {
                wanted,
                settings,
                id,
                before,
            } => (wanted, settings, id, before),
        };
        let pool = &wanted.connection_pool;
        let live = match before {
            Some(before) => {
                let live = &before.live;
                live.pool.set_policy(policy(&wanted), now);
                live.slots.set_max(pool.max_connections as usize);
                live.pending.set_max(pool.max_pending_requests.into());
                live.requests.set_max(pool.max_requests.into());
                live.clone()
            }
            None => Arc::new(Live {
                pool: Pool::new(policy(&wanted), Vec::new(), secret(), now),
                slots: Slots::new(pool.max_connections as usize),
                pending: Gate::new(pool.max_pending_requests.into()),
                requests: Gate::new(pool.max_requests.into()),
            }),
        };
        Arc::new(Upstream {
            name: wanted.name.as_str().into(),
            id,
            settings,
            live,
            attempts: registry.attempts(&wanted.name),
            wants_load: matches!(wanted.balance, config::Balance::BackendLoad(_)),
            config: wanted,
        })
    }
}

impl Upstream {
    /// Puts the endpoints that a source tells of into the pool.
    pub(crate) fn set_endpoints(&self, endpoints: &[Endpoint], now: core::Time) -> core::Change {
        let specs = endpoints.iter().map(member).collect();
        self.live.pool.update(specs, now)
    }
}

fn member(endpoint: &Endpoint) -> core::MemberSpec<Arc<Target>> {
    let target = Target {
        id: endpoint.id.clone(),
        address: endpoint.address.clone(),
        open: AtomicU64::new(0),
    };
    core::MemberSpec::new(endpoint.id.clone(), Arc::new(target))
        .weight(endpoint.weight)
        .locality(core::Locality::new(&endpoint.region, &endpoint.zone))
        .priority(endpoint.priority)
}

impl Settings {
    /// Of what the certificates' files held, where there is TLS.
    fn files(&self) -> Option<[u8; 32]> {
        self.tls.as_ref().map(|tls| tls.files)
    }
}

/// The files of an upstream's TLS, as they are now.
struct Files {
    material: Option<tls::Material>,
    digest: Option<[u8; 32]>,
}

impl Files {
    fn read(wanted: &config::Upstream) -> Result<Self, UpstreamError> {
        let read = wanted.tls.as_ref().map(tls::Material::read).transpose();
        let material = read.map_err(|source| UpstreamError::Tls {
            name: wanted.name.clone(),
            source,
        })?;
        Ok(Self {
            digest: material.as_ref().map(tls::Material::digest),
            material,
        })
    }
}

/// Whether connections made for `a` serve `b` as well, as far as the config tells.
fn speaks_alike(a: &config::Upstream, b: &config::Upstream) -> bool {
    a.protocol == b.protocol
        && a.tls == b.tls
        && a.connection_pool == b.connection_pool
        && a.http2 == b.http2
        && name_servers(a) == name_servers(b)
}

/// Name servers of its own: service records name hosts that only they may know.
fn name_servers(u: &config::Upstream) -> &[SocketAddr] {
    match &u.discover {
        Some(config::Discover::Dns(dns)) => &dns.servers,
        _ => &[],
    }
}

fn settings(
    u: &config::Upstream,
    files: &Files,
    resolver: &Resolver,
) -> Result<Settings, UpstreamError> {
    let tls = match (&u.tls, &files.material, files.digest) {
        (Some(wanted), Some(material), Some(files)) => {
            let build = |alpn: &[&[u8]]| {
                material
                    .client_config(wanted, alpn)
                    .map_err(|source| UpstreamError::Tls {
                        name: u.name.clone(),
                        source,
                    })
            };
            let server_name = match &wanted.sni {
                None => None,
                Some(sni) => Some(ServerName::try_from(sni.clone()).map_err(|_| {
                    UpstreamError::ServerName {
                        name: u.name.clone(),
                        sni: sni.clone(),
                    }
                })?),
            };
            Some(UpstreamTls {
                http1: build(&[b"http/1.1"])?,
                http2: build(&[b"h2"])?,
                either: build(&[b"h2", b"http/1.1"])?,
                server_name,
                files,
            })
        }
        _ => None,
    };
    let pool = &u.connection_pool;
    Ok(Settings {
        protocol: match u.protocol {
            config::Protocol::Auto => Protocol::Auto,
            config::Protocol::Http1 => Protocol::Http1,
            config::Protocol::Http2 => Protocol::Http2,
        },
        tls,
        resolver: match name_servers(u) {
            [] => resolver.clone(),
            servers => {
                Resolver::with_servers(servers).map_err(|source| UpstreamError::NameServers {
                    name: u.name.clone(),
                    source,
                })?
            }
        },
        connect_timeout: pool.connect_timeout,
        idle_timeout: pool.idle_timeout,
        tcp_keepalive: pool.tcp_keepalive,
        max_requests_per_connection: pool.max_requests_per_connection,
        http2_streams: u.http2.max_concurrent_streams as usize,
        keepalive: u.http2.ping_interval.map(|interval| Keepalive {
            interval,
            timeout: u.http2.ping_timeout,
        }),
        max_age: u.http2.max_connection_age,
    })
}

/// The engine's policy from the config's words.
fn policy(u: &config::Upstream) -> PoolPolicy {
    PoolPolicy {
        balance: balance(u),
        choices: match &u.balance {
            config::Balance::LeastRequest(l) => l.choices as usize,
            _ => PoolPolicy::default().choices,
        },
        outlier: u.outlier_detection.as_ref().map(outlier),
        panic_threshold: Some(percent(u.panic_threshold)),
        slow_start: u.slow_start.as_ref().map(|s| core::SlowStart {
            window: s.window,
            aggression: s.aggression,
            min_weight: core::Percent::saturating(10),
        }),
        start: if u.health_check.is_some() {
            core::Start::Warming
        } else {
            core::Start::Healthy
        },
        probation: None,
        when_exhausted: match u.when_exhausted {
            config::WhenExhausted::Error => core::WhenExhausted::Error,
            config::WhenExhausted::LeastBad => core::WhenExhausted::UseLeastBad,
        },
        locality: core::LocalityPolicy {
            prefer_local: u.locality.prefer != config::Prefer::None,
            prefer_zone: u.locality.prefer == config::Prefer::Zone,
            overprovisioning: (u.locality.overprovision * 100.0) as u32,
        },
        ..PoolPolicy::default()
    }
}

fn balance(u: &config::Upstream) -> core::Balance {
    let bounded_load = u.bounded_load.map(|f| (f * 100.0) as u32);
    match &u.balance {
        config::Balance::RoundRobin => core::Balance::RoundRobin,
        config::Balance::Random => core::Balance::Random,
        config::Balance::WeightedRoundRobin => core::Balance::WeightedRoundRobin,
        config::Balance::WeightedRandom => core::Balance::WeightedRandom,
        config::Balance::SourceIpHash => core::Balance::SourceIpHash,
        config::Balance::LeastRequest(_) => core::Balance::LeastRequest,
        config::Balance::PeakEwma(p) => core::Balance::PeakEwma(core::PeakEwma {
            decay: p.decay,
            ..core::PeakEwma::default()
        }),
        config::Balance::RingHash(r) => core::Balance::RingHash(core::RingHash {
            min_size: r.min_size as usize,
            bounded_load,
            ..core::RingHash::default()
        }),
        config::Balance::Maglev(m) => core::Balance::Maglev(core::Maglev {
            table_size: m.table_size as usize,
            bounded_load,
        }),
        config::Balance::BackendLoad(b) => core::Balance::BackendLoad(core::BackendLoad {
            blackout_period: b.blackout,
            weight_expiration_period: b.expiry,
            weight_update_period: b.update_interval,
            error_utilization_penalty: b.error_penalty as f32,
        }),
    }
}

fn percent(p: tidegate_config::values::Percent) -> core::Percent {
    core::Percent::saturating(p.percent().round() as u8)
}

fn outlier(o: &config::OutlierDetection) -> core::OutlierDetection {
    core::OutlierDetection {
        consecutive_5xx: o.consecutive_5xx,
        enforcing_consecutive_5xx: percent(o.enforcing_consecutive_5xx),
        consecutive_gateway_failure: o.consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure: percent(o.enforcing_consecutive_gateway_failure),
        consecutive_local_origin: o.consecutive_local_origin,
        enforcing_consecutive_local_origin: percent(o.enforcing_consecutive_local_origin),
        split_local_origin: false,
        errors: o.errors.as_ref().map(|e| core::ErrorsWithin {
            count: e.count,
            within: e.within,
        }),
        interval: o.interval,
        base_ejection_time: o.base_ejection_time,
        max_ejection_time: o.max_ejection_time,
        max_ejection_time_jitter: o.max_ejection_time_jitter,
        max_ejection_percent: percent(o.max_ejection_percent),
        success_rate: match &o.success_rate {
            Some(s) => core::SuccessRate {
                min_hosts: s.min_hosts,
                request_volume: s.volume,
                stdev_factor: s.stdev_factor,
                enforcing: percent(s.enforcing),
            },
            None => core::SuccessRate {
                enforcing: core::Percent::ZERO,
                ..core::SuccessRate::default()
            },
        },
        failure_percentage: match &o.failure_percentage {
            Some(f) => core::FailurePercentage {
                threshold: percent(f.threshold),
                min_hosts: f.min_hosts,
                request_volume: f.volume,
                enforcing: percent(f.enforcing),
            },
            None => core::FailurePercentage {
                enforcing: core::Percent::ZERO,
                ..core::FailurePercentage::default()
            },
        },
    }
}
