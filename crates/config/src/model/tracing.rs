//! Distributed traces: what is recorded, and where it goes.

use super::UpstreamTls;
use crate::checks::{Lasting, NotEmpty, TIMER};
use crate::record::record;
use crate::values::{HeaderName, Percent, Secret, ServiceUrl};
use std::collections::BTreeMap;
use std::time::Duration;

record! {
    /// Distributed traces, sent to a collector by OTLP over HTTP (protobuf).
    pub struct Tracing {
        /// The collector, as in `OTEL_EXPORTER_OTLP_ENDPOINT`: `/v1/traces` is appended. Mostly port 4318.
        otlp: ServiceUrl,
        /// Share of the requests that are traced, of those that come without a trace of their own. Default 100%.
        sample: Percent = Percent::HUNDRED,
        /// Callers that come within a trace have decided whether it is recorded: their `sampled` flag is obeyed, so that a trace is whole or not
        /// there. `false` where callers are not trusted: then `sample` decides for all. Default true.
        parent_based: bool = true,
        /// `service.name` of the resource. Default tidegate.
        service_name: String = "tidegate".into() => NotEmpty,
        /// Further attributes of the resource: `{ deployment.environment.name: production }`.
        resource: BTreeMap<String, String>,
        /// Headers of requests to the collector, mostly a credential: `{ authorization: "Bearer ${TOKEN}" }`. Shown as fingerprints.
        headers: BTreeMap<HeaderName, Secret>,
        /// TLS towards the collector, where the system's authorities do not do.
        tls: Option<UpstreamTls>,
        /// Bound of one request to the collector. Default 10s.
        timeout: Duration = Duration::from_secs(10) => TIMER,
        /// Longest time that a span waits for others to go with it. Default 5s.
        schedule_delay: Duration = Duration::from_secs(5) => Lasting(Duration::from_millis(1), Duration::from_secs(600)),
        ; short "otlp"
        ; finish crate::validate::tracing
    }
}
