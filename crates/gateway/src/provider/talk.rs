//! Speaking to a caller in its own dialect, and what an exchange about a model leaves for the log.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use tidegate_keys::Fingerprint;
use tidegate_llm::usage::Usage;
use tidegate_llm::{Dialect, Endpoint, ErrorAnswer, Fault, FaultKind, Front};

use super::relay;
use super::said::Said;
use super::target::Refusal;
use crate::down::Down;
use crate::exchange::reply::{self, Problem};
use crate::exchange::{Context, Incoming, Running};

static ERROR: HeaderName = HeaderName::from_static("x-tidegate-error");

/// How the caller is spoken to, and what is told of the exchange afterwards.
#[derive(Debug)]
pub(crate) struct Talk {
    dialect: Dialect,
    /// None where the path is no endpoint of any dialect.
    endpoint: Option<Endpoint>,
    /// A stream is an array of JSON, not of events.
    array: bool,
    /// What the path told, until the request's body is read.
    pub(crate) front: Option<Front>,
    /// The head of a stream was sent before any provider had answered.
    pub(crate) begun: bool,
    pub(crate) provider: Option<Arc<str>>,
    /// By the provider's name.
    pub(crate) model: Option<String>,
    pub(crate) key: Option<Fingerprint>,
    pub(crate) usage: Option<Usage>,
    /// Id of the caller's virtual key.
    pub(crate) virtual_key: Option<String>,
    /// What was said, where the log is to hold it.
    pub(crate) said: Option<Box<Said>>,
}

impl Talk {
    fn with(request: &Incoming, front: Option<Front>) -> Box<Self> {
        Box::new(Self {
            dialect: front.as_ref().map_or_else(
                || Front::dialect_of(request.target.path(), &request.headers),
                |front| front.dialect,
            ),
            endpoint: front.as_ref().map(|front| front.endpoint),
            array: front.as_ref().is_some_and(|front| front.array_stream),
            front,
            begun: false,
            provider: None,
            model: None,
            key: None,
            usage: None,
            virtual_key: None,
            said: None,
        })
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What is asked for, as OpenTelemetry's GenAI conventions call it.
    pub(crate) fn operation(&self) -> Option<&'static str> {
        self.endpoint.map(Endpoint::operation)
    }

    /// For a request to a provider, whatever its path.
    pub(crate) fn of(request: &Incoming) -> Box<Self> {
        Self::with(request, recognise(request))
    }

    /// For a request whose path is an endpoint of some dialect.
    pub(crate) fn of_known(request: &Incoming) -> Option<Box<Self>> {
        Some(Self::with(request, Some(recognise(request)?)))
    }

    /// Adds what is known to a line of the log: names and counts, what was said only if that is wanted. What OpenTelemetry's GenAI conventions have a
    /// name for has that name.
    pub(crate) fn log(&self, line: &mut serde_json::Value) {
        line["provider"] = self.provider.as_deref().into();
        line["gen_ai.request.model"] = self.model.as_deref().into();
        line["key"] = self.key.as_ref().map(Fingerprint::as_str).into();
        if let Some(id) = &self.virtual_key {
            line["virtual_key"] = id.as_str().into();
        }
        if let Some(operation) = self.operation() {
            line["gen_ai.operation.name"] = operation.into();
        }
        if let Some(usage) = &self.usage {
            line["gen_ai.usage.input_tokens"] = usage.input.into();
            line["gen_ai.usage.output_tokens"] = usage.output.into();
            line["gen_ai.usage.cache_read.input_tokens"] = usage.cached.into();
            line["tokens_estimated"] = usage.estimated.into();
        }
        if let Some(said) = &self.said {
            said.log(line);
        }
    }

