//! A worker that speaks the worker protocol: from its start until it takes calls.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_config::model::PythonModel;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Spec;
use super::live::{Death, Live, Tell, Unstarted};
use super::reconnect::Remote;
use crate::call::About;
use crate::events::{Event, Stream, What};
use crate::frame::Kind;
use crate::group::{Group, Member, version_meta};
use crate::host::Shared;
use crate::message::{self, Failed, Loaded, Log, Raised, Ready, Welcome, WelcomeLimits};
use crate::model::Slot;
use crate::versions::Pool;
use crate::worker::accept::Connection;
use crate::worker::process::Process;
use crate::worker::reader::{Lost, Reader};
use crate::worker::results::Results;

/// Time to learn that a process has ended whose connection has just broken.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Time between the end of a connection and the end of its process.
const END_WITHIN: Duration = Duration::from_secs(1);

/// Starts a worker and brings it to where it takes calls.
///
/// # Errors
/// Why it does not come there; nothing is left of it.
pub(super) async fn start(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    spec: &Arc<Spec>,
    python: &PythonModel,
    epoch: u64,
) -> Result<Live, Unstarted> {
    let started = Instant::now();
    let service = &spec.service;
    let mut awaited = shared
        .acceptor
        .await_worker(epoch)
        .map_err(|error| format!("no worker can be started: {error}"))?;
    let id = shared.members.fetch_add(1, Ordering::Relaxed) + 1;
    let results = Results::make(shared.results.join(id.to_string()))
        .map_err(|error| format!("no folder for results can be made: {error}"))?;
    let mut command = command(shared, slot, spec, python, epoch, &awaited.token);
    command.env("TIDEGATE_SPOOL", results.path());
    let program = command.get_program().to_string_lossy().into_owned();
    let teller = Teller::new(shared, slot, &service.name);
    let lines = teller.clone();
    let spawned = shared
        .spawner
        .spawn(command, move |pid, stream, text| {
            lines.line(pid, stream, text)
        })
        .await;
    let mut process = spawned
        .map_err(|error| Unstarted::certain(format!("cannot start `{program}`: {error}")))?;
    let pid = process.pid();
    teller.tell(
        pid,
        What::Started {
            revision: spec.revision,
        },
    );
    shared.board.update(&teller.service, slot.number, |state| {
        if state.state != crate::state::State::Ready {
            state.pid = Some(pid);
            state.revision = spec.revision;
        }
    });

    let mut connection = tokio::select! {
        connection = awaited.connection() => connection,
        status = process.exited() => {
            let mut unstarted = Unstarted::ended(&process, status);
            if unstarted.certain {
                unstarted.cause.push_str(&format!(" before it was a worker: `{program}` must be a Python, 3.9 or later"));
            }
            return Err(unstarted);
        }
    };
    connection
        .reader
        .set_longest(service.limits.message.bytes());
    let data = shared.base_dir.join(&service.data);
    let preparing = Preparing {
        spec: Arc::clone(spec),
        python: python.clone(),
        data: data.clone(),
        teller,
        pid,
    };
    let prepared = match preparing.prepare(&mut connection).await {
        Ok(prepared) => prepared,
        Err(Unready::Told(cause)) => return Err(Unstarted::certain(cause)),
        Err(Unready::Lost(lost)) => {
            let exited = tokio::time::timeout(END_WITHIN, process.exited()).await;
            return Err(exited.map_or_else(
                |_| lost.to_string().into(),
                |status| Unstarted::ended(&process, status),
            ));
        }
    };

    let mut about = About {
        service: service.name.clone(),
        instance: slot.instance.to_string(),
        class: prepared.ready.class,
        version: service.version.clone(),
        methods: prepared.ready.methods,
        info: prepared.ready.info,
        inputs: prepared.ready.inputs,
        outputs: prepared.ready.outputs,
    };
    if about.class.is_empty() {
        about.class.clone_from(&python.class);
    }
    slot.data.store(Arc::new(data));
    let (kill, kills) = mpsc::unbounded_channel();
    let remote = (!connection.files).then(|| {
        awaited.again();
        Remote::new(shared, slot, preparing.clone(), awaited, id, kill.clone())
    });
    let member = member(id, slot, &preparing, &connection, prepared.pool, kill);
    let (tell, told) = mpsc::unbounded_channel();
    let (dead, death) = oneshot::channel();
    // It joins before it is published: a call that comes at once finds it.
    slot.group.join(member);
    let reading = tokio::spawn(read(Arc::clone(&slot.group), id, connection.reader));
    let watch = Watch {
        group: Arc::clone(&slot.group),
        member: id,
        process,
        remote,
        results,
    };
    tokio::spawn(watch.run(reading, kills, told, dead));
    let mut live = Live::new(spec.revision, started, tell, death);
    live.member = Some(id);
    live.pid = Some(pid);
    live.about = Some(Arc::new(about));
    Ok(live)
}

