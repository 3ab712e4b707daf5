//! Names to addresses, with the records' times to live, shared by the whole process.
//!
//! The system's resolver hides times to live, so this one asks the name servers itself (search domains, `/etc/hosts` and
//! `localhost` included). Two uses, two rules:
//!
//! - **connecting** ([`Resolver::addresses`]): one look-up a name at a time whatever the number of workers that ask; the
//!   answer is kept for its time to live; while a newer one is late or fails the last good one is used, so that a
//!   name server that is away costs a new connection half a second at most, and never a request.
//! - **discovery** (`dns:`): every answer counts, nothing is cached but what the source itself keeps.
//!
//! Look-ups run on the runtime that made the resolver (the control runtime); asking works from any other runtime.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::{Resolver as Hickory, ResolverBuilder, TokioResolver};
use tokio::sync::watch;
use tokio::time::Instant;

/// A record with time to live 0 is asked for again after this long, not in a loop.
pub const MIN_TTL: Duration = Duration::from_secs(1);
/// However long an answer says it is good: it is asked for again after this.
pub const MAX_TTL: Duration = Duration::from_secs(3600);
/// How long "there is no such name" must be the only answer before it is believed. A name server that restarts with an
/// empty zone, or a headless service between two generations, answers so for a moment.
pub const NEGATIVE_GRACE: Duration = Duration::from_secs(60);
/// A failed or negative answer is asked for again at the latest after this.
pub(crate) const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// With a last good answer at hand, a new connection waits for a fresh one this long.
const STALE_AFTER: Duration = Duration::from_millis(500);
/// One query to one server; tried twice.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// Names whose last good answer is kept. They come from the configuration and from discovery, never from a caller.
const MAX_NAMES: usize = 16_384;

/// Why a name gave no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The servers say so: there is no such name, or it has no record of the kind.
    #[error("{name}: {kind}")]
    Negative {
        /// The name asked for.
        name: Arc<str>,
        /// `no such name` or `no A record` and so on.
        kind: String,
        /// How long the answer may be kept, if it says so.
        ttl: Option<Duration>,
    },
    /// No usable answer: servers away, refusing or broken.
    #[error("{name}: look-up failed: {cause}")]
    Failed {
        /// The name asked for.
        name: Arc<str>,
        /// What happened, in words.
        cause: String,
    },
}

/// One record that a source can use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Data {
    Ip(IpAddr),
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
}

impl Data {
    pub(crate) fn priority(&self) -> Option<u16> {
        match self {
            Self::Ip(_) => None,
            Self::Srv { priority, .. } => Some(*priority),
        }
    }
}

/// The records of an answer with the smallest time to live on the way (CNAMEs included), not yet clamped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) records: Vec<Data>,
    pub(crate) ttl: Duration,
}

/// Looks names up. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

struct Inner {
    dns: Dns,
    runtime: tokio::runtime::Handle,
    names: Mutex<HashMap<Arc<str>, Arc<Entry>>>,
}

/// Who is asked.
enum Dns {
    /// Servers that were given.
    Given(TokioResolver),
    /// Those of the system, with what its files looked like when they were read: at the first look-up, for most machines' configurations
    /// name nothing but addresses, and the machinery is large.
    System(Mutex<Option<(SystemFiles, TokioResolver)>>),
}

/// What is known of one name.
struct Entry {
    state: Mutex<Known>,
    /// Ticks when a look-up ended, however.
    ended: watch::Sender<()>,
}

#[derive(Default)]
struct Known {
    good: Option<Arc<[IpAddr]>>,
    error: Option<ResolveError>,
    /// When to ask again.
    expires: Option<Instant>,
    negatives: Negatives,
    asking: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here can leave half-written state behind, so a panic elsewhere is no reason to fail.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resolver {
    /// With the system's servers, search domains and hosts file, read again when they change. Without a readable
    /// `/etc/resolv.conf` the server on this machine is asked, as the C library does. Must be called inside a tokio runtime,
    /// which then does the work.
    pub fn system() -> Self {
        Self::new(Dns::System(Mutex::default()))
    }

    /// With these servers (UDP, and TCP for long answers) and no search domains. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the look-up machinery can't be built.
    pub fn with_servers(servers: &[SocketAddr]) -> Result<Self, ResolveError> {
        let servers = servers
            .iter()
            .map(|server| {
                let connections =
                    [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                        connection.port = server.port();
                        connection
                    });
                NameServerConfig::new(server.ip(), true, connections.to_vec())
            })
            .collect();
        let config = ResolverConfig::from_name_servers(servers);
        let dns = build(Hickory::builder_with_config(
            config,
            TokioRuntimeProvider::default(),
        ))?;
        Ok(Self::new(Dns::Given(dns)))
    }

