//! Routes: a match and what is done with the requests that fit it.

use super::{Concurrency, Fault, Hedge, Match, RateLimit, Retry, VirtualKeys};
use crate::checks::{By, Defines, NotEmpty, OneOfNumbers, Refers, RequestPath, TIMER, Within};
use crate::names::Namespace;
use crate::record::{one_of, record};
use crate::values::{ByteSize, HashKey, HeaderName, HeaderText, OneOrMany, Pattern, Percent};
use std::collections::BTreeMap;
use std::time::Duration;

record! {
    /// One rule. Exactly one of `to`, `redirect` and `respond` is set.
    pub struct Route {
        /// Unique name, used in metrics and logs.
        name: String => Defines(Namespace::Route),
        /// Conditions: one match or a list of which any may hold. Default: every request.
        matches as "match": OneOrMany<Match>,
        /// A split: destinations with weights.
        to: Vec<Target> => By(crate::validate::split),
        /// How one destination of the split is chosen. Default: at random by weight.
        split: Option<Split>,
        /// Next in line within the same request, in order: used when nothing is fit in the one before, or it failed retryably.
        fallback: Vec<FallbackTarget>,
        /// A copy of a share of the requests goes here; its answer is ignored.
        mirror: Option<Mirror>,
        /// Answers with a redirect.
        redirect: Option<Redirect>,
        /// Answers with a fixed response.
        respond: Option<Respond>,
        /// Changes path or host before the request goes on.
        rewrite: Option<Rewrite>,
        /// Changes headers of the request.
        request_headers: HeaderEdits = HeaderEdits::default(),
        /// Changes headers of the response.
        response_headers: HeaderEdits = HeaderEdits::default(),
        /// Injected delays and aborts.
        fault: Option<Fault>,
        /// Whole exchange, retries and back-off included. Default: off.
        timeout: Option<Duration> => TIMER,
        /// Within an exchange, no byte either way for this long ends it; `off`: never. Default 15m.
        idle_timeout: Option<Duration> = Some(Duration::from_secs(15 * 60)) => TIMER,
        /// When another attempt is made.
        retry: Retry = Retry::default(),
        /// A further attempt is started when the first has not answered in time; for idempotent methods or with `retry.replay`.
        hedge: Option<Hedge>,
        /// Requests per time.
        rate_limit: Option<RateLimit>,
        /// Requests at once.
        concurrency: Option<Concurrency>,
        /// Bytes of a request's body; 0: no limit. Default: the listener's.
        body_bytes: Option<ByteSize>,
        /// While a provider's stream has no content yet, the caller gets a comment this often, so that no proxy on the way gives up.
        /// For routes whose targets are all providers. Default: off.
        heartbeat: Option<Duration> => TIMER,
        /// Whether callers need a virtual key (see `tidegate keys`). Default off.
        virtual_keys: VirtualKeys = VirtualKeys::Off,
        /// A stream that breaks after content is continued by another attempt where the provider can go on from a partial answer. Default false.
        continue_stream as "continue": bool = false,
        ; later "domain", "descriptors"
        ; inspect crate::validate::route_keys
        ; finish crate::validate::route
        ; tidy crate::validate::route_tidy
    }
}

record! {
    /// One destination of a split.
    pub struct Target {
        /// Share of the requests: weight / sum of weights; 0 gets none. Default 1.
        weight: u32 = 1 => Within(0, 1_000_000),
        /// Model that a provider is asked for, before its mapping. Default: the caller's.
        model: Option<String> => NotEmpty,
        ; flatten
        /// Where to.
        destination: Destination
        ; later "graph"
        ; finish crate::validate::target
    }
}

one_of! {
    /// Where a share of the requests goes.
    pub enum Destination {
        /// The upstream of this name.
        Upstream(String) = "upstream" => Refers(Namespace::Upstream),
        /// The upstream that the request names.
        UpstreamFrom(UpstreamFrom) = "upstream_from",
        /// The provider of this name.
        Provider(String) = "provider" => Refers(Namespace::Provider),
        /// The service of this name.
        Service(String) = "service" => Refers(Namespace::Service),
        ; later "graph"
    }
}

