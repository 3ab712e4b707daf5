//! Where the members of upstreams come from, and their active checks, at work.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{Scope, Verdict};
use tidegate_discovery::{Health, Prober, Update, Watch};
use tokio::task::JoinHandle;

use super::Control;
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;

/// Where an upstream's members come from, at work.
#[derive(Debug)]
pub(super) struct Source {
    upstream: Arc<Upstream>,
    watch: Watch,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the source of an upstream says of itself.
#[derive(Debug, Clone)]
pub(crate) struct SourceStatus {
    pub(crate) kind: &'static str,
    pub(crate) error: Option<String>,
}

impl Control {
    /// Follows the sources of upstreams that are new or changed; lets go of those that are gone.
    pub(super) fn follow(self: &Arc<Self>, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.state().sources);
        let mut sources = HashMap::new();
        for upstream in snapshot.pools() {
            if let Some(source) = before.remove(&*upstream.name)
                && follows_alike(&source.upstream, upstream)
            {
                sources.insert(upstream.name.to_string(), source);
                continue;
            }
            match self.source(upstream) {
                Ok(source) => {
                    sources.insert(upstream.name.to_string(), source);
                }
                Err(e) => {
                    tracing::error!(upstream = %upstream.name, cause = %e, "discovery could not start");
                    self.shared
                        .events
                        .push("discovery_failed", &upstream.name, "", &e.to_string());
                }
            }
        }
        self.state().sources = sources;
    }

    fn source(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
    ) -> Result<Source, tidegate_discovery::SetupError> {
        let watch = tidegate_discovery::watch(&upstream.config, &self.resolver)?;
        let prober = match &upstream.config.health_check {
            None => None,
            Some(check) => {
                let live = upstream.live.clone();
                let shared = self.shared.clone();
                let on_health = move |id: &Arc<str>, health: &Health| {
                    let Some(member) = live.pool.members().into_iter().find(|m| m.id() == id)
                    else {
                        return;
                    };
                    live.pool
                        .report(member.key(), &Scope::EMPTY, verdict(health), shared.now());
                };
                Some(Prober::start(
                    &upstream.config,
                    check,
                    &upstream.settings.resolver,
                    on_health,
                )?)
            }
        };
        let mut updates = watch.updates();
        let control = Arc::downgrade(self);
        let followed = upstream.clone();
        apply(self, upstream, prober.as_ref(), &watch.current());
        let task = tokio::spawn(async move {
            while updates.changed().await.is_ok() {
                let update = updates.borrow_and_update().clone();
                let Some(control) = control.upgrade() else {
                    return;
                };
                apply(&control, &followed, prober.as_ref(), &update);
            }
        });
        Ok(Source {
            upstream: upstream.clone(),
            watch,
            task,
        })
    }

    /// Waits until every source has told something, be it that it can't; slow ones must not hold up the others.
    pub(super) async fn wait_for_members(&self, at_most: Duration) {
        let receivers: Vec<_> = self
            .state()
            .sources
            .values()
            .map(|s| s.watch.updates())
            .collect();
        let _ = tokio::time::timeout(at_most, async {
            for mut updates in receivers {
                let _ = updates.wait_for(|u| u.known || u.error.is_some()).await;
            }
        })
        .await;
    }

    pub(crate) fn source_status(&self, upstream: &str) -> Option<SourceStatus> {
        let state = self.state();
        let source = state.sources.get(upstream)?;
        let error = source.watch.current().error.map(|e| e.to_string());
        Some(SourceStatus {
            kind: source.watch.kind(),
            error,
        })
    }
}

/// Puts what a source told into the pool and the prober.
fn apply(control: &Control, upstream: &Upstream, prober: Option<&Prober>, update: &Update) {
    if update.known {
        let change = upstream.set_endpoints(&update.endpoints, control.shared.now());
        if let Some(prober) = prober {
            prober.set(&update.endpoints);
        }
        if !change.removed.is_empty() {
            control.door.look();
        }
    }
    if let Some(error) = &update.error {
        control
            .shared
            .events
            .push("discovery_trouble", &upstream.name, "", error);
    }
}

fn verdict(health: &Health) -> Verdict {
    if health.healthy {
        return if health.cause.is_none() {
            Verdict::Ok
        } else {
            Verdict::Neutral
        };
    }
    let why = health.cause.as_deref().unwrap_or("failed");
    Verdict::Evidence {
        cause: format!("active check: {why}").into(),
        until: None,
    }
}

/// Whether the same source and the same checks serve both. Other settings may mean other certificates under the same names: checks that
/// went on with the old ones would find every member unfit.
fn follows_alike(a: &Upstream, b: &Upstream) -> bool {
    let (x, y) = (&a.config, &b.config);
    x.endpoints == y.endpoints
        && x.discover == y.discover
        && x.health_check == y.health_check
        && (x.health_check.is_none() || Arc::ptr_eq(&a.settings, &b.settings))
        && Arc::ptr_eq(&a.live, &b.live)
}