    /// The end of a stream of which nothing but its head and heartbeats was sent.
    fn stream_end(&self, fault: &Fault) -> Bytes {
        let endpoint = self.endpoint.unwrap_or(Endpoint::Chat);
        let end = fault.stream_end(self.dialect, endpoint);
        if !self.array {
            return end;
        }
        let item = end.strip_prefix(b"data: ").unwrap_or(&end).trim_ascii_end();
        [b"[", item, b"]"].concat().into()
    }
}

/// The endpoint and dialect that a request's path tells.
fn recognise(request: &Incoming) -> Option<Front> {
    let target = &request.target;
    Front::recognise(
        &request.method,
        target.path(),
        target.query(),
        &request.headers,
    )
}

/// An error answer: what is told where nothing was sent yet, and what ends a stream that has begun.
pub(crate) struct Told<'a> {
    pub(crate) answer: ErrorAnswer,
    pub(crate) fault: &'a Fault,
    pub(crate) code: &'static str,
}

/// Tells the caller what is wrong, in its dialect.
pub(crate) async fn tell(
    context: Context<'_>,
    told: Told<'_>,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let report = &mut running.report;
    report.code = told.code;
    let status = told.answer.status;
    report.error = status.is_server_error();
    let begun = report.talk.as_ref().filter(|talk| talk.begun);
    if let Some(talk) = begun {
        let end = talk.stream_end(told.fault);
        report.error = true;
        report.bytes_down += end.len() as u64;
        if relay::finish(context, end, down).await {
            report.status = StatusCode::OK.as_u16();
        }
        return;
    }
    let ErrorAnswer { headers, body, .. } = told.answer;
    if let Some(said) = report.talk.as_mut().and_then(|talk| talk.said.as_mut()) {
        said.answered(&body);
    }
    if let Ok(sent) = reply::whole(down, status, headers, body, context.is_head).await {
        report.status = status.as_u16();
        report.bytes_down = sent;
    }
}

/// Tells why no provider answers.
pub(crate) async fn refused(
    context: Context<'_>,
    refusal: &Refusal,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let talk = running.report.talk.as_ref();
    let (answer, code) = refusal.answer(talk.map_or(Dialect::OpenAi, |talk| talk.dialect));
    let told = Told {
        answer,
        fault: &refusal.fault,
        code,
    };
    tell(context, told, down, running).await;
}

/// Tells a fault.
pub(crate) async fn fault(
    context: Context<'_>,
    fault: &Fault,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let dialect = running
        .report
        .talk
        .as_ref()
        .map_or(Dialect::OpenAi, |talk| talk.dialect);
    let told = Told {
        answer: fault.answer(dialect),
        fault,
        code: fault.kind.code(),
    };
    tell(context, told, down, running).await;
}

/// Tells a problem that has nothing to do with models: status and code stay, the body is in the caller's dialect.
pub(crate) async fn problem(
    context: Context<'_>,
    problem: &Problem,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let kind = match problem.status {
        StatusCode::TOO_MANY_REQUESTS => FaultKind::RateLimited,
        StatusCode::PAYLOAD_TOO_LARGE => FaultKind::BodyTooLarge,
        StatusCode::NOT_FOUND => FaultKind::UnsupportedEndpoint,
        StatusCode::SERVICE_UNAVAILABLE => FaultKind::ProviderUnavailable,
        StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT => FaultKind::Timeout,
        StatusCode::BAD_GATEWAY => FaultKind::BadAnswer,
        status if status.is_client_error() => FaultKind::BadField,
        _ => FaultKind::Internal,
    };
    let fault = Fault::new(kind, problem.detail.clone()).after(problem.retry_after);
    let dialect = running
        .report
        .talk
        .as_ref()
        .map_or(Dialect::OpenAi, |talk| talk.dialect);
    let mut answer = fault.answer(dialect);
    answer.status = problem.status;
    answer
        .headers
        .insert(&ERROR, HeaderValue::from_static(problem.code));
    problem.limit_headers(&mut answer.headers);
    let told = Told {
        answer,
        fault: &fault,
        code: problem.code,
    };
    tell(context, told, down, running).await;
}
