//! What follows from a change of a group's state, done when its lock was given back.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::job::Outcome;
use super::member::Member;
use crate::events::{Event, Events, What};
use crate::worker::link::Link;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Effects {
    links: SmallVec<[Arc<Link>; 2]>,
    replies: SmallVec<[(oneshot::Sender<Outcome>, Outcome); 1]>,
    events: Vec<(Arc<str>, Option<u32>, What)>,
}

impl Effects {
    /// What was put on a link is sent.
    pub(super) fn flush(&mut self, link: &Arc<Link>) {
        if !self.links.iter().any(|other| Arc::ptr_eq(other, link)) {
            self.links.push(Arc::clone(link));
        }
    }

    /// A caller gets its answer.
    pub(super) fn reply(&mut self, to: oneshot::Sender<Outcome>, outcome: Outcome) {
        self.replies.push((to, outcome));
    }

    pub(super) fn event(&mut self, member: &Member, what: What) {
        self.events
            .push((Arc::clone(&member.instance), member.pid, what));
    }

    pub(super) fn apply(self, service: &Arc<str>, events: &dyn Events) {
        // Workers first: they work while callers are told.
        for link in self.links {
            link.flush();
        }
        for (to, outcome) in self.replies {
            let _ = to.send(outcome);
        }
        for (instance, pid, what) in self.events {
            events.event(Event {
                service: Arc::clone(service),
                instance,
                pid,
                what,
            });
        }
    }
}
