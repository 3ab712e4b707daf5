//! Serving: the gateway with everything that can tell it something.

use std::path::{Path, PathBuf};

use tidegate_config::Loaded;
use tidegate_gateway::view::ConfigView;
use tidegate_gateway::{Handle, Options, Pulse, StoreOpener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::accepted::{self, Texts};
use super::admin::{AdminPort, Next, ReloadRequest, RoleSource};
use super::gateway_link::{GatewayLink, Identity, Told};
use super::link::Link;
use super::{Beginning, RoleError, reports, watch};
use crate::control::beat;
use crate::control::message::Report;
use crate::hostdir;
use crate::plan;
use crate::rundir::{Adoptable, RunDir};
use crate::sockets::{SocketId, Use};

/// Threads beside the one that runs this room's loop. Control work is light; it must not compete with the workers.
const CONTROL_THREADS: usize = 1;
/// Threads for calls that block (files). They live for ten seconds after their last use.
const BLOCKING_THREADS: usize = 8;

/// Serves until it is told to drain; returns the number of requests that were cut at the end of the grace.
///
/// # Errors
/// Why it did not begin to serve.
pub(super) fn serve(beginning: Beginning) -> Result<u64, RoleError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("control")
        .enable_all()
        .build()?;
    let cut = runtime.block_on(async {
        let (role, inputs) = Serving::start(beginning).await?;
        Ok(role.run(inputs).await)
    });
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    cut
}

struct Serving {
    handle: Handle,
    link: GatewayLink,
    admin: AdminPort,
    run: RunDir,
    /// The files that are watched.
    files: tokio::sync::watch::Sender<Vec<PathBuf>>,
    /// Whether the last reload was refused, so that the same content is worth another try.
    refused: bool,
    /// Whether the supervisor has the running configuration's texts.
    remembered: bool,
    /// The sign of life; one that drains needs none.
    beating: JoinHandle<()>,
}

/// Where the role is told things.
struct Inputs {
    told: mpsc::UnboundedReceiver<Told>,
    changes: mpsc::Receiver<()>,
    requests: mpsc::Receiver<ReloadRequest>,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Another configuration, as far as this room is concerned: what has to be told and served once the gateway has taken it.
struct Prepared {
    admin: Next,
    texts: Option<Texts>,
    hash: String,
    grace_ms: u64,
    sockets: Vec<SocketId>,
    files: Vec<PathBuf>,
    store: Option<PathBuf>,
    hosted: bool,
}

/// Why a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Asked,
    FilesChanged,
}

impl Serving {
    async fn start(beginning: Beginning) -> Result<(Self, Inputs), RoleError> {
        let Beginning {
            channel,
            start,
            held,
            run,
            stamps,
            loaded,
            texts,
            recalled,
        } = beginning;
        // First, so that a signal during the start drains what was started instead of cutting it.
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        let config = loaded.config.clone();
        let hash = loaded.hash.clone();
        let grace_ms = plan::grace_ms(&config);
        let files = watched_files(&start.paths, &loaded);
        let options = Options {
            config: loaded,
            sockets: held.listeners()?,
            workers: start.workers.max(1),
            store: opener(&start.run)?,
        };
        let handle = tidegate_gateway::start(options).await?;
        let (reloads, requests) = mpsc::channel(8);
        let admin = AdminPort::open(RoleSource::new(handle.clone(), reloads), &config, &held)?;
        let adoption = run.listen_adoption(Adoptable::Gateway, std::process::id())?;
        let (files, watched) = tokio::sync::watch::channel(files);
        let changes = watch::start(watched, stamps);
        let running = plan::sockets(&config);
        let identity = Identity {
            start,
            hash: hash.clone(),
            grace_ms,
            running,
            held,
            accepted: None,
        };
        let (link, told) = GatewayLink::start(channel, adoption, identity)?;
        let remembered = recalled || hand_over(&link, &run, &hash, texts);
        link.report(&Report::Store {
            folder: plan::store_folder(&config),
        });
        link.report(&Report::Services {
            hosted: plan::hosts(&config),
        });
        tokio::spawn(reports::follow(handle.clone(), run.path().to_owned()));
        // Before it is ready, so that nobody serves unwatched.
        link.report(&Report::Beat);
        // Its supervisor is gone, and another one in charge: the upgrade that this one was started for was given up.
        if !link.report(&Report::Ready { hash, grace_ms }) && RunDir::is_taken(run.path()) {
            handle.drain().await;
            run.remove_adoption(Adoptable::Gateway, std::process::id());
            return Err(RoleError::NotStartedBySupervisor);
        }
        let beating = tokio::spawn(beat(handle.pulse(), link.reporter()));
        let inputs = Inputs {
            told,
            changes,
            requests,
            terminate,
            interrupt,
            hangup,
        };
        Ok((
            Self {
                handle,
                link,
                admin,
                run,
                files,
                refused: recalled,
                remembered,
                beating,
            },
            inputs,
        ))
    }

