//! What happened: the last thousand events, for the admin API and the log.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::view::EventView;

/// Events kept; older ones are only in the log.
const KEPT: usize = 1000;

/// The list, written rarely and never from the request path.
#[derive(Debug, Default)]
pub(crate) struct Events {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    list: VecDeque<EventView>,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}

impl Events {
    /// Something that happens now.
    pub(crate) fn push(&self, kind: &str, subject: &str, member: &str, cause: &str) {
        self.push_at(unix_ms(), kind, subject, member, cause);
    }

    /// Something that happened at this time, in milliseconds since the Unix epoch: the sweep finds out a little later.
    pub(crate) fn push_at(&self, at_ms: u64, kind: &str, subject: &str, member: &str, cause: &str) {
        let mut inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        inner.next += 1;
        let event = EventView {
            seq: inner.next,
            at_ms,
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            member: member.to_owned(),
            cause: cause.to_owned(),
        };
        if inner.list.len() == KEPT {
            inner.list.pop_front();
        }
        inner.list.push_back(event);
    }

    pub(crate) fn after(&self, seq: u64, limit: usize) -> Vec<EventView> {
        let inner = self
            .inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let from = inner.list.partition_point(|e| e.seq <= seq);
        inner.list.iter().skip(from).take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_events_make_room_and_sequence_numbers_go_on() {
        let events = Events::default();
        for i in 0..KEPT + 5 {
            events.push("k", "s", "m", &i.to_string());
        }
        let all = events.after(0, usize::MAX);
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0].seq, 6);
        let last = events.after(KEPT as u64 + 3, 10);
        assert_eq!(
            last.iter().map(|e| e.seq).collect::<Vec<_>>(),
            [KEPT as u64 + 4, KEPT as u64 + 5]
        );
    }
}