/// The command of a Python worker.
fn command(
    shared: &Shared,
    slot: &Slot,
    spec: &Spec,
    python: &PythonModel,
    epoch: u64,
    token: &str,
) -> Command {
    let folder = shared.base_dir.join(&python.path);
    let executable = if python.executable.contains('/') {
        shared.base_dir.join(&python.executable)
    } else {
        PathBuf::from(&python.executable)
    };
    let mut command = Command::new(executable);
    command
        .args(["-m", "tidegate.worker", &python.class])
        .current_dir(&folder);
    let mut paths = vec![shared.sdk.clone(), folder];
    let given = spec
        .service
        .env
        .get("PYTHONPATH")
        .map(|path| path.expose().into());
    if let Some(more) = given.or_else(|| std::env::var_os("PYTHONPATH")) {
        paths.extend(std::env::split_paths(&more));
    }
    for (name, value) in &spec.service.env {
        command.env(name, value.expose());
    }
    if let Ok(paths) = std::env::join_paths(paths) {
        command.env("PYTHONPATH", paths);
    }
    let address = match shared.acceptor.tcp() {
        Some(at) if shared.workers_over_tcp => format!("tcp:{at}"),
        _ => shared.acceptor.address(),
    };
    command
        .env("PYTHONUNBUFFERED", "1")
        .env("TIDEGATE_WORKER", address)
        .env("TIDEGATE_TOKEN", token)
        .env("TIDEGATE_SERVICE", &spec.service.name)
        .env("TIDEGATE_INSTANCE", &*slot.instance)
        .env("TIDEGATE_REVISION", spec.revision.to_string())
        .env("TIDEGATE_EPOCH", epoch.to_string())
        .env("TIDEGATE_LEASH", "0");
    command
}

/// A worker as its group knows it.
pub(super) fn member(
    id: u64,
    slot: &Slot,
    preparing: &Preparing,
    connection: &Connection,
    pool: Pool,
    kill: mpsc::UnboundedSender<String>,
) -> Member {
    Member::new(
        id,
        slot.number,
        preparing.spec.revision,
        Arc::clone(&slot.instance),
        Some(preparing.pid),
        Arc::clone(&connection.link),
        connection.files,
        preparing.spec.service.concurrency,
        pool,
        kill,
    )
}

/// What brings a worker that has connected to where it takes calls.
#[derive(Debug, Clone)]
pub(super) struct Preparing {
    spec: Arc<Spec>,
    python: PythonModel,
    data: PathBuf,
    pub(super) teller: Teller,
    pub(super) pid: u32,
}

/// A worker that has loaded what it must have loaded.
pub(super) struct Prepared {
    pub(super) ready: Ready,
    pub(super) pool: Pool,
}

/// Why it has not.
pub(super) enum Unready {
    Told(String),
    Lost(Lost),
}

