//! The made-up gateway as the admin API sees it.

use tidegate_admin::keys::CreatedKey;
use tidegate_admin::{Answer, Source};
use tidegate_gateway::view::{
    ConfigView, EventView, Family, KeyView, Kind, ListenerView, ProviderView, Readiness, RouteView,
    Sample, ServiceView, StoreView, UpstreamView, Value, VirtualKeyView,
};
use tidegate_gateway::{KeyError, KeyRequest, KeyUpdate, RestoreError, StoreError};

use super::{BOUNDS, World, now_ms, virtual_key};

impl Source for World {
    fn upstreams(&self) -> Vec<UpstreamView> {
        self.state().upstreams.clone()
    }
    fn routes(&self) -> Vec<RouteView> {
        self.state().routes.clone()
    }
    fn listeners(&self) -> Vec<ListenerView> {
        self.state().listeners.clone()
    }
    fn config(&self) -> ConfigView {
        self.state().config.clone()
    }
    fn events(&self, after: u64, limit: usize) -> Vec<EventView> {
        self.state()
            .events
            .iter()
            .filter(|event| event.seq > after)
            .take(limit)
            .cloned()
            .collect()
    }
    fn readiness(&self) -> Readiness {
        self.state().readiness.clone()
    }
    fn providers(&self) -> Vec<ProviderView> {
        self.state().providers.clone()
    }
    fn services(&self) -> Vec<ServiceView> {
        self.state().services.clone()
    }
    fn store(&self) -> StoreView {
        self.state().store.clone()
    }
    fn restore_key(&self, provider: &str, key: &str) -> Result<(), RestoreError> {
        let mut state = self.state();
        let alike = {
            let known = state.providers.iter().find(|p| p.name == provider);
            let known = known.ok_or_else(|| RestoreError::Provider(provider.into()))?;
            let fits = |k: &&KeyView| k.name == key || k.fingerprint == key;
            known
                .keys
                .iter()
                .filter(fits)
                .map(|k| k.name.clone())
                .collect::<Vec<_>>()
        };
        let (at, wanted) = (provider.to_owned(), key.to_owned());
        match &alike[..] {
            [name] => {
                state.set_key(provider, name, "healthy", "restored", None);
                Ok(())
            }
            [] => Err(RestoreError::Key {
                provider: at,
                key: wanted,
            }),
            _ => Err(RestoreError::Ambiguous {
                provider: at,
                key: wanted,
            }),
        }
    }
    fn virtual_keys(&self) -> Result<Vec<VirtualKeyView>, StoreError> {
        self.state().virtual_keys.clone()
    }
    fn create_virtual_key<'a>(
        &'a self,
        request: &'a KeyRequest,
    ) -> Answer<'a, Result<CreatedKey, KeyError>> {
        Box::pin(async move {
            let mut state = self.state();
            if request.limits.requests_per_minute == Some(0) {
                return Err(KeyError::Invalid("limits: at least 1".into()));
            }
            let keys = state
                .virtual_keys
                .as_mut()
                .map_err(|e| KeyError::Store(e.clone()))?;
            if keys.iter().any(|key| key.name == request.name) {
                return Err(KeyError::NameTaken(request.name.clone()));
            }
            let mut key = virtual_key(&format!("vk-{:012}", keys.len()), &request.name);
            key.limits = request.limits.clone();
            keys.push(key.clone());
            let token = "tg-0123456789abcdefghijklmnopqrstuvwxyzABCD".into();
            Ok(CreatedKey { key, token })
        })
    }
    fn update_virtual_key<'a>(
        &'a self,
        id: &'a str,
        update: &'a KeyUpdate,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Box::pin(async move {
            let mut state = self.state();
            let keys = state
                .virtual_keys
                .as_mut()
                .map_err(|e| KeyError::Store(e.clone()))?;
            let key = keys.iter_mut().find(|key| key.id == id);
            let key = key.ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
            if let Some(name) = &update.name {
                key.name.clone_from(name);
            }
            update.limits.apply(&mut key.limits);
            Ok(key.clone())
        })
    }
    fn revoke_virtual_key<'a>(
        &'a self,
        id: &'a str,
    ) -> Answer<'a, Result<VirtualKeyView, KeyError>> {
        Box::pin(async move {
            let mut state = self.state();
            let keys = state
                .virtual_keys
                .as_mut()
                .map_err(|e| KeyError::Store(e.clone()))?;
            let at = keys.iter().position(|key| key.id == id);
            let at = at.ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
            Ok(keys.remove(at))
        })
    }
    fn metrics(&self) -> Vec<Family> {
        let state = self.state();
        let text = |s: &String| s.clone();
        let requests = state
            .requests
            .iter()
            .map(|(route, target, code, n)| Sample {
                labels: vec![
                    ("route", text(route)),
                    ("target", text(target)),
                    ("code", code.to_string()),
                ],
                value: Value::Number(*n as f64),
            });
        let durations = state.durations.iter().map(|(route, target, counts, sum)| {
            let mut running = 0;
            let buckets = BOUNDS.iter().zip(counts).map(|(bound, n)| {
                running += n;
                (*bound, running)
            });
            Sample {
                labels: vec![("route", text(route)), ("target", text(target))],
                value: Value::Histogram {
                    buckets: buckets.collect(),
                    sum: *sum,
                    count: counts.iter().sum(),
                },
            }
        });
        let members = state.upstreams.iter().flat_map(|upstream| {
            upstream.members.iter().map(|member| Sample {
                labels: vec![
                    ("pool", text(&upstream.name)),
                    ("member", text(&member.id)),
                    ("state", text(&member.state)),
                ],
                value: Value::Number(1.0),
            })
        });
        vec![
            Family {
                name: "tidegate_requests_total",
                help: "Requests answered.",
                kind: Kind::Counter,
                samples: requests.collect(),
            },
            Family {
                name: "tidegate_request_duration_seconds",
                help: "Duration of the whole exchange.",
                kind: Kind::Histogram,
                samples: durations.collect(),
            },
            Family {
                name: "tidegate_member_state",
                help: "1 for the state that a member is in.",
                kind: Kind::Gauge,
                samples: members.collect(),
            },
        ]
    }
    fn reload(&self) -> Answer<'_, Result<ConfigView, String>> {
        Box::pin(async move {
            let mut state = self.state();
            match state.reload.clone() {
                Ok(()) => {
                    state.config.generation += 1;
                    state.config.loaded_at_ms = now_ms();
                    state.config.refused = None;
                    let cause = format!("generation {}", state.config.generation);
                    state.event("config_loaded", "", "", &cause);
                    Ok(state.config.clone())
                }
                Err(diagnostics) => {
                    state.config.refused = Some(diagnostics.clone());
                    state.event(
                        "config_refused",
                        "",
                        "",
                        diagnostics.lines().next().unwrap_or_default(),
                    );
                    Err(diagnostics)
                }
            }
        })
    }
}
