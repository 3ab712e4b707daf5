//! What is shown of services: what their hosts publish and tell, beside what the gateway itself sees.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::Handle;
use crate::events::unix_ms;
use crate::instance::{HostReport, InstanceRecord, ServiceReport};
use crate::observe::{family, number};
use crate::view::{Family, InstanceView, Kind, ServiceView};

/// States of instances, for the metric.
const STATES: [&str; 5] = ["starting", "ready", "failing", "draining", "crash_loop"];

/// The last reports of hosts.
#[derive(Debug, Default)]
pub(crate) struct Reports(Mutex<HashMap<String, HostReport>>);

impl Reports {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<String, HostReport>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts of a service, all hosts together.
    fn service(&self, name: &str) -> ServiceReport {
        self.with(|hosts| {
            let reports = hosts.values().flat_map(|host| &host.services);
            let mut sum = ServiceReport {
                service: name.to_owned(),
                ..ServiceReport::default()
            };
            for one in reports.filter(|one| one.service == name) {
                sum.calls += one.calls;
                sum.retries += one.retries;
                sum.batches += one.batches;
                sum.batched += one.batched;
                sum.deaths += one.deaths;
                sum.loads += one.loads;
                sum.evictions += one.evictions;
                sum.waiting += one.waiting;
                sum.running += one.running;
                sum.waited_us += one.waited_us;
                sum.ran_us += one.ran_us;
                for (why, n) in &one.faults {
                    *sum.faults.entry(why.clone()).or_default() += n;
                }
            }
            sum
        })
    }
}

impl Handle {
    /// Whether the running configuration has services.
    pub fn has_services(&self) -> bool {
        !self.control.shared.snapshot.load().services.is_empty()
    }

    /// Takes what a host told.
    pub fn host_told(&self, report: HostReport) {
        self.control.reports.with(|hosts| {
            hosts.insert(report.host.clone(), report);
        });
    }

    /// A host tells nothing any more.
    pub fn host_gone(&self, host: &str) {
        self.control.reports.with(|hosts| hosts.remove(host));
    }

    /// Services with their instances.
    pub fn services(&self) -> Vec<ServiceView> {
        let snapshot = self.control.shared.snapshot.load_full();
        let now = unix_ms();
        // Calls and memory by host and instance.
        let loads: HashMap<(String, String), (u64, u64)> = self.control.reports.with(|hosts| {
            let of = |host: &HostReport| {
                let name = host.host.clone();
                let told = host.instances.clone().into_iter();
                told.map(move |i| ((name.clone(), i.instance), (i.in_flight, i.memory)))
            };
            hosts.values().flat_map(of).collect()
        });
        let services = snapshot.loaded.config.services.iter();
        services
            .map(|wanted| {
                let instances = self.control.instances.of(&wanted.name);
                let instances: Vec<InstanceView> = instances
                    .into_iter()
                    .map(|record| {
                        let failing = record
                            .failing
                            .filter(|_| record.state == InstanceRecord::READY);
                        let (state, cause, since_ms) = match failing {
                            Some(failing) => (
                                InstanceRecord::FAILING.to_owned(),
                                failing.cause,
                                failing.since_ms,
                            ),
                            None => (
                                record.state,
                                record.cause.unwrap_or_default(),
                                record.since_ms,
                            ),
                        };
                        let at = (record.host.clone(), record.instance.clone());
                        let (in_flight, memory) = loads.get(&at).copied().unwrap_or_default();
                        InstanceView {
                            name: record.instance,
                            host: record.host,
                            state,
                            cause,
                            since_ms: now.saturating_sub(since_ms),
                            revision: record.revision,
                            pid: record.pid,
                            address: record.address,
                            restarts: record.restarts,
                            versions: record.versions,
                            in_flight,
                            memory,
                        }
                    })
                    .collect();
                let counts = self.control.reports.service(&wanted.name);
                ServiceView {
                    name: wanted.name.clone(),
                    runs: match &wanted.run {
                        tidegate_config::model::Run::Python(python) => python.class.clone(),
                        tidegate_config::model::Run::Command(command) => command.join(" "),
                    },
                    version: wanted.version.clone(),
                    replicas: wanted.replicas,
                    ready: instances.iter().filter(|i| i.state == "ready").count() as u32,
                    calls: counts.calls,
                    faults: counts.faults,
                    retries: counts.retries,
                    deaths: counts.deaths,
                    loads: counts.loads,
                    evictions: counts.evictions,
                    batches: counts.batches,
                    batched: counts.batched,
                    waiting: counts.waiting,
                    running: counts.running,
                    mean_wait_us: mean(counts.waited_us, counts.calls),
                    mean_run_us: mean(counts.ran_us, counts.calls),
                    instances,
                }
            })
            .collect()
    }

    pub(crate) fn service_metrics(&self) -> Vec<Family> {
        let services = self.services();
        let of = |service: &ServiceView| vec![("service", service.name.clone())];
        let mut instances = family(
            "tidegate_service_instances",
            "Instances of a service, by state.",
            Kind::Gauge,
        );
        let mut faults = family(
            "tidegate_service_faults_total",
            "Calls that failed in the host or in the model, by reason.",
            Kind::Counter,
        );
        for service in &services {
            for state in STATES {
                let n = service.instances.iter().filter(|i| i.state == state);
                let mut labels = of(service);
                labels.push(("state", state.to_owned()));
                instances.samples.push(number(labels, n.count() as f64));
            }
            for (reason, n) in &service.faults {
                let mut labels = of(service);
                labels.push(("reason", reason.clone()));
                faults.samples.push(number(labels, *n as f64));
            }
        }
        let plain = |name, help, kind, value: fn(&ServiceView) -> u64| {
            let mut all = family(name, help, kind);
            let samples = services.iter().map(|s| number(of(s), value(s) as f64));
            all.samples.extend(samples);
            all
        };
        vec![
            instances,
            plain(
                "tidegate_service_replicas",
                "Instances that are wanted.",
                Kind::Gauge,
                |s| s.replicas.into(),
            ),
            plain(
                "tidegate_service_restarts_total",
                "Deaths of workers since their host began.",
                Kind::Counter,
                |s| s.deaths,
            ),
            plain(
                "tidegate_service_calls_total",
                "Calls that came to a service's workers.",
                Kind::Counter,
                |s| s.calls,
            ),
            faults,
            plain(
                "tidegate_service_retries_total",
                "Calls that ran again after the death of a worker.",
                Kind::Counter,
                |s| s.retries,
            ),
            plain(
                "tidegate_service_queue",
                "Calls that wait for a worker.",
                Kind::Gauge,
                |s| s.waiting,
            ),
            plain(
                "tidegate_service_inflight",
                "Calls in workers.",
                Kind::Gauge,
                |s| s.running,
            ),
            plain(
                "tidegate_service_loads_total",
                "Versions loaded.",
                Kind::Counter,
                |s| s.loads,
            ),
            plain(
                "tidegate_service_evictions_total",
                "Versions released to make room.",
                Kind::Counter,
                |s| s.evictions,
            ),
            plain(
                "tidegate_service_memory_bytes",
                "Resident memory of a service's workers.",
                Kind::Gauge,
                |s| s.instances.iter().map(|i| i.memory).sum(),
            ),
        ]
    }

    /// A service whose models are still loading for the first time, if there is one: nobody should send requests yet.
    pub(crate) fn starting_service(&self) -> Option<String> {
        let snapshot = self.control.shared.snapshot.load();
        let starting = snapshot
            .services
            .iter()
            .find(|service| service.is_starting());
        starting.map(|service| service.name.to_string())
    }
}

fn mean(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or(0)
}
