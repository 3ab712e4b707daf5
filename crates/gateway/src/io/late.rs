//! Writes of HTTP/1.1 put off to the end of the worker's turn, while it is busy.
//!
//! Whoever is written to is woken by the write, if it sleeps. A busy worker that writes between two other pieces of work wakes its peers one by one: each
//! does the little that it was sent and sleeps again, and to wake a process on another processor costs more than the write itself.
//! Written one right after the other, most bytes find their peer awake. So in a turn (all that was ready when the thread came back from the
//! system) requests and answers are only made; they go out when the run queue is empty, just before the thread would park. A worker with little to do
//! writes at once, as nobody would gain anything.
//!
//! HTTP/2 gathers the frames of its streams besides ([`super::turn`]).

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

/// Writes in a turn from which on the next one's are put off.
const BUSY: u32 = 4;
/// Connections that wait for the end of a turn; with more it ends.
const MOST: usize = 128;
/// Polls of exchanges after which a turn ends, if the run queue is never empty.
const LONGEST: u32 = 512;

thread_local! {
    static TURN: Turn = const { Turn {
        number: Cell::new(0),
        writes: Cell::new(0),
        polls: Cell::new(0),
        busy: Cell::new(false),
        waiting: RefCell::new(Vec::new()),
    } };
}

struct Turn {
    number: Cell<u32>,
    /// Writes that could be put off, and polls, so far.
    writes: Cell<u32>,
    polls: Cell<u32>,
    /// The turn before had many writes.
    busy: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

impl Turn {
    fn end(&self) {
        self.busy.set(self.writes.take() >= BUSY);
        self.polls.set(0);
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        self.number.set(self.number.get().wrapping_add(1));
        // Waking does nothing but put a task into the run queue.
        for waker in waiting.drain(..) {
            waker.wake();
        }
    }
}

/// Ends the turn: what was put off is woken, to write. Called from the runtime's park hook.
pub(crate) fn end_turn() {
    TURN.with(Turn::end);
}

/// Whether writes are put off now.
pub(crate) fn is_busy() -> bool {
    TURN.with(|turn| turn.busy.get())
}

/// Counts a poll of an exchange: a worker whose run queue is never empty must still write.
pub(crate) fn count_poll() {
    TURN.with(|turn| {
        turn.polls.set(turn.polls.get() + 1);
        if turn.polls.get() > LONGEST {
            turn.end();
        }
    });
}

/// What a connection has to write, if that was put off.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PutOff(Option<u32>);

impl PutOff {
    /// Whether the write waits for the end of this turn. What a socket did not take afterwards waits for the socket.
    pub(crate) fn is_set(self) -> bool {
        self.0
            .is_some_and(|since| TURN.with(|turn| since == turn.number.get()))
    }

    /// Whether the write is to wait; the task is woken when it is time.
    pub(crate) fn waits(&mut self, cx: &Context<'_>) -> bool {
        TURN.with(|turn| {
            if self.is_set() {
                return true;
            }
            turn.writes.set(turn.writes.get() + 1);
            // What was put off is made now, and keeps the worker as busy as if it was new.
            if self.0.take().is_some() || !turn.busy.get() {
                return false;
            }
            if turn.waiting.borrow().len() >= MOST {
                turn.end();
                return false;
            }
            turn.waiting.borrow_mut().push(cx.waker().clone());
            self.0 = Some(turn.number.get());
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Asks for so many writes of connections of their own; gives how many wait.
    fn turn_of(writes: usize, woken: &Arc<Woken>) -> Vec<PutOff> {
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        let mut waiting = vec![PutOff::default(); writes];
        waiting.retain_mut(|write| write.waits(&cx));
        waiting
    }

    fn busy(woken: &Arc<Woken>) {
        end_turn();
        turn_of(BUSY as usize, woken);
        end_turn();
    }

    #[test]
    fn a_worker_with_little_to_do_writes_at_once() {
        let woken = Arc::default();
        end_turn();
        for _ in 0..10 {
            assert!(turn_of(BUSY as usize - 1, &woken).is_empty());
            end_turn();
        }
        assert_eq!(woken.0.load(Relaxed), 0);
    }

    #[test]
    fn a_busy_worker_writes_when_its_turn_ends() {
        let woken = Arc::default();
        busy(&woken);
        let mut waiting = turn_of(10, &woken);
        assert_eq!(waiting.len(), 10);
        let waker = Waker::from(woken.clone());
        let cx = Context::from_waker(&waker);
        assert!(waiting[0].waits(&cx), "asked again in the same turn");
        assert_eq!(woken.0.load(Relaxed), 0);
        end_turn();
        assert_eq!(woken.0.load(Relaxed), 10);
        assert!(
            !waiting.iter().any(|write| write.is_set()),
            "what the socket does not take now waits for the socket alone"
        );
        assert!(waiting.iter_mut().all(|write| !write.waits(&cx)));
        end_turn();
        assert_eq!(
            turn_of(1, &woken).len(),
            1,
            "a turn in which nothing but that was written was a busy one"
        );
    }

    #[test]
    fn a_turn_that_does_not_end_is_ended() {
        let woken = Arc::default();
        busy(&woken);
        assert_eq!(turn_of(3, &woken).len(), 3);
        for _ in 0..=LONGEST {
            count_poll();
        }
        assert_eq!(woken.0.load(Relaxed), 3);
    }

    #[test]
    fn a_turn_ends_when_a_bounded_number_waits() {
        let woken = Arc::default();
        busy(&woken);
        let waiting = turn_of(MOST + 1, &woken);
        assert_eq!(waiting.len(), MOST);
        assert_eq!(woken.0.load(Relaxed), MOST as u32);
        assert!(!waiting.iter().any(|write| write.is_set()));
    }
}