impl From<Lost> for Unready {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<message::Broken> for Unready {
    fn from(broken: message::Broken) -> Self {
        Self::Lost(Lost::Broken(broken))
    }
}

impl Preparing {
    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Tells the worker what it is to be, and has it load what it has not.
    pub(super) async fn prepare(&self, connection: &mut Connection) -> Result<Prepared, Unready> {
        let (service, python) = (&self.spec.service, &self.python);
        let (teller, pid) = (&self.teller, self.pid);
        let welcome = Welcome {
            class: &python.class,
            data: &self.data,
            concurrency: service.concurrency,
            files: connection.files,
            limits: WelcomeLimits {
                message: service.limits.message.bytes(),
            },
        };
        let welcome =
            serde_json::to_vec(&welcome).map_err(|error| Unready::Told(error.to_string()))?;
        connection.link.send(Kind::Welcome, 0, &welcome);
        let mut pool = Pool::new(service.versions.max_loaded);
        for version in &connection.loaded {
            if pool.stage(version).is_none() {
                pool.keep(version);
            }
        }
        // One that connects again may still answer calls of before, which nobody waits for here any more.
        let first = connection.loaded.is_empty();
        let mut answers = Answers {
            reader: &mut connection.reader,
            teller,
            pid,
            first,
        };
        let frame = answers.next(0, &[Kind::Ready, Kind::Failed]).await?;
        if frame.kind == Kind::Failed {
            let failed: Failed = message::meta(&frame)?;
            for line in failed.traceback.lines() {
                teller.line(pid, Stream::Stderr, line.to_owned());
            }
            return Err(Unready::Told(sentence(
                &python.class,
                &failed.kind,
                &failed.message,
            )));
        }
        let mut ready: Ready = message::meta(&frame)?;
        let versions = std::iter::once(&service.version).chain(&service.versions.preload);
        for (number, version) in versions.enumerate() {
            if pool.stage(version).is_some() {
                continue;
            }
            let began = Instant::now();
            pool.begin(version);
            // No call of before has such a number.
            let ticket = u64::MAX - number as u64;
            connection
                .link
                .send(Kind::Load, ticket, &version_meta(version));
            let frame = answers.next(ticket, &[Kind::Loaded, Kind::Error]).await?;
            if frame.kind == Kind::Error {
                let raised: Raised = message::meta(&frame)?;
                let (message, traceback) = (raised.message.clone(), raised.traceback);
                teller.tell(
                    pid,
                    What::LoadFailed {
                        version: version.clone(),
                        message,
                        traceback,
                    },
                );
                let what = if version.is_empty() {
                    python.class.clone()
                } else {
                    format!("{} version `{version}`", python.class)
                };
                return Err(Unready::Told(sentence(
                    &what,
                    &raised.kind,
                    &raised.message,
                )));
            }
            let loaded: Loaded = message::meta(&frame)?;
            if number == 0
                && let Some(info) = loaded.info
            {
                ready.info.extend(info);
            }
            pool.finish(version);
            teller.tell(
                pid,
                What::Loaded {
                    version: version.clone(),
                    took: began.elapsed(),
                },
            );
        }
        Ok(Prepared { ready, pool })
    }
}

fn sentence(what: &str, kind: &str, message: &str) -> String {
    match (kind.is_empty(), message.is_empty()) {
        (true, _) => format!("`{what}` cannot be had: {message}"),
        (false, true) => format!("`{what}` cannot be had: {kind}"),
        (false, false) => format!("`{what}` cannot be had: {kind}: {message}"),
    }
}

/// What a worker sends before it takes calls.
struct Answers<'a> {
    reader: &'a mut Reader,
    teller: &'a Teller,
    pid: u32,
    /// It has had no calls yet.
    first: bool,
}

impl Answers<'_> {
    /// Reads until one of these comes; what it logs meanwhile is told.
    async fn next(&mut self, call: u64, kinds: &[Kind]) -> Result<crate::frame::Frame, Unready> {
        loop {
            let frame = self.reader.frame().await?;
            if kinds.contains(&frame.kind) && frame.call == call {
                return Ok(frame);
            }
            match frame.kind {
                Kind::Log => {
                    let log: Log = message::meta(&frame)?;
                    self.teller.tell(
                        self.pid,
                        What::Log {
                            level: log.level,
                            logger: log.logger,
                            message: log.message,
                        },
                    );
                }
                Kind::Progress | Kind::Pong | Kind::Released => {}
                Kind::Result | Kind::Item | Kind::Done | Kind::Error | Kind::Want
                    if !self.first => {}
                other => return Err(message::Broken::Unexpected(other).into()),
            }
        }
    }
}

/// Hands what a worker sends to its group, until it sends no more.
pub(super) async fn read(group: Arc<Group>, member: u64, mut reader: Reader) -> Lost {
    let mut messages = Vec::new();
    loop {
        let read = reader.messages(&mut messages).await;
        if !messages.is_empty() {
            group.heard(member, &mut messages);
        }
        if let Err(lost) = read {
            group.close_member(member);
            return lost;
        }
    }
}

