//! A listener registered with a Consul agent for as long as it serves.
//!
//! An agent that restarts may have forgotten us, so the registration is looked at every few seconds and renewed. Every
//! process marks its registration with a number of its own ([`INSTANCE`]): when a newer process has taken over the same id
//! (an upgrade), the older one neither renews nor removes it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_config::model::{ConsulCheck, ConsulCheckKind, ConsulRegistration};
use tidegate_config::values::HostPort;
use tokio::sync::{oneshot, watch};

use super::ConsulError;
use crate::client::{Answer, Client, Server, encode};
use crate::jitter::{Backoff, between, random};
use crate::resolve::Resolver;
use crate::source::Task;
use crate::tls::SetupError;

/// Service metadata key that tells whose registration it is.
const INSTANCE: &str = "tidegate-instance";
/// How often the agent is asked whether it still knows us.
const LOOK: Duration = Duration::from_secs(3);
/// One exchange with the agent.
const EXCHANGE: Duration = Duration::from_secs(3);
/// Leaving must not hold up a drain: after this the check (or `deregister_after`) has to do it.
const LEAVE: Duration = Duration::from_secs(5);
/// A service's description is a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;

/// What the registration needs to know of a listener.
#[derive(Clone, Debug)]
pub struct ListenerFacts {
    /// Name of the listener, for the service's id.
    pub name: String,
    /// Bound address with the real port; none for a Unix socket.
    pub address: Option<SocketAddr>,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// How the registration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// Not registered yet, or again; the last trouble in words, if there was any.
    Pending(Option<String>),
    /// The agent knows us.
    Registered,
    /// Another process has taken over our id: an upgrade. It is not ours to remove any more.
    Superseded,
}

/// Why a listener cannot be registered, or not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Nobody could reach it: a Unix socket without `advertise`.
    #[error("listener {0} has no TCP address to register; set `advertise`")]
    NoAddress(String),
    /// The configuration's mistakes.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The agent did not take the removal in time; a check with `deregister_after` removes it later.
    #[error("service {id} could not be removed from Consul: {cause}")]
    Deregister {
        /// The service's id.
        id: String,
        /// What happened, in words.
        cause: String,
    },
}

/// A registered listener. Dropping it only stops renewing; [`Registration::deregister`] removes it from Consul.
#[derive(Debug)]
pub struct Registration {
    id: String,
    state: watch::Receiver<RegistrationState>,
    leave: Option<oneshot::Sender<oneshot::Sender<Result<(), String>>>>,
    _task: Task,
}

impl Registration {
    /// Begins to register and keeps at it until it succeeds; the agent may come later. May be called from any runtime.
    ///
    /// The advertised address is `advertise`, else the listener's own; for a listener on all addresses it is the address from
    /// which this machine reaches the agent, and with an agent on this machine Consul's own choice (the node's address).
    ///
    /// # Errors
    /// When there is no address to register, or the agent's URL or token cannot be used.
    pub fn start(
        config: &ConsulRegistration,
        listener: &ListenerFacts,
        resolver: &Resolver,
    ) -> Result<Self, RegisterError> {
        if config.advertise.is_none() && listener.address.is_none() {
            return Err(RegisterError::NoAddress(listener.name.clone()));
        }
        let server = super::server(&config.address, config.token.as_ref(), resolver)?;
        let id = config
            .id
            .clone()
            .unwrap_or_else(|| default_id(config, listener));
        let (sender, state) = watch::channel(RegistrationState::Pending(None));
        let (leave, left) = oneshot::channel();
        let keeper = Keeper {
            client: Client::new(server.clone(), MAX_ANSWER),
            server,
            config: config.clone(),
            listener: listener.clone(),
            id: id.clone(),
            instance: format!("{:016x}", random()),
            state: sender,
        };
        let task = Task::spawn(resolver.runtime(), keeper.run(left));
        Ok(Self {
            id,
            state,
            leave: Some(leave),
            _task: task,
        })
    }

