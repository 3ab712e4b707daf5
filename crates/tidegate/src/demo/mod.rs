//! `tidegate demo`: the whole thing on this machine, without files or network.
//!
//! A model that is trained at the start ([`model`]), its instances as processes ([`instance`], [`fleet`]), a stand-in for
//! an LLM provider with three keys ([`provider`]), a model in Python ([`hosted`]), `tidegate up` in front of them
//! ([`stack`]), callers that check every answer ([`ask`], [`callers`], [`traffic`]). The [`script`] kills, breaks and
//! replaces one after the other; the [`view`] shows it and the [`report`] tells what callers saw. Nothing outlives it
//! ([`guard`]).

mod ask;
mod callers;
mod fleet;
mod guard;
mod histogram;
mod hosted;
mod instance;
mod model;
mod observer;
mod provider;
mod report;
mod scene;
mod script;
mod stack;
mod style;
mod traffic;
mod view;
mod wire;
mod words;

use std::io::{IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::ask::Asks;
use self::callers::Callers;
use self::fleet::{Fleet, Ports, is_free};
use self::guard::Guard;
use self::hosted::Python;
use self::model::{Model, Version};
use self::observer::Observer;
use self::provider::Provider;
use self::report::{NO_PYTHON, Report, Sources};
use self::scene::Scene;
use self::script::{Script, WEIGHTS};
use self::stack::{Behind, FrontPorts, Stack};
use self::style::Style;
use self::traffic::Traffic;
use self::view::{Mode, Shows};
use crate::check::BAD;
use crate::cli::{Demo, DemoInstance};

/// Instances at the start.
const INSTANCES: [(&str, Version); 5] = [
    ("v1-a", Version::V1),
    ("v1-b", Version::V1),
    ("v1-c", Version::V1),
    ("v2-a", Version::V2),
    ("v2-b", Version::V2),
];
/// The ports that the documentation uses, taken when they are free.
const USUAL_PORTS: FrontPorts = FrontPorts {
    listener: 8080,
    admin: 9900,
};
/// Time until the workers of the hosted model must take calls.
const FIRST_WORKERS: Duration = Duration::from_secs(30);
/// Time that callers have for the requests that they have begun when it ends.
const LAST_ANSWERS: Duration = Duration::from_secs(25);

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The folder for the configuration can't be made or written.
    #[error("cannot write in the folder for temporary files: {0}")]
    Folder(#[source] std::io::Error),
    /// A process could not be started, told or ended.
    #[error("cannot run a process: {0}")]
    Process(#[source] std::io::Error),
    /// An instance of the model did not start.
    #[error("the model's instance {0} did not start")]
    Instance(String),
    /// The script names an instance that there is not.
    #[error("there is no instance {0}")]
    Member(String),
    /// The gateway did not start or end as it should.
    #[error("the gateway: {0}")]
    Gateway(String),
    /// The stand-in for the LLM provider could not be started.
    #[error("the stand-in for an LLM provider cannot listen: {0}")]
    Provider(#[source] std::io::Error),
    /// A port that was asked for is taken.
    #[error("port {0} is in use; choose another, or none to have a free one chosen")]
    Taken(u16),
    /// No free port was found.
    #[error("no free port between 18000 and 32000")]
    Ports,
}

/// Runs the command.
pub(crate) fn run(options: &Demo) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&DemoError::Process(error)),
    };
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        view::leave_screen();
        default(info);
    }));
    let mode = Mode::choose(options.json, options.quiet);
    let report = match runtime.block_on(demo(options, mode)) {
        Ok(report) => report,
        Err(error @ DemoError::Taken(_)) => {
            failed(&error);
            return ExitCode::from(BAD);
        }
        Err(error) => return failed(&error),
    };
    // A reader that is gone has seen what it wanted.
    let _ = if options.json {
        writeln!(std::io::stdout(), "{}", json(&report))
    } else {
        let style = Style::new(colour(options, std::io::stdout().is_terminal()));
        write!(std::io::stdout(), "{}", report.text(style))
    };
    if report.failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs the hidden command of an instance.