record! {
    /// A header (or gRPC metadata) names the upstream.
    pub struct UpstreamFrom {
        /// Name of the header.
        header: HeaderName,
        /// Upstreams that may be named; another value or none is answered 404.
        allow: Vec<String> => Refers(Namespace::Upstream),
    }
}

record! {
    /// A destination that is used when those before it have nothing fit or failed retryably.
    pub struct FallbackTarget {
        /// Model that a provider is asked for, before its mapping. Default: the caller's.
        model: Option<String> => NotEmpty,
        ; flatten
        /// Where to.
        destination: FallbackDestination
        ; later "graph"
        ; finish crate::validate::fallback
    }
}

one_of! {
    /// Where a request goes next.
    pub enum FallbackDestination {
        /// The upstream of this name.
        Upstream(String) = "upstream" => Refers(Namespace::Upstream),
        /// The provider of this name.
        Provider(String) = "provider" => Refers(Namespace::Provider),
        /// The service of this name.
        Service(String) = "service" => Refers(Namespace::Service),
        ; later "graph"
    }
}

record! {
    /// How one destination of a split is chosen.
    pub struct Split {
        /// Requests with the same value go to the same destination.
        hash: HashKey,
    }
}

record! {
    /// Copies of requests. `Host` gets `-shadow`; the copy is never awaited and never affects health of the primary.
    pub struct Mirror {
        /// Share of the requests that are copied. Default 100%.
        percent: Percent = Percent::HUNDRED,
        ; flatten
        /// Where to.
        destination: MirrorDestination
    }
}

one_of! {
    /// Where copies go.
    pub enum MirrorDestination {
        /// The upstream of this name.
        Upstream(String) = "upstream" => Refers(Namespace::Upstream),
        /// The service of this name.
        Service(String) = "service" => Refers(Namespace::Service),
    }
}

record! {
    /// A redirect: what is not set stays as in the request.
    pub default struct Redirect {
        /// `http` or `https`.
        scheme: Option<String> => By(crate::validate::scheme),
        /// Host name.
        host: Option<String> => By(crate::validate::host),
        /// Port. Default: none when the scheme or the host changes, else the request's.
        port: Option<u16> => Within(1, 65_535),
        /// The whole path. Not together with `prefix`.
        path: Option<String> => RequestPath,
        /// Replaces the part of the path that the match's prefix matched.
        prefix: Option<String> => RequestPath,
        /// 301, 302, 303, 307 or 308. Default 302.
        status: u16 = 302 => OneOfNumbers(&[301, 302, 303, 307, 308]),
        ; inspect crate::validate::redirect_keys
    }
}

record! {
    /// A fixed response.
    pub default struct Respond {
        /// Status, 200 to 599. Default 200.
        status: u16 = 200 => Within(200, 599),
        /// Body, as it is. Default empty.
        body: String = String::new(),
        /// Headers of the response.
        headers: BTreeMap<HeaderName, HeaderText>,
    }
}

record! {
    /// Changes path and host before the request goes on. At most one of `path`, `prefix` and `regex`.
    pub default struct Rewrite {
        /// The whole path; the query stays.
        path: Option<String> => RequestPath,
        /// Replaces the part of the path that the match's prefix matched.
        prefix: Option<String> => RequestPath,
        /// Replaces what a regular expression matches in the path.
        regex: Option<RegexRewrite>,
        /// `Host` / `:authority` that the upstream sees. Default: the caller's.
        host: Option<String> => By(crate::validate::authority),
        ; inspect crate::validate::rewrite_keys
    }
}

record! {
    /// Replacement by regular expression.
    pub struct RegexRewrite {
        /// RE2-like, linear time; every occurrence in the path is replaced.
        pattern: Pattern,
        /// Replacement; `$1` or `${name}` stand for groups (write `$${name}`: `${…}` alone means the environment).
        with: String,
    }
}

record! {
    /// Header changes, made in the order remove, set, add.
    pub default struct HeaderEdits {
        /// Set to this value, whatever was there.
        set: BTreeMap<HeaderName, HeaderText>,
        /// Added to what is there.
        add: BTreeMap<HeaderName, HeaderText>,
        /// Removed.
        remove: Vec<HeaderName>,
        ; finish crate::validate::header_edits
    }
}