    /// The service's id at the agent.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How it stands; wakes at every change.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Removes the listener from Consul: the first step of draining, so that others stop coming before it stops serving.
    /// Takes at most about five seconds.
    ///
    /// # Errors
    /// When the agent could not be told.
    pub async fn deregister(mut self) -> Result<(), RegisterError> {
        let (answer, answered) = oneshot::channel();
        let sent = self
            .leave
            .take()
            .is_some_and(|leave| leave.send(answer).is_ok());
        let result = match sent {
            true => answered
                .await
                .unwrap_or_else(|_| Err("the task that registers has ended".to_owned())),
            false => Err("the task that registers has ended".to_owned()),
        };
        result.map_err(|cause| RegisterError::Deregister {
            id: self.id.clone(),
            cause,
        })
    }
}

/// Same after a restart, so that a crashed process's registration is taken over; different for listeners of different
/// machines that share an agent.
fn default_id(config: &ConsulRegistration, listener: &ListenerFacts) -> String {
    let place = match (&config.advertise, listener.address) {
        (Some(advertise), _) => format!("{}-{}", advertise.host, advertise.port),
        (None, Some(at)) if at.ip().is_unspecified() => format!("{}-{}", host_name(), at.port()),
        (None, Some(at)) => format!("{}-{}", at.ip(), at.port()),
        (None, None) => host_name(),
    };
    // Slashes and the like would need care in every URL that names it.
    format!("{}-{place}", config.service).replace(
        |c: char| !(c.is_ascii_alphanumeric() || "-._".contains(c)),
        "-",
    )
}

fn host_name() -> String {
    let name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    name.map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "host".to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Service<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    tags: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    port: u16,
    meta: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    name: String,
    #[serde(rename = "HTTP", skip_serializing_if = "Option::is_none")]
    http: Option<String>,
    #[serde(rename = "GRPC", skip_serializing_if = "Option::is_none")]
    grpc: Option<String>,
    #[serde(rename = "GRPCUseTLS", skip_serializing_if = "std::ops::Not::not")]
    grpc_use_tls: bool,
    #[serde(rename = "TLSSkipVerify", skip_serializing_if = "std::ops::Not::not")]
    tls_skip_verify: bool,
    #[serde(rename = "TCP", skip_serializing_if = "Option::is_none")]
    tcp: Option<String>,
    #[serde(rename = "TTL", skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deregister_critical_service_after: Option<String>,
}

