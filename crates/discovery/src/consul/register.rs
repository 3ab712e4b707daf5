//! A listener registered with a Consul agent for as long as it serves.
//!
//! An agent that restarts may have forgotten us, so the registration is looked at every few seconds and renewed. Every
//! process marks its registration with a number of its own ([`INSTANCE`]): when a newer process has taken over the same id
//! (an upgrade), the older one neither renews nor removes it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use tidegate_config::model::{ConsulCheckKind, ConsulRegistration};
use tokio::sync::{oneshot, watch};

use super::ConsulError;
use super::description::{INSTANCE, ListenerFacts, body, default_id};
use crate::client::{Answer, Client, ClientError, Server, encode};
use crate::jitter::{Backoff, between, random};
use crate::resolve::Resolver;
use crate::source::Task;
use crate::tls::SetupError;

/// How often the agent is asked whether it still knows us.
const LOOK: Duration = Duration::from_secs(3);
/// One step with the agent: registering or renewing.
const STEP: Duration = Duration::from_secs(3);
/// Leaving must not hold up a drain: after this the check (or `deregister_after`) has to do it.
const LEAVE: Duration = Duration::from_secs(4);
/// A service's description is a few kilobytes.
const MAX_ANSWER: usize = 1 << 20;

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
    leave: Option<oneshot::Sender<Leave>>,
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
        let server = agent(config, listener, resolver)?;
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
            placed: false,
        };
        let task = Task::spawn(resolver.runtime(), keeper.run(left));
        Ok(Self {
            id,
            state,
            leave: Some(leave),
            _task: task,
        })
    }

    /// Whether [`Registration::start`] would begin, without asking the agent anything.
    ///
    /// # Errors
    /// As [`Registration::start`].
    pub fn check(
        config: &ConsulRegistration,
        listener: &ListenerFacts,
        resolver: &Resolver,
    ) -> Result<(), RegisterError> {
        agent(config, listener, resolver).map(drop)
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
    /// Takes at most about seven seconds, usually milliseconds.
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

/// The agent to register with, if there is an address to register.
fn agent(
    config: &ConsulRegistration,
    listener: &ListenerFacts,
    resolver: &Resolver,
) -> Result<Server, RegisterError> {
    if config.advertise.is_none() && listener.address.is_none() {
        return Err(RegisterError::NoAddress(listener.name.clone()));
    }
    Ok(super::server(
        &config.address,
        config.token.as_ref(),
        resolver,
    )?)
}

/// The order to leave: where to tell how it went.
type Leave = oneshot::Sender<Result<(), String>>;
type Left = oneshot::Receiver<Leave>;

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
    /// Whether the agent has ever taken our registration.
    placed: bool,
}

impl Keeper {
    async fn run(mut self, mut left: Left) {
        // None: the handle was dropped, which only stops renewing (and ends this task).
        if let Some(answer) = self.keep(&mut left).await {
            let result = match tokio::time::timeout(LEAVE, self.leave()).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {LEAVE:?}")),
            };
            let _ = answer.send(result);
        }
    }

    /// Registers, then renews and reports, until it is time to leave.
    ///
    /// A step is never left in the middle: a registration on its way would arrive after the removal, and stay.
    async fn keep(&mut self, left: &mut Left) -> Option<Leave> {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
        loop {
            let step = tokio::time::timeout(STEP, self.step()).await;
            let wait = match step
                .unwrap_or_else(|_| Err(ConsulError::Client(ClientError::Timeout(STEP))))
            {
                Ok(true) => {
                    backoff.reset();
                    self.tell(RegistrationState::Registered);
                    self.pause()
                }
                Ok(false) => {
                    self.tell(RegistrationState::Superseded);
                    return left.await.ok();
                }
                Err(error) => {
                    self.tell(RegistrationState::Pending(Some(error.to_string())));
                    backoff.wait()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                order = &mut *left => return order.ok(),
            }
        }
    }

    /// Registers the first time; later only what nobody holds, so that we never push out whoever took over. Returns whether the
    /// registration is ours.
    async fn step(&mut self) -> Result<bool, ConsulError> {
        if !self.placed {
            self.register().await?;
            return Ok(true);
        }
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
            .exchange(Method::PUT, path, Some(body.unwrap_or_default()), STEP)
            .await?)
    }

    async fn register(&mut self) -> Result<(), ConsulError> {
        let source = self.ask_agent().await?;
        let remote = source.filter(|ip| !ip.is_loopback());
        let body = body(
            &self.config,
            &self.listener,
            &self.id,
            &self.instance,
            remote,
        );
        let path = "/v1/agent/service/register?replace-existing-checks=true";
        accepted(self.put(path, Some(body.into())).await?)?;
        self.placed = true;
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
            .exchange(Method::GET, "/v1/agent/self", None, STEP)
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
        let answer = self.client.exchange(Method::GET, &path, None, STEP).await?;
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
        match self.put(&path, None).await? {
            answer if answer.status == StatusCode::NOT_FOUND => Ok(()),
            answer => accepted(answer),
        }
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
