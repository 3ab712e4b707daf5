//! The host role: runs the workers of services, and publishes their instances for the gateways.
//!
//! It is started with what the gateway accepted as its configuration, and follows what is accepted later. It outlives gateways and
//! supervisors: one that is alone serves on. A host that begins while another lives (an upgrade, a supervisor that died) starts its own
//! workers beside the other's; when its instances are ready it asks the other one to go, which has its instances drain and ends. Meanwhile
//! calls go to either, so none is lost, and no protocol of adoption is needed.

mod checks;
mod events;
mod publish;
mod report;
mod source;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::{Config, Diagnostics, Loaded};
use tidegate_host::{Host, HostError, HostOptions, InstanceState, State, Traced};
use tidegate_state::OpenError;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use self::events::Plain;
use self::publish::Publisher;
use super::{RoleError, accepted, own_channel};
use crate::control::message::{HostOrder, Order, Report};
use crate::control::{Channel, ChannelError, Received, Wait};
use crate::hostdir::{self, HostDir};
use crate::rundir::{RunDir, RunDirError};

/// How long whoever connects to the owner's socket may take to say what for.
const ASK_TIME: Duration = Duration::from_secs(5);
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

/// What the role is told.
enum Told {
    /// A configuration was accepted.
    Accepted(OwnedFd),
    /// Load the models anew.
    Reload,
    /// End. `last`: there is no other host that goes on.
    Drain { last: bool },
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
    let others = hostdir::living(&order.run);
    let dir = HostDir::make(&order.run, longest_socket(config))?;
    let spool = spool(&loaded);
    let own = own_folder(&spool, &order.run, dir.id());
    let host = Arc::new(
        Host::start(HostOptions {
            run_dir: dir.sockets().to_owned(),
            spool_dir: spool,
            own_dir: own.clone(),
            base_dir: std::env::current_dir()?,
            events: match order.plain {
                true => Arc::new(Plain),
                false => Arc::new(Traced),
            },
            checks: Arc::new(checks::Asked::default()),
            services: config.services.clone(),
        })
        .await?,
    );
    let reporter = channel.sender()?;
    let (tell, mut told) = mpsc::unbounded_channel();
    listen(channel, tell.clone())?;
    admit(dir.listen_owner()?, tell)?;
    tokio::spawn(report::serve(
        dir.listen_report()?,
        dir.id().to_owned(),
        host.clone(),
    ));
    tokio::spawn(prove(host.clone(), channel_to(&reporter)?, order.unproven));
    let mut changes = order.watch.then(|| source::watch(config));
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
    let ready = |config: &Config| Report::Ready {
        hash: String::new(),
        grace_ms: millis(grace(config) + SEEN),
    };
    let _ = reporter.send(&ready(config), None);
    let mut taking_over = std::pin::pin!(take_over(host.clone(), others));
    let mut taken_over = false;
    let mut hosted = loaded;
    let last = loop {
        tokio::select! {
            () = &mut taking_over, if !taken_over => taken_over = true,
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
                        let _ = reporter.send(&ready(config), None);
                        hosted = loaded;
                    }
                    Err(error) => tracing::error!(%error, "the services stay as they were"),
                },
                Told::Reload => reload.ask(),
                Told::Drain { last } => break last,
            },
            Some(()) = changed(&mut changes) => reload.ask(),
            _ = hangup.recv() => reload.ask(),
            _ = terminate.recv() => break true,
            _ = interrupt.recv() => break true,
        }
    };
    let _ = reporter.send(&Report::Draining, None);
    let others = hostdir::living(&order.run);
    let others: Vec<_> = others.iter().filter(|o| o.id != dir.id()).collect();
    if last {
        // One that was to be replaced and was not yet.
        others.iter().for_each(|other| other.dismiss());
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

fn channel_to(reporter: &Channel) -> Result<Channel, HostRoleError> {
    Ok(reporter.sender()?)
}

/// Tells when an instance is ready for the first time, and of one that died before if that is asked for.
async fn prove(host: Arc<Host>, reporter: Channel, unproven: bool) {
    let mut instances = host.instances();
    loop {
        let now = instances.borrow_and_update().clone();
        if now.iter().any(|i| i.state == State::Ready) {
            let _ = reporter.send(&Report::Proven, None);
            return;
        }
        // A worker that says why it can't have the model says so again. One that is killed may have more luck.
        if let (true, Some(dead)) = (unproven, now.iter().find(|i| i.certain)) {
            let cause = dead.cause.as_deref().unwrap_or_default();
            let reason = format!("{}: {cause}", dead.service);
            let _ = reporter.send(&Report::Hopeless { reason }, None);
            return;
        }
        if instances.changed().await.is_err() {
            return;
        }
    }
}

/// Has the hosts that are to be replaced go, as soon as the instances here are ready.
async fn take_over(host: Arc<Host>, others: Vec<hostdir::Place>) {
    if others.is_empty() {
        return;
    }
    let mut instances = host.instances();
    let ready = |all: &Arc<Vec<InstanceState>>| all.iter().all(|i| i.state == State::Ready);
    if instances.wait_for(ready).await.is_ok() {
        tracing::info!(hosts = others.len(), "taking over from the hosts before");
        others.iter().for_each(hostdir::Place::dismiss);
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

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Passes the supervisor's orders on. A supervisor that dies is none: the services are hosted on.
fn listen(mut channel: Channel, told: mpsc::UnboundedSender<Told>) -> io::Result<()> {
    let listening = move || loop {
        let order = match channel.receive(Wait::Yes) {
            Ok(Received::Message(order, fd)) => (order, fd),
            Ok(Received::Nothing) | Err(ChannelError::Unknown { .. }) => continue,
            Ok(Received::Closed) | Err(_) => {
                tracing::warn!("the supervisor is gone: hosting on");
                return;
            }
        };
        let tell = match order {
            (Order::Accepted { .. }, Some(texts)) => Told::Accepted(texts),
            (Order::Reload, _) => Told::Reload,
            (Order::Drain { .. }, _) => Told::Drain { last: true },
            _ => continue,
        };
        let _ = told.send(tell);
    };
    thread("link", listening)
}

/// Passes the order to go of the next host on.
fn admit(owner: UnixListener, told: mpsc::UnboundedSender<Told>) -> io::Result<()> {
    let admitting = move || {
        for stream in owner.incoming().flatten() {
            let Ok(mut channel) = Channel::new(stream) else {
                continue;
            };
            let _ = channel.set_read_timeout(Some(ASK_TIME));
            if let Ok(Received::Message(Order::Drain { .. }, _)) = channel.receive(Wait::Yes) {
                tracing::info!("another host takes over");
                let _ = told.send(Told::Drain { last: false });
            }
        }
    };
    thread("owner", admitting)
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(128 << 10)
        .spawn(body)
        .map(drop)
}
