//! Who waits for a connection or a slot, in the order in which they came.
//!
//! What comes free wakes one waiter, not all: a thousand that look for one connection cost more than the request that it then serves.
//! A waiter that was woken and leaves, with what it wanted or without, wakes the next one if there is more ([`super::conns`]), so no
//! wake-up is lost with a waiter that gave up.

use std::collections::BTreeMap;
use std::task::Waker;

/// Waiters by their number, which grows.
#[derive(Debug, Default)]
pub(crate) struct Queue(BTreeMap<u64, Waiter>);

#[derive(Debug)]
struct Waiter {
    waker: Waker,
    /// Woken, and has not looked since.
    woken: bool,
}

impl Queue {
    /// Adds a waiter that is about to look, or one that was woken and does so now.
    pub(crate) fn register(&mut self, id: u64, waker: &Waker) {
        let waiter = self.0.entry(id).or_insert_with(|| Waiter {
            waker: waker.clone(),
            woken: false,
        });
        waiter.waker.clone_from(waker);
        waiter.woken = false;
    }

    /// Takes it off the list.
    pub(crate) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// The first that has not been woken yet, among those that came after `after`; it counts as woken from here on.
    pub(crate) fn next(&mut self, after: Option<u64>) -> Option<Waker> {
        let from = after.map_or(0, |id| id.saturating_add(1));
        let (_, next) = self.0.range_mut(from..).find(|(_, w)| !w.woken)?;
        next.woken = true;
        Some(next.waker.clone())
    }

    /// All that have not been woken yet; they count as woken from here on.
    pub(crate) fn all(&mut self) -> Vec<Waker> {
        let waiters = self.0.values_mut().filter(|w| !w.woken);
        waiters
            .map(|w| {
                w.woken = true;
                w.waker.clone()
            })
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_first_that_was_not_woken_is_next_and_one_that_looked_may_be_woken_again() {
        let woken = [(); 3].map(|()| Arc::new(Woken::default()));
        let wakers = woken.clone().map(Waker::from);
        let told = || [0, 1, 2].map(|i: usize| woken[i].0.load(Ordering::Relaxed));
        let mut queue = Queue::default();
        for (id, waker) in wakers.iter().enumerate().rev() {
            queue.register(id as u64, waker);
        }
        queue.next(None).expect("the first").wake();
        queue.next(None).expect("the second").wake();
        assert_eq!(told(), [1, 1, 0]);
        queue.register(0, &wakers[0]);
        queue.next(None).expect("the first again").wake();
        assert_eq!(told(), [2, 1, 0]);
        queue.remove(0);
        queue.next(Some(1)).expect("the last").wake();
        assert_eq!(told(), [2, 1, 1]);
        assert!(queue.next(None).is_none() && queue.all().is_empty());
        queue.register(1, &wakers[1]);
        assert_eq!(queue.all().len(), 1);
    }
}
