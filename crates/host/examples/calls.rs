//! What a call costs between a door and a Python worker, without the protocols: calls a second, and processor time a call
//! of the host and of its workers.
//!
//! `cargo run --release -p tidegate-host --example calls -- [CALLERS] [REPLICAS] [SECONDS]`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_config::model::{
    Engine, HealthCheck, ModelVersions, Protocol, PythonModel, Run, Service, ServiceLimits,
};
use tidegate_host::{Call, Checks, Host, HostOptions, Model, State, Traced};

const MODEL: &str =
    "from tidegate import Model\nclass Noop(Model):\n    def predict(self):\n        return None\n";

/// No program is asked here.
#[derive(Debug)]
struct NoChecks;

#[async_trait::async_trait]
impl Checks for NoChecks {
    async fn check(&self, _: &Service, _: &HealthCheck, _: u16) -> Result<(), String> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .map(|word| word.parse())
        .collect::<Result<_, _>>()?;
    let number = |index: usize, default: u64| numbers.get(index).copied().unwrap_or(default);
    let (callers, replicas, seconds) = (number(0, 16), number(1, 1), number(2, 5));
    let folder = std::env::temp_dir().join(format!("tidegate-calls-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("model.py"), MODEL)?;
    let service = Service {
        name: "noop".into(),
        version: String::new(),
        protocol: Protocol::Auto,
        env: BTreeMap::new(),
        replicas: u32::try_from(replicas)?,
        engine: Engine::Process,
        concurrency: 1,
        versions: ModelVersions::default(),
        limits: ServiceLimits::default(),
        start_timeout: Duration::from_secs(60),
        health_check: None,
        restart_after: 12,
        stop_grace: Duration::from_secs(10),
        data: PathBuf::from("data"),
        run: Run::Python(PythonModel {
            path: ".".into(),
            class: "model:Noop".into(),
            executable: "python3".into(),
        }),
    };
    let host = Host::start(HostOptions {
        run_dir: folder.join("run"),
        spool_dir: folder.join("spool"),
        own_dir: folder.join("own"),
        base_dir: folder.clone(),
        events: Arc::new(Traced),
        checks: Arc::new(NoChecks),
        services: vec![service],
    })
    .await?;
    let mut instances = host.instances();
    let ready = instances
        .wait_for(|all| all.iter().all(|instance| instance.state == State::Ready))
        .await?
        .clone();
    let workers: Vec<u32> = ready.iter().filter_map(|instance| instance.pid).collect();
    let models: Vec<Arc<dyn Model>> = ready
        .iter()
        .filter_map(|instance| host.model(&instance.instance))
        .collect();

    let count = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + Duration::from_secs(seconds);
    let (own, theirs) = (
        processor(std::process::id()),
        workers.iter().map(|pid| processor(*pid)).sum::<f64>(),
    );
    let mut tasks = Vec::new();
    for caller in 0..callers {
        let (model, count) = (
            Arc::clone(&models[caller as usize % models.len()]),
            Arc::clone(&count),
        );
        tasks.push(tokio::spawn(async move {
            while Instant::now() < until {
                let call = Call {
                    method: "predict".into(),
                    version: String::new(),
                    kwargs: Bytes::from_static(b"{}"),
                    parts: Vec::new(),
                    deadline: None,
                    retry: None,
                    id: String::new(),
                    progress: None,
                };
                if model.call(call).await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        }));
    }
    for task in tasks {
        task.await?;
    }
    let calls = count.load(Ordering::Relaxed) as f64;
    let own = processor(std::process::id()) - own;
    let theirs = workers.iter().map(|pid| processor(*pid)).sum::<f64>() - theirs;
    println!(
        "{callers} callers, {replicas} workers: {:.0} calls/s, processor time a call: host {:.1} us, workers {:.1} us",
        calls / seconds as f64,
        own * 1e6 / calls,
        theirs * 1e6 / calls
    );
    host.drain(Duration::from_secs(5)).await;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Seconds of processor time that a process has had.
fn processor(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok())
        .sum();
    ticks / 100.0
}
