//! The answer of `/v1/health/service/:name`: from JSON to endpoints.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::endpoint::{Address, Endpoint, EndpointSet, tcp};

/// Consul's own bound on weights.
const MAX_WEIGHT: u32 = 65_535;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    node: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default, rename = "ID")]
    id: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: i64,
    #[serde(default)]
    socket_path: Option<String>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
    #[serde(default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: i64,
    warning: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default)]
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Locality {
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
}

/// The worst of an instance's checks, the node's included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Passing,
    Warning,
    /// Also maintenance mode, which is a critical check, and whatever Consul may invent.
    Critical,
}

/// Endpoints of an answer, and the instances that cannot be used, in words.
///
/// # Errors
/// When the answer is not what Consul answers.
pub(crate) fn parse(
    body: &[u8],
    passing_only: bool,
) -> Result<(EndpointSet, Option<String>), serde_json::Error> {
    let entries: Vec<Entry> = serde_json::from_slice(body)?;
    let mut unusable = Vec::new();
    let mut endpoints = Vec::with_capacity(entries.len());
    for entry in entries {
        // Consul filters by `passing` itself; an agent's cache or a proxy in between may not.
        let status = worst(entry.checks.as_deref().unwrap_or_default());
        if status == Status::Critical || (passing_only && status == Status::Warning) {
            continue;
        }
        match endpoint(&entry, status) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(why) => unusable.push(format!(
                "instance {:?} on node {:?} {why}",
                entry.service.id, entry.node.node
            )),
        }
    }
    // The order of the answer depends on the server asked: sorted, an unchanged list is seen as unchanged.
    endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    Ok((EndpointSet::new(endpoints), summary(&unusable)))
}

fn summary(unusable: &[String]) -> Option<String> {
    match unusable {
        [] => None,
        [one] => Some(one.clone()),
        [first, rest @ ..] => Some(format!(
            "{first}, and {} more that cannot be used",
            rest.len()
        )),
    }
}

fn worst(checks: &[Check]) -> Status {
    let status = |check: &Check| match check.status.as_str() {
        "passing" => Status::Passing,
        "warning" => Status::Warning,
        _ => Status::Critical,
    };
    checks.iter().map(status).max().unwrap_or(Status::Passing)
}