    fn new(dns: Dns) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self {
            inner: Arc::new(Inner {
                dns,
                runtime,
                names: Mutex::default(),
            }),
        }
    }

    /// The look-up machinery as the system's files want it now: a machine may get its name servers after we started (boot,
    /// VPN, DHCP).
    fn dns(&self) -> Result<TokioResolver, ResolveError> {
        let built = match &self.inner.dns {
            Dns::Given(dns) => return Ok(dns.clone()),
            Dns::System(built) => built,
        };
        let now = SystemFiles::now();
        let mut built = lock(built);
        let old = match &*built {
            Some((read, dns)) if *read == now => return Ok(dns.clone()),
            old => old.as_ref().map(|(_, dns)| dns.clone()),
        };
        match build_system() {
            Ok(fresh) => {
                *built = Some((now, fresh.clone()));
                Ok(fresh)
            }
            // Files that can't be used yet are no reason to forget those that could.
            Err(error) => old.ok_or(error),
        }
    }

    /// The runtime that does the work: that of control tasks.
    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.inner.runtime
    }

    /// Addresses of a name for connecting, v6 first (RFC 8305 then races them). May be called from any runtime.
    ///
    /// # Errors
    /// When there is no address and none was ever known, or the name has been gone for [`NEGATIVE_GRACE`].
    pub async fn addresses(&self, name: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        let entry = self.entry(name);
        let mut ended = entry.ended.subscribe();
        let has_stale = {
            let mut known = lock(&entry.state);
            if known
                .expires
                .is_some_and(|expires| Instant::now() < expires)
            {
                return known.answer(name);
            }
            if !known.asking {
                known.asking = true;
                let asked = Asking {
                    entry: entry.clone(),
                };
                let (resolver, name) = (self.clone(), Arc::<str>::from(name));
                self.inner.runtime.spawn(async move {
                    let answer = resolver.look_up_both(&name).await;
                    lock(&asked.entry.state).learn(answer, Instant::now());
                });
            }
            known.good.is_some()
        };
        if has_stale {
            // An `Err` is a late answer: the last good one serves.
            let _ = tokio::time::timeout(STALE_AFTER, ended.changed()).await;
        } else {
            // Can't fail: `entry` holds the sender.
            let _ = ended.changed().await;
        }
        lock(&entry.state).answer(name)
    }

    fn entry(&self, name: &str) -> Arc<Entry> {
        let mut names = lock(&self.inner.names);
        if let Some(entry) = names.get(name) {
            return entry.clone();
        }
        if names.len() >= MAX_NAMES {
            // Rare (churning names): forget what is not being asked for.
            names.retain(|_, entry| Arc::strong_count(entry) > 1);
        }
        let entry = Arc::new(Entry {
            state: Mutex::default(),
            ended: watch::Sender::new(()),
        });
        names.insert(name.into(), entry.clone());
        entry
    }

    /// A and AAAA together; one of them is enough.
    pub(crate) async fn look_up_both(&self, name: &str) -> Result<Answer, ResolveError> {
        let (v6, v4) = tokio::join!(
            self.look_up(name, RecordType::AAAA),
            self.look_up(name, RecordType::A)
        );
        merge(v6, v4)
    }

    /// One query, never from a cache. The control runtime must be the current one.
    pub(crate) async fn look_up(
        &self,
        name: &str,
        kind: RecordType,
    ) -> Result<Answer, ResolveError> {
        let lookup = self
            .dns()?
            .lookup(name, kind)
            .await
            .map_err(|error| explain(name, kind, &error))?;
        let mut ttl = MAX_TTL;
        let mut records = Vec::new();
        for record in lookup.answers() {
            ttl = ttl.min(Duration::from_secs(record.ttl.into()));
            use hickory_resolver::proto::rr::RData;
            match &record.data {
                RData::A(a) if kind == RecordType::A => records.push(Data::Ip(IpAddr::V4(a.0))),
                RData::AAAA(aaaa) if kind == RecordType::AAAA => {
                    records.push(Data::Ip(IpAddr::V6(aaaa.0)))
                }
                RData::SRV(srv) if kind == RecordType::SRV => records.push(Data::Srv {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_utf8(),
                }),
                _ => {}
            }
        }
        if records.is_empty() {
            let kind = format!("no {kind} record");
            return Err(ResolveError::Negative {
                name: name.into(),
                kind,
                ttl: Some(ttl),
            });
        }
        Ok(Answer { records, ttl })
    }
}

