//! Memory for the bodies of requests to providers: kept whole so that another key can be tried, so all of them together are bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that are kept, and how many may be. Exact over all workers.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    used: AtomicU64,
    max: AtomicU64,
}

/// A body's share of the memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Kept {
    bodies: Arc<Bodies>,
    bytes: u64,
}

impl Bodies {
    /// The bound from now on; what is kept already stays.
    pub(crate) fn set_max(&self, bytes: u64) {
        self.max.store(bytes, Relaxed);
    }

    /// Bytes kept now.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Whether so many bytes more would find room now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let sum = self.used.load(Relaxed).checked_add(bytes);
        sum.is_some_and(|sum| sum <= self.max.load(Relaxed))
    }

    /// Nothing yet.
    pub(crate) fn keep(self: &Arc<Self>) -> Kept {
        Kept {
            bodies: self.clone(),
            bytes: 0,
        }
    }
}

impl Kept {
    /// Takes more, up to `bytes` in all; false if there is no room for it.
    #[must_use]
    pub(crate) fn grow_to(&mut self, bytes: u64) -> bool {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return true;
        };
        let max = self.bodies.max.load(Relaxed);
        let taken = self.bodies.used.fetch_update(Relaxed, Relaxed, |used| {
            used.checked_add(more).filter(|sum| *sum <= max)
        });
        if taken.is_ok() {
            self.bytes = bytes;
        }
        taken.is_ok()
    }

    /// Takes more whatever the bound says: a copy that an accepted request needs. Others wait for it.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bodies.used.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.bodies.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_together_never_take_more_than_the_bound_and_give_all_of_it_back() {
        let bodies = Arc::new(Bodies::default());
        bodies.set_max(100);
        let mut one = bodies.keep();
        let mut two = bodies.keep();
        assert!(one.grow_to(60) && one.grow_to(60) && one.grow_to(10));
        assert!(!two.grow_to(41));
        assert!(two.grow_to(40));
        assert_eq!(bodies.used(), 100);
        drop(one);
        assert!(two.grow_to(100));
        two.add(50);
        assert_eq!(bodies.used(), 150);
        assert!(!bodies.keep().grow_to(1));
        drop(two);
        assert_eq!(bodies.used(), 0);
    }
}
