//! A call on its way to a worker, and back.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::call::{Answer, Batch, Call, Fault, Method};

/// What a call comes to.
pub(super) type Outcome = Result<Answer, Fault>;

/// What of a method decides how its calls are run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    /// Runs again when a worker dies before it has answered.
    pub(crate) retry: bool,
    /// Gives items.
    pub(crate) stream: bool,
    /// Leaves another model on the disk.
    pub(crate) reload: bool,
    /// Calls are gathered.
    pub(crate) batch: Option<Batch>,
    /// Nothing but the call says that there is its version.
    pub(crate) made_up: bool,
}

impl Facts {
    pub(crate) fn of(method: &Method, call: &Call) -> Self {
        Self {
            retry: call.retry.unwrap_or(method.retry),
            stream: method.stream,
            reload: method.reload,
            // What has parts travels by itself: a batch is of keyword arguments alone.
            batch: method
                .batch
                .filter(|batch| batch.max_size > 1 && call.parts.is_empty()),
            made_up: false,
        }
    }
}

/// A call, or the wish that a version be loaded.
#[derive(Debug)]
pub(super) struct Job {
    /// Names the call on the wire, too. Earlier jobs have lower ones.
    pub(super) ticket: u64,
    pub(super) what: What,
    pub(super) reply: oneshot::Sender<Outcome>,
    /// The slot whose door it came through.
    pub(super) home: usize,
    /// Only workers of this revision or a later one run it.
    pub(super) revision: u64,
    pub(super) arrived: Instant,
    /// Workers that have died of it, or with it.
    pub(super) deaths: u8,
}

/// Jobs are moved a lot, so that they stay where they are.
pub(super) type Boxed = Box<Job>;

#[derive(Debug)]
pub(super) enum What {
    Call(Call, Facts),
    Load { version: String, made_up: bool },
}

impl Job {
    pub(super) fn version(&self) -> &str {
        match &self.what {
            What::Call(call, _) => &call.version,
            What::Load { version, .. } => version,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        match &self.what {
            What::Call(_, facts) => *facts,
            // A load may always be tried again.
            What::Load { made_up, .. } => Facts {
                retry: true,
                made_up: *made_up,
                ..Facts::default()
            },
        }
    }

    /// Whether it may wait in the socket of a worker that is busy: if the worker dies it is as if it had never been there.
    pub(super) fn may_go_ahead(&self) -> bool {
        matches!(&self.what, What::Call(_, facts) if facts.retry && !facts.stream && facts.batch.is_none() && !facts.reload)
    }

    pub(super) fn method(&self) -> &str {
        match &self.what {
            What::Call(call, _) => &call.method,
            What::Load { .. } => "",
        }
    }

    /// What names it in log events.
    pub(super) fn id(&self) -> &str {
        match &self.what {
            What::Call(call, _) => &call.id,
            What::Load { .. } => "",
        }
    }
}
