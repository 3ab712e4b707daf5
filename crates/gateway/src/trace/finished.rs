//! A request that is over, as facts on the way to the control runtime; and the spans that are made of them there, by OpenTelemetry's
//! conventions for HTTP, RPC (1.44) and generative models.
//!
//! Facts are copied, never slices of what was read: many may wait, and each would keep a whole buffer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Version};
use tidegate_config::model;
use tidegate_config::values::Address;
use tidegate_otlp::span::{Attributes, KeyValue, Place, Span, SpanKind, fail, span};
use tidegate_wire::grpc::GrpcStatus;
use tidegate_wire::headers::{Scheme, TraceContext};

use super::Trace;
use super::attempt::{Attempt, Model};
use crate::exchange::Report;
use crate::record::{Record, text};

/// Longest text of a caller's that is told.
const TEXT: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Finished {
    parent: Option<TraceContext>,
    own: TraceContext,
    state: String,
    attempts: Vec<Attempt>,
    /// Attempts made, of which some may not be told.
    made: usize,
    /// Since the Unix epoch.
    at: Duration,
    started: Instant,
    took: Duration,
    method: String,
    path: String,
    authority: Option<String>,
    agent: Option<String>,
    request_id: Option<String>,
    version: Version,
    scheme: Scheme,
    listener: String,
    peer: Option<IpAddr>,
    route: Option<Arc<str>>,
    status: u16,
    grpc: Option<u16>,
    /// A call that ended without any status is one still.
    is_grpc: bool,
    error: bool,
    code: &'static str,
    bytes_up: u64,
    bytes_down: u64,
    operation: Option<&'static str>,
    virtual_key: Option<String>,
}

impl Finished {
    pub(super) fn new(trace: Trace, record: &Record, report: &Report, started: Instant) -> Self {
        let Trace {
            parent,
            own,
            state,
            attempts,
            made,
            ..
        } = trace;
        let talk = report.talk.as_ref();
        Self {
            parent,
            own,
            state,
            attempts,
            made,
            at: record.at,
            started,
            took: started.elapsed(),
            method: cut(record.method.as_str()),
            path: cut(record.target.path()),
            authority: record.authority().as_deref().map(cut),
            agent: text(&record.agent).as_deref().map(cut),
            request_id: text(&report.request_id)
                .or_else(|| text(&record.request_id))
                .as_deref()
                .map(cut),
            version: record.version,
            scheme: record.scheme,
            listener: record.listener.clone(),
            peer: record.peer,
            route: report.route.clone(),
            status: report.status,
            grpc: report.grpc,
            is_grpc: record.is_grpc,
            error: report.error,
            code: report.code,
            bytes_up: report.bytes_up,
            bytes_down: report.bytes_down,
            operation: talk.and_then(|talk| talk.operation()),
            virtual_key: talk.and_then(|talk| talk.virtual_key.clone()),
        }
    }

    /// The call as gRPC names it.
    fn call(&self) -> &str {
        self.path.trim_start_matches('/')
    }

