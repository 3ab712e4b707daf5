//! Where the members of upstreams come from, and their active checks, at work.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{Scope, Verdict};
use tidegate_discovery::{Endpoint, EndpointId, Health, Prober, Update, Watch};
use tokio::task::JoinHandle;

use super::Control;
use super::instances::{BETWEEN_METHODS, LIFE, RETRYABLE};
use crate::service::Service;
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
            let service = snapshot.service_named(&upstream.name);
            match self.source(upstream, service.cloned()) {
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
        service: Option<Arc<Service>>,
    ) -> Result<Source, tidegate_discovery::SetupError> {
        let watch = match service {
            Some(_) => self.instances.watch(&upstream.name),
            None => tidegate_discovery::watch(&upstream.config, &self.resolver)?,
        };
        let prober = match &upstream.config.health_check {
            None => None,
            Some(check) => {
                let live = upstream.live.clone();
                let shared = self.shared.clone();
                let of = service.clone();
                let on_health = move |id: &Arc<str>, health: &Health| {
                    let Some(member) = live.pool.members().into_iter().find(|m| m.id() == id)
                    else {
                        return;
                    };
                    live.pool
                        .report(member.key(), &Scope::EMPTY, verdict(health), shared.now());
                    // Whoever waits for an instance may have one now.
                    if let Some(service) = of.as_ref().filter(|_| health.changed) {
                        service.change(health.healthy);
                    }
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
        let mut lives = Lives::default();
        lives.apply(
            upstream,
            &watch.current(),
            self.shared.now(),
            service.as_deref(),
        );
        let task = tokio::spawn(async move {
            while updates.changed().await.is_ok() {
                let update = updates.borrow_and_update().clone();
                let Some(control) = control.upgrade() else {
                    return;
                };
                lives.apply(&followed, &update, control.shared.now(), service.as_deref());
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

/// Instances by the life that they were last seen in.
#[derive(Debug, Default)]
struct Lives(HashMap<EndpointId, Option<String>>);

impl Lives {
    /// An instance that began anew is another member, although it is where the old one was: what was held against that one, and
    /// connections to it, are of no use any more. Whoever waits for an instance looks again.
    fn apply(
        &mut self,
        upstream: &Upstream,
        update: &Update,
        now: tidegate_core::Time,
        service: Option<&Service>,
    ) {
        let Some(service) = service else { return };
        if !update.known {
            return;
        }
        let life = |e: &Endpoint| (e.id.clone(), e.metadata.get(LIFE).cloned());
        let lives: HashMap<_, _> = update.endpoints.iter().map(life).collect();
        let same = |e: &&Endpoint| {
            let before = self.0.get(&e.id);
            before.is_none_or(|before| lives.get(&e.id) == Some(before))
        };
        let kept: Vec<Endpoint> = update.endpoints.iter().filter(same).cloned().collect();
        if kept.len() < update.endpoints.len() {
            upstream.set_endpoints(&kept, now);
        }
        upstream.set_endpoints(&update.endpoints, now);
        self.0 = lives;
        let told = update.endpoints.iter().rev();
        if let Some(methods) = told.filter_map(|e| e.metadata.get(RETRYABLE)).next() {
            let methods = methods.split(BETWEEN_METHODS).filter(|m| !m.is_empty());
            service.learn(methods.map(str::to_owned).collect());
        }
        service.change(!update.endpoints.is_empty());
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
