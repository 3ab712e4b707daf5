//! A worker that is ready: how it is told to end, and how its end is told.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::call::About;
use crate::group::Group;
use crate::worker::process::Process;

/// Time that a worker without calls has to let its models go.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// What whoever watches the process is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tell {
    /// Its end is no accident from now on.
    Expect,
    /// Ask it to end.
    Terminate,
    /// End it, and its group.
    Kill,
}

/// The end of a worker.
#[derive(Debug)]
pub(super) struct Death {
    pub(super) cause: String,
    /// Whether it had answered any call, or died of one.
    pub(super) served: bool,
    /// For how long it had been of no use, as its checks said.
    pub(super) unwell: Duration,
}

/// Why a worker did not become ready.
#[derive(Debug)]
pub(super) struct Unstarted {
    pub(super) cause: String,
    /// It said so itself, or the system did: the next one fails likewise.
    pub(super) certain: bool,
}

impl Unstarted {
    /// A cause that the next one meets as well.
    pub(super) fn certain(cause: String) -> Self {
        Self {
            cause,
            certain: true,
        }
    }

    /// Its process ended. One that ends by itself does so again; what killed another may have been chance.
    pub(super) fn ended(process: &Process, status: ExitStatus) -> Self {
        Self {
            cause: process.cause(status),
            certain: status.code().is_some(),
        }
    }
}

impl From<String> for Unstarted {
    fn from(cause: String) -> Self {
        Self {
            cause,
            certain: false,
        }
    }
}

/// A worker that is ready. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Live {
    /// Its name in the group; `None` for a `command`.
    pub(super) member: Option<u64>,
    pub(super) pid: Option<u32>,
    /// Where a `command` listens.
    pub(super) port: Option<u16>,
    /// What a model told.
    pub(super) about: Option<Arc<About>>,
    pub(super) revision: u64,
    /// From its start until it was ready.
    pub(super) took: Duration,
    pub(super) ready: Instant,
    tell: mpsc::UnboundedSender<Tell>,
    dead: oneshot::Receiver<Death>,
    alive: bool,
}

impl Live {
    pub(super) fn new(
        revision: u64,
        started: Instant,
        tell: mpsc::UnboundedSender<Tell>,
        dead: oneshot::Receiver<Death>,
    ) -> Self {
        let ready = Instant::now();
        Self {
            member: None,
            pid: None,
            port: None,
            about: None,
            revision,
            took: ready - started,
            ready,
            tell,
            dead,
            alive: true,
        }
    }

    /// Whether its end was not told yet.
    pub(super) fn is_alive(&self) -> bool {
        self.alive
    }

    /// Resolves when it has ended. Cancelling loses nothing; once told, it is pending.
    pub(super) async fn died(&mut self) -> Death {
        if !self.alive {
            return std::future::pending().await;
        }
        let death = (&mut self.dead).await;
        self.alive = false;
        death.unwrap_or_else(|_| Death {
            cause: "the host is ending".to_owned(),
            served: false,
            unwell: Duration::ZERO,
        })
    }

    /// Has it finish its calls within `grace`, then ends it. Resolves when nothing is left of its process.
    pub(super) async fn retire(&mut self, group: &Group, grace: Duration) {
        if !self.alive {
            return;
        }
        let last = if let Some(member) = self.member {
            group.close_member(member);
            let _ = tokio::time::timeout(grace, group.idle(member)).await;
            let _ = self.tell.send(Tell::Expect);
            group.drain(member);
            RELEASE_WITHIN
        } else {
            let _ = self.tell.send(Tell::Terminate);
            grace
        };
        if tokio::time::timeout(last, self.died()).await.is_err() {
            let _ = self.tell.send(Tell::Kill);
            self.died().await;
        }
    }
}
