//! Deadlines that need no precision: idle connections, slow heads, silent bodies.
//!
//! Ten thousand idle connections would mean ten thousand timers moved on every request. Here a connection writes its deadline into a
//! cell, and one pass over the cells each quarter of a second wakes those that are over. Deadlines are late by at most [`TICK`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often the deadlines are looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// All deadlines of one worker.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    slots: RefCell<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    entries: Vec<Option<Rc<Entry>>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    deadline: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
    over: Cell<bool>,
    /// The task wants to be woken then, whatever the deadline.
    reminder: Cell<Option<Instant>>,
}

/// One deadline, taken off the list when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    list: Rc<Watches>,
    entry: Rc<Entry>,
    slot: u32,
}

impl Watches {
    /// Wakes whoever is over its deadline, or wanted to be reminded.
    pub(crate) fn sweep(&self, now: Instant) {
        for entry in self.slots.borrow().entries.iter().flatten() {
            let passed = |at: &Cell<Option<Instant>>| at.get().is_some_and(|at| at <= now);
            let is_reminded = passed(&entry.reminder);
            if is_reminded {
                entry.reminder.set(None);
            }
            let is_over = passed(&entry.deadline) && !entry.over.replace(true);
            if (is_over || is_reminded)
                && let Some(waker) = entry.waker.borrow().as_ref()
            {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes every connection, so that it sees a drain.
    pub(crate) fn wake_all(&self) {
        for entry in self.slots.borrow().entries.iter().flatten() {
            if let Some(waker) = entry.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Watch {
    pub(crate) fn new(list: &Rc<Watches>) -> Self {
        let entry = Rc::new(Entry {
            deadline: Cell::new(None),
            waker: RefCell::new(None),
            over: Cell::new(false),
            reminder: Cell::new(None),
        });
        let mut slots = list.slots.borrow_mut();
        let slot = match slots.free.pop() {
            Some(slot) => slot,
            None => {
                slots.entries.push(None);
                (slots.entries.len() - 1) as u32
            }
        };
        slots.entries[slot as usize] = Some(entry.clone());
        drop(slots);
        Self {
            list: list.clone(),
            entry,
            slot,
        }
    }

    /// Sets the deadline anew; `None` is none.
    pub(crate) fn set(&self, deadline: Option<Instant>) {
        self.entry.deadline.set(deadline);
        self.entry.over.set(false);
    }

    /// Registers the task to be woken; ready when the deadline is over.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        if self.entry.over.get() {
            return Poll::Ready(());
        }
        self.register(cx);
        Poll::Pending
    }

    /// Has the task woken at this time, late by at most [`TICK`]. Of several times the earliest stands.
    pub(crate) fn remind(&self, at: Instant, cx: &Context<'_>) {
        if self.entry.reminder.get().is_none_or(|set| at < set) {
            self.entry.reminder.set(Some(at));
        }
        self.register(cx);
    }

    fn register(&self, cx: &Context<'_>) {
        let mut waker = self.entry.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut slots = self.list.slots.borrow_mut();
        slots.entries[self.slot as usize] = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::Wake;

    use super::*;

    fn over(watch: &Watch) -> bool {
        watch
            .poll_over(&Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn only_a_passed_deadline_is_over_and_a_new_one_starts_afresh() {
        let list = Rc::new(Watches::default());
        let now = Instant::now();
        let a = Watch::new(&list);
        let b = Watch::new(&list);
        a.set(Some(now + Duration::from_secs(1)));
        b.set(None);
        list.sweep(now);
        assert!(!over(&a) && !over(&b));
        list.sweep(now + Duration::from_secs(1));
        assert!(over(&a) && !over(&b));
        a.set(Some(now + Duration::from_secs(5)));
        assert!(!over(&a));
        drop(a);
        let c = Watch::new(&list);
        assert_eq!(c.slot, 0, "slots are used again");
    }

    #[test]
    fn who_wants_to_be_reminded_is_woken_once_at_the_earliest_time_and_over_nothing() {
        struct Count(AtomicU32);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicU32::new(0)));
        let waker = Waker::from(count.clone());
        let cx = Context::from_waker(&waker);
        let list = Rc::new(Watches::default());
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let watch = Watch::new(&list);
        watch.set(Some(now + 9 * second));
        for at in [3, 2, 4] {
            watch.remind(now + at * second, &cx);
        }
        let woken = [1, 2, 3, 4, 9].map(|at| {
            list.sweep(now + at * second);
            (count.0.load(Relaxed), watch.poll_over(&cx).is_ready())
        });
        assert_eq!(
            woken,
            [(0, false), (1, false), (1, false), (1, false), (2, true)]
        );
    }
}
