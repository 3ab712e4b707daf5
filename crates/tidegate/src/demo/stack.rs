//! The real thing in front of the instances: `tidegate up` on a configuration that the demo writes, with its supervisor
//! and its gateway as processes of their own.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::watch;

use super::DemoError;
use super::fleet::{endpoints_file, replace};
use super::guard::Guard;
use super::hosted::{self, Python, model_folder};
use super::model::Version;
use super::provider;
use super::wire;

/// Time until a started gateway must serve.
const START_TIME: Duration = Duration::from_secs(60);
/// Time beyond the configuration's grace in which it must end.
const STOP_TIME: Duration = Duration::from_secs(10);
/// Log lines kept to explain a failure.
const KEPT_LINES: usize = 20;

/// Events of processes that are gone.
const ENDED: [&str; 6] = [
    "gateway ended",
    "gateway died",
    "the outgoing gateway ended",
    "host ended",
    "host died: its workers end, calls wait",
    "control ended",
];

/// The ports that callers and people use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrontPorts {
    /// The listener's.
    pub(crate) listener: u16,
    /// The admin API's and the dashboard's.
    pub(crate) admin: u16,
}

/// What is behind the gateway, beside the classifier's instances.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    /// The provider's port.
    pub(crate) provider: u16,
    /// What runs the hosted model, if there is one.
    pub(crate) python: Option<Python>,
}

/// The configuration, as a user would write it.
pub(crate) fn config(
    folder: &Path,
    ports: FrontPorts,
    behind: &Behind,
    weights: [u32; 2],
) -> String {
    let quoted = |path: PathBuf| Value::from(path.display().to_string()).to_string();
    let state = Value::from(format!("file:{}", folder.join("state").display())).to_string();
    let mut text = format!(
        r#"# What `tidegate demo` runs. Short times, so that a minute shows everything.
admin: {{ address: "127.0.0.1:{admin}" }}
state: {{ url: {state} }}
shutdown: {{ grace: 5s }}
listeners:
  - {{ name: main, address: "127.0.0.1:{listener}" }}

routes:
  - name: sentiment
    match:
      - {{ path: {{ exact: {predict} }}, methods: [POST] }}
      - {{ grpc: {{ service: tidegate.demo.Sentiment }} }}
    to:
      - {{ upstream: sentiment-v1, weight: {v1} }}
      - {{ upstream: sentiment-v2, weight: {v2} }}
    timeout: 15s
    # A prediction changes nothing: it may be asked again although it is a POST (replay).
    retry:
      attempts: 4
      on: [connect-failure, refused-stream, unavailable, 5xx, per-try-timeout]
      per_try_timeout: 400ms
      backoff: {{ initial: 5ms, max: 50ms }}
      budget: {{ percent: 50%, min: 20 }}
      replay: true
  - name: chat
    match: {{ path: {{ exact: {chat} }} }}
    to: [ {{ provider: {llm} }} ]
{language}
providers:
  - name: {llm}
    type: openai
    base_url: "http://127.0.0.1:{provider}/v1"
    api_tokens: {keys}
    failover: {{ health_check_interval: 500ms }}

upstreams:
"#,
        admin = ports.admin,
        listener = ports.listener,
        v1 = weights[0],
        v2 = weights[1],
        predict = wire::PREDICT,
        chat = provider::CHAT,
        llm = provider::NAME,
        provider = behind.provider,
        keys = Value::from(provider::KEYS.as_slice()),
        language = match behind.python {
            Some(_) => format!(
                "  - name: {service}\n    match: {{ path: {{ prefix: /{service} }} }}\n    to: [ {{ service: {service} }} ]\n",
                service = hosted::SERVICE
            ),
            None => String::new(),
        },
    );
    for version in Version::ALL {
        text.push_str(&format!(
            r#"  - name: sentiment-{name}
    discover: {{ file: {file} }}
    outlier_detection: {{ consecutive_5xx: 5, consecutive_local_origin: 5, interval: 100ms, base_ejection_time: 3s, max_ejection_time: 10s, max_ejection_percent: 50% }}
    health_check: {{ http: /healthz, interval: 300ms, timeout: 300ms, unhealthy_after: 2 }}
    balance: least_request
    slow_start: 300ms
    when_exhausted: least_bad
"#,
            name = version.name(),
            file = quoted(endpoints_file(folder, version)),
        ));
    }
    if let Some(python) = &behind.python {
        text.push_str(&format!(
            r#"
services:
  - name: {name}
    python: {{ path: {model}, class: "language:Language", executable: {executable} }}
    data: {data}
    replicas: {workers}
    stop_grace: 5s
"#,
            name = hosted::SERVICE,
            model = quoted(model_folder(folder)),
            executable = quoted(python.executable.clone()),
            data = quoted(model_folder(folder).join("appdata")),
            workers = hosted::WORKERS,
        ));
    }
    text
}

/// A running `tidegate up`.
#[derive(Debug)]
pub(crate) struct Stack {
    folder: PathBuf,
    ports: FrontPorts,
    behind: Behind,
    guard: Guard,
    supervisor: Supervisor,
}

#[derive(Debug)]
struct Supervisor {
    child: Child,
    pid: u32,
    log: Arc<Mutex<Log>>,
    ready: watch::Receiver<u32>,
}

#[derive(Debug, Default)]
struct Log {
    gateway: Option<u32>,
    lines: VecDeque<String>,
}

