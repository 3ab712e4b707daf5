//! Gates: at most so many at a time, exact over all threads. Circuit breakers (`max_connections`, `max_requests`,
//! `max_pending_requests`) and concurrency limits are gates.
//!
//! A gate counts by compare-and-set, not by "add, look, take back": two threads that do that at the limit refuse each
//! other and nobody gets in.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A limit on how many hold a [`Permit`] at a time.
#[derive(Debug)]
pub struct Gate {
    held: Apart,
    max: AtomicU64,
    refused: AtomicU64,
}

/// The count that every thread writes, on lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart(AtomicU64);

impl Gate {
    /// No limit.
    pub const UNLIMITED: u64 = u64::MAX;

    /// A gate for at most `max` at a time; 0 lets nobody in, [`Gate::UNLIMITED`] everybody.
    pub fn new(max: u64) -> Arc<Gate> {
        Arc::new(Gate {
            held: Apart::default(),
            max: AtomicU64::new(max),
            refused: AtomicU64::new(0),
        })
    }

    /// A permit, if one is free. No waiting, no allocation.
    #[inline]
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max.load(Relaxed);
        let taken = self
            .held
            .0
            .fetch_update(Relaxed, Relaxed, |held| (held < max).then_some(held + 1));
        match taken {
            Ok(_) => Some(Permit(self.clone())),
            Err(_) => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Changes the limit. Permits held above a lower one are not called back.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Relaxed);
    }

    /// The limit.
    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
    }

    /// Permits held now.
    pub fn held(&self) -> u64 {
        self.held.0.load(Relaxed)
    }

    /// How often nobody was let in, since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// A place behind a [`Gate`]; free again when dropped.
#[must_use = "a permit that is dropped at once holds nothing"]
pub struct Permit(Arc<Gate>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.held.0.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.0.held()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn lets_in_up_to_the_limit_and_again_when_one_leaves() {
        let gate = Gate::new(2);
        let first = gate.try_acquire().unwrap();
        let _second = gate.try_acquire().unwrap();
        assert!(gate.try_acquire().is_none());
        assert_eq!((gate.held(), gate.refused()), (2, 1));
        drop(first);
        assert!(gate.try_acquire().is_some());
    }

    #[test]
    fn a_lower_limit_calls_nobody_back() {
        let gate = Gate::new(3);
        let mut held: Vec<_> = (0..3).map(|_| gate.try_acquire().unwrap()).collect();
        gate.set_max(1);
        assert_eq!(gate.held(), 3);
        held.truncate(1);
        assert!(gate.try_acquire().is_none());
        held.clear();
        assert!(gate.try_acquire().is_some());
        assert!(Gate::new(0).try_acquire().is_none());
        assert!(Gate::new(Gate::UNLIMITED).try_acquire().is_some());
    }

    #[test]
    fn never_more_than_the_limit_across_threads_and_none_is_lost() {
        let gate = Gate::new(3);
        let over = AtomicBool::new(false);
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(_permit) = gate.try_acquire() {
                            let now = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                            over.fetch_or(now > 3, Relaxed);
                            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(!over.into_inner());
        assert_eq!(gate.held(), 0);
    }
}