pub(crate) fn run_instance(options: &DemoInstance) -> ExitCode {
    match options.version.parse() {
        Ok(version) => instance::run(version, &options.name, options.port),
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(BAD)
        }
    }
}

/// Runs the hidden command of the guard.
pub(crate) fn run_guard(folder: &Path) -> ExitCode {
    guard::run(folder)
}

fn failed(error: &DemoError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report)
        .unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
}

fn colour(options: &Demo, terminal: bool) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    terminal && !options.no_color && !refused
}

async fn demo(options: &Demo, mode: Mode) -> Result<Report, DemoError> {
    // Before anything is started: from now on a signal ends the demo in order.
    let mut signals = Signals::listen().map_err(DemoError::Process)?;
    let mut ports = Ports::new();
    let front = front_ports(options, &mut ports)?;
    let models = Version::ALL.map(Model::train);
    let accuracy = [models[0].accuracy(), models[1].accuracy()];
    let dashboard = format!("http://127.0.0.1:{}/", front.admin);
    let endpoint = format!("http://127.0.0.1:{}{}", front.listener, wire::PREDICT);
    let python = hosted::find().await;
    introduce(
        mode,
        accuracy,
        options,
        python.as_ref(),
        [&dashboard, &endpoint],
    );

    let folder = Folder::create()?;
    let guard = Guard::start(&folder.0).map_err(DemoError::Process)?;
    // However this ends, the guard is told and waited for, after everything below was dropped.
    let _finish = Finish(&guard);
    let scene = Arc::new(Scene::default());
    scene.set_weights(WEIGHTS[0]);
    let mut fleet = Fleet::new(&folder.0, ports);
    let provider = Provider::start().await?;
    let behind = Behind {
        provider: provider.port(),
        python: python.clone(),
    };
    let started = tokio::select! {
        started = start(&mut fleet, &folder.0, front, behind, &guard) => started?,
        () = signals.any() => None,
    };
    let Some(stack) = started else {
        fleet.stop().await;
        return Ok(nothing(accuracy));
    };
    scene.set_members(&fleet);

    let observer = Observer::start(front.admin);
    if python.is_some() {
        // The workers import the model while the gateway serves already.
        let ready = observer.until(FIRST_WORKERS, |overview| {
            let mut services = overview.services.iter();
            services.any(|service| service.ready == service.replicas)
        });
        tokio::select! {
            _ = ready => {}
            () = signals.any() => {
                let stopped = stack.stop().await;
                fleet.stop().await;
                return stopped.map(|()| nothing(accuracy));
            }
        }
    }
    let start = Instant::now();
    let deadline = start + options.duration;
    let traffic = Arc::new(Traffic::new(start, WEIGHTS[0]));
    let callers = Arc::new(Callers::new(
        front.listener,
        options.rate,
        python.is_some(),
        Asks::new(&models),
        Arc::clone(&traffic),
    ));
    let calling = tokio::spawn(Arc::clone(&callers).run());
    let view = tokio::spawn(view::show(
        Shows {
            scene: Arc::clone(&scene),
            traffic: Arc::clone(&traffic),
            observer: observer.clone(),
            start,
            deadline,
            dashboard,
            accuracy,
        },
        mode,
        Style::new(mode != Mode::LinesOnStderr && colour(options, std::io::stdout().is_terminal())),
    ));
    let mut script = Script::new(script::Parts {
        fleet,
        stack,
        provider,
        hosted: python.is_some(),
        callers: Arc::clone(&callers),
        traffic: Arc::clone(&traffic),
        observer: observer.clone(),
        scene: Arc::clone(&scene),
        start,
        deadline,
    });
    let (played, interrupted) = tokio::select! {
        played = script.run() => (played, false),
        () = signals.any() => (Ok(()), true),
    };
    // Requests under way are answered before anything is stopped: what callers see counts to the end.
    callers.stop();
    let answered = tokio::select! {
        answered = tokio::time::timeout(LAST_ANSWERS, calling) => answered.is_ok(),
        () = signals.any() => false,
    };
    let duration = start.elapsed();
    observer.settle().await;
    view.abort();
    // Waited for: it gives the terminal back.
    let _ = view.await;
    let (stack, mut fleet, provider) = script.into_parts();
    let stopped = tokio::select! {
        stopped = stack.stop() => stopped,
        // Impatience: the guard ends what is left.
        () = signals.any() => Ok(()),
    };
    fleet.stop().await;
    drop(provider);
    played?;
    stopped?;
    if !answered {
        traffic.failed("requests were still unanswered at the end".into());
    }
    Ok(Report::new(Sources {
        traffic: &traffic,
        outcomes: scene.outcomes(),
        retries: observer.retries(),
        failovers: observer.failovers(),
        python: python.map(|python| python.version),
        accuracy,
        duration,
        interrupted,
    }))
}

