//! `max_connections`, exact across workers.
//!
//! Workers don't share connections, but they share the limit. A slot that comes free wakes a waiter, on whatever worker it is. A worker
//! that has no connection at all to the upstream may always open one: otherwise the others could starve it for ever. Who waits asks
//! first for a connection of the same worker that idles at another endpoint ([`super::conns`]); other workers give up theirs when they
//! see that somebody waits.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use super::queue::Queue;

/// The shared account.
#[derive(Debug)]
pub(crate) struct Slots {
    max: AtomicUsize,
    open: AtomicUsize,
    waiting: AtomicUsize,
    queue: Mutex<Queue>,
    next: AtomicU64,
}

/// The right to hold one connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Slots>);

/// Somebody who waits for a slot or an idle connection, counted while it exists.
#[derive(Debug)]
pub(crate) struct Waiting {
    slots: Arc<Slots>,
    id: u64,
}

impl Slots {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: AtomicUsize::new(max),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Another limit; connections beyond a lower one stay until they end.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        let wakers = self.queue().all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// `local` is how many connections this worker has itself.
    pub(crate) fn try_take(self: &Arc<Self>, local: usize) -> Option<Slot> {
        let max = self.max.load(Ordering::Relaxed);
        let taken = self
            .open
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| {
                (open < max || local == 0).then_some(open + 1)
            });
        taken.is_ok().then(|| Slot(self.clone()))
    }

    /// Whether anyone waits, on any worker.
    pub(crate) fn contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        // In one order with the count of open connections: either the waiter sees the slot that comes free, or who frees it sees the
        // waiter.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting {
            slots: self.clone(),
            id: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn has_room(&self) -> bool {
        self.open.load(Ordering::SeqCst) < self.max.load(Ordering::Relaxed)
    }

    /// Wakes the next waiter, of those that came after `after`.
    fn wake(&self, after: Option<u64>) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        // Woken without the lock: it may run at once on another thread.
        let next = self.queue().next(after);
        if let Some(waker) = next {
            waker.wake();
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Waiting {
    /// Names the waiter, among all of these slots.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Wakes `waker` at the next free slot. To be called again after each wake-up.
    pub(crate) fn register(&self, waker: &Waker) {
        self.slots.queue().register(self.id, waker);
    }

    /// It can do nothing with a slot now: one that is free is for those behind it.
    pub(crate) fn pass_on(&self) {
        if self.slots.has_room() {
            self.slots.wake(Some(self.id));
        }
    }
}

impl Drop for Waiting {
    /// Leaves nothing behind: a waker keeps its task's memory, and many may give up before a slot comes free. A wake-up that it did not
    /// use is the next one's.
    fn drop(&mut self) {
        self.slots.queue().remove(self.id);
        self.slots.waiting.fetch_sub(1, Ordering::SeqCst);
        if self.slots.has_room() {
            self.slots.wake(None);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.wake(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gives_up_waiting_leaves_no_waker_behind() {
        let slots = Slots::new(1);
        let held = slots.try_take(0).expect("free");
        for _ in 0..100 {
            let waiting = slots.wait();
            waiting.register(Waker::noop());
            waiting.register(Waker::noop());
            assert!(!slots.queue().is_empty());
        }
        assert!(slots.queue().is_empty() && !slots.contended());
        drop(held);
    }

    #[test]
    fn a_free_slot_wakes_one_and_who_gives_up_wakes_the_next() {
        let woken = [(); 2].map(|()| Arc::new(Woken::default()));
        let told = || [0, 1].map(|i: usize| woken[i].0.load(Ordering::Relaxed));
        let slots = Slots::new(1);
        let held = slots.try_take(0).expect("free");
        let waiting = woken.clone().map(|woken| {
            let waiting = slots.wait();
            waiting.register(&Waker::from(woken));
            waiting
        });
        drop(held);
        assert_eq!(told(), [1, 0]);
        let [first, second] = waiting;
        drop(first);
        assert_eq!(told(), [1, 1], "the slot is still free");
        let _held = slots.try_take(1).expect("free");
        drop(second);
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_limit_is_exact_and_every_worker_may_have_one() {
        let slots = Slots::new(2);
        let a = slots.try_take(0).expect("free");
        let _b = slots.try_take(1).expect("free");
        assert!(slots.try_take(1).is_none());
        let c = slots
            .try_take(0)
            .expect("a worker without any may open one");
        drop(c);
        assert!(slots.try_take(1).is_none());
        drop(a);
        assert!(slots.try_take(1).is_some());
    }
}