/// When the files that say how to look names up were last changed.
#[derive(Debug, PartialEq, Eq)]
struct SystemFiles([Option<SystemTime>; 2]);

impl SystemFiles {
    /// Two looks at files that are always in the system's cache.
    fn now() -> Self {
        let changed = |path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        };
        Self(["/etc/resolv.conf", "/etc/hosts"].map(changed))
    }
}

fn build_system() -> Result<TokioResolver, ResolveError> {
    build(Hickory::builder_tokio().unwrap_or_else(|error| {
        tracing::warn!(%error, "no usable resolv.conf, asking the name server on this machine");
        let local = NameServerConfig::udp_and_tcp(IpAddr::from([127, 0, 0, 1]));
        let config = ResolverConfig::from_name_servers(vec![local]);
        Hickory::builder_with_config(config, TokioRuntimeProvider::default())
    }))
}

fn build(
    mut builder: ResolverBuilder<TokioRuntimeProvider>,
) -> Result<TokioResolver, ResolveError> {
    let options = builder.options_mut();
    options.timeout = options.timeout.min(QUERY_TIMEOUT);
    // The caches are ours (see the module's head): one that answers in between would hide changes.
    options.cache_size = 0;
    builder.build().map_err(|error| ResolveError::Failed {
        name: "resolver".into(),
        cause: error.to_string(),
    })
}

/// Joins the two address families: an answer of either kind is an answer; trouble outranks "no such record", so that one
/// family's broken servers are never taken for the truth.
fn merge(
    first: Result<Answer, ResolveError>,
    second: Result<Answer, ResolveError>,
) -> Result<Answer, ResolveError> {
    match (first, second) {
        (Ok(mut a), Ok(b)) => {
            a.records.extend(b.records);
            a.ttl = a.ttl.min(b.ttl);
            Ok(a)
        }
        (Ok(a), Err(_)) | (Err(_), Ok(a)) => Ok(a),
        (Err(failed @ ResolveError::Failed { .. }), Err(_)) => Err(failed),
        (Err(_), Err(other)) => Err(other),
    }
}

fn explain(name: &str, kind: RecordType, error: &NetError) -> ResolveError {
    let name: Arc<str> = name.into();
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(
                none.response_code,
                ResponseCode::NXDomain | ResponseCode::NoError
            ) =>
        {
            let ttl = none
                .negative_ttl
                .map(|seconds| Duration::from_secs(seconds.into()));
            let kind = match none.response_code {
                ResponseCode::NXDomain => "no such name".to_owned(),
                _ => format!("no {kind} record"),
            };
            ResolveError::Negative { name, kind, ttl }
        }
        other => ResolveError::Failed {
            name,
            cause: other.to_string(),
        },
    }
}

impl Known {
    fn answer(&self, name: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        match (&self.good, &self.error) {
            (Some(good), _) => Ok(good.clone()),
            (None, Some(error)) => Err(error.clone()),
            // The look-up was dropped: its runtime is going down.
            (None, None) => Err(ResolveError::Failed {
                name: name.into(),
                cause: "shutting down".into(),
            }),
        }
    }

