//! Health by scope, where finishing threads can read it: scope → members' counters, and the views where they differ
//! from the pool's.
//!
//! Callers choose the names of scopes (models), so new ones come at any rate. A sharded snapshot keeps the cost of
//! publishing one at a few dozen entries, and the total is bounded by [`Control`](super::control::Control).

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::views::Views;
use crate::hash::hash64;
use crate::health::cell::Cell;
use crate::member::{MemberKey, Scope};

const SHARDS: usize = 64;

/// One scope, as published.
pub(crate) struct Published<T> {
    pub(crate) cells: Box<[(MemberKey, Arc<Cell>)]>,
    /// `None`: as in the empty scope.
    pub(crate) views: Option<Arc<Views<T>>>,
}

type Shard<T> = BTreeMap<Scope, Arc<Published<T>>>;

pub(crate) struct ScopeTable<T> {
    shards: Box<[ArcSwap<Shard<T>>]>,
}

impl<T> Default for ScopeTable<T> {
    fn default() -> Self {
        ScopeTable {
            shards: (0..SHARDS)
                .map(|_| ArcSwap::from_pointee(Shard::new()))
                .collect(),
        }
    }
}

impl<T> ScopeTable<T> {
    fn shard(&self, scope: &Scope) -> &ArcSwap<Shard<T>> {
        &self.shards[hash64(scope.as_str().as_bytes(), 0) as usize % SHARDS]
    }

    pub(crate) fn views(&self, scope: &Scope) -> Option<Arc<Views<T>>> {
        self.shard(scope).load().get(scope)?.views.clone()
    }

    pub(crate) fn cell(&self, scope: &Scope, member: MemberKey) -> Option<Arc<Cell>> {
        let shard = self.shard(scope).load();
        let published = shard.get(scope)?;
        published
            .cells
            .iter()
            .find(|(key, _)| *key == member)
            .map(|(_, cell)| cell.clone())
    }

    /// Puts a scope in place of what was there, or (`None`) away. Called under the control lock only.
    pub(crate) fn publish(&self, scope: &Scope, published: Option<Published<T>>) {
        let shard = self.shard(scope);
        let mut next = Shard::clone(&shard.load());
        match published {
            Some(published) => next.insert(scope.clone(), Arc::new(published)),
            None => next.remove(scope),
        };
        shard.store(Arc::new(next));
    }
}