    /// The server span: the whole exchange.
    fn request(&self) -> Span {
        let (method, other) = method(&self.method);
        let name = match (self.is_grpc, &self.route) {
            (true, _) => self.call().to_owned(),
            (false, Some(route)) => format!("{} {route}", other.map_or(method, |_| "HTTP")),
            (false, None) => other.map_or(method, |_| "HTTP").to_owned(),
        };
        let place = Place {
            trace_id: self.own.trace_id,
            span_id: self.own.span_id,
            parent: self.parent.map(|parent| parent.span_id),
            remote: self.parent.is_some(),
            flags: self.own.flags,
        };
        let mut span = span(place, SpanKind::Server, name, self.at, self.took);
        span.trace_state.clone_from(&self.state);
        let mut attributes = Attributes(&mut span.attributes);
        attributes
            .text("http.request.method", method)
            .text_of("http.request.method_original", other)
            .text("url.scheme", self.scheme.as_str())
            .text("url.path", &*self.path)
            .text_of("http.route", self.route.as_deref())
            .text("network.protocol.version", protocol(self.version))
            .text_of("client.address", self.peer.map(|peer| peer.to_string()))
            .text_of("user_agent.original", self.agent.as_deref())
            .int("http.request.body.size", self.bytes_up)
            .int("http.response.body.size", self.bytes_down)
            .text("tidegate.listener", &*self.listener)
            .int("tidegate.attempts", self.made)
            .text_of("tidegate.request_id", self.request_id.as_deref())
            .text_of("tidegate.virtual_key", self.virtual_key.as_deref());
        if let Some(authority) = &self.authority {
            let (host, port) = host_and_port(authority);
            attributes.text("server.address", host);
            if let Some(port) = port {
                attributes.int("server.port", port);
            }
        }
        if !self.code.is_empty() {
            attributes.text("tidegate.error", self.code);
        }
        if self.status == 0 {
            // Nobody was left to be told anything.
            attributes.flag("tidegate.caller_gone", true);
        } else {
            attributes.int("http.response.status_code", self.status);
        }
        if self.is_grpc {
            rpc(&mut attributes, self.call(), self.grpc);
        }
        let failed = match self.grpc {
            // What a server is to blame for, by the conventions.
            Some(code) => matches!(code, 2 | 4 | 12 | 13 | 14 | 15),
            None => self.status >= 500,
        };
        if failed || self.error {
            let kind = match (self.code, self.grpc) {
                ("", Some(code)) => grpc_name(code),
                ("", None) => self.status.to_string(),
                (code, _) => code.to_owned(),
            };
            attributes.text("error.type", kind);
            fail(&mut span, self.code);
        }
        span
    }

    /// A client span: one attempt.
    fn attempt(&self, n: usize, attempt: &Attempt) -> Span {
        let (method, other) = method(&self.method);
        let name = match (&attempt.model, self.is_grpc) {
            (Some(model), _) => format!("{} {}", self.operation.unwrap_or("other"), model.name),
            (None, true) => self.call().to_owned(),
            (None, false) => other.map_or(method, |_| "HTTP").to_owned(),
        };
        let place = Place {
            trace_id: self.own.trace_id,
            span_id: attempt.span,
            parent: Some(self.own.span_id),
            remote: false,
            flags: self.own.flags,
        };
        let since = attempt.started.saturating_duration_since(self.started);
        // One that nobody ended ended with the exchange.
        let took = attempt.took.unwrap_or(self.took.saturating_sub(since));
        let mut span = span(place, SpanKind::Client, name, self.at + since, took);
        let settled = &attempt.settled;
        let mut attributes = Attributes(&mut span.attributes);
        let port = match &attempt.target.address {
            Address::Ip(at) => {
                attributes.text("server.address", at.ip().to_string());
                Some(at.port())
            }
            Address::Name(name) => {
                attributes.text("server.address", &*name.host);
                Some(name.port)
            }
            Address::Unix(path) => {
                attributes
                    .text("server.address", path.display().to_string())
                    .text("network.transport", "unix");
                None
            }
        };
        if let Some(port) = port {
            attributes.int("server.port", port);
        }
        attributes
            .text("tidegate.pool", &*attempt.pool)
            .text("tidegate.member", &*attempt.target.id);
        if !settled.verdict.is_empty() {
            attributes.text("tidegate.verdict", settled.verdict);
        }
        if !settled.cause.is_empty() {
            attributes.text("tidegate.cause", settled.cause);
        }
        match &attempt.model {
            Some(model) => gen_ai(&mut attributes, self.operation, model),
            None => {
                attributes
                    .text("http.request.method", method)
                    .text_of("http.request.method_original", other);
            }
        }
        if let Some(sent) = &attempt.sent {
            let scheme = if sent.secure { "https" } else { "http" };
            let authority = match &attempt.target.address {
                Address::Unix(_) => "localhost".to_owned(),
                tcp => tcp.to_string(),
            };
            // Without the query: keys of some providers and secrets of callers stand there.
            let url = format!("{scheme}://{authority}{}", sent.path);
            attributes.text("url.full", cut(&url)).text(
                "network.protocol.version",
                if sent.h2 { "2" } else { "1.1" },
            );
        }
        if n > 0 {
            attributes.int("http.request.resend_count", n);
        }
        if settled.status > 0 {
            attributes.int("http.response.status_code", settled.status);
        }
        if self.is_grpc && attempt.model.is_none() {
            rpc(&mut attributes, self.call(), settled.grpc);
        }
        let kind = match settled {
            s if s.grpc.is_some_and(|code| code != 0) => s.grpc.map(grpc_name),
            s if s.status >= 400 => Some(s.status.to_string()),
            // The caller's leaving, or another's winning, is no error.
            s if s.cause.is_empty() || matches!(s.cause, "cancelled" | "caller-gone") => None,
            s => Some(s.cause.to_owned()),
        };
        if let Some(kind) = kind {
            attributes.text("error.type", kind);
            fail(&mut span, settled.cause);
        }
        span
    }
}

