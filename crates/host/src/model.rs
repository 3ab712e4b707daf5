//! An instance as its door sees it.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::blocking::in_place;
use crate::call::{About, Answer, Call, Code, Fault, Model, Version};
use crate::group::{CancelOnDrop, Facts, Group};

/// Between two looks whether a first worker is still to be expected.
const LOOK: Duration = Duration::from_millis(100);

/// One instance of a service: its door stays, its workers come and go.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) group: Arc<Group>,
    /// Its number, from 0.
    pub(crate) number: usize,
    pub(crate) instance: Arc<str>,
    /// Whether it speaks the worker protocol; a `command` does not.
    pub(crate) is_model: bool,
    /// What its worker told; without a class before the first one was ready.
    pub(crate) about: ArcSwap<About>,
    pub(crate) ready: watch::Sender<bool>,
    /// That of its worker.
    pub(crate) revision: AtomicU64,
    /// Name of its worker in the group; 0: there is none.
    pub(crate) member: AtomicU64,
    /// Where versions' files are.
    pub(crate) data: ArcSwap<std::path::PathBuf>,
}

impl Slot {
    /// What is known of the model; waits for the first worker.
    async fn known(&self) -> Result<Arc<About>, Fault> {
        let about = self.about.load_full();
        if !about.class.is_empty() {
            return Ok(about);
        }
        let late = Instant::now() + self.group.settings().start_timeout;
        let mut ready = self.ready.subscribe();
        loop {
            if let Some(fault) = self.group.hopeless() {
                return Err(fault);
            }
            let look = (Instant::now() + LOOK).min(late);
            match tokio::time::timeout_at(look, ready.wait_for(|ready| *ready)).await {
                Ok(Ok(_)) => return Ok(self.about.load_full()),
                Err(_) if look < late => {}
                Err(_) | Ok(Err(_)) => {
                    let message =
                        format!("`{}` has had no worker that was ready yet", self.instance);
                    return Err(Fault::new(Code::Unavailable, "not_ready", message));
                }
            }
        }
    }

    async fn run(&self, mut call: Call) -> Result<Answer, Fault> {
        let about = self.known().await?;
        let Some(method) = about.methods.get(&call.method) else {
            return Err(Fault::new(
                Code::Unimplemented,
                "unknown_method",
                format!("`{}` has no public method `{}`", about.class, call.method),
            ));
        };
        if is_default(&call.version) {
            call.version.clone_from(&about.version);
        }
        check_version(&call.version)?;
        let mut facts = Facts::of(method, &call);
        facts.made_up = self.made_up(&call.version, &about).await;
        let revision = self.revision.load(Ordering::Relaxed);
        let (ticket, outcome) = self.group.submit(self.number, revision, call, facts)?;
        let mut cancel = CancelOnDrop {
            group: &self.group,
            ticket,
            armed: true,
        };
        let outcome = outcome.await;
        cancel.armed = false;
        // What waits in the queue is told by the group when it ends; this one may have run.
        outcome.unwrap_or_else(|_| {
            Err(Fault::new(
                Code::Unavailable,
                "worker_crashed",
                "the host ended before the call was answered",
            ))
        })
    }
}

/// Whether the version is meant that is served to those who name none. Its folder and its model call it `default`, and so do clients
/// that always name one (aipod's).
pub(crate) fn is_default(version: &str) -> bool {
    matches!(version, "" | "default")
}

/// What a version is called where its name is told: the one without a name has one that callers may use.
pub(crate) fn shown(version: &str) -> &str {
    if version.is_empty() {
        "default"
    } else {
        version
    }
}

impl Slot {
    /// Whether nothing says that there is such a version but whoever asks for it: it is not the configured one, not in memory, and has no folder.
    ///
    /// One that was not there a moment ago may have its folder by now.
    async fn made_up(&self, version: &str, about: &About) -> bool {
        let unknown = self.group.is_unknown(version);
        let configured = version == about.version;
        if !unknown && (configured || self.group.has(version)) {
            return false;
        }
        let folder = self.data.load().join("models").join(shown(version));
        let exists = tokio::fs::try_exists(folder).await.unwrap_or(false);
        if exists && unknown {
            self.group.look_again(version);
        }
        !exists && !configured
    }
}

/// A version is the name of a folder.
fn check_version(version: &str) -> Result<(), Fault> {
    let wrong =
        matches!(version, "." | "..") || version.contains(['/', '\\', '\0']) || version.len() > 128;
    if wrong {
        return Err(Fault::new(
            Code::InvalidArgument,
            "bad_version",
            "a version is one path component of at most 128 bytes",
        ));
    }
    Ok(())
}

/// Names of the folders in a folder.
fn folders(path: &std::path::Path) -> Vec<OsString> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.file_name())
        .collect()
}

#[async_trait]
impl Model for Slot {
    fn about(&self) -> Arc<About> {
        self.about.load_full()
    }

    fn ready(&self) -> bool {
        *self.ready.borrow()
    }

    async fn changed(&self, known: bool) {
        let _ = self
            .ready
            .subscribe()
            .wait_for(|ready| *ready != known)
            .await;
    }

    async fn call(&self, call: Call) -> Result<Answer, Fault> {
        match call.deadline {
            None => self.run(call).await,
            Some(deadline) => tokio::time::timeout_at(deadline, self.run(call))
                .await
                .unwrap_or_else(|_| {
                    Err(Fault::new(
                        Code::DeadlineExceeded,
                        "deadline",
                        "the deadline passed before the model answered",
                    ))
                }),
        }
    }

    async fn load(&self, version: &str) -> Result<(), Fault> {
        let about = self.known().await?;
        let version = if is_default(version) {
            &about.version
        } else {
            version
        };
        check_version(version)?;
        if self.group.has(version) {
            return Ok(());
        }
        let made_up = self.made_up(version, &about).await;
        let revision = self.revision.load(Ordering::Relaxed);
        let (ticket, outcome) = self.group.load(self.number, revision, version, made_up)?;
        let mut cancel = CancelOnDrop {
            group: &self.group,
            ticket,
            armed: true,
        };
        let outcome = outcome.await;
        cancel.armed = false;
        match outcome {
            Ok(outcome) => outcome.map(|_| ()),
            Err(_) => Err(Fault::new(
                Code::Unavailable,
                "draining",
                "the host is ending",
            )),
        }
    }

    async fn release(&self, version: &str) {
        let about = self.about.load();
        self.group.release(if is_default(version) {
            &about.version
        } else {
            version
        });
    }

    fn versions(&self) -> Vec<Version> {
        let mut versions: Vec<Version> = self
            .group
            .loaded()
            .into_iter()
            .map(|name| Version { name, loaded: true })
            .collect();
        let data = self.data.load().join("models");
        let configured = &self.about.load().version;
        for name in in_place(|| folders(&data)) {
            let Ok(mut name) = name.into_string() else {
                continue;
            };
            if name == "default" {
                // Who asks for it gets the configured one.
                if !configured.is_empty() {
                    continue;
                }
                name.clear();
            }
            if !versions.iter().any(|version| version.name == name) {
                versions.push(Version {
                    name,
                    loaded: false,
                });
            }
        }
        versions.sort_by(|one, other| one.name.cmp(&other.name));
        versions
    }
}