/// A worker that takes calls.
struct Watch {
    group: Arc<Group>,
    member: u64,
    process: Process,
    /// Of one that may connect again.
    remote: Option<Remote>,
    /// Goes with it.
    results: Results,
}

impl Watch {
    /// Waits for its end, however it comes, and tells it when nothing of it is left.
    async fn run(
        mut self,
        mut reading: JoinHandle<Lost>,
        mut kills: mpsc::UnboundedReceiver<String>,
        mut told: mpsc::UnboundedReceiver<Tell>,
        dead: oneshot::Sender<Death>,
    ) {
        let (mut expected, mut served, mut killed) = (false, false, None);
        let process = &mut self.process;
        let cause = loop {
            tokio::select! {
                status = process.exited() => {
                    // What it has sent is heard first.
                    let _ = tokio::time::timeout(END_WITHIN, &mut reading).await;
                    break killed.unwrap_or_else(|| process.cause(status));
                }
                lost = async {
                    match &mut self.remote {
                        // One that connects again has lost the connection that it had, whatever is known of that here.
                        Some(remote) => tokio::select! {
                            lost = &mut reading => lost,
                            () = remote.connected() => Ok(Lost::Closed),
                        },
                        None => (&mut reading).await,
                    }
                } => {
                    let broken = matches!(lost, Ok(Lost::Broken(_)));
                    if let Some(remote) = &mut self.remote && !broken && !expected && killed.is_none() {
                        reading.abort();
                        // Mostly it is the end of the process that ends the connection.
                        if let Ok(status) = tokio::time::timeout(AT_ONCE, process.exited()).await {
                            break process.cause(status);
                        }
                        served |= self.group.lose(self.member, "its connection was lost");
                        tokio::select! {
                            back = remote.back() => if let Some(next) = back {
                                reading = next;
                                continue;
                            },
                            status = process.exited() => break process.cause(status),
                            // It has no calls: whatever is wanted of it, it may end.
                            _ = told.recv() => expected = true,
                        }
                        process.kill();
                        process.exited().await;
                        break "its connection was lost, and it has not connected again".to_owned();
                    }
                    let within = if broken { Duration::ZERO } else { END_WITHIN };
                    let ended = tokio::time::timeout(within, process.exited()).await;
                    if let Ok(status) = ended {
                        break killed.unwrap_or_else(|| process.cause(status));
                    }
                    process.kill();
                    process.exited().await;
                    break killed.unwrap_or_else(|| lost.map_or_else(|error| error.to_string(), |lost| lost.to_string()));
                }
                Some(cause) = kills.recv() => {
                    killed = Some(cause);
                    process.kill();
                }
                order = told.recv() => match order {
                    Some(Tell::Expect) => expected = true,
                    Some(Tell::Terminate) => {
                        expected = true;
                        process.terminate();
                    }
                    // Nobody holds the worker any more, or it has taken too long.
                    Some(Tell::Kill) | None => {
                        expected = true;
                        process.kill();
                        if order.is_none() {
                            process.exited().await;
                            break "the host is ending".to_owned();
                        }
                    }
                },
            }
        };
        reading.abort();
        served |= self.group.leave(self.member, &cause, expected);
        self.results.remove().await;
        let _ = dead.send(Death {
            cause,
            served,
            unwell: Duration::ZERO,
        });
    }
}

/// Tells events of one instance.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    events: Arc<dyn crate::events::Events>,
    pub(super) service: Arc<str>,
    instance: Arc<str>,
}

impl Teller {
    pub(super) fn new(shared: &Shared, slot: &Slot, service: &str) -> Self {
        Self {
            events: Arc::clone(&shared.events),
            service: service.into(),
            instance: Arc::clone(&slot.instance),
        }
    }

    pub(super) fn tell(&self, pid: u32, what: What) {
        let (service, instance) = (Arc::clone(&self.service), Arc::clone(&self.instance));
        self.events.event(Event {
            service,
            instance,
            pid: Some(pid),
            what,
        });
    }

    pub(super) fn line(&self, pid: u32, stream: Stream, text: String) {
        self.tell(pid, What::Line { stream, text });
    }
}
