//! One answer that holds all that a dashboard shows, so that it needs one request a second and its numbers belong to
//! the same moment. Counters are totals since the start: rates and recent quantiles are differences between two
//! answers, made by whoever looks, so that the gateway keeps no windows for viewers.

use serde::{Deserialize, Serialize};
use tidegate_gateway::view::{
    ConfigView, EventView, Family, ListenerView, ProviderView, Readiness, RouteView, Sample,
    ServiceView, StoreView, UpstreamView, Value,
};

/// The answer of `/api/v1/overview`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overview {
    /// Changes with every start of the gateway: counters and event numbers began anew.
    pub instance: String,
    /// Version of the running program.
    pub version: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Milliseconds since the start, monotonic: the clock for rates.
    pub uptime_ms: u64,
    /// Whether traffic is taken.
    pub readiness: Readiness,
    /// The running configuration, without its text.
    pub config: ConfigSummary,
    /// What the process uses.
    pub process: ProcessView,
    /// Listeners.
    pub listeners: Vec<ListenerView>,
    /// Upstreams with members.
    pub upstreams: Vec<UpstreamView>,
    /// Providers with keys.
    pub providers: Vec<ProviderView>,
    /// Services with instances.
    #[serde(default)]
    pub services: Vec<ServiceView>,
    /// The store of durable state.
    pub store: StoreView,
    /// Routes with traffic.
    pub routes: Vec<RouteTraffic>,
    /// Events above the asked number, oldest first; without a number the newest.
    pub events: Vec<EventView>,
    /// Number of the newest event: the next request's `after`.
    pub last_event: u64,
}

/// A [`ConfigView`] without the configuration itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigSummary {
    /// Counts the accepted loads from 1.
    pub generation: u64,
    /// Hash of the accepted text.
    pub hash: String,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub loaded_at_ms: u64,
    /// Files that it came from.
    pub files: Vec<String>,
    /// Why the last reload was refused, if it was.
    pub refused: Option<String>,
    /// `node.region` of the configuration, empty when not set.
    pub region: String,
    /// `node.zone` of the configuration, empty when not set.
    pub zone: String,
}

impl From<&ConfigView> for ConfigSummary {
    fn from(view: &ConfigView) -> Self {
        let node = |key: &str| {
            view.config["node"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            generation: view.generation,
            hash: view.hash.clone(),
            loaded_at_ms: view.loaded_at_ms,
            files: view.files.clone(),
            refused: view.refused.clone(),
            region: node("region"),
            zone: node("zone"),
        }
    }
}

/// What the process uses, zero where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessView {
    /// Resident memory, bytes.
    pub memory_bytes: u64,
    /// Processor time used since the start of the process, milliseconds.
    pub cpu_ms: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Limit of open file descriptors.
    pub max_fds: u64,
}

/// A route with what its metrics add.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteTraffic {
    /// The route itself.
    #[serde(flatten)]
    pub route: RouteView,
    /// Requests by target: the split as it really is. Empty without traffic.
    pub targets: Vec<TargetTraffic>,
    /// Durations of all its requests; recent quantiles are differences of two of them.
    pub latency: Option<Latency>,
}

/// Requests of one route that one target answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetTraffic {
    /// Name of the upstream (or other target).
    pub target: String,
    /// Requests answered.
    pub requests: u64,
    /// Of them with a 5xx code.
    pub errors: u64,
}

/// A histogram of durations, cumulative both over buckets and since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Upper bounds in microseconds, ascending, without the last (infinite) one.
    pub bounds_us: Vec<f64>,
    /// Requests at or below each bound.
    pub counts: Vec<u64>,
    /// All requests.
    pub count: u64,
}

