//! What a route matches: AND inside one match, OR across the list.

use crate::checks::{By, NotEmpty, RequestPath};
use crate::record::{one_of, record};
use crate::values::{Cidr, HeaderName, HostPattern, Method, ModelPattern, OneOrMany, Pattern};
use std::collections::BTreeMap;

record! {
    /// Conditions that must all hold. An empty match holds for every request.
    pub default struct Match {
        /// Host names without port: `ranker.local`, `*.local` (one or more labels), `*`. Any of them. Default: all.
        hosts: Vec<HostPattern>,
        /// The path, without the query.
        path: Option<PathMatch>,
        /// gRPC requests only, by service and method.
        grpc: Option<GrpcMatch>,
        /// HTTP methods; any of them. Default: all.
        methods: Vec<Method>,
        /// Headers by name (any case); all of them. A plain string means exact.
        headers: BTreeMap<HeaderName, TextMatch>,
        /// Query parameters by name; all of them. A plain string means exact.
        query: BTreeMap<String, TextMatch>,
        /// Where the request comes from.
        source: Option<SourceMatch>,
        /// The model that the body names (LLM requests): a name, a prefix such as `gpt-4*`, an expression such as `~^gpt`; any may hold.
        model: OneOrMany<ModelPattern>,
        ; finish crate::validate::route_match
    }
}

one_of! {
    /// A condition on the path; case-sensitive.
    pub enum PathMatch {
        /// The whole path.
        Exact(String) = "exact" => RequestPath,
        /// The beginning of the path, as a plain string (Istio's and Envoy's prefix): `/a` matches `/a/b` and `/ab`; write `/a/` for whole segments.
        Prefix(String) = "prefix" => RequestPath,
        /// A regular expression (RE2-like, linear time) that must match the whole path.
        Regex(Pattern) = "regex",
    }
}

one_of! {
    /// A condition on a header's or a query parameter's value.
    pub enum TextMatch {
        /// The whole value. A plain string means this.
        Exact(String) = "exact",
        /// The beginning of the value.
        Prefix(String) = "prefix",
        /// A regular expression (RE2-like, linear time) that must match the whole value.
        Regex(Pattern) = "regex",
        /// `true`: it is there, whatever its value; `false`: it is not there.
        Present(bool) = "present",
        ; short "exact"
    }
}

record! {
    /// gRPC requests, by what they call: `/service/method`.
    pub default struct GrpcMatch {
        /// Full name with package, e.g. `tensorflow.serving.PredictionService`. Default: any.
        service: Option<String> => By(crate::validate::grpc_service),
        /// Method name, e.g. `Predict`. Default: any.
        method: Option<String> => By(crate::validate::grpc_method),
    }
}

record! {
    /// Where a request comes from.
    pub default struct SourceMatch {
        /// Networks of the caller's address (after `trusted_hops`); any of them.
        cidr: OneOrMany<Cidr>,
        /// Region of this Tidegate (`node.region`).
        region: Option<String> => NotEmpty,
        /// Zone of this Tidegate (`node.zone`).
        zone: Option<String> => NotEmpty,
    }
}
