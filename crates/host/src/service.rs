//! One service: as many instances as it wants, of the revision that it wants, changed one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_config::model::{Run, Service};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::board::instance_name;
use crate::call::About;
use crate::doorway::Doorway;
use crate::group::{Group, Settings};
use crate::host::{HostError, Shared};
use crate::instance::{End, Instance, Spec};
use crate::model::Slot;
use crate::spool::{Spool, SpoolLimits};

/// What a service is told.
#[derive(Debug)]
enum Tell {
    /// It is to be so. `made`: its sockets are there, or can't be.
    Apply {
        service: Box<Service>,
        made: oneshot::Sender<Result<(), HostError>>,
    },
    /// Its workers are replaced.
    Reload {
        done: oneshot::Sender<Result<(), HostError>>,
    },
    /// Without a grace: its own.
    End {
        grace: Option<Duration>,
        done: oneshot::Sender<()>,
    },
}

/// A service that runs. Dropping it ends its workers at once.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) group: Arc<Group>,
    tell: mpsc::UnboundedSender<Tell>,
    task: JoinHandle<()>,
}

impl Serving {
    pub(crate) fn start(shared: Arc<Shared>, service: &Service) -> Self {
        let name: Arc<str> = service.name.as_str().into();
        let group = Group::new(
            Arc::clone(&name),
            settings(service),
            Arc::clone(&shared.events),
        );
        let (tell, told) = mpsc::unbounded_channel();
        let keeper = Keeper {
            shared,
            name,
            group: Arc::clone(&group),
            spool: None,
            ratio: Arc::new(u64::from(service.limits.ratio).into()),
            spec: Arc::new(Spec {
                service: service.clone(),
                revision: 1,
            }),
            instances: BTreeMap::new(),
            ending: BTreeMap::new(),
        };
        Self {
            group,
            tell,
            task: tokio::spawn(keeper.run(told)),
        }
    }

    /// Resolves to whether its sockets are there.
    pub(crate) fn apply(&self, service: Service) -> oneshot::Receiver<Result<(), HostError>> {
        let (made, receiver) = oneshot::channel();
        let _ = self.tell.send(Tell::Apply {
            service: Box::new(service),
            made,
        });
        receiver
    }

    pub(crate) fn reload(&self) -> oneshot::Receiver<Result<(), HostError>> {
        let (done, receiver) = oneshot::channel();
        let _ = self.tell.send(Tell::Reload { done });
        receiver
    }

    pub(crate) fn end(&self, grace: Option<Duration>) -> oneshot::Receiver<()> {
        let (done, receiver) = oneshot::channel();
        let _ = self.tell.send(Tell::End { grace, done });
        receiver
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    shared: Arc<Shared>,
    name: Arc<str>,
    group: Arc<Group>,
    spool: Option<Arc<Spool>>,
    /// `limits.ratio`, for all doors.
    ratio: Arc<AtomicU64>,
    spec: Arc<Spec>,
    instances: BTreeMap<usize, (Instance, u64)>,
    ending: BTreeMap<usize, JoinHandle<()>>,
}

impl Keeper {
    async fn run(mut self, mut told: mpsc::UnboundedReceiver<Tell>) {
        let mut next = None;
        loop {
            let tell = match next.take() {
                Some(tell) => tell,
                None => match told.recv().await {
                    Some(tell) => tell,
                    None => return,
                },
            };
            let done = match tell {
                Tell::Apply { service, made } => {
                    self.aim(*service).await;
                    let _ = made.send(self.make().await);
                    None
                }
                Tell::Reload { done } => {
                    self.aim_anew();
                    Some(done)
                }
                Tell::End { grace, done } => {
                    self.end(grace.unwrap_or(self.spec.service.stop_grace))
                        .await;
                    let _ = done.send(());
                    return;
                }
            };
            // What comes meanwhile is newer: the workers that were replaced so far stay, the rest follows it.
            tokio::select! {
                replaced = self.replace() => if let Some(done) = done {
                    let _ = done.send(replaced);
                },
                tell = told.recv() => match tell {
                    Some(tell) => next = Some(tell),
                    None => return,
                },
            }
        }
    }

    /// Another configuration is wanted.
    async fn aim(&mut self, service: Service) {
        self.group.set(settings(&service));
        // What no worker knows of holds from now on, without new ones.
        self.ratio
            .store(u64::from(service.limits.ratio), Ordering::Relaxed);
        if let Some(spool) = &self.spool {
            spool.set_limits(uploads(&service));
        }
        let before = &self.spec.service;
        if std::mem::discriminant(&before.run) != std::mem::discriminant(&service.run) {
            // Sockets of a model and ports of a command are different instances.
            self.end_from(0, before.stop_grace);
            self.ended().await;
        }
        let differs = as_workers_see(&self.spec.service) != as_workers_see(&service);
        if differs {
            self.group.hope();
        }
        let revision = self.spec.revision + u64::from(differs);
        self.spec = Arc::new(Spec { service, revision });
    }

    /// The same again, in new workers.
    fn aim_anew(&mut self) {
        self.group.hope();
        self.spec = Arc::new(Spec {
            service: self.spec.service.clone(),
            revision: self.spec.revision + 1,
        });
    }

    /// Makes instances that are missing, and ends those that are too many.
    async fn make(&mut self) -> Result<(), HostError> {
        let wanted = self.spec.service.replicas as usize;
        self.end_from(wanted, self.spec.service.stop_grace);
        for number in 0..wanted {
            if self.instances.contains_key(&number) {
                continue;
            }
            if let Some(ending) = self.ending.remove(&number) {
                let _ = ending.await;
            }
            let instance = self.instance(number)?;
            self.instances
                .insert(number, (instance, self.spec.revision));
        }
        Ok(())
    }