fn endpoint(entry: &Entry, status: Status) -> Result<Endpoint, String> {
    let Entry { node, service, .. } = entry;
    let address = match service.socket_path.as_deref() {
        Some(path) if !path.is_empty() => Address::Unix(PathBuf::from(path)),
        _ => {
            // A service without an address of its own is at its node's.
            let host = if service.address.is_empty() {
                &node.address
            } else {
                &service.address
            };
            let port = u16::try_from(service.port).ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| format!("has no usable port ({})", service.port))?;
            if host.is_empty() {
                return Err("has no address, nor has its node".to_owned());
            }
            tcp(host, port)
        }
    };
    let weight = match (&service.weights, status) {
        (None, _) => 1,
        (Some(weights), Status::Warning) => weights.warning,
        (Some(weights), _) => weights.passing,
    };
    let weight = u32::try_from(weight.max(0))
        .unwrap_or(MAX_WEIGHT)
        .min(MAX_WEIGHT);
    let place = |of: fn(&Locality) -> &String, key: &str| -> Arc<str> {
        let said = [&service.locality, &node.locality]
            .into_iter()
            .flatten()
            .map(of)
            .find(|text| !text.is_empty());
        let meta = || {
            [&service.meta, &node.meta]
                .into_iter()
                .flatten()
                .filter_map(|meta| meta.get(key))
                .find(|text| !text.is_empty())
        };
        said.or_else(meta)
            .map_or_else(|| Arc::from(""), |text| Arc::from(text.as_str()))
    };
    let mut metadata = service.meta.clone().unwrap_or_default();
    if let Some(tags) = service.tags.as_ref().filter(|tags| !tags.is_empty()) {
        metadata.insert("tags".to_owned(), tags.join(","));
    }
    Ok(Endpoint {
        weight,
        region: place(|at| &at.region, "region"),
        zone: place(|at| &at.zone, "zone"),
        metadata,
        ..Endpoint::new(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(service: serde_json::Value, statuses: &[&str]) -> serde_json::Value {
        let checks: Vec<_> = statuses
            .iter()
            .map(|status| json!({ "Status": status }))
            .collect();
        json!({
            "Node": { "Node": "n1", "Address": "10.0.0.9", "Meta": { "region": "eu", "zone": "n" } },
            "Service": service,
            "Checks": checks,
        })
    }

    fn read(entries: serde_json::Value, passing_only: bool) -> (Vec<Endpoint>, Option<String>) {
        let (set, error) =
            parse(entries.to_string().as_bytes(), passing_only).expect("well formed");
        (set.to_vec(), error)
    }

    #[test]
    fn a_service_without_an_address_is_at_its_nodes() {
        let (endpoints, error) = read(
            json!([entry(
                json!({ "ID": "a", "Address": "", "Port": 80 }),
                &["passing"]
            )]),
            true,
        );
        assert_eq!((&*endpoints[0].id, error), ("10.0.0.9:80", None));
    }

    #[test]
    fn the_weight_is_that_of_the_state() {
        let service = json!({ "ID": "a", "Port": 80, "Weights": { "Passing": 10, "Warning": 2 } });
        let weights = |statuses: &[&str], passing_only| {
            read(json!([entry(service.clone(), statuses)]), passing_only)
                .0
                .iter()
                .map(|e| e.weight)
                .collect::<Vec<_>>()
        };
        assert_eq!(weights(&["passing", "passing"], false), [10]);
        assert_eq!(weights(&["passing", "warning"], false), [2]);
        assert_eq!(weights(&["warning"], true), [0u32; 0]);
        assert_eq!(weights(&["warning", "critical"], false), [0u32; 0]);
        assert_eq!(
            weights(&["maintenance"], false),
            [0u32; 0],
            "an unknown state is not fit"
        );
        assert_eq!(weights(&[], true), [10], "no check at all is passing");
        let none = json!({ "ID": "a", "Port": 80, "Weights": { "Passing": 1, "Warning": 0 } });
        assert_eq!(
            read(json!([entry(none, &["warning"])]), false).0.len(),
            0,
            "weight 0 gets none"
        );
    }

    #[test]
    fn the_place_comes_from_the_service_before_the_node() {
        let of = |service| {
            let (endpoints, _) = read(json!([entry(service, &["passing"])]), true);
            (
                endpoints[0].region.to_string(),
                endpoints[0].zone.to_string(),
            )
        };
        assert_eq!(of(json!({ "Port": 1 })), ("eu".into(), "n".into()));
        assert_eq!(
            of(json!({ "Port": 1, "Meta": { "zone": "s" } })),
            ("eu".into(), "s".into())
        );
        assert_eq!(
            of(
                json!({ "Port": 1, "Meta": { "zone": "s" }, "Locality": { "Region": "us", "Zone": "l" } })
            ),
            ("us".into(), "l".into())
        );
    }

    #[test]
    fn an_instance_that_cannot_be_used_costs_only_itself_and_is_named() {
        let (endpoints, error) = read(
            json!([
                entry(json!({ "ID": "bad", "Port": 0 }), &[]),
                entry(
                    json!({ "ID": "good", "Port": 1, "Tags": null, "Meta": null }),
                    &[]
                )
            ]),
            true,
        );
        assert_eq!(endpoints.len(), 1);
        let error = error.expect("told");
        assert!(
            error.contains("\"bad\"") && error.contains("port"),
            "{error}"
        );
    }

    #[test]
    fn tags_and_socket_paths_are_kept() {
        let (endpoints, _) = read(
            json!([entry(
                json!({ "ID": "a", "Port": 0, "SocketPath": "/run/a", "Tags": ["v1", "x"] }),
                &[]
            )]),
            true,
        );
        assert_eq!(&*endpoints[0].id, "unix:/run/a");
        assert_eq!(endpoints[0].metadata["tags"], "v1,x");
    }

    #[test]
    fn another_order_of_the_same_instances_is_no_change() {
        let (a, b) = (
            entry(json!({ "ID": "a", "Port": 1 }), &[]),
            entry(json!({ "ID": "b", "Port": 2 }), &[]),
        );
        assert_eq!(read(json!([a, b]), true), read(json!([b, a]), true));
    }

    #[test]
    fn what_is_not_consuls_answer_is_an_error() {
        for body in ["", "[", "{}", "[{}]", "null", "[{\"Node\":{}}]", "<html>"] {
            assert!(parse(body.as_bytes(), true).is_err(), "{body}");
        }
        assert!(parse(b"[]", true).expect("empty").0.is_empty());
    }
}