    fn learn(&mut self, answer: Result<Answer, ResolveError>, now: Instant) {
        match answer {
            Ok(answer) => {
                let ips = answer.records.iter().filter_map(|data| match data {
                    Data::Ip(ip) => Some(*ip),
                    Data::Srv { .. } => None,
                });
                self.good = Some(ips.collect());
                self.error = None;
                self.negatives.end();
                self.expires = Some(now + answer.ttl.clamp(MIN_TTL, MAX_TTL));
            }
            Err(error) => {
                if self.negatives.believed(&error, now) {
                    self.good = None;
                }
                let wait = match &error {
                    ResolveError::Negative { ttl: Some(ttl), .. } => {
                        (*ttl).clamp(MIN_TTL, MAX_NEGATIVE_TTL)
                    }
                    _ => MIN_TTL,
                };
                self.error = Some(error);
                self.expires = Some(now + wait);
            }
        }
    }
}

/// How long "there is no such thing" has been the only answer.
#[derive(Debug, Default)]
pub(crate) struct Negatives {
    since: Option<Instant>,
}

impl Negatives {
    /// There was an answer.
    pub(crate) fn end(&mut self) {
        self.since = None;
    }

    /// There was none: whether "no" has been said for so long, and nothing else, that it is the truth.
    pub(crate) fn believed(&mut self, error: &ResolveError, now: Instant) -> bool {
        match error {
            ResolveError::Negative { .. } => {
                now.duration_since(*self.since.get_or_insert(now)) >= NEGATIVE_GRACE
            }
            ResolveError::Failed { .. } => {
                self.since = None;
                false
            }
        }
    }
}

/// A look-up under way: however it ends (a panic or the runtime's end included), the next may begin and waiters wake.
struct Asking {
    entry: Arc<Entry>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        lock(&self.entry.state).asking = false;
        self.entry.ended.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no() -> ResolveError {
        ResolveError::Negative {
            name: "x".into(),
            kind: "no such name".into(),
            ttl: Some(Duration::ZERO),
        }
    }

    fn broken() -> ResolveError {
        ResolveError::Failed {
            name: "x".into(),
            cause: "timeout".into(),
        }
    }

    fn found(ip: &str) -> Answer {
        Answer {
            records: vec![Data::Ip(ip.parse().expect("ip"))],
            ttl: Duration::ZERO,
        }
    }

    #[test]
    fn a_no_is_believed_only_when_nothing_else_was_heard_for_long() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut negatives = Negatives::default();
        assert!(!negatives.believed(&no(), start));
        assert!(!negatives.believed(&no(), start + NEGATIVE_GRACE - second));
        assert!(negatives.believed(&no(), start + NEGATIVE_GRACE));
        assert!(
            !negatives.believed(&broken(), start + NEGATIVE_GRACE + second),
            "a failure says nothing"
        );
        assert!(
            !negatives.believed(&no(), start + NEGATIVE_GRACE + 2 * second),
            "and starts the time anew"
        );
        negatives.end();
        assert!(!negatives.believed(&no(), start + 3 * NEGATIVE_GRACE));
    }

    #[test]
    fn the_last_good_answer_is_given_while_newer_ones_fail() {
        let start = Instant::now();
        let mut known = Known::default();
        known.learn(Err(broken()), start);
        assert_eq!(known.answer("x"), Err(broken()), "nothing was ever known");
        known.learn(Ok(found("10.0.0.1")), start);
        assert_eq!(
            known.expires,
            Some(start + MIN_TTL),
            "a time to live of 0 is no loop"
        );
        for (error, after) in [
            (broken(), NEGATIVE_GRACE * 2),
            (no(), NEGATIVE_GRACE * 3),
            (no(), NEGATIVE_GRACE * 4),
        ] {
            assert_eq!(known.answer("x").map(|ips| ips.len()), Ok(1));
            known.learn(Err(error), start + after);
        }
        assert_eq!(known.answer("x"), Err(no()), "believed in the end");
    }

    #[test]
    fn one_family_is_enough_and_its_trouble_is_never_taken_for_a_no() {
        let both = merge(Ok(found("::1")), Ok(found("10.0.0.1"))).expect("found");
        assert_eq!(both.records.len(), 2);
        assert_eq!(
            merge(Err(no()), Ok(found("10.0.0.1"))),
            Ok(found("10.0.0.1"))
        );
        assert_eq!(merge(Ok(found("::1")), Err(broken())), Ok(found("::1")));
        for (a, b) in [(no(), broken()), (broken(), no())] {
            assert_eq!(merge(Err(a), Err(b)), Err(broken()));
        }
    }
}
