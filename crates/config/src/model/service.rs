//! Services: models that Tidegate runs itself.

use super::{HealthCheck, Protocol};
use crate::checks::{By, Lasting, NotEmpty, SizeWithin, TIMER, Within};
use crate::record::{one_of, record};
use crate::values::{ByteSize, EnvText, SizeBound};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

record! {
    /// A model, or another program that answers requests, in processes that Tidegate starts, watches and replaces.
    pub struct Service {
        /// Unique name, not that of an upstream either; routes refer to it. 1 to 64 letters of ASCII, digits or one of `_ - .`,
        /// a letter or digit first.
        name: String => crate::validate::ServiceName,
        /// Version of the model that a call without one gets; a folder of `data`. A change loads it in new workers before the old ones go.
        /// Default "": the version without a name.
        version: String = String::new() => By(crate::validate::version_name),
        /// What is spoken to a `command`. Default auto.
        protocol: Protocol = Protocol::Auto,
        /// Variables of the workers' environment, besides those of Tidegate itself. `"${NAME}"` passes one on.
        env: BTreeMap<String, EnvText> => By(crate::validate::environment),
        /// Workers, 1 to 256. Default 1.
        replicas: u32 = 1 => Within(1, 256),
        /// What starts them. Default process.
        engine: Engine = Engine::Process,
        /// Calls that a worker runs at a time, 1 to 1024; above 1 by threads, or by asyncio where the method is `async`. Default 1.
        concurrency: u32 = 1 => Within(1, 1_024),
        /// Which versions of the model a worker keeps.
        versions: ModelVersions = ModelVersions::default(),
        /// Bounds of calls.
        limits: ServiceLimits = ServiceLimits::default(),
        /// Time that a worker has to become ready; it is started again when it is over. A request waits as long for one that is ready. Default 5m.
        start_timeout: Duration = Duration::from_secs(300) => TIMER,
        /// How a `command` is asked whether it is ready, and from then on whether requests are sent to it. Default: it is when it accepts
        /// connections.
        health_check: Option<HealthCheck>,
        /// Checks of a `command` that fail in a row until it is started anew; 0: never. Default 12, or the check's `unhealthy_after` where that is more.
        restart_after: u32 = 12 => Within(0, 100_000),
        /// Time that calls under way have when their worker is to end. Default 30s.
        stop_grace: Duration = Duration::from_secs(30) => Lasting(Duration::ZERO, Duration::from_secs(86_400)),
        /// Folder of the models: each version has its own in it. Default `./appdata`.
        data: PathBuf = PathBuf::from("./appdata"),
        ; flatten
        /// What runs.
        run: Run
        ; later "rollout", "autoscale"
        ; finish crate::validate::service
        ; tidy crate::validate::service_tidy
    }
}

one_of! {
    /// What runs in a worker.
    pub enum Run {
        /// A Python class. `python: "module:Class"` is short for `{ class }`.
        Python(PythonModel) = "python",
        /// A program and its arguments that listens on the port `$PORT` of 127.0.0.1; it is ready when it accepts connections and passes
        /// its `health_check`, if it has one. `$PORT` is replaced in the arguments and is a variable of its environment as well.
        Command(Vec<String>) = "command" => By(crate::validate::command),
    }
}

record! {
    /// A Python class that is a model.
    pub struct PythonModel {
        /// Folder that the module is imported from and that the worker starts in. Default: the folder of this file.
        path: PathBuf = PathBuf::from(".") => By(crate::validate::folder),
        /// `module:Class`, e.g. `model:Sentiment`.
        class: String => By(crate::validate::python_class),
        /// The interpreter: a name that is looked for in PATH, or a path from the folder of this file. Python 3.9 or later. Default python3.
        executable: String = "python3".into() => NotEmpty,
        ; short "class"
        ; finish crate::validate::python
    }
}

/// What starts workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// Processes of this machine.
    Process,
}

record! {
    /// Which versions of the model a worker keeps in memory. A call may ask for any version that the model can load.
    pub default struct ModelVersions {
        /// Versions loaded at once, 1 to 10000; beyond, the one that was not used for the longest time and has no call goes.
        /// One that has no folder, or did not load the last time, is loaded beside them first. Default 1.
        max_loaded: u32 = 1 => Within(1, 10_000),
        /// A worker that takes more memory after a load lets other versions go; `off`: no bound. Default off.
        memory: SizeBound = SizeBound::OFF,
        /// Versions that are loaded before the worker is ready, beside the default one.
        preload: Vec<String> => By(crate::validate::version_names),
        ; finish crate::validate::model_versions
    }
}

record! {
    /// Bounds of calls. What is beyond one is refused with a clear error, RESOURCE_EXHAUSTED (413, 429) mostly.
    pub default struct ServiceLimits {
        /// Calls that wait for a worker, all workers together, up to 1000000. Default 1000.
        queue: u32 = 1_000 => Within(0, 1_000_000),
        /// Longest time of a call in a worker, to its first answer. One that exceeds it is cancelled; if it does not stop within a second, its
        /// worker is ended and replaced. Default: off.
        call_time: Option<Duration> => Lasting(Duration::from_millis(1), Duration::from_secs(31 * 86_400)),
        /// Memory of a worker process; one that takes more is ended and replaced. Default off.
        memory: SizeBound = SizeBound::OFF,
        /// Longest message of a unary call, either way, 1KiB to 1GiB. Default 256MiB.
        message: ByteSize = ByteSize::kib(256 * 1024) => SizeWithin(ByteSize::kib(1), ByteSize::kib(1024 * 1024)),
        /// Disk that all uploads under way may take together, from 1MiB. Default 64GiB.
        upload: ByteSize = ByteSize::kib(64 * 1024 * 1024) => SizeWithin(ByteSize::kib(1024), ByteSize::kib(1 << 40)),
        /// Most bytes that one compressed byte may become, beyond the first 64 MiB of an upload, 1 to 1000000. Default 1000.
        ratio: u32 = 1_000 => Within(1, 1_000_000),
        /// Time for which an upload that broke off is kept to be gone on with; `off`: it is removed at once. Default 1h.
        resume: Option<Duration> = Some(Duration::from_secs(3_600)) => Lasting(Duration::from_secs(1), Duration::from_secs(31 * 86_400)),
    }
}
