//! What every source of endpoints produces: addresses with a weight, a place and a priority.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use tidegate_config::values::{Address, HostPort};

/// Identity of an endpoint within its upstream: `HOST:PORT`, `[V6]:PORT` or `unix:PATH`. Health, statistics and open
/// connections belong to it, so they survive whatever else changes about the endpoint.
pub type EndpointId = Arc<str>;

/// The address of a host (literal, name; v6 with or without brackets) and a port.
pub fn tcp(host: &str, port: u16) -> Address {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Address::Ip(SocketAddr::new(ip, port)),
        Err(_) => Address::Name(HostPort {
            host: host.to_ascii_lowercase(),
            port,
        }),
    }
}

/// The identity of an endpoint at this address.
pub fn id(address: &Address) -> EndpointId {
    address.to_string().into()
}

/// What TLS sends and checks for this address when nothing else is configured: the host without port, brackets or final
/// dot; `localhost` for a Unix socket.
pub fn server_name(address: &Address) -> String {
    match address {
        Address::Ip(at) => at.ip().to_string(),
        Address::Name(name) => name.host.trim_end_matches('.').to_owned(),
        Address::Unix(_) => "localhost".to_owned(),
    }
}

/// What an HTTP request to this address carries as `Host` when nothing else is configured: host and port; `localhost` for a
/// Unix socket.
pub fn authority(address: &Address) -> String {
    match address {
        Address::Unix(_) => "localhost".to_owned(),
        tcp => tcp.to_string(),
    }
}

/// One endpoint as its source describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Identity: the address as text.
    pub id: EndpointId,
    /// Where to connect.
    pub address: Address,
    /// Share of picks relative to the others, 1 and more.
    pub weight: u32,
    /// Region, empty when unknown.
    pub region: Arc<str>,
    /// Zone, empty when unknown.
    pub zone: Arc<str>,
    /// 0 is used first, higher numbers when lower ones are not fit.
    pub priority: u32,
    /// What the source says besides: metadata by key; Consul's tags are one key, `tags`, joined by commas.
    pub metadata: BTreeMap<String, String>,
}

impl Endpoint {
    /// An endpoint with weight 1, no place and priority 0.
    pub fn new(address: Address) -> Self {
        Self {
            id: id(&address),
            address,
            weight: 1,
            region: Arc::from(""),
            zone: Arc::from(""),
            priority: 0,
            metadata: BTreeMap::new(),
        }
    }
}

impl From<&tidegate_config::model::Endpoint> for Endpoint {
    fn from(written: &tidegate_config::model::Endpoint) -> Self {
        Self {
            weight: written.weight,
            region: written.region.as_str().into(),
            zone: written.zone.as_str().into(),
            priority: written.priority,
            ..Self::new(written.address.clone())
        }
    }
}

/// Endpoints in their source's order, each address once.
///
/// An address given twice is one member. Of two entries the one with the better (lower) priority describes it; at the
/// same priority their weights add up, as two lines in other balancers' lists would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet(Arc<[Endpoint]>);

impl EndpointSet {
    /// Joins entries of the same address, drops weight 0 ("weight 0 gets none").
    pub fn new(entries: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut at: HashMap<EndpointId, usize> = HashMap::new();
        let mut kept: Vec<Endpoint> = Vec::new();
        for entry in entries {
            if entry.weight == 0 {
                continue;
            }
            match at.get(&entry.id) {
                None => {
                    at.insert(entry.id.clone(), kept.len());
                    kept.push(entry);
                }
                Some(&index) => {
                    let first = &mut kept[index];
                    if entry.priority == first.priority {
                        first.weight = first.weight.saturating_add(entry.weight);
                    } else if entry.priority < first.priority {
                        *first = entry;
                    }
                }
            }
        }
        Self(kept.into())
    }

    /// The endpoints.
    pub fn as_slice(&self) -> &[Endpoint] {
        &self.0
    }
}

impl std::ops::Deref for EndpointSet {
    type Target = [Endpoint];

    fn deref(&self) -> &[Endpoint] {
        &self.0
    }
}

impl FromIterator<Endpoint> for EndpointSet {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(entries: I) -> Self {
        Self::new(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_are_literals_or_names() {
        for (host, id_text, tls_name) in [
            ("10.0.0.1", "10.0.0.1:80", "10.0.0.1"),
            ("::1", "[::1]:80", "::1"),
            ("[::1]", "[::1]:80", "::1"),
            ("Ranker.Local.", "ranker.local.:80", "ranker.local"),
        ] {
            let address = tcp(host, 80);
            assert_eq!(
                (
                    &*id(&address),
                    &*server_name(&address),
                    &*authority(&address)
                ),
                (id_text, tls_name, id_text)
            );
        }
        let socket = Address::Unix("/run/a".into());
        assert_eq!(
            (&*id(&socket), &*server_name(&socket), &*authority(&socket)),
            ("unix:/run/a", "localhost", "localhost")
        );
    }

    #[test]
    fn the_same_address_twice_is_one_member() {
        let entry = |weight, priority| Endpoint {
            weight,
            priority,
            ..Endpoint::new(tcp("a", 1))
        };
        let joined = EndpointSet::new([entry(2, 1), entry(3, 1)]);
        assert_eq!((joined.len(), joined[0].weight), (1, 5));
        let better = EndpointSet::new([entry(2, 1), entry(3, 0), entry(9, 1)]);
        assert_eq!(
            (better.len(), better[0].weight, better[0].priority),
            (1, 3, 0)
        );
        assert!(EndpointSet::new([entry(0, 0)]).is_empty());
    }

    proptest! {
        #[test]
        fn a_set_holds_every_address_once_and_all_of_its_weight(entries in prop::collection::vec((0u8..5, 0u32..4), 0..20)) {
            let set: EndpointSet = entries
                .iter()
                .map(|(host, weight)| Endpoint { weight: *weight, ..Endpoint::new(tcp(&format!("h{host}"), 1)) })
                .collect();
            let ids: std::collections::HashSet<_> = set.iter().map(|endpoint| &endpoint.id).collect();
            prop_assert_eq!(ids.len(), set.len());
            prop_assert!(set.iter().all(|endpoint| endpoint.weight > 0));
            let total: u32 = entries.iter().map(|(_, weight)| weight).sum();
            prop_assert_eq!(set.iter().map(|endpoint| endpoint.weight).sum::<u32>(), total);
        }
    }
}
