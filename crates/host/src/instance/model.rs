//! A worker that speaks the worker protocol: from its start until it takes calls.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_config::model::{PythonModel, Service};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Spec;
use super::live::{Death, Live, Tell};
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
) -> Result<Live, String> {
    let started = Instant::now();
    let service = &spec.service;
    let mut awaited = shared
        .acceptor
        .await_worker(epoch)
        .map_err(|error| format!("no worker can be started: {error}"))?;
    let command = command(shared, slot, spec, python, epoch, &awaited.token);
    let program = command.get_program().to_string_lossy().into_owned();
    let teller = Teller::new(shared, slot, &service.name);
    let lines = teller.clone();
    let spawned = shared
        .spawner
        .spawn(command, move |pid, stream, text| {
            lines.line(pid, stream, text)
        })
        .await;
    let mut process = spawned.map_err(|error| format!("cannot start `{program}`: {error}"))?;
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
        status = process.exited() => return Err(process.cause(status)),
    };
    connection
        .reader
        .set_longest(service.limits.message.bytes());
    let data = shared.base_dir.join(&service.data);
    let prepared = prepare(&mut connection, service, python, &data, &teller, pid);
    let prepared = match prepared.await {
        Ok(prepared) => prepared,
        Err(Unready::Told(cause)) => return Err(cause),
        Err(Unready::Lost(lost)) => {
            let exited = tokio::time::timeout(END_WITHIN, process.exited()).await;
            return Err(exited.map_or_else(|_| lost.to_string(), |status| process.cause(status)));
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
    let id = shared.members.fetch_add(1, Ordering::Relaxed) + 1;
    let (kill, kills) = mpsc::unbounded_channel();
    let link = Arc::clone(&connection.link);
    let member = Member::new(
        id,
        slot.number,
        spec.revision,
        Arc::clone(&slot.instance),
        Some(pid),
        Arc::clone(&link),
        connection.files,
        service.concurrency,
        prepared.pool,
        kill,
    );
    let (tell, told) = mpsc::unbounded_channel();
    let (dead, death) = oneshot::channel();
    // It joins before it is published: a call that comes at once finds it.
    slot.group.join(member);
    let reading = tokio::spawn(read(Arc::clone(&slot.group), id, connection.reader));
    tokio::spawn(watch(
        Arc::clone(&slot.group),
        id,
        process,
        reading,
        kills,
        told,
        dead,
    ));
    let mut live = Live::new(spec.revision, started, Some(link), tell, death);
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
        .env("TIDEGATE_LEASH", "0")
        .env("TIDEGATE_SPOOL", &shared.results);
    command
}

/// A worker that has loaded what it must have loaded.
struct Prepared {
    ready: Ready,
    pool: Pool,
}

/// Why it has not.
enum Unready {
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

async fn prepare(
    connection: &mut Connection,
    service: &Service,
    python: &PythonModel,
    data: &Path,
    teller: &Teller,
    pid: u32,
) -> Result<Prepared, Unready> {
    let welcome = Welcome {
        class: &python.class,
        data,
        concurrency: service.concurrency,
        files: connection.files,
        limits: WelcomeLimits {
            message: service.limits.message.bytes(),
        },
    };
    let welcome = serde_json::to_vec(&welcome).map_err(|error| Unready::Told(error.to_string()))?;
    connection.link.send(Kind::Welcome, 0, &welcome);
    let frame = answer(
        &mut connection.reader,
        teller,
        pid,
        &[Kind::Ready, Kind::Failed],
    )
    .await?;
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
    let mut pool = Pool::new(service.versions.max_loaded);
    let versions = std::iter::once(&service.version).chain(&service.versions.preload);
    for (ticket, version) in versions.enumerate() {
        if pool.stage(version).is_some() {
            continue;
        }
        let began = Instant::now();
        pool.begin(version);
        connection
            .link
            .send(Kind::Load, ticket as u64, &version_meta(version));
        let frame = answer(
            &mut connection.reader,
            teller,
            pid,
            &[Kind::Loaded, Kind::Error],
        )
        .await?;
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
        if ticket == 0
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

fn sentence(what: &str, kind: &str, message: &str) -> String {
    match (kind.is_empty(), message.is_empty()) {
        (true, _) => format!("`{what}` cannot be had: {message}"),
        (false, true) => format!("`{what}` cannot be had: {kind}"),
        (false, false) => format!("`{what}` cannot be had: {kind}: {message}"),
    }
}

/// Reads until one of these comes; what it logs meanwhile is told.
async fn answer(
    reader: &mut Reader,
    teller: &Teller,
    pid: u32,
    kinds: &[Kind],
) -> Result<crate::frame::Frame, Unready> {
    loop {
        let frame = reader.frame().await?;
        if kinds.contains(&frame.kind) {
            return Ok(frame);
        }
        match frame.kind {
            Kind::Log => {
                let log: Log = message::meta(&frame)?;
                teller.tell(
                    pid,
                    What::Log {
                        level: log.level,
                        logger: log.logger,
                        message: log.message,
                    },
                );
            }
            Kind::Progress | Kind::Pong | Kind::Released => {}
            other => return Err(message::Broken::Unexpected(other).into()),
        }
    }
}

/// Hands what a worker sends to its group, until it sends no more.
async fn read(group: Arc<Group>, member: u64, mut reader: Reader) -> Lost {
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

/// Waits for the end of a worker, however it comes, and tells it when nothing of it is left.
async fn watch(
    group: Arc<Group>,
    member: u64,
    mut process: Process,
    mut reading: tokio::task::JoinHandle<Lost>,
    mut kills: mpsc::UnboundedReceiver<String>,
    mut told: mpsc::UnboundedReceiver<Tell>,
    dead: oneshot::Sender<Death>,
) {
    let mut expected = false;
    let mut killed = None;
    let cause = loop {
        tokio::select! {
            status = process.exited() => {
                // What it has sent is heard first.
                let _ = tokio::time::timeout(END_WITHIN, &mut reading).await;
                break killed.unwrap_or_else(|| process.cause(status));
            }
            lost = &mut reading => {
                let within = if matches!(lost, Ok(Lost::Broken(_))) { Duration::ZERO } else { END_WITHIN };
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
    let answered = group.leave(member, &cause, expected);
    let _ = dead.send(Death { cause, answered });
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