async fn start(
    fleet: &mut Fleet,
    folder: &Path,
    front: FrontPorts,
    behind: Behind,
    guard: &Guard,
) -> Result<Option<Stack>, DemoError> {
    for (name, version) in INSTANCES {
        fleet.start(name, version).await?;
        fleet.list(name, true)?;
    }
    Stack::start(folder, front, behind, WEIGHTS[0], guard)
        .await
        .map(Some)
}

/// The report of a demo that was ended before it began.
fn nothing(accuracy: [f64; 2]) -> Report {
    Report::new(Sources {
        traffic: &Traffic::new(Instant::now(), WEIGHTS[0]),
        outcomes: Vec::new(),
        retries: 0,
        failovers: 0,
        python: None,
        accuracy,
        duration: Duration::ZERO,
        interrupted: true,
    })
}

fn introduce(
    mode: Mode,
    accuracy: [f64; 2],
    options: &Demo,
    python: Option<&Python>,
    [dashboard, endpoint]: [&str; 2],
) {
    let [v1, v2] = accuracy.map(|share| share * 100.0);
    mode.line(&format!(
        "Two models trained on {} sentences. Of {} unseen ones v1 gets {v1:.0}% right,\nv2 {v2:.0}%: it knows negation.",
        model::training_size(),
        model::held_out().count(),
    ));
    mode.line(&format!(
        "{} instances behind one gateway, split 90/10; a stand-in for an LLM provider with {} keys.",
        INSTANCES.len(),
        provider::KEYS.len(),
    ));
    mode.line(&match python {
        Some(python) => format!(
            "A model in Python {}, hosted in {} workers.",
            python.version,
            hosted::WORKERS
        ),
        None => format!("A hosted model in Python: {NO_PYTHON}."),
    });
    mode.line(&format!(
        "{} callers send {} requests a second.",
        callers::count(python.is_some()),
        options.rate
    ));
    mode.line(&format!("Dashboard:  {dashboard}"));
    mode.line(&format!(
        "Try it:     curl {endpoint} -d '{{\"text\": \"The staff were never rude\"}}'"
    ));
}

fn front_ports(options: &Demo, ports: &mut Ports) -> Result<FrontPorts, DemoError> {
    let mut choose = |asked: Option<u16>, usual: u16| match asked {
        Some(port) if is_free(port) => Ok(port),
        Some(port) => Err(DemoError::Taken(port)),
        None if is_free(usual) => Ok(usual),
        None => ports.next(),
    };
    Ok(FrontPorts {
        listener: choose(options.port, USUAL_PORTS.listener)?,
        admin: choose(options.admin_port, USUAL_PORTS.admin)?,
    })
}

/// The folder for the configuration, the lists of instances and the gateway's state; removed when dropped.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self, DemoError> {
        let name = format!(
            "tidegate-demo-{}-{}",
            std::process::id(),
            observer::unix_ms()
        );
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(DemoError::Folder)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits for the guard's end when dropped.
struct Finish<'a>(&'a Guard);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// The signals that end the demo in order.
#[derive(Debug)]
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