    async fn run(mut self, mut inputs: Inputs) -> u64 {
        if self.refused {
            // Started with what was accepted before: the gateway shall show what is wrong with the files.
            let _ = self.reload(Cause::Asked).await;
        }
        let keep_admin = loop {
            tokio::select! {
                // Never ends before the process: the thread behind it lives on when the supervisor is gone.
                Some(told) = inputs.told.recv() => match told {
                    Told::Reload => drop(self.reload(Cause::Asked).await),
                    Told::Drain { keep_admin } => break keep_admin,
                },
                Some(()) = inputs.changes.recv() => drop(self.reload(Cause::FilesChanged).await),
                Some(reply) = inputs.requests.recv() => drop(reply.send(self.reload(Cause::Asked).await)),
                _ = inputs.hangup.recv() => drop(self.reload(Cause::Asked).await),
                _ = inputs.terminate.recv() => break self.drains_by_itself(),
                _ = inputs.interrupt.recv() => break self.drains_by_itself(),
            }
        };
        // Whoever waits for a reload learns that none comes.
        inputs.requests.close();
        while inputs.requests.try_recv().is_ok() {}
        tokio::select! {
            cut = self.drain(keep_admin, &mut inputs.told) => cut,
            _ = inputs.terminate.recv() => u64::MAX,
            _ = inputs.interrupt.recv() => u64::MAX,
        }
    }

    /// A signal of its own: the supervisor starts another gateway beside this one, which answers on the admin port.
    /// Returns whether there is none, so that this one keeps it.
    fn drains_by_itself(&self) -> bool {
        !self.link.report(&Report::Draining)
    }

    async fn drain(
        mut self,
        mut keep_admin: bool,
        told: &mut mpsc::UnboundedReceiver<Told>,
    ) -> u64 {
        tracing::info!("draining");
        self.beating.abort();
        self.link.identity().drains(keep_admin);
        let handle = self.handle.clone();
        let mut drained = std::pin::pin!(handle.drain());
        let cut = loop {
            if !keep_admin {
                // The gateway that takes over answers there, and nobody has use for this one.
                self.admin.close();
                self.run
                    .remove_adoption(Adoptable::Gateway, std::process::id());
            }
            tokio::select! {
                cut = &mut drained => break cut,
                // One that outlives its supervisor meanwhile gives way to the gateway of the next one.
                Some(Told::Drain { keep_admin: false }) = told.recv() => keep_admin = false,
            }
        };
        self.run
            .remove_adoption(Adoptable::Gateway, std::process::id());
        self.link.report(&Report::Drained { cut });
        self.admin.shutdown().await;
        cut
    }

    async fn reload(&mut self, cause: Cause) -> Result<ConfigView, String> {
        let (wanted, prepared) = match self.read().await {
            Ok((loaded, texts)) => {
                let same = loaded.hash == self.link.identity().hash;
                if cause == Cause::FilesChanged && same && !self.refused {
                    // Touched, or a comment changed.
                    self.remember(&loaded.hash, texts);
                    return Ok(self.handle.config());
                }
                match self.prepare(&loaded, texts).await {
                    Ok(prepared) => (Ok(loaded), Some(prepared)),
                    Err(reason) => (Err(reason), None),
                }
            }
            Err(reason) => (Err(reason), None),
        };
        // Also when it is bad: the gateway keeps and shows why it was refused.
        let answer = self.handle.reload(wanted).await;
        self.refused = answer.is_err();
        match (&answer, prepared) {
            (Ok(_), Some(prepared)) => self.accepted(prepared),
            (Ok(_), None) => {}
            (Err(reason), _) => self.refuse(reason),
        }
        answer
    }

    /// What the files hold, or what is wrong with it.
    async fn read(&self) -> Result<(Loaded, Option<Texts>), String> {
        let paths = self.link.identity().start.paths.clone();
        let reading = tokio::task::spawn_blocking(move || accepted::read(&paths)).await;
        let reading =
            reading.map_err(|error| format!("the configuration could not be read: {error}"))?;
        reading.content.map_err(|problems| problems.to_string())
    }

