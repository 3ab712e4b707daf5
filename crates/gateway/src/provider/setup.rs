//! Providers as the configuration has them, made ready: their keys' settings, and the upstream that each of them is reached through.

use std::sync::Arc;

use http::uri::Scheme;
use tidegate_config::model;
use tidegate_config::values::{Address, Percent};
use tidegate_core::Time;
use tidegate_discovery::Resolver;
use tidegate_discovery::endpoint::tcp;
use tidegate_keys::{Keys, Settings, SettingsError};
use tidegate_llm::ProviderSpec;

use super::{Provider, Sticky};
use crate::stats::Registry;
use crate::upstream::{self, UpstreamError};

/// Why a provider can't be put to work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProviderError {
    #[error("provider {name}: {source}")]
    Settings { name: String, source: SettingsError },
    #[error("{0}")]
    Upstream(#[from] UpstreamError),
}

/// A provider that can be put to work: what may fail was done, and nothing that runs was touched.
#[derive(Debug)]
pub(crate) struct Draft {
    settings: Settings,
    sticky: Option<Sticky>,
    upstream: upstream::Draft,
}

impl Draft {
    pub(crate) fn new(
        section: &model::Provider,
        old: Option<&Arc<Provider>>,
        resolver: &Resolver,
    ) -> Result<Draft, ProviderError> {
        let settings = Settings::of(section).map_err(|source| ProviderError::Settings {
            name: section.name.clone(),
            source,
        })?;
        let wanted = implicit(section, &settings.spec);
        Ok(Draft {
            upstream: upstream::Draft::new(&wanted, old.map(|p| &p.upstream), resolver)?,
            sticky: sticky(&section.choose),
            settings,
        })
    }
}

/// Puts providers to work, in the order of the configuration. Those that stay keep their keys' health.
pub(crate) fn commit(
    drafts: Vec<Draft>,
    keys: &Keys,
    registry: &Registry,
    now: Time,
) -> Vec<Arc<Provider>> {
    let (settings, rest): (Vec<_>, Vec<_>) = drafts
        .into_iter()
        .map(|draft| (draft.settings, (draft.sticky, draft.upstream)))
        .unzip();
    let names: Vec<_> = settings.iter().map(|s| s.name.clone()).collect();
    keys.apply(settings, now);
    names
        .iter()
        .zip(rest)
        .filter_map(|(name, (sticky, upstream))| {
            Some(Arc::new(Provider {
                keys: keys.provider(name)?,
                upstream: upstream.commit(registry, now),
                sticky,
                stats: registry.provider(name),
            }))
        })
        .collect()
}

/// What keys stick to. The expression of a hash key was checked when the configuration was read.
fn sticky(choose: &model::Choose) -> Option<Sticky> {
    let model::Choose::Sticky(sticky) = choose else {
        return None;
    };
    match &sticky.by {
        model::StickyBy::Request(key) => tidegate_route::request_hash(key).map(Sticky::Request),
        model::StickyBy::Body(field) => Some(Sticky::Body(*field)),
    }
}

/// The upstream behind a provider: the addresses of its host. Which of its keys is fit is the pool of keys' business, so nothing is
/// ejected here.
fn implicit(section: &model::Provider, spec: &ProviderSpec) -> model::Upstream {
    let base = &spec.base_url;
    let address = tcp(base.authority.host(), base.port());
    let secure = base.scheme == Scheme::HTTPS;
    let mut tls = secure.then(|| section.tls.clone().unwrap_or_default());
    let (endpoints, discover) = match address {
        Address::Name(name) => {
            // Its addresses are the members, so the name that certificates are for must be said.
            if let Some(tls) = &mut tls
                && tls.sni.is_none()
            {
                tls.sni = Some(name.host.clone());
            }
            let dns = model::DnsDiscovery {
                name: name.host,
                port: Some(name.port),
                record: Some(model::DnsRecord::A),
                servers: Vec::new(),
                min_interval: std::time::Duration::from_secs(1),
                max_interval: std::time::Duration::from_secs(30),
            };
            (Vec::new(), Some(model::Discover::Dns(dns)))
        }
        address => {
            let endpoint = model::Endpoint {
                address,
                weight: 1,
                region: String::new(),
                zone: String::new(),
                priority: 0,
            };
            (vec![endpoint], None)
        }
    };
    model::Upstream {
        name: format!("provider {}", section.name),
        endpoints,
        discover,
        protocol: model::Protocol::Auto,
        tls,
        balance: model::Balance::PeakEwma(model::PeakEwma::default()),
        bounded_load: None,
        connection_pool: section.connection_pool.clone(),
        http2: model::Http2::default(),
        outlier_detection: None,
        health_check: None,
        slow_start: None,
        panic_threshold: Percent::of(0),
        locality: model::LocalityPolicy {
            prefer: model::Prefer::None,
            ..model::LocalityPolicy::default()
        },
        when_exhausted: model::WhenExhausted::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(text: &str) -> model::Upstream {
        let text = format!(
            "listeners: [{{ name: m, address: 127.0.0.1:0 }}]\nproviders:\n  - {{ name: p, api_tokens: [k], {text} }}\n"
        );
        let loaded = tidegate_config::load_str("t.yaml", &text).expect("loads");
        let section = &loaded.config.providers[0];
        implicit(section, &Settings::of(section).expect("settings").spec)
    }

    #[test]
    fn a_named_provider_is_reached_at_each_of_its_addresses_under_its_name() {
        let found = upstream("type: openai");
        let Some(model::Discover::Dns(dns)) = &found.discover else {
            panic!("{found:?}")
        };
        assert_eq!((&*dns.name, dns.port), ("api.openai.com", Some(443)));
        let sni = found.tls.expect("https").sni;
        assert_eq!(sni.as_deref(), Some("api.openai.com"));
    }

    #[test]
    fn an_address_of_its_own_is_used_as_it_is() {
        let found = upstream("type: generic, base_url: 'http://127.0.0.1:81/v1'");
        assert!(found.discover.is_none() && found.tls.is_none());
        assert_eq!(found.endpoints[0].address.to_string(), "127.0.0.1:81");
        let found = upstream("type: generic, base_url: 'https://[::1]/v1'");
        assert_eq!(found.endpoints[0].address.to_string(), "[::1]:443");
        assert_eq!(found.tls.expect("https").sni, None);
    }
}
