//! A host with real Python workers, for tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegate_config::model::{
    Engine, HealthCheck, ModelVersions, Protocol, PythonModel, Run, Service, ServiceLimits,
};
use tidegate_host::{
    Answer, Call, Checks, Event, Events, Fault, Host, HostOptions, InstanceState, Model, State,
    What,
};

/// A model with all that a test may ask of one.
const MODEL: &str = r#"
import os, signal, subprocess, sys, threading, time
from tidegate import Model, batched

class Test(Model):
    def predict(self, x: int = 0):
        return {"x": x, "pid": os.getpid()}
    def nothing(self):
        return None
    def fail(self, message: str):
        raise ValueError(message)
    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)
    def die_once(self, path: str):
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(3)
        return os.getpid()
    def cut(self, path: str):
        if not os.path.exists(path):
            if path:
                open(path, "w").close()
            import socket
            from tidegate._model import current
            current.get().worker.link.sock.shutdown(socket.SHUT_RDWR)
        return os.getpid()
    def half_a_result(self):
        with open(os.path.join(os.environ["TIDEGATE_SPOOL"], "part"), "wb") as out:
            out.write(b"x" * (1 << 20))
        os.kill(os.getpid(), signal.SIGKILL)
    def train(self):
        return {"trained": True}
    def sleep(self, seconds: float):
        time.sleep(seconds)
        return "slept"
    def busy(self):
        while True:
            try:
                time.sleep(100)
            except BaseException:
                pass
    def wait_for(self, path: str):
        while not os.path.exists(path):
            time.sleep(0.005)
        return os.getpid()
    def child(self):
        return subprocess.Popen(["sleep", "1000"]).pid
    def take_memory(self, mib: int):
        self.kept = bytearray(mib << 20)
        time.sleep(100)
    def tokens(self, count: int):
        for number in range(count):
            yield {"token": number}
    def big(self, size: int):
        return b"x" * size
    def length(self, data: bytes):
        return len(data)
    @batched(max_size=8, max_delay=0.05)
    def embed(self, text):
        return [[each, len(text)] for each in text]
    def say(self, line: str):
        print(line)
        print(line, file=sys.stderr)
        return None

class Broken(Model):
    def __init__(self):
        raise RuntimeError("no weights")
    def predict(self):
        return 1
"#;

/// Keeps all events.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Vec<Event>>);

impl Events for Kept {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Kept {
    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Waits for an event.
    pub(crate) async fn wait<T>(&self, find: impl Fn(&What) -> Option<T>) -> T {
        until("an event", || {
            self.all().iter().find_map(|event| find(&event.what))
        })
        .await
    }
}

/// Waits until there is something.
pub(crate) async fn until<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6_000 {
        if let Some(found) = find() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} has not come within a minute");
}

pub(crate) struct Hosted {
    pub(crate) host: Host,
    pub(crate) events: Arc<Kept>,
    pub(crate) folder: tempfile::TempDir,
}

/// A program is healthy when there is this file.
#[derive(Debug)]
struct File(PathBuf);

#[async_trait::async_trait]
impl Checks for File {
    async fn check(&self, _: &Service, _: &HealthCheck, _: u16) -> Result<(), String> {
        match self.0.exists() {
            true => Ok(()),
            false => Err("it is not healthy yet".to_owned()),
        }
    }
}

/// A service of the test model.
pub(crate) fn service() -> Service {
    Service {
        name: "test".into(),
        version: String::new(),
        protocol: Protocol::Auto,
        env: BTreeMap::new(),
        replicas: 1,
        engine: Engine::Process,
        concurrency: 1,
        versions: ModelVersions::default(),
        limits: ServiceLimits::default(),
        start_timeout: Duration::from_secs(60),
        health_check: None,
        restart_after: 12,
        stop_grace: Duration::from_secs(20),
        data: PathBuf::from("data"),
        run: python("model:Test"),
    }
}

pub(crate) fn python(class: &str) -> Run {
    Run::Python(PythonModel {
        path: ".".into(),
        class: class.into(),
        executable: "python3".into(),
    })
}

impl Hosted {
    pub(crate) async fn start(service: Service) -> Self {
        Self::start_with(service, None).await
    }

    pub(crate) async fn start_over_tcp(service: Service) -> Self {
        Self::start_with(service, Some("127.0.0.1:0".parse().unwrap())).await
    }

    async fn start_with(service: Service, tcp: Option<std::net::SocketAddr>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.py"), MODEL).unwrap();
        let events = Arc::<Kept>::default();
        let options = HostOptions {
            run_dir: folder.path().join("run"),
            spool_dir: folder.path().join("spool"),
            own_dir: folder.path().join("own"),
            base_dir: folder.path().to_owned(),
            events: events.clone(),
            checks: Arc::new(File(folder.path().join("healthy"))),
            services: vec![service],
        };
        let host = match tcp {
            None => Host::start(options).await.unwrap(),
            Some(at) => Host::start_over_tcp(options, at).await.unwrap(),
        };
        Self {
            host,
            events,
            folder,
        }
    }

    /// Waits until all of so many instances are ready.
    pub(crate) async fn ready(&self, count: usize) -> Arc<Vec<InstanceState>> {
        self.wait(|all| {
            all.len() == count && all.iter().all(|instance| instance.state == State::Ready)
        })
        .await
    }

    pub(crate) async fn wait(
        &self,
        like: impl Fn(&[InstanceState]) -> bool,
    ) -> Arc<Vec<InstanceState>> {
        let mut instances = self.host.instances();
        let seen = instances.wait_for(|all| like(all));
        let seen = tokio::time::timeout(Duration::from_secs(60), seen).await;
        seen.unwrap_or_else(|_| {
            panic!(
                "{:#?}\n{:#?}",
                self.host.instances().borrow(),
                self.events.all()
            )
        })
        .unwrap()
        .clone()
    }

    pub(crate) fn model(&self) -> Arc<dyn Model> {
        self.host.model("test-0").unwrap()
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        kwargs: serde_json::Value,
    ) -> Result<serde_json::Value, Fault> {
        value(self.model().call(call(method, kwargs)).await?)
    }

    /// What lies in its folders of inputs and results.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path("own"), self.path("spool")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => found.push(entry.path()),
                }
            }
        }
        found
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub(crate) fn call(method: &str, kwargs: serde_json::Value) -> Call {
    Call {
        method: method.into(),
        version: String::new(),
        kwargs: Bytes::from(serde_json::to_vec(&kwargs).unwrap()),
        parts: Vec::new(),
        deadline: None,
        retry: None,
        id: "test-call".into(),
        progress: None,
    }
}

#[allow(clippy::unnecessary_wraps, reason = "callers ask with `?`")]
pub(crate) fn value(answer: Answer) -> Result<serde_json::Value, Fault> {
    match answer {
        Answer::Value(value) => Ok(serde_json::from_slice(&value.json).unwrap()),
        Answer::Items(_) => panic!("a stream"),
    }
}

/// Whether a process runs (a zombie does not).
pub(crate) fn runs(pid: u64) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))
        .unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z") && !stat.contains(") X")
}
