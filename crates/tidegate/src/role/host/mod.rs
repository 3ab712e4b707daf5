//! The host role: runs the workers of services, and publishes their instances for the gateways.
//!
//! It is started with what the gateway accepted as its configuration, and follows what is accepted later. It outlives gateways and
//! supervisors: one that is alone serves on, and the next supervisor adopts it ([`super::link`]) with its workers as they are.
//!
//! Where it can't be adopted (another build, an upgrade) the next host begins beside it, with workers of its own; when its instances are
//! ready it asks all others to go, which have their instances drain and end. Meanwhile calls go to either, so none is lost. Who has
//! the higher epoch stays: a host that was left behind can't have the one go that a later supervisor has adopted.

mod checks;
mod events;
mod link;
mod publish;
mod report;
mod source;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::{Config, Diagnostics, Loaded};
use tidegate_host::{Host, HostError, HostOptions, InstanceState, State};
use tidegate_state::OpenError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::events::Log;
use self::link::{HostLink, Told};
use self::publish::Publisher;
use super::{RoleError, accepted, own_channel};
use crate::control::message::{HostOrder, Order, Report};
use crate::control::{Channel, Received, Wait};
use crate::hostdir::{self, HostDir};
use crate::rundir::{Adoptable, RunDir, RunDirError};

/// Time for gateways to see that instances drain, before they take no more calls.
const SEEN: Duration = Duration::from_millis(150);

/// Beginning of the name of a host's own folder in the spool; no service's name begins so.
const OWN: &str = ".host-";

/// Why the role ends before it serves.
#[derive(Debug, thiserror::Error)]
enum HostRoleError {
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error("the accepted configuration cannot be used: {0}")]
    Config(#[from] Diagnostics),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] OpenError),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error("cannot set up the host: {0}")]
    System(#[from] io::Error),
}

/// Runs the role until it is told to go.
pub(crate) fn run() -> ExitCode {
    let (channel, order, accepted) = match receive_order() {
        Ok(given) => given,
        Err(error) => {
            tracing::error!(reason = %error, "host not started");
            return ExitCode::FAILURE;
        }
    };
    let reporter = channel.sender();
    let hosted = tokio::runtime::Builder::new_multi_thread()
        .thread_name("host")
        .enable_all()
        .build()
        .map_err(HostRoleError::from)
        .and_then(|runtime| {
            let hosted = runtime.block_on(host(channel, &order, accepted));
            runtime.shutdown_background();
            hosted
        });
    match hosted {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let report = Report::Failed {
                reason: error.to_string(),
            };
            if reporter
                .map(|reporter| reporter.send(&report, None))
                .is_err()
            {
                tracing::error!(reason = %error, "host not started");
            }
            ExitCode::FAILURE
        }
    }
}

fn receive_order() -> Result<(Channel, HostOrder, OwnedFd), RoleError> {
    let mut channel = own_channel()?;
    let mut accepted = None;
    loop {
        match channel.receive(Wait::Yes)? {
            Received::Message(Order::Accepted { .. }, fd) => accepted = fd,
            Received::Message(Order::Host(order), _) => {
                let accepted = accepted.ok_or(RoleError::NotStartedBySupervisor)?;
                return Ok((channel, order, accepted));
            }
            Received::Message(..) => {}
            Received::Nothing | Received::Closed => return Err(RoleError::NotStartedBySupervisor),
        }
    }
}