impl Latency {
    /// The duration below which the share `q` (0 to 1) of the requests since `before` stayed, in microseconds:
    /// interpolated within its bucket as Prometheus' `histogram_quantile` does. `None` without requests between.
    #[must_use]
    pub fn quantile_since(&self, before: Option<&Latency>, q: f64) -> Option<f64> {
        let before = before.filter(|b| b.bounds_us == self.bounds_us && b.count <= self.count);
        let diff = |i: usize| self.counts[i].saturating_sub(before.map_or(0, |b| b.counts[i]));
        let total = self.count - before.map_or(0, |b| b.count);
        if total == 0 || self.bounds_us.len() != self.counts.len() {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let (mut low, mut below) = (0.0, 0);
        for (i, &high) in self.bounds_us.iter().enumerate() {
            let at = diff(i);
            if at as f64 >= rank && at > below {
                return Some(
                    low + (high - low)
                        * ((rank - below as f64) / (at - below) as f64).clamp(0.0, 1.0),
                );
            }
            (low, below) = (high, at.max(below));
        }
        Some(low)
    }
}

/// Joins the routes with the families `tidegate_requests_total` and `tidegate_request_duration_seconds`.
#[must_use]
pub fn route_traffic(routes: Vec<RouteView>, families: &[Family]) -> Vec<RouteTraffic> {
    use std::collections::HashMap;
    let samples = |name: &str| -> &[Sample] {
        families
            .iter()
            .find(|f| f.name == name)
            .map_or(&[], |f| &f.samples)
    };
    let mut targets: HashMap<&str, Vec<TargetTraffic>> = HashMap::new();
    for sample in samples("tidegate_requests_total") {
        let (Some(route), Some(target), Value::Number(value)) = (
            label(sample, "route"),
            label(sample, "target"),
            &sample.value,
        ) else {
            continue;
        };
        let list = targets.entry(route).or_default();
        let at = list
            .iter()
            .position(|t| t.target == target)
            .unwrap_or_else(|| {
                list.push(TargetTraffic {
                    target: target.into(),
                    requests: 0,
                    errors: 0,
                });
                list.len() - 1
            });
        list[at].requests += *value as u64;
        if label(sample, "code").is_some_and(|code| code.starts_with('5')) {
            list[at].errors += *value as u64;
        }
    }
    let mut latency: HashMap<&str, Latency> = HashMap::new();
    for sample in samples("tidegate_request_duration_seconds") {
        let (Some(route), Value::Histogram { buckets, count, .. }) =
            (label(sample, "route"), &sample.value)
        else {
            continue;
        };
        let sum = latency.entry(route).or_insert_with(|| Latency {
            // Rounded: 0.000_25 s is 250 µs, not 250.00000000000003.
            bounds_us: buckets
                .iter()
                .map(|(bound, _)| (bound * 1e9).round() / 1e3)
                .collect(),
            counts: vec![0; buckets.len()],
            count: 0,
        });
        if sum.counts.len() == buckets.len() {
            sum.counts
                .iter_mut()
                .zip(buckets)
                .for_each(|(sum, (_, n))| *sum += n);
            sum.count += count;
        }
    }
    routes
        .into_iter()
        .map(|route| RouteTraffic {
            targets: targets.remove(route.name.as_str()).unwrap_or_default(),
            latency: latency.remove(route.name.as_str()),
            route,
        })
        .collect()
}

fn label<'a>(sample: &'a Sample, name: &str) -> Option<&'a str> {
    sample
        .labels
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_gateway::view::Kind;

    fn latency(counts: [u64; 3], count: u64) -> Latency {
        Latency {
            bounds_us: vec![1000.0, 2000.0, 5000.0],
            counts: counts.to_vec(),
            count,
        }
    }

    #[test]
    fn quantiles_interpolate_within_their_bucket() {
        let all = latency([50, 100, 100], 100);
        assert_eq!(all.quantile_since(None, 0.5), Some(1000.0));
        assert_eq!(all.quantile_since(None, 0.75), Some(1500.0));
        assert_eq!(all.quantile_since(None, 1.0), Some(2000.0));
    }

    #[test]
    fn only_the_requests_since_the_earlier_answer_count() {
        let before = latency([100, 100, 100], 100);
        let after = latency([100, 100, 110], 110);
        assert_eq!(after.quantile_since(Some(&before), 0.5), Some(3500.0));
        assert_eq!(
            after.quantile_since(Some(&after), 0.5),
            None,
            "nothing happened between"
        );
    }

    #[test]
    fn a_histogram_that_began_anew_is_not_subtracted() {
        let before = latency([100, 100, 100], 100);
        let after = latency([0, 4, 4], 4);
        assert_eq!(after.quantile_since(Some(&before), 1.0), Some(2000.0));
    }

    #[test]
    fn beyond_the_last_bound_the_last_bound_is_told() {
        assert_eq!(
            latency([0, 0, 0], 7).quantile_since(None, 0.5),
            Some(5000.0)
        );
    }

    #[test]
    fn targets_and_durations_join_their_route() {
        let route = |name: &str| RouteView {
            name: name.into(),
            matches: String::new(),
            to: String::new(),
            requests: 0,
            errors: 0,
            inflight: 0,
            p50_us: 0,
            p99_us: 0,
        };
        let labels = |route: &str, target: &str, code: &str| {
            vec![
                ("route", route.to_owned()),
                ("target", target.to_owned()),
                ("code", code.to_owned()),
            ]
        };
        let number = |labels, n| Sample {
            labels,
            value: Value::Number(n),
        };
        let histogram = |labels| Sample {
            labels,
            value: Value::Histogram {
                buckets: vec![(0.00025, 1), (0.5, 3)],
                sum: 0.2,
                count: 4,
            },
        };
        let families = [
            Family {
                name: "tidegate_requests_total",
                help: "",
                kind: Kind::Counter,
                samples: vec![
                    number(labels("a", "v1", "200"), 90.0),
                    number(labels("a", "v1", "503"), 2.0),
                    number(labels("a", "v2", "200"), 10.0),
                    number(labels("other", "v1", "200"), 1.0),
                ],
            },
            Family {
                name: "tidegate_request_duration_seconds",
                help: "",
                kind: Kind::Histogram,
                samples: vec![
                    histogram(labels("a", "v1", "")),
                    histogram(labels("a", "v2", "")),
                ],
            },
        ];
        let joined = route_traffic(vec![route("a"), route("b")], &families);
        assert_eq!(
            joined[0].targets,
            [
                TargetTraffic {
                    target: "v1".into(),
                    requests: 92,
                    errors: 2
                },
                TargetTraffic {
                    target: "v2".into(),
                    requests: 10,
                    errors: 0
                },
            ]
        );
        let expected = Latency {
            bounds_us: vec![250.0, 500_000.0],
            counts: vec![2, 6],
            count: 8,
        };
        assert_eq!(joined[0].latency, Some(expected));
        assert!(joined[1].targets.is_empty() && joined[1].latency.is_none());
    }
}
