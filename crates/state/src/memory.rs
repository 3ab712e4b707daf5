//! A store in this process' memory: for tests, and for what need not outlive the process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::error::Error;
use crate::ledger::{Effect, Ledger};
use crate::operation::{Answer, Backend, Front, Operation};
use crate::store::Store;
use crate::watch::{Change, Feed};

#[derive(Debug)]
struct Memory {
    clock: Clock,
    ledger: Mutex<Ledger>,
    feed: Feed,
    /// Something may end earlier than was thought.
    due: Arc<Notify>,
}

/// A new, empty store that ends with its last handle. It follows tokio's clock, also a paused one.
///
/// # Panics
/// Outside of a tokio runtime: a task tells watchers of entries whose time to live is over.
pub fn memory() -> Arc<dyn Store> {
    let due = Arc::new(Notify::new());
    let memory = Arc::new(Memory {
        clock: Clock::new(0),
        ledger: Mutex::default(),
        feed: Feed::new(true),
        due: Arc::clone(&due),
    });
    let expiring = Arc::downgrade(&memory);
    tokio::spawn(async move {
        while let Some(memory) = expiring.upgrade() {
            let next = memory.expire();
            drop(memory);
            match next {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = due.notified() => {}
                },
                None => due.notified().await,
            }
        }
    });
    Arc::new(Front(memory))
}

impl Memory {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing is left half done under this lock.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the ledger's lock, so that changes are told in their order.
    fn publish(&self, effects: Vec<Effect>, now: u64) {
        for effect in effects {
            if let Some(change) = Change::of(effect, now) {
                self.feed.publish(change);
            }
        }
    }

    /// Removes what has ended, and tells when the next one does.
    fn expire(&self) -> Option<tokio::time::Instant> {
        let mut ledger = self.ledger();
        let (now, mut effects) = (self.clock.now_ms(), Vec::new());
        ledger.expire(now, &mut effects);
        self.publish(effects, now);
        ledger.next_due().map(|ends| self.clock.at(ends))
    }
}

#[async_trait]
impl Backend for Memory {
    async fn execute(&self, operation: Operation) -> Result<Answer, Error> {
        let mut ledger = self.ledger();
        let before = ledger.next_due();
        let (now, mut effects) = (self.clock.now_ms(), Vec::new());
        let answer = ledger.apply(operation, now, &mut effects);
        self.publish(effects, now);
        if ledger.next_due() != before {
            self.due.notify_one();
        }
        answer
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.due.notify_one();
    }
}