/// Hosts until somebody has it end.
async fn host(channel: Channel, order: &HostOrder, accepted: OwnedFd) -> Result<(), HostRoleError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let loaded = read(accepted).await?;
    let config = &loaded.config;
    let run = Arc::new(RunDir::open(&order.run)?);
    let node = hostdir::node(&order.run)?;
    let dir = HostDir::make(&order.run, longest_socket(config))?;
    let spool = spool(&loaded);
    let own = own_folder(&spool, &order.run, dir.id());
    let log = Arc::new(Log::new(order.plain));
    let host = Arc::new(
        Host::start(HostOptions {
            run_dir: dir.sockets().to_owned(),
            spool_dir: spool,
            own_dir: own.clone(),
            base_dir: std::env::current_dir()?,
            events: log.clone(),
            checks: Arc::new(checks::Asked::default()),
            services: config.services.clone(),
        })
        .await?,
    );
    let pid = std::process::id();
    let adoption = run.listen_adoption(Adoptable::Host, pid)?;
    let (link, mut told) = HostLink::start(channel, adoption, order.epoch)?;
    link.admit(dir.listen_owner()?)?;
    tokio::spawn(report::serve(
        dir.listen_report()?,
        dir.id().to_owned(),
        host.clone(),
    ));
    let mut proving = tokio::spawn(prove(host.clone(), link.clone(), order.unproven));
    let (mut watched, mut changes) = (order.watch, order.watch.then(|| source::watch(config)));
    let reload = reloader(host.clone());
    let mut url = config.state.url.clone();
    let begin = |url: &_| -> Result<Publisher, HostRoleError> {
        let store = super::open_store(&run, url)?;
        let id = dir.id().to_owned();
        let at = order.run.clone();
        Ok(Publisher::start(
            store,
            node.clone(),
            id,
            at,
            host.instances(),
        ))
    };
    let mut publisher = begin(&url)?;
    // A supervisor that is gone already is no reason not to serve.
    link.hosts(&loaded.hash, grace(config) + SEEN);
    let begin_taking_over = || {
        let (host, link) = (host.clone(), link.clone());
        let (run, id) = (order.run.clone(), dir.id().to_owned());
        TakingOver(tokio::spawn(take_over(host, link, run, id)))
    };
    let mut taking_over = begin_taking_over();
    let mut adopted = false;
    let mut hosted = loaded;
    let last = loop {
        tokio::select! {
            Some(told) = told.recv() => match told {
                Told::Accepted(texts) => match read(texts).await {
                    Ok(loaded) => {
                        let config = &loaded.config;
                        if config.state.url != url {
                            match begin(&config.state.url) {
                                Ok(next) => {
                                    publisher = next;
                                    url = config.state.url.clone();
                                }
                                Err(error) => tracing::error!(%error, "the other store is not used"),
                            }
                        }
                        if config.services != hosted.config.services {
                            host.apply(config.services.clone());
                        }
                        link.hosts(&loaded.hash, grace(config) + SEEN);
                        hosted = loaded;
                    }
                    // Of a build before the one that accepted it.
                    Err(error) if adopted => link.cannot_follow(&error.to_string()),
                    Err(error) => tracing::error!(%error, "the services stay as they were"),
                },
                Told::Adopted(order) => {
                    adopted = true;
                    log.set_plain(order.plain);
                    if order.watch != watched {
                        watched = order.watch;
                        changes = watched.then(|| source::watch(&hosted.config));
                    }
                    proving.abort();
                    proving = tokio::spawn(prove(host.clone(), link.clone(), order.unproven));
                    taking_over = begin_taking_over();
                }
                Told::Reload => reload.ask(),
                Told::Drain { last } => break last,
            },
            Some(()) = changed(&mut changes) => reload.ask(),
            _ = hangup.recv() => reload.ask(),
            _ = terminate.recv() => break true,
            _ = interrupt.recv() => break true,
        }
    };
    drop(taking_over);
    // One that goes is not adopted any more.
    run.remove_adoption(Adoptable::Host, pid);
    link.report(&Report::Draining);
    if last {
        // One that was to be replaced and was not yet.
        dismiss_others(&order.run, dir.id(), link.epoch());
    }
    publisher.drain().await;
    if !last {
        tokio::time::sleep(SEEN).await;
    }
    host.drain(grace(&hosted.config)).await;
    publisher.remove().await;
    let _ = std::fs::remove_dir_all(&own);
    dir.remove();
    Ok(())
}

async fn read(texts: OwnedFd) -> Result<Loaded, HostRoleError> {
    let read = tokio::task::spawn_blocking(move || accepted::recall(texts)).await;
    Ok(read.map_err(io::Error::other)???)
}