/// Go's notation, to the millisecond.
fn go(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// What Consul checks, and where.
fn check(config: &ConsulCheck, at: &HostPort, tls: bool) -> Check {
    let mut check = Check {
        name: "tidegate".to_owned(),
        deregister_critical_service_after: config.deregister_after.map(go),
        ..Check::default()
    };
    if let ConsulCheckKind::Ttl(ttl) = &config.kind {
        check.ttl = Some(go(*ttl));
        return check;
    }
    check.interval = Some(go(config.interval));
    check.timeout = Some(go(config.timeout));
    match &config.kind {
        ConsulCheckKind::Http(url) if url.contains("://") => check.http = Some(url.clone()),
        ConsulCheckKind::Http(path) => {
            check.http = Some(format!(
                "{}://{at}{path}",
                if tls { "https" } else { "http" }
            ));
            // It asks an address, which certificates rarely name.
            check.tls_skip_verify = tls;
        }
        ConsulCheckKind::Grpc(service) => {
            check.grpc = Some(if service.is_empty() {
                at.to_string()
            } else {
                format!("{at}/{service}")
            });
            check.grpc_use_tls = tls;
            check.tls_skip_verify = tls;
        }
        ConsulCheckKind::Tcp(_) => check.tcp = Some(at.to_string()),
        ConsulCheckKind::Ttl(_) => {}
    }
    check
}

/// Whose registration the agent holds under our id.
enum Holder {
    Us,
    Nobody,
    Other,
}

struct Keeper {
    client: Client,
    server: Server,
    config: ConsulRegistration,
    listener: ListenerFacts,
    id: String,
    instance: String,
    state: watch::Sender<RegistrationState>,
}

impl Keeper {
    async fn run(mut self, mut left: oneshot::Receiver<oneshot::Sender<Result<(), String>>>) {
        let answer = tokio::select! {
            answer = &mut left => answer,
            () = self.keep() => left.await,
        };
        // An error: the handle was dropped, which only stops renewing (and ends this task).
        if let Ok(answer) = answer {
            let result = match tokio::time::timeout(LEAVE, self.leave()).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {LEAVE:?}")),
            };
            let _ = answer.send(result);
        }
    }

    /// Registers, then renews and reports; returns when another process has taken over.
    async fn keep(&mut self) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        let mut registered = false;
        loop {
            let step = if registered {
                self.renew().await
            } else {
                self.register().await.map(|()| true)
            };
            let wait = match step {
                Ok(true) => {
                    registered = true;
                    backoff.reset();
                    self.tell(RegistrationState::Registered);
                    self.pause()
                }
                Ok(false) => {
                    self.tell(RegistrationState::Superseded);
                    return;
                }
                Err(error) => {
                    registered = false;
                    self.tell(RegistrationState::Pending(Some(error.to_string())));
                    backoff.wait()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Tells and logs only what is new.
    fn tell(&self, state: RegistrationState) {
        self.state.send_if_modified(|current| {
            if *current == state {
                return false;
            }
            let (service, id) = (&*self.config.service, &*self.id);
            match &state {
                RegistrationState::Registered => {
                    tracing::info!(service, id, "registered with consul")
                }
                RegistrationState::Superseded => tracing::info!(
                    service,
                    id,
                    "another process has taken over this registration"
                ),
                RegistrationState::Pending(cause) => {
                    tracing::warn!(service, id, cause, "not registered with consul")
                }
            }
            *current = state;
            true
        });
    }

    /// A third of a TTL leaves two chances before the check turns critical.
    fn pause(&self) -> Duration {
        match self.ttl() {
            Some(ttl) => between((ttl / 3).min(LOOK), 0.8, 1.0),
            None => between(LOOK, 0.8, 1.0),
        }
    }

    fn ttl(&self) -> Option<Duration> {
        match self.config.check.as_ref()?.kind {
            ConsulCheckKind::Ttl(ttl) => Some(ttl),
            _ => None,
        }
    }

    async fn put(&mut self, path: &str, body: Option<Bytes>) -> Result<Answer, ConsulError> {
        Ok(self
            .client
            .exchange(Method::PUT, path, Some(body.unwrap_or_default()), EXCHANGE)
            .await?)
    }

    async fn register(&mut self) -> Result<(), ConsulError> {
        let source = self.ask_agent().await?;
        let local_agent = source.is_none_or(|ip| ip.is_loopback());
        let (address, at) = place(
            &self.config,
            &self.listener,
            source.filter(|_| !local_agent),
        );
        let mut meta: BTreeMap<&str, &str> = self
            .config
            .meta
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        meta.insert(INSTANCE, &self.instance);
        let service = Service {
            id: &self.id,
            name: &self.config.service,
            tags: &self.config.tags,
            address,
            port: at.port,
            meta,
            check: self
                .config
                .check
                .as_ref()
                .map(|config| check(config, &at, self.listener.tls)),
        };
        let body = serde_json::to_vec(&service).expect("strings and numbers only");
        accepted(
            self.put(
                "/v1/agent/service/register?replace-existing-checks=true",
                Some(body.into()),
            )
            .await?,
        )?;
        self.beat().await
    }

    /// Learns from which address the agent is reached, and that it is the one asked for.
    async fn ask_agent(&mut self) -> Result<Option<IpAddr>, ConsulError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Agent {
            config: AgentConfig,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct AgentConfig {
            datacenter: String,
        }
        let answer = self
            .client
            .exchange(Method::GET, "/v1/agent/self", None, EXCHANGE)
            .await?;
        if let (Some(wanted), Ok(agent)) = (
            &self.config.datacenter,
            serde_json::from_slice::<Agent>(&answer.body),
        ) && *wanted != agent.config.datacenter
        {
            let text = format!(
                "the agent is in datacenter {:?}, not in {wanted:?}",
                agent.config.datacenter
            );
            return Err(ConsulError::Status {
                status: answer.status,
                text,
            });
        }
        Ok(self.client.local_ip())
    }

    /// Whether it is still ours; registered again when the agent has forgotten it.
    async fn renew(&mut self) -> Result<bool, ConsulError> {
        match self.holder().await? {
            Holder::Us => self.beat().await?,
            Holder::Nobody => {
                tracing::warn!(
                    id = self.id,
                    "consul has lost the registration, renewing it"
                );
                self.register().await?;
            }
            Holder::Other => return Ok(false),
        }
        Ok(true)
    }

    /// Reports that we live, where Consul waits for that.
    async fn beat(&mut self) -> Result<(), ConsulError> {
        if self.ttl().is_none() {
            return Ok(());
        }
        let path = format!("/v1/agent/check/pass/service:{}", encode(&self.id));
        accepted(self.put(&path, None).await?)
    }

    async fn holder(&mut self) -> Result<Holder, ConsulError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Held {
            #[serde(default)]
            meta: Option<BTreeMap<String, String>>,
        }
        let path = format!("/v1/agent/service/{}", encode(&self.id));
        let answer = self
            .client
            .exchange(Method::GET, &path, None, EXCHANGE)
            .await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Holder::Nobody);
        }
        let held: Held = match answer.status {
            StatusCode::OK => {
                serde_json::from_slice(&answer.body).map_err(|source| ConsulError::Malformed {
                    source,
                    excerpt: answer.excerpt(),
                })?
            }
            status => {
                return Err(ConsulError::Status {
                    status,
                    text: answer.excerpt(),
                });
            }
        };
        let instance = held.meta.and_then(|mut meta| meta.remove(INSTANCE));
        Ok(if instance.as_deref() == Some(&self.instance) {
            Holder::Us
        } else {
            Holder::Other
        })
    }

    async fn leave(&mut self) -> Result<(), ConsulError> {
        // What was under way when leaving began may have left the connection in the middle of an answer.
        self.client = Client::new(self.server.clone(), MAX_ANSWER);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            match self.remove().await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(id = self.id, %error, "not yet removed from consul"),
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    async fn remove(&mut self) -> Result<(), ConsulError> {
        if let Holder::Nobody | Holder::Other = self.holder().await? {
            return Ok(());
        }
        let path = format!("/v1/agent/service/deregister/{}", encode(&self.id));
        accepted(self.put(&path, None).await?)
    }
}

fn accepted(answer: Answer) -> Result<(), ConsulError> {
    match answer.status {
        status if status.is_success() => Ok(()),
        status => Err(ConsulError::Status {
            status,
            text: answer.excerpt(),
        }),
    }
}

/// The address to register (none: the node's) and the one that Consul's checks use. `seen` is our address as a remote agent
/// sees it.
fn place(
    config: &ConsulRegistration,
    listener: &ListenerFacts,
    seen: Option<IpAddr>,
) -> (Option<String>, HostPort) {
    if let Some(advertise) = &config.advertise {
        return (Some(advertise.host.clone()), advertise.clone());
    }
    // `start` refuses a listener with neither.
    let bound = listener
        .address
        .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
    let at = |ip: IpAddr| HostPort {
        host: ip.to_string(),
        port: bound.port(),
    };
    match (bound.ip(), seen) {
        (ip, _) if !ip.is_unspecified() => (Some(ip.to_string()), at(ip)),
        (_, Some(seen)) => (
            Some(seen.to_canonical().to_string()),
            at(seen.to_canonical()),
        ),
        (IpAddr::V4(_), None) => (None, at(IpAddr::from([127, 0, 0, 1]))),
        (IpAddr::V6(_), None) => (None, at(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(address: &str) -> ListenerFacts {
        ListenerFacts {
            name: "main".into(),
            address: Some(address.parse().expect("address")),
            tls: false,
        }
    }

    fn config() -> ConsulRegistration {
        ConsulRegistration {
            address: "http://127.0.0.1:8500".parse().expect("url"),
            service: "gate".into(),
            id: None,
            advertise: None,
            tags: vec![],
            meta: BTreeMap::new(),
            datacenter: None,
            token: None,
            check: None,
        }
    }

    fn placed(
        config: &ConsulRegistration,
        listener: &str,
        seen: Option<&str>,
    ) -> (Option<String>, String) {
        let (address, at) = place(
            config,
            &facts(listener),
            seen.map(|ip| ip.parse().expect("ip")),
        );
        (address, at.to_string())
    }

    #[test]
    fn the_address_is_one_that_others_can_use() {
        let plain = config();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            placed(&plain, "10.0.0.5:80", Some("10.0.0.6")),
            (some("10.0.0.5"), "10.0.0.5:80".into())
        );
        assert_eq!(
            placed(&plain, "0.0.0.0:80", None),
            (None, "127.0.0.1:80".into())
        );
        assert_eq!(placed(&plain, "[::]:80", None), (None, "[::1]:80".into()));
        assert_eq!(
            placed(&plain, "[::]:80", Some("::ffff:10.0.0.6")),
            (some("10.0.0.6"), "10.0.0.6:80".into())
        );
        let advertised = ConsulRegistration {
            advertise: Some("gate.local:443".parse().expect("address")),
            ..plain
        };
        assert_eq!(
            placed(&advertised, "0.0.0.0:80", None),
            (some("gate.local"), "gate.local:443".into())
        );
    }

    #[test]
    fn the_id_is_the_same_after_a_restart_and_safe_in_a_url() {
        assert_eq!(
            default_id(&config(), &facts("10.0.0.5:80")),
            "gate-10.0.0.5-80"
        );
        assert_eq!(
            default_id(&config(), &facts("[fd00::1]:80")),
            "gate-fd00--1-80"
        );
        assert!(default_id(&config(), &facts("0.0.0.0:80")).ends_with("-80"));
    }

    #[test]
    fn each_kind_of_check_is_asked_where_the_listener_is() {
        let at: HostPort = "[::1]:80".parse().expect("address");
        let of = |kind, tls| {
            let config = ConsulCheck {
                interval: Duration::from_secs(10),
                timeout: Duration::from_secs(1),
                deregister_after: Some(Duration::from_secs(60)),
                kind,
            };
            serde_json::to_value(check(&config, &at, tls)).expect("json")
        };
        let http = of(ConsulCheckKind::Http("/readyz".into()), true);
        assert_eq!(
            (&http["HTTP"], &http["TLSSkipVerify"], &http["Interval"]),
            (
                &"https://[::1]:80/readyz".into(),
                &true.into(),
                &"10000ms".into()
            )
        );
        assert_eq!(http["DeregisterCriticalServiceAfter"], "60000ms");
        assert_eq!(
            of(ConsulCheckKind::Http("http://other/x".into()), false)["HTTP"],
            "http://other/x"
        );
        let grpc = of(ConsulCheckKind::Grpc("a.B".into()), false);
        assert_eq!(
            (&grpc["GRPC"], grpc.get("GRPCUseTLS")),
            (&"[::1]:80/a.B".into(), None)
        );
        assert_eq!(of(ConsulCheckKind::Tcp(true), false)["TCP"], "[::1]:80");
        let ttl = of(ConsulCheckKind::Ttl(Duration::from_secs(9)), false);
        assert_eq!((&ttl["TTL"], ttl.get("Interval")), (&"9000ms".into(), None));
    }
}