    fn instance(&mut self, number: usize) -> Result<Instance, HostError> {
        let slot = Arc::new(Slot {
            group: Arc::clone(&self.group),
            number,
            instance: instance_name(&self.name, number),
            is_model: matches!(self.spec.service.run, Run::Python(_)),
            about: ArcSwap::from_pointee(About::default()),
            ready: watch::Sender::new(false),
            revision: AtomicU64::new(self.spec.revision),
            member: AtomicU64::new(0),
            data: ArcSwap::from_pointee(self.shared.base_dir.join(&self.spec.service.data)),
        });
        let doorway = match &self.spec.service.run {
            Run::Command(_) => None,
            Run::Python(_) => {
                let path = socket(&self.shared.run_dir, &self.name, number);
                let spool = self.spool()?;
                let doorway = Doorway::open(
                    path.clone(),
                    slot.clone(),
                    spool,
                    Arc::clone(&self.ratio),
                    &self.spec.service,
                );
                Some(doorway.map_err(|source| HostError::Folder { path, source })?)
            }
        };
        self.shared.slots.add(&slot);
        Ok(Instance::start(
            Arc::clone(&self.shared),
            slot,
            Arc::clone(&self.spec),
            doorway,
        ))
    }

    /// The service's folder of uploads.
    fn spool(&mut self) -> Result<Arc<Spool>, HostError> {
        if let Some(spool) = &self.spool {
            return Ok(Arc::clone(spool));
        }
        let path = self.shared.spool_dir.join(&*self.name);
        let limits = uploads(&self.spec.service);
        // A former service of this name may still have calls, and files of them.
        let number = self.shared.members.fetch_add(1, Ordering::Relaxed);
        let calls = self
            .shared
            .own_dir
            .join(&*self.name)
            .join(number.to_string());
        let spool = Spool::open_beside(&path, &calls, limits)
            .map_err(|source| HostError::Folder { path, source })?;
        self.spool = Some(Arc::clone(&spool));
        Ok(spool)
    }

    /// Replaces workers of another revision one by one; stops at the first that does not become ready.
    async fn replace(&mut self) -> Result<(), HostError> {
        for (number, (instance, revision)) in &mut self.instances {
            if *revision == self.spec.revision {
                continue;
            }
            instance
                .replace(Arc::clone(&self.spec))
                .await
                .map_err(|cause| HostError::Reload {
                    instance: instance_name(&self.name, *number).to_string(),
                    cause,
                })?;
            *revision = self.spec.revision;
        }
        Ok(())
    }

    fn end_from(&mut self, first: usize, grace: Duration) {
        let leaving = self.instances.split_off(&first);
        let end = End::new(grace, leaving.len());
        for (number, (instance, _)) in leaving {
            self.ending
                .insert(number, tokio::spawn(instance.end(end.clone())));
        }
    }

    async fn ended(&mut self) {
        while let Some((_, ending)) = self.ending.pop_first() {
            let _ = ending.await;
        }
    }

    async fn end(&mut self, grace: Duration) {
        self.end_from(0, grace);
        self.ended().await;
        self.group.abandon();
    }
}

/// Longest path of a Unix socket.
const LONGEST_SOCKET: usize = 107;

/// The path of an instance's socket: by the service's name, or where that makes it too long, by a hash of it.
fn socket(run: &std::path::Path, service: &str, number: usize) -> std::path::PathBuf {
    let named = run.join(format!("i-{service}-{number}.sock"));
    if named.as_os_str().len() <= LONGEST_SOCKET {
        return named;
    }
    let hash = ring::digest::digest(&ring::digest::SHA256, service.as_bytes());
    let short: String = hash.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    run.join(format!("i-{short}-{number}.sock"))
}

/// What of a configuration needs new workers when it changes.
fn as_workers_see(service: &Service) -> Service {
    let mut seen = service.clone();
    seen.replicas = 1;
    seen.stop_grace = Duration::ZERO;
    seen.start_timeout = Duration::ZERO;
    let message = seen.limits.message;
    seen.limits = tidegate_config::model::ServiceLimits {
        message,
        ..Default::default()
    };
    seen.versions.max_loaded = 1;
    seen.versions.memory = tidegate_config::values::SizeBound::OFF;
    seen
}

fn uploads(service: &Service) -> SpoolLimits {
    SpoolLimits {
        quota: service.limits.upload.bytes(),
        resume: service.limits.resume.unwrap_or(Duration::ZERO),
    }
}

fn settings(service: &Service) -> Settings {
    Settings {
        queue: service.limits.queue as usize,
        call_time: service.limits.call_time,
        memory: service.limits.memory.bytes(),
        versions_memory: service.versions.memory.bytes(),
        start_timeout: service.start_timeout,
        most_versions: service.versions.max_loaded,
    }
}

#[cfg(test)]
mod tests {
    use super::socket;

    #[test]
    fn a_long_name_of_a_service_makes_no_path_too_long() {
        let run = std::path::PathBuf::from(format!("/{}", "r".repeat(70)));
        assert!(socket(&run, "short", 3).ends_with("i-short-3.sock"));
        let (one, two) = ("a".repeat(64), "b".repeat(64));
        let path = socket(&run, &one, 255);
        assert!(path.as_os_str().len() <= super::LONGEST_SOCKET);
        assert_ne!(path, socket(&run, &two, 255));
        assert_eq!(path, socket(&run, &one, 255));
    }
}
