//! Tells whoever listens what is under way, once a second: what changes too often for the store.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tidegate_gateway::{HostReport, InstanceReport, ServiceReport};
use tidegate_host::{Host, ServiceCounts};
use tokio::io::AsyncWriteExt;
use tokio::time::MissedTickBehavior;

/// How often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Serves the socket until it is dropped. A report is a line of JSON.
pub(super) async fn serve(listener: UnixListener, id: String, host: Arc<Host>) {
    let Ok(listener) = tokio::net::UnixListener::from_std(listener) else {
        return;
    };
    loop {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let (id, host) = (id.clone(), host.clone());
                tokio::spawn(async move {
                    let mut ticks = tokio::time::interval(INTERVAL);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    loop {
                        ticks.tick().await;
                        let Ok(mut line) = serde_json::to_vec(&report(&id, &host)) else {
                            return;
                        };
                        line.push(b'\n');
                        if stream.write_all(&line).await.is_err() {
                            return;
                        }
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a listener for reports was not accepted");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

fn report(id: &str, host: &Host) -> HostReport {
    let instances = host.instances().borrow().clone();
    HostReport {
        host: id.to_owned(),
        pid: std::process::id(),
        services: host.counts().into_iter().map(service).collect(),
        instances: instances
            .iter()
            .map(|instance| InstanceReport {
                instance: instance.instance.to_string(),
                in_flight: instance.in_flight as u64,
                memory: instance.memory,
            })
            .collect(),
    }
}

fn service(counts: ServiceCounts) -> ServiceReport {
    let faults = counts.faults.into_iter();
    ServiceReport {
        service: counts.service,
        calls: counts.calls,
        faults: faults.map(|(why, n)| (why.to_owned(), n)).collect(),
        retries: counts.retries,
        batches: counts.batches,
        batched: counts.batched,
        deaths: counts.deaths,
        loads: counts.loads,
        evictions: counts.evictions,
        waiting: counts.waiting as u64,
        running: counts.running as u64,
        waited_us: counts.waited_ns / 1_000,
        ran_us: counts.ran_ns / 1_000,
    }
}