impl Stack {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(
        folder: &Path,
        ports: FrontPorts,
        behind: Behind,
        weights: [u32; 2],
        guard: &Guard,
    ) -> Result<Self, DemoError> {
        if behind.python.is_some() {
            hosted::write(folder)?;
        }
        let text = config(folder, ports, &behind, weights);
        replace(&config_file(folder), &text)?;
        Ok(Self {
            folder: folder.to_owned(),
            ports,
            behind,
            guard: guard.clone(),
            supervisor: Supervisor::start(folder, guard, false).await?,
        })
    }

    /// Kills the gateway's process as `kill -9` does; its process id.
    pub(crate) fn kill_gateway(&self) -> Result<u32, DemoError> {
        let pid = self.supervisor.log().gateway;
        let process = pid
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        match (pid, process) {
            (Some(pid), Some(process)) => {
                let killed = kill_process(process, Signal::KILL);
                killed.map_err(|errno| DemoError::Process(errno.into()))?;
                Ok(pid)
            }
            _ => Err(DemoError::Gateway("its process id is not known".into())),
        }
    }

    /// Changes the weights in the file; the gateway notices by itself.
    pub(crate) fn reweigh(&self, weights: [u32; 2]) -> Result<(), DemoError> {
        let text = config(&self.folder, self.ports, &self.behind, weights);
        replace(&config_file(&self.folder), &text)
    }

    /// `tidegate up --upgrade`: a new supervisor and a new gateway take over, the old ones drain and end.
    pub(crate) async fn upgrade(&mut self) -> Result<(), DemoError> {
        let new = Supervisor::start(&self.folder, &self.guard, true).await?;
        let old = std::mem::replace(&mut self.supervisor, new);
        old.ended(&self.guard).await
    }

    /// SIGTERM: drains and ends.
    pub(crate) async fn stop(self) -> Result<(), DemoError> {
        let pid = i32::try_from(self.supervisor.pid).unwrap_or(0);
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        self.supervisor.ended(&self.guard).await
    }
}

fn config_file(folder: &Path) -> PathBuf {
    folder.join("tidegate.yaml")
}

impl Supervisor {
    async fn start(folder: &Path, guard: &Guard, upgrade: bool) -> Result<Self, DemoError> {
        let mut command = Command::from(crate::exe::command());
        command.arg("up").arg(config_file(folder));
        if upgrade {
            command.arg("--upgrade");
        }
        let mut child = command
            .current_dir(folder)
            // The log is read for process ids: at least these events, as JSON, for stderr is no terminal.
            .env(crate::log::VARIABLE, "info")
            .env_remove("NOTIFY_SOCKET")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(DemoError::Process)?;
        let pid = child.id().unwrap_or_default();
        guard.add(pid);
        let log = Arc::new(Mutex::new(Log::default()));
        let (served, ready) = watch::channel(0);
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(follow(stderr, Arc::clone(&log), guard.clone(), served));
        }
        let mut this = Self {
            child,
            pid,
            log,
            ready,
        };
        let served =
            tokio::time::timeout(START_TIME, this.ready.wait_for(|served| *served > 0)).await;
        match served.map(|result| result.is_ok()) {
            Ok(true) => Ok(this),
            _ => {
                let _ = this.child.kill().await;
                guard.remove(pid);
                let lines: Vec<String> = this.log().lines.iter().cloned().collect();
                Err(DemoError::Gateway(lines.join("\n")))
            }
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the end of a supervisor that was told to end.
    async fn ended(mut self, guard: &Guard) -> Result<(), DemoError> {
        let ended = tokio::time::timeout(STOP_TIME, self.child.wait()).await;
        let status = match ended {
            Ok(status) => status.map_err(DemoError::Process)?,
            Err(_) => {
                let _ = self.child.kill().await;
                return Err(DemoError::Gateway("it did not end in time".into()));
            }
        };
        guard.remove(self.pid);
        if status.success() {
            return Ok(());
        }
        let lines: Vec<String> = self.log().lines.iter().cloned().collect();
        Err(DemoError::Gateway(format!(
            "it ended with {status}\n{}",
            lines.join("\n")
        )))
    }
}

/// Reads the supervisor's events (and its gateways', which share its stderr).
async fn follow(
    stderr: ChildStderr,
    log: Arc<Mutex<Log>>,
    guard: Guard,
    served: watch::Sender<u32>,
) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        let pid = event["pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok());
        {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if event["message"] == "gateway ready" {
                log.gateway = pid;
            }
            log.lines.push_back(line);
            if log.lines.len() > KEPT_LINES {
                log.lines.pop_front();
            }
        }
        match (event["message"].as_str(), pid) {
            (Some("gateway started" | "host started" | "control started"), Some(pid)) => {
                guard.add(pid);
            }
            (Some(message), Some(pid)) if ENDED.contains(&message) => guard.remove(pid),
            (Some("gateway ready"), _) => served.send_modify(|count| *count += 1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_that_the_demo_writes_is_good() {
        let ports = FrontPorts {
            listener: 8080,
            admin: 9900,
        };
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("a folder with \"quotes\"");
        std::fs::create_dir(&folder).unwrap();
        hosted::write(&folder).unwrap();
        let executable = folder.join("a python3");
        std::os::unix::fs::symlink("/bin/sh", &executable).unwrap();
        let python = Python {
            executable,
            version: "3.9.1".into(),
        };
        for (python, routes) in [(None, 2), (Some(python), 3)] {
            let behind = Behind {
                provider: 8601,
                python,
            };
            let text = config(&folder, ports, &behind, [90, 10]);
            match tidegate_config::load_str("demo.yaml", &text) {
                Ok(loaded) => {
                    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
                    assert_eq!(loaded.config.routes.len(), routes);
                    assert_eq!(loaded.config.routes[0].to.len(), 2);
                }
                Err(problems) => panic!("{text}\n{problems}"),
            }
        }
    }
}
