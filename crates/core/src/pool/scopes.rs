//! Health by scope, where finishing threads can read it: scope → members' counters, and the views where they differ
//! from the pool's.
//!
//! Callers choose the names of scopes (models), so new ones come at any rate. A sharded snapshot keeps the cost of
//! publishing one at a few dozen entries, and the total is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Inner;
use super::control::{Control, Scoped};
use super::views::Views;
use crate::hash::hash64;
use crate::health::cell::Cell;
use crate::health::ledger::{Fitness, Ledger};
use crate::member::{MemberKey, Scope};
use crate::time::Time;

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

impl<T> Control<T> {
    /// Publishes one scope, or takes it away when nothing is remembered of it.
    pub(super) fn publish(&self, inner: &Inner<T>, scope: &Scope, now: Time) {
        let Some(members) = self.scopes.get(scope).filter(|members| !members.is_empty()) else {
            return inner.scopes.publish(scope, None);
        };
        let differs = members
            .values()
            .any(|scoped| scoped.ledger.fitness() != Fitness::Fit);
        let views = differs.then(|| {
            let old = inner.scopes.views(scope);
            Arc::new(Views::build(
                self.seats(scope, now),
                self.policy.clone(),
                now,
                old.as_deref().or(Some(&inner.views.load())),
            ))
        });
        let cells = members
            .iter()
            .map(|(key, scoped)| (*key, scoped.cell.clone()))
            .collect();
        inner
            .scopes
            .publish(scope, Some(Published { cells, views }));
    }

    /// The counters of a member in a scope, made if there are none.
    pub(super) fn cell(
        &mut self,
        inner: &Inner<T>,
        key: MemberKey,
        scope: &Scope,
        now: Time,
    ) -> Option<Arc<Cell>> {
        self.records.iter().find(|r| r.member.key() == key)?;
        if let Some(scoped) = self
            .scopes
            .get_mut(scope)
            .and_then(|members| members.get_mut(&key))
        {
            scoped.touched = now;
            return Some(scoped.cell.clone());
        }
        if self.cells >= self.policy.max_scope_cells.max(1) {
            self.make_room(inner, now);
        }
        let cell = Arc::new(Cell::default());
        cell.set_window(self.policy.outlier.as_ref().and_then(|o| o.errors.as_ref()));
        let scoped = Scoped {
            cell: cell.clone(),
            ledger: Ledger::new(false, false, now),
            touched: now,
        };
        self.scopes
            .entry(scope.clone())
            .or_default()
            .insert(key, scoped);
        self.cells += 1;
        self.publish(inner, scope, now);
        Some(cell)
    }

    /// Forgets an eighth of the cells at once (so that a stream of new names pays for the search rarely): those that
    /// hold nobody out first, the longest unused of them; then those that would end soonest.
    fn make_room(&mut self, inner: &Inner<T>, now: Time) {
        let mut order: Vec<_> = self
            .scopes
            .iter()
            .flat_map(|(scope, members)| {
                members
                    .iter()
                    .map(move |(key, s)| ((s.ledger.returns_at(), s.touched), scope.clone(), *key))
            })
            .collect();
        order.sort();
        order.truncate((self.cells / 8).max(1));
        let mut emptied: Vec<Scope> = Vec::new();
        let mut lost = Vec::new();
        for (_, scope, key) in order {
            if let Some(members) = self.scopes.get_mut(&scope) {
                lost.extend(members.remove(&key).map(|s| (key, s.ledger.ejections())));
                self.cells -= 1;
            }
            emptied.push(scope);
        }
        self.still_count(&lost);
        emptied.dedup();
        self.scopes.retain(|_, members| !members.is_empty());
        for scope in emptied {
            self.publish(inner, &scope, now);
        }
    }

    /// Forgets a member's cells; gives the ejections that were in them.
    pub(super) fn forget_scopes(&mut self, key: MemberKey) -> u64 {
        let mut ejections = 0;
        for members in self.scopes.values_mut() {
            if let Some(scoped) = members.remove(&key) {
                ejections += scoped.ledger.ejections();
                self.cells -= 1;
            }
        }
        ejections
    }

    /// Ejections in cells that are forgotten: the sum over a member must not fall.
    fn still_count(&mut self, lost: &[(MemberKey, u64)]) {
        for (key, ejections) in lost.iter().filter(|(_, ejections)| *ejections > 0) {
            let mut records = self.records.iter_mut();
            if let Some(record) = records.find(|r| r.member.key() == *key) {
                record.forgotten += ejections;
            }
        }
    }

    /// Forgets scopes' cells that remember nothing.
    pub(super) fn sweep_scopes(&mut self, inner: &Inner<T>, now: Time) {
        let (mut idle, mut lost) = (Vec::new(), Vec::new());
        for (scope, members) in &mut self.scopes {
            let before = members.len();
            members.retain(|key, s| {
                let forget = s.ledger.is_blank() && s.cell.is_idle(now);
                if forget {
                    lost.push((*key, s.ledger.ejections()));
                }
                !forget
            });
            if members.len() < before {
                self.cells -= before - members.len();
                idle.push(scope.clone());
            }
        }
        self.still_count(&lost);
        self.scopes.retain(|_, members| !members.is_empty());
        for scope in idle {
            self.publish(inner, &scope, now);
        }
    }
}
