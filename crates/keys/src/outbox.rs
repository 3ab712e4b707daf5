//! What changed here and others should know: filled by requests and probes, emptied by the sharing task.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use tidegate_core::{Scope, Time};
use tokio::sync::{Notify, oneshot};

use crate::identity::KeyId;
use crate::notes::Note;

/// A key in a scope: what has a health of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The key.
    pub key: KeyId,
    /// A model by the provider's name, or [`Scope::EMPTY`] for all.
    pub scope: Scope,
}

/// What happened to a slot.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    /// It is out; [`Time::NEVER`]: until a probe passes.
    Out { until: Time, note: Note },
    /// Somebody made sure that it works.
    Back(Return),
}

/// How a key came back that was out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Return {
    /// An operator said so; else a probe passed.
    pub(crate) by_operator: bool,
    /// Epoch of the prober's lease, where it held one.
    pub(crate) epoch: Option<u64>,
    /// The replica that made sure; `None`: this one.
    pub(crate) seen_by: Option<String>,
}

impl Return {
    pub(crate) fn by_operator() -> Return {
        Return {
            by_operator: true,
            ..Return::default()
        }
    }

    pub(crate) fn by_probe(epoch: Option<u64>) -> Return {
        Return {
            epoch,
            ..Return::default()
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.by_operator {
            true => "restored by an operator",
            false => "probe passed",
        })?;
        match &self.seen_by {
            Some(replica) => write!(f, " (seen by {replica})"),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The provider that found it out: its pool knows.
    pub(crate) from: Option<std::sync::Arc<str>>,
    pub(crate) slot: Slot,
    pub(crate) what: What,
    pub(crate) at: Time,
}

/// Most changes that wait; later ones are found again by what they changed (the pools keep the health itself).
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    changes: Mutex<Vec<Change>>,
    /// Who waits until all of them are told.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    wake: Notify,
}

impl Outbox {
    pub(crate) fn put(&self, change: Change) {
        {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            if changes.len() < MOST {
                changes.push(change);
            }
        }
        self.wake.notify_one();
    }

    /// Something may have happened that shows in a pool's events.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn drain(&self) -> Vec<Change> {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Waits until the sharing task has told everything that was put in here before.
    pub(crate) async fn told(&self) {
        let (told, all) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(told);
        self.wake.notify_one();
        // A task that is gone tells nothing more.
        let _ = all.await;
    }

    /// They go on waiting.
    pub(crate) fn wait_on(&self, them: Vec<oneshot::Sender<()>>) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(them);
    }

    /// Those that wait. Take them before the changes: what they wait for is among those then.
    pub(crate) fn waiting(&self) -> Vec<oneshot::Sender<()>> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
