//! Tasks that are under way, each for something: also one that panics tells for what it was, so that nothing waits for it for ever.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

/// Tasks with what they are for. Dropped, they end.
pub(crate) struct Working<K, T> {
    tasks: JoinSet<T>,
    of: HashMap<Id, K>,
}

impl<K, T> Default for Working<K, T> {
    fn default() -> Self {
        Working {
            tasks: JoinSet::new(),
            of: HashMap::new(),
        }
    }
}

impl<K, T: Send + 'static> Working<K, T> {
    pub(crate) fn len(&self) -> usize {
        self.of.len()
    }

    pub(crate) fn begin(&mut self, what: K, task: impl Future<Output = T> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.of.insert(id, what);
    }

    /// The next that has ended, and what came of it; `None` in the pair: it panicked. `None`: nothing is under way. Given up while
    /// it waits, nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<(K, Option<T>)> {
        loop {
            let (id, done) = match self.tasks.join_next_with_id().await? {
                Ok((id, done)) => (id, Some(done)),
                Err(error) => {
                    tracing::error!(%error, "a task ended badly");
                    (error.id(), None)
                }
            };
            if let Some(what) = self.of.remove(&id) {
                return Some((what, done));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_tells_what_it_was_for() {
        let mut working = Working::default();
        working.begin("good", async { 1 });
        working.begin("bad", async { panic!("as the test wants") });
        let mut seen = Vec::new();
        while let Some(ended) = working.next().await {
            seen.push(ended);
        }
        seen.sort_unstable();
        assert_eq!(seen, [("bad", None), ("good", Some(1))]);
        assert_eq!(working.len(), 0);
    }
}