/// Has models loaded anew.
struct Reloader(mpsc::Sender<()>);

impl Reloader {
    /// One that is under way is finished first; what is asked for meanwhile is done once, behind it.
    fn ask(&self) {
        let _ = self.0.try_send(());
    }
}

/// Replaces the workers when asked; the old ones go on where no new one becomes ready.
fn reloader(host: Arc<Host>) -> Reloader {
    let (ask, mut asked) = mpsc::channel(1);
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            match host.reload(None).await {
                Ok(()) => tracing::info!("models loaded anew"),
                Err(error) => tracing::error!(%error, "models not loaded anew"),
            }
        }
    });
    Reloader(ask)
}

/// The next change of a source, where they are watched.
async fn changed(changes: &mut Option<mpsc::Receiver<()>>) -> Option<()> {
    match changes {
        Some(changes) => changes.recv().await,
        None => std::future::pending().await,
    }
}

/// Tells when an instance is ready for the first time, and of one that died before if that is asked for.
async fn prove(host: Arc<Host>, link: HostLink, unproven: bool) {
    let mut instances = host.instances();
    loop {
        let now = instances.borrow_and_update().clone();
        if now.iter().any(|i| i.state == State::Ready) {
            link.proven();
            return;
        }
        // A worker that says why it can't have the model says so again. One that is killed may have more luck.
        if let (true, Some(dead)) = (unproven, now.iter().find(|i| i.certain)) {
            let cause = dead.cause.as_deref().unwrap_or_default();
            let reason = format!("{}: {cause}", dead.service);
            link.report(&Report::Hopeless { reason });
            return;
        }
        if instances.changed().await.is_err() {
            return;
        }
    }
}

/// Waits to take over, until it is dropped.
struct TakingOver(JoinHandle<()>);

impl Drop for TakingOver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Has the hosts that are to be replaced go, as soon as the instances here are ready.
async fn take_over(host: Arc<Host>, link: HostLink, run: PathBuf, id: String) {
    let mut instances = host.instances();
    let ready = |all: &Arc<Vec<InstanceState>>| all.iter().all(|i| i.state == State::Ready);
    if instances.wait_for(ready).await.is_ok() {
        dismiss_others(&run, &id, link.epoch());
    }
}

fn dismiss_others(run: &Path, id: &str, epoch: u64) {
    for other in hostdir::living(run).iter().filter(|other| other.id != id) {
        tracing::info!(host = other.id, "taking over from another host");
        other.dismiss(epoch);
    }
}

/// Room for the longest name of a door's socket, also of services that a later configuration may bring.
fn longest_socket(config: &Config) -> usize {
    let names = config.services.iter().map(|service| service.name.len());
    names.max().unwrap_or(0).max(24) + "i--255.sock".len()
}

/// Uploads are large: they lie beside the durable state, not in memory as folders for temporary files may.
fn spool(loaded: &Loaded) -> PathBuf {
    let state = loaded.config.state.folder.clone().unwrap_or_default();
    std::path::absolute(&state).unwrap_or(state).join("spool")
}

/// This host's own folder in the spool. Those of hosts that died are removed.
fn own_folder(spool: &Path, run: &Path, id: &str) -> PathBuf {
    let own = |name: &str| name.strip_prefix(OWN).map(str::to_owned);
    let entries = std::fs::read_dir(spool).into_iter().flatten().flatten();
    let found: Vec<_> = entries
        .filter_map(|entry| Some((own(entry.file_name().to_str()?)?, entry.path())))
        .collect();
    // Looked at afterwards: a host has its place before it has such a folder.
    let living = hostdir::living(run);
    for (host, path) in found {
        if living.iter().all(|place| place.id != host) {
            let _ = std::fs::remove_dir_all(path);
        }
    }
    spool.join(format!("{OWN}{id}"))
}

/// The longest grace of all services.
fn grace(config: &Config) -> Duration {
    let graces = config.services.iter().map(|service| service.stop_grace);
    graces.max().unwrap_or_default()
}
