//! What is remembered of a request until it is over, for whoever wants to know then: the access log and traces. Nothing is remembered
//! when nobody does.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Uri, Version};
use tidegate_wire::headers::Scheme;

use crate::exchange::{Context, Incoming};
use crate::trace::Trace;

/// See the module.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it came, since the Unix epoch.
    pub(crate) at: Duration,
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) agent: Option<HeaderValue>,
    pub(crate) request_id: Option<HeaderValue>,
    pub(crate) version: Version,
    pub(crate) scheme: Scheme,
    /// A gRPC call.
    pub(crate) is_grpc: bool,
    pub(crate) listener: String,
    pub(crate) peer: Option<IpAddr>,
    /// Its spans, where it is traced.
    pub(crate) trace: Option<Trace>,
}

impl Record {
    /// Begins to remember, if somebody wants to know of this request. One that is traced is within our span from here on.
    pub(crate) fn begin(context: Context<'_>, request: &mut Incoming) -> Option<Box<Self>> {
        let trace = match &context.snapshot.tracing {
            None => None,
            Some(tracing) => tracing.begin(&mut request.headers, context.worker),
        };
        // A null pointer when the log is off: that and the section are all that traffic pays.
        if trace.is_none() && !context.worker.shared.access.is_on() {
            return None;
        }
        Some(Self::of(context, request, trace))
    }

    #[cold]
    fn of(context: Context<'_>, request: &Incoming, trace: Option<Trace>) -> Box<Self> {
        let caller = context.caller;
        let header = |name: &HeaderName| request.headers.get(name).cloned();
        let now = SystemTime::now();
        Box::new(Self {
            at: now.duration_since(UNIX_EPOCH).unwrap_or_default(),
            method: request.method.clone(),
            target: request.target.clone(),
            host: header(&HOST),
            agent: header(&USER_AGENT),
            request_id: header(&tidegate_wire::headers::REQUEST_ID),
            version: request.version,
            scheme: caller.scheme,
            is_grpc: context.is_grpc,
            listener: caller.listener.name.clone(),
            peer: caller.peer.as_ref().map(|peer| peer.address()),
            trace,
        })
    }

    /// The host that the caller asked for.
    pub(crate) fn authority(&self) -> Option<String> {
        let authority = self.target.authority().map(|a| a.as_str().to_owned());
        authority.or_else(|| text(&self.host))
    }
}

/// A header's value for people.
pub(crate) fn text(value: &Option<HeaderValue>) -> Option<String> {
    value
        .as_ref()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}