impl tidegate_otlp::Record for Box<Finished> {
    fn spans(&self) -> usize {
        1 + self.attempts.len()
    }

    fn write(self, out: &mut Vec<Span>) {
        out.push(self.request());
        let attempts = self.attempts.iter().enumerate();
        out.extend(attempts.map(|(n, attempt)| self.attempt(n, attempt)));
    }
}

/// Who records.
pub(super) fn resource(
    config: &model::Tracing,
    node: &model::Node,
    instance: &str,
) -> Vec<KeyValue> {
    let mut made = Vec::new();
    let mut attributes = Attributes(&mut made);
    let own = [
        ("service.name", &*config.service_name),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
        ("cloud.region", &*node.region),
        ("cloud.availability_zone", &*node.zone),
    ];
    for (key, value) in own {
        if !value.is_empty() && !config.resource.contains_key(key) {
            attributes.text(key, value);
        }
    }
    for (key, value) in &config.resource {
        attributes.text(key, &**value);
    }
    made
}

/// What a model was asked. Never what was said, nor the key: its fingerprint.
fn gen_ai(attributes: &mut Attributes<'_>, operation: Option<&'static str>, model: &Model) {
    attributes
        .text("gen_ai.operation.name", operation.unwrap_or("other"))
        .text("gen_ai.provider.name", model.kind.convention())
        .text("gen_ai.request.model", &*model.name)
        .flag("gen_ai.request.stream", model.stream)
        .text_of("gen_ai.response.id", model.facts.id.as_deref())
        .text_of("gen_ai.response.model", model.facts.model.as_deref())
        .texts(
            "gen_ai.response.finish_reasons",
            &model.facts.finish_reasons,
        )
        .seconds("gen_ai.response.time_to_first_chunk", model.first_content)
        .text("tidegate.key", model.key.as_str());
    let Some(used) = &model.used else { return };
    attributes
        .int("gen_ai.usage.input_tokens", used.input)
        .int("gen_ai.usage.output_tokens", used.output)
        .flag("tidegate.tokens_estimated", used.estimated);
    for (key, tokens) in [
        ("gen_ai.usage.cache_read.input_tokens", used.cached),
        (
            "gen_ai.usage.cache_creation.input_tokens",
            used.cache_written,
        ),
        ("gen_ai.usage.reasoning.output_tokens", used.reasoning),
    ] {
        if tokens > 0 {
            attributes.int(key, tokens);
        }
    }
}

fn rpc(attributes: &mut Attributes<'_>, call: &str, status: Option<u16>) {
    attributes
        .text("rpc.system.name", "grpc")
        .text("rpc.method", call)
        .text_of("rpc.response.status_code", status.map(grpc_name));
}

/// `UNAVAILABLE` for 14.
fn grpc_name(code: u16) -> String {
    GrpcStatus::from_code(u32::from(code)).name().to_owned()
}

/// A method that is known, and one that is not.
fn method(method: &str) -> (&str, Option<&str>) {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    match known.iter().any(|known| known == method) {
        true => (method, None),
        false => ("_OTHER", Some(method)),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Of a `Host` field.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// The beginning of a text: what waits for a collector keeps no more of it.
pub(super) fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
