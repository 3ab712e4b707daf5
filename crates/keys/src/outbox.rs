//! What changed here and others should know: filled by requests and probes, emptied by the sharing task.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use smallvec::SmallVec;
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

/// What waits of one slot: an *out*, a *back* and an *out* again at most.
type Waiting = SmallVec<[Change; 1]>;

/// Adds a change to what waits of its slot, leaving out what makes no difference: of two ends the later one counts, of two returns
/// the first, and what came before a return and what it ended is over.
fn add(waiting: &mut Waiting, change: Change) {
    let last = waiting.last().map(|last| &last.what);
    match (last, &change.what) {
        (Some(What::Out { until: old, .. }), What::Out { until: new, .. }) if new <= old => return,
        (Some(What::Out { .. }), What::Out { .. }) => drop(waiting.pop()),
        (Some(What::Back(_)), What::Back(_)) => return,
        _ => {}
    }
    waiting.push(change);
    if waiting.len() > 3 {
        waiting.drain(..2);
    }
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// By slot, so that it can't fill however often a key changes.
    changes: Mutex<BTreeMap<Slot, Waiting>>,
    /// Who waits until all of them are told.
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
    wake: Notify,
}

impl Outbox {
    pub(crate) fn put(&self, change: Change) {
        {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            add(changes.entry(change.slot.clone()).or_default(), change);
        }
        self.wake.notify_one();
    }

    /// Something may have happened that shows in a pool's events.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Those of one slot in their order.
    pub(crate) fn drain(&self) -> Vec<Change> {
        let changes =
            std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner));
        changes.into_values().flatten().collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;
    use crate::share::Exchange;
    use proptest::prelude::*;

    const NOW: Time = Time::from_secs(1_000);

    fn change(key: usize, until: Option<u64>, at: u64) -> Change {
        let note = Note {
            class: "key_dead".into(),
            status: 401,
            code: None,
            excerpt: format!("{at}"),
            model: None,
            at: Time::from_secs(at),
            until: None,
            seen_by: None,
        };
        Change {
            from: None,
            slot: Slot {
                key: Identity::new([1; 32]).of("http://a", &format!("sk-{key}")),
                scope: Scope::EMPTY,
            },
            what: match until {
                Some(until) => What::Out {
                    until: Time::from_secs(until),
                    note,
                },
                None => What::Back(Return::default()),
            },
            at: Time::from_secs(at),
        }
    }

    #[test]
    fn no_key_is_left_out_however_many_there_are_and_however_often_one_changes() {
        let outbox = Outbox::default();
        for round in 0..10 {
            for key in 0..5_000 {
                outbox.put(change(key, Some(2_000 + round), 900));
            }
        }
        let told = outbox.drain();
        assert_eq!(told.len(), 5_000);
        assert!(
            told.iter().all(
                |c| matches!(c.what, What::Out { until, .. } if until == Time::from_secs(2_009))
            )
        );
        assert!(outbox.drain().is_empty());
    }

    proptest! {
        #[test]
        fn what_is_left_out_makes_no_difference(
            before in proptest::collection::vec(proptest::option::of(1_001u64..1_010), 0..3),
            story in proptest::collection::vec(proptest::option::of(1_001u64..1_010), 1..12),
        ) {
            let (mut all, mut some) = (Exchange::new("a"), Exchange::new("a"));
            for until in before {
                all.local(change(0, until, 900));
                some.local(change(0, until, 900));
            }
            let outbox = Outbox::default();
            for (at, until) in story.into_iter().enumerate() {
                let change = change(0, until, 950 + at as u64);
                outbox.put(change.clone());
                all.local(change);
            }
            let told = outbox.drain();
            prop_assert!(told.len() <= 3);
            for change in told {
                some.local(change);
            }
            let values = |exchange: &mut Exchange| -> Vec<_> {
                exchange.writes(NOW).into_iter().map(|write| write.value).collect()
            };
            prop_assert_eq!(values(&mut some), values(&mut all));
        }
    }
}