    /// Does what this room can do for another configuration before the gateway takes it, which is all that may fail here.
    async fn prepare(&mut self, loaded: &Loaded, texts: Option<Texts>) -> Result<Prepared, String> {
        self.offer_sockets(loaded).await?;
        let identity = self.link.identity();
        let admin = self
            .admin
            .prepare(&loaded.config, &identity.held)
            .map_err(|error| error.to_string())?;
        Ok(Prepared {
            admin,
            texts,
            hash: loaded.hash.clone(),
            grace_ms: plan::grace_ms(&loaded.config),
            sockets: plan::sockets(&loaded.config),
            files: watched_files(&identity.start.paths, loaded),
            store: plan::store_folder(&loaded.config),
            hosted: plan::hosts(&loaded.config),
        })
    }

    /// Gives the supervisor the running configuration's texts, once.
    fn remember(&mut self, hash: &str, texts: Option<Texts>) {
        self.remembered = self.remembered || hand_over(&self.link, &self.run, hash, texts);
    }

    /// Has the sockets bound that the configuration wants and that are not there. A listener's that cannot be bound is the
    /// gateway's to refuse: it tries again itself and says why.
    ///
    /// # Errors
    /// Why the admin port cannot be had, in words.
    async fn offer_sockets(&mut self, loaded: &Loaded) -> Result<(), String> {
        let missing = self
            .link
            .identity()
            .held
            .missing(&plan::sockets(&loaded.config));
        let mut offers = Vec::new();
        for id in missing {
            let held = match self.link.obtain(&id).await {
                Ok(held) => held,
                Err(reason) if id.usage == Use::Admin => return Err(reason),
                Err(reason) => {
                    tracing::warn!(socket = %id, reason, "socket not bound");
                    continue;
                }
            };
            if let (Use::Listener, Ok(socket)) = (id.usage, held.listen_socket()) {
                offers.push((id.name.clone(), socket));
            }
            self.link.identity().held.add(held);
        }
        if !offers.is_empty() {
            self.handle.offer_sockets(offers);
        }
        Ok(())
    }

    fn accepted(&mut self, prepared: Prepared) {
        let Prepared {
            admin,
            texts,
            hash,
            grace_ms,
            sockets,
            files,
            store,
            hosted,
        } = prepared;
        self.remembered = false;
        self.remember(&hash, texts);
        self.admin.apply(admin);
        let mut identity = self.link.identity();
        identity.held.retain(&sockets);
        identity.hash.clone_from(&hash);
        identity.grace_ms = grace_ms;
        identity.running.clone_from(&sockets);
        drop(identity);
        self.files
            .send_if_modified(|watched| std::mem::replace(watched, files) != *watched);
        self.link.report(&Report::Store { folder: store });
        self.link.report(&Report::Services { hosted });
        self.link.report(&Report::Reloaded {
            hash,
            grace_ms,
            sockets,
        });
    }

    fn refuse(&mut self, reason: &str) {
        let running = self.link.identity().running.clone();
        self.link.identity().held.retain(&running);
        self.link.report(&Report::Refused {
            reason: reason.to_owned(),
            sockets: running,
        });
    }
}

/// Tells the supervisor that this process works, as long as it does: that this runtime comes to it and every worker goes round.
async fn beat(mut pulse: Pulse, reporter: Link) {
    let mut beats = tokio::time::interval(beat::interval());
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        beats.tick().await;
        let unwell = pulse.look();
        if unwell.is_none() {
            reporter.report(&Report::Beat);
        }
        if told != unwell {
            if let Some(worker) = unwell {
                tracing::error!(worker, "a worker does not answer: not ready");
            }
            told = unwell;
        }
    }
}

/// How stores are reached: the embedded one has the control role for its owner.
fn opener(run: &Path) -> Result<StoreOpener, RoleError> {
    // Its descriptor is a part of the socket's address.
    let node = hostdir::node(run)?;
    let run = RunDir::open(run).map_err(|error| RoleError::System(std::io::Error::other(error)))?;
    let opener = StoreOpener::new(move |url| super::open_store(&run, url));
    Ok(opener.on_node(node))
}

/// The files whose change is a change of the configuration.
fn watched_files(paths: &[PathBuf], loaded: &Loaded) -> Vec<PathBuf> {
    paths.iter().chain(&loaded.secret_files).cloned().collect()
}

/// Writes the accepted configuration down for the supervisor.
fn hand_over(link: &GatewayLink, run: &RunDir, hash: &str, texts: Option<Texts>) -> bool {
    match texts.map(|texts| texts.write_down(run)) {
        Some(Ok(texts)) => {
            link.accept(hash, texts);
            true
        }
        Some(Err(error)) => {
            tracing::warn!(%error, "the accepted configuration is not kept for a restart");
            false
        }
        None => false,
    }
}
