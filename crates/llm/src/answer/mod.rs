//! A provider's answer on its way to the caller: one state machine an attempt, without I/O.
//!
//! ```text
//! head ─→ data* ─→ end | broken
//!           │
//!           ├─ nothing goes out until content has begun: the attempt can be thrown away unseen
//!           ├─ content: `out` has bytes for the caller, `take_head` the head to send before them
//!           └─ a fault: before content for another attempt to mend, after it for `terminal_error`
//! ```
//!
//! Content is what the caller asked for: text, reasoning, a tool call, the reason of the end. Frames that only open an
//! answer (a role, `message_start`, `response.created`), comments and pings are kept back until there is some.

mod frames;
mod held;
mod relay;
mod translate;
mod unfinished;
mod whole;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::call::stream_head;
use crate::classify::{self, Class, Evidence, redact};
use crate::fault::{self, ErrorAnswer, Fault, FaultKind, Told};
use crate::prepare::{Back, Plan};
use crate::usage::Usage;

use held::Held;
use relay::Relay;
use translate::Translate;
use whole::Whole;

pub use unfinished::Unfinished;

/// What came of feeding an [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It goes on. This feeds the idle timer.
    Progress,
    /// It goes on, but all that came was the provider's ping: this does not feed the idle timer.
    Ping,
    /// The answer is whole. What still comes from the provider is not the caller's.
    Done,
    /// The attempt failed: see [`Answer::evidence`]. If content had begun, [`Answer::terminal_error`] tells the caller;
    /// else another attempt may be made, or [`Answer::error_answer`] given.
    Failed,
}

/// Why a provider's answer stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broke {
    /// The connection was cut or reset, or the body's framing was wrong.
    Connection,
    /// Nothing but pings came within the idle timeout.
    Idle,
    /// The attempt's time was over.
    Timeout,
}

/// The body of an error is kept up to here: more than the classifier looks at.
const ERROR_LIMIT: usize = 256 * 1024;

/// A provider's answer on its way to the caller: [`head`](Self::head), then [`data`](Self::data) as it comes, then
/// [`end`](Self::end) or [`broken`](Self::broken).
///
/// Nothing is given out until content has begun (text, reasoning, a tool call, the reason of the end): until then the attempt
/// can be thrown away unseen. From then on [`take_head`](Self::take_head) has the head to send before the bytes, and a failure
/// is for [`terminal_error`](Self::terminal_error).
pub struct Answer {
    plan: Plan,
    secret: Option<Arc<str>>,
    now_unix: u64,
    /// The provider's head.
    status: StatusCode,
    headers: HeaderMap,
    state: State,
    /// Content has begun.
    begun: bool,
    head_taken: bool,
    held: Held,
    usage: Option<Usage>,
    evidence: Option<Box<Evidence>>,
    /// The provider's own error, for the caller if nobody else answers.
    error: Option<ErrorAnswer>,
    /// The provider's words for a fault of the caller's that it told within a 200. Evidence has none: they may quote a prompt.
    words: Option<String>,
    /// What it goes on from.
    before: Option<Arc<Unfinished>>,
    /// What is left for another to go on from.
    unfinished: Option<Box<Unfinished>>,
}

enum State {
    /// No head yet.
    Fresh,
    /// Not a 2xx: the body is kept for the classifier.
    Error(Vec<u8>),
    /// An answer in one piece.
    Whole(Whole),
    /// A stream of frames in the caller's dialect.
    Relay(Relay),
    /// A stream of frames in another dialect.
    Translate(Box<Translate>),
    /// Whole, or failed.
    Over(Step),
}

/// What a state made of a piece.
pub(crate) enum Seen {
    /// What [`Step`] says.
    Step(Step),
    /// It failed for this reason.
    Fault(Box<Evidence>),
}

impl Answer {
    /// For one attempt. `secret` is the key that was used: it is removed from excerpts of the provider's errors.
    /// `now_unix` is the time, seconds.
    pub fn new(plan: Plan, secret: Option<Arc<str>>, now_unix: u64) -> Self {
        Self {
            plan,
            secret,
            now_unix,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            state: State::Fresh,
            begun: false,
            head_taken: false,
            held: Held::default(),
            usage: None,
            evidence: None,
            error: None,
            words: None,
            before: None,
            unfinished: None,
        }
    }

    /// For an attempt that goes on where an answer broke off. There is no head to be taken: the caller has one.
    pub fn going_on(
        plan: Plan,
        secret: Option<Arc<str>>,
        now_unix: u64,
        before: Arc<Unfinished>,
    ) -> Self {
        Self {
            head_taken: true,
            before: Some(before),
            ..Self::new(plan, secret, now_unix)
        }
    }

    /// The provider's head (a final one, no 1xx). Call it once, before all else.
    pub fn head(&mut self, status: StatusCode, headers: HeaderMap) {
        self.status = status;
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        self.state = if !status.is_success() {
            State::Error(Vec::new())
        } else if let Some(before) = &self.before {
            let dialect = match self.plan.back {
                Back::Same => self.plan.front,
                Back::Other(_, dialect) => dialect,
            };
            State::Translate(Box::new(Translate::going_on(&self.plan, dialect, before)))
        } else {
            // Packed although identity was asked for: it can't be looked into, only passed on.
            let packed = headers
                .get(CONTENT_ENCODING)
                .is_some_and(|encoding| encoding != "identity");
            match self.plan.back {
                Back::Same if packed => State::Whole(Whole::packed()),
                Back::Same if content_type.starts_with("text/event-stream") => {
                    State::Relay(Relay::new(&self.plan))
                }
                // A provider that answers a stream in one piece: most likely an error.
                Back::Other(_, dialect)
                    if self.plan.stream && !content_type.starts_with("application/json") =>
                {
                    State::Translate(Box::new(Translate::new(&self.plan, dialect)))
                }
                _ => State::Whole(Whole::new(content_type, &self.plan)),
            }
        };
        self.headers = headers;
    }

    /// The next piece of the body. What the caller may have is appended to `out`: nothing before content has begun.
    pub fn data(&mut self, chunk: Bytes, out: &mut Vec<Bytes>) -> Step {
        if chunk.is_empty() {
            return self.over().unwrap_or(Step::Progress);
        }
        if let State::Error(body) = &mut self.state {
            let room = ERROR_LIMIT.saturating_sub(body.len());
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            return Step::Progress;
        }
        let mut sink = Sink {
            held: &mut self.held,
            begun: &mut self.begun,
            usage: &mut self.usage,
            words: &mut self.words,
            now_unix: self.now_unix,
            secret: self.secret.as_deref(),
        };
        let seen = match &mut self.state {
            State::Whole(whole) => whole.data(chunk, &mut sink),
            State::Relay(relay) => relay.data(chunk, &mut sink),
            State::Translate(translate) => translate.data(&chunk, &mut sink),
            State::Over(step) => return *step,
            State::Fresh | State::Error(_) => return self.protocol(),
        };
        self.settle(seen, out)
    }

    /// The body has ended as its framing says.
    pub fn end(&mut self, out: &mut Vec<Bytes>) -> Step {
        if let State::Error(body) = &mut self.state {
            let body = std::mem::take(body);
            return self.refused(&body);
        }
        let mut sink = Sink {
            held: &mut self.held,
            begun: &mut self.begun,
            usage: &mut self.usage,
            words: &mut self.words,
            now_unix: self.now_unix,
            secret: self.secret.as_deref(),
        };
        let seen = match &mut self.state {
            State::Whole(whole) => whole.end(&self.plan, self.status, &self.headers, &mut sink),
            State::Relay(relay) => relay.end(&mut sink),
            State::Translate(translate) => translate.end(&mut sink),
            State::Over(step) => return *step,
            State::Fresh | State::Error(_) => return self.protocol(),
        };
        self.settle(seen, out)
    }

    /// The body stopped before its end.
    pub fn broken(&mut self, broke: Broke) -> Step {
        if let State::Over(step) = self.state {
            return step;
        }
        // What a refusal said so far is worth more than that it was cut.
        if let State::Error(body) = &mut self.state {
            let body = std::mem::take(body);
            return self.refused(&body);
        }
        let (status, rule, words) = match broke {
            Broke::Connection => (
                502,
                "answer-cut",
                "the connection broke off within the answer",
            ),
            Broke::Idle => (504, "answer-idle", "the answer stalled"),
            Broke::Timeout => (504, "answer-timeout", "the answer took too long"),
        };
        self.fail(Evidence::local(Class::Broken, status, rule, words))
    }

    fn over(&self) -> Option<Step> {
        match self.state {
            State::Over(step) => Some(step),
            _ => None,
        }
    }

    /// A body without a head.
    fn protocol(&mut self) -> Step {
        self.fail(Evidence::local(
            Class::Broken,
            502,
            "answer-headless",
            "a body came before a head",
        ))
    }

    fn fail(&mut self, evidence: Evidence) -> Step {
        let state = std::mem::replace(&mut self.state, State::Over(Step::Failed));
        if self.begun && self.plan.remember && evidence.class != Class::CallerFault {
            self.unfinished = match state {
                State::Relay(relay) => relay.unfinished(&self.plan),
                State::Translate(translate) => translate.unfinished(),
                _ => None,
            }
            .map(Box::new);
        }
        self.evidence = Some(Box::new(evidence));
        if !self.begun {
            self.held.clear();
        }
        Step::Failed
    }

    fn settle(&mut self, seen: Seen, out: &mut Vec<Bytes>) -> Step {
        if self.begun {
            self.held.flush(out);
        }
        match seen {
            Seen::Step(Step::Done) => {
                self.state = State::Over(Step::Done);
                Step::Done
            }
            Seen::Step(step) => step,
            Seen::Fault(evidence) => self.fail(*evidence),
        }
    }

    /// The provider refused: classified, and its words kept for the caller.
    fn refused(&mut self, body: &[u8]) -> Step {
        let secret = self.secret.clone();
        let body = &*redact::passed_on(body, secret.as_deref());
        let evidence = classify::classify(
            self.plan.kind,
            self.status,
            &self.headers,
            body,
            self.now_unix,
            self.secret.as_deref(),
        );
        self.error = Some(self.told(body, &evidence));
        self.fail(evidence)
    }

    /// A provider's error for the caller: as it came where the dialects agree, else in the caller's. Only a fault of the
    /// caller's is told in the provider's words: others may speak of the operator's account.
    fn told(&self, body: &[u8], evidence: &Evidence) -> ErrorAnswer {
        if evidence.class != Class::CallerFault {
            return self.fault_of(evidence).answer(self.plan.front);
        }
        if self.plan.is_relay() {
            let mut headers = self.headers.clone();
            keep_callers(&mut headers);
            headers.remove(CONTENT_LENGTH);
            for value in headers.values_mut() {
                let clean = redact::passed_on(value.as_bytes(), self.secret.as_deref());
                if let Cow::Owned(clean) = clean {
                    *value = HeaderValue::from_bytes(&clean)
                        .unwrap_or_else(|_| HeaderValue::from_static(""));
                }
            }
            return ErrorAnswer {
                status: self.status,
                headers,
                body: Bytes::copy_from_slice(body),
            };
        }
        let told = fault::read(body).unwrap_or_else(|| Told {
            message: "the provider refused the request".into(),
            ..Told::default()
        });
        fault::error_answer(self.plan.front, self.status, &told)
    }

    /// The head for the caller, once content has begun; `None` before, and after it was taken. No `content-length` unless
    /// the body is passed on as it came.
    pub fn take_head(&mut self) -> Option<(StatusCode, HeaderMap)> {
        if !self.begun || self.head_taken {
            return None;
        }
        self.head_taken = true;
        if self.plan.is_relay() && !self.plan.array_stream {
            let mut headers = std::mem::take(&mut self.headers);
            keep_callers(&mut headers);
            // A frame may be left out, and an error put in place of the rest.
            if self.plan.stream || self.plan.hide_usage {
                headers.remove(CONTENT_LENGTH);
            }
            return Some((self.status, headers));
        }
        if self.plan.stream {
            return Some((StatusCode::OK, stream_head(self.plan.array_stream)));
        }
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Some((StatusCode::OK, headers))
    }

    /// Whether content has begun: from here on no other attempt can take over.
    pub fn content_begun(&self) -> bool {
        self.begun
    }

    /// What the provider counted, as far as it has said.
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.as_ref()
    }

    /// What the caller has of an answer that broke off, for another attempt to go on from. `None` unless that was to be
    /// [remembered](crate::PrepareOptions::remember), there is text and nothing but text, not too long, and its end has not
    /// been told.
    pub fn unfinished(&mut self) -> Option<Unfinished> {
        self.unfinished.take().map(|unfinished| *unfinished)
    }

    /// Why the attempt failed; `None` while it has not.
    pub fn evidence(&self) -> Option<&Evidence> {
        self.evidence.as_deref()
    }

    /// The answer for a caller to whom nothing has been sent, after a failure that no other attempt mends: the provider's
    /// own words for what is the caller's fault, ours for the rest.
    pub fn error_answer(&self) -> ErrorAnswer {
        match (&self.error, &self.evidence) {
            (Some(error), _) => error.clone(),
            // Told within a 200: the status that it stands for.
            (None, Some(evidence)) if evidence.class == Class::CallerFault => {
                let status = StatusCode::from_u16(evidence.status)
                    .ok()
                    .filter(StatusCode::is_client_error)
                    .unwrap_or(StatusCode::BAD_REQUEST);
                let told = Told {
                    message: self.fault_of(evidence).message,
                    code: evidence.code.as_deref().map(Into::into),
                    ..Told::default()
                };
                fault::error_answer(self.plan.front, status, &told)
            }
            (None, Some(evidence)) => self.fault_of(evidence).answer(self.plan.front),
            (None, None) => Fault::new(FaultKind::BadAnswer, "the provider gave no answer")
                .answer(self.plan.front),
        }
    }

    /// Ends a stream that can't go on after content has begun, in the caller's dialect: a typed error, and no mark of a good
    /// end. Empty for answers that are no stream: there the connection has to be cut.
    pub fn terminal_error(&self) -> Bytes {
        let fault = match &self.evidence {
            Some(evidence) => self.fault_of(evidence),
            None => Fault::new(FaultKind::StreamBroken, "the answer broke off"),
        };
        self.terminal(&fault)
    }

    /// As [`terminal_error`](Self::terminal_error), for a fault that is not the provider's.
    pub fn terminal(&self, fault: &Fault) -> Bytes {
        if !self.plan.stream {
            return Bytes::new();
        }
        let end = fault.stream_end(self.plan.front, self.plan.endpoint);
        if !self.plan.array_stream {
            return end;
        }
        array_end(&end)
    }

    fn fault_of(&self, evidence: &Evidence) -> Fault {
        let (kind, words) = match evidence.class {
            Class::Limited { retry_after, .. } | Class::QuotaExhausted { retry_after, .. } => {
                return Fault::new(
                    FaultKind::KeysLimited,
                    "the provider's limit is reached; try again later",
                )
                .after(retry_after);
            }
            Class::CallerFault => {
                let words = "the provider refused the request";
                let words = self.words.clone().map_or(words.into(), Cow::Owned);
                return Fault::new(FaultKind::BadField, words);
            }
            Class::Broken if evidence.status == 504 => {
                (FaultKind::Timeout, "the provider did not go on in time")
            }
            Class::Broken if self.begun => {
                (FaultKind::StreamBroken, "the provider's answer broke off")
            }
            Class::Broken => (FaultKind::BadAnswer, "the provider's answer was no answer"),
            _ => (
                FaultKind::ProviderUnavailable,
                "the provider is not available",
            ),
        };
        Fault::new(kind, words)
    }
}

/// Where a state puts what it finds.
pub(crate) struct Sink<'s> {
    pub(crate) held: &'s mut Held,
    pub(crate) begun: &'s mut bool,
    pub(crate) usage: &'s mut Option<Usage>,
    pub(crate) words: &'s mut Option<String>,
    pub(crate) now_unix: u64,
    pub(crate) secret: Option<&'s str>,
}

impl Sink<'_> {
    /// What the provider counted, added to what it said before.
    pub(crate) fn count(&mut self, seen: &Usage) {
        self.usage.get_or_insert_default().merge(seen);
    }

    /// A fault that the provider told within a 200.
    pub(crate) fn fault(&mut self, evidence: Evidence, data: &[u8]) -> Box<Evidence> {
        if evidence.class == Class::CallerFault {
            let data = redact::passed_on(data, self.secret);
            *self.words = fault::read(&data).map(|told| told.message.into_owned());
        }
        Box::new(evidence)
    }
}

/// Leaves of the provider's headers those that a caller may have: not those of the connection, nor cookies, nor what tells whose account
/// it is.
fn keep_callers(headers: &mut HeaderMap) {
    let is_dropped = |name: &&HeaderName| {
        matches!(
            name.as_str(),
            "transfer-encoding"
                | "content-encoding"
                | "connection"
                | "set-cookie"
                | "trailer"
                | "upgrade"
                | "alt-svc"
                | "strict-transport-security"
                | "keep-alive"
                | "proxy-connection"
                | "openai-organization"
                | "openai-project"
                | "anthropic-organization-id"
        )
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(is_dropped).cloned().collect();
    for name in dropped {
        // An answer that is packed although identity was asked for is passed on as it says that it is.
        let packed = name == CONTENT_ENCODING && headers[CONTENT_ENCODING] != "identity";
        if !packed {
            headers.remove(name);
        }
    }
}

/// The data of an event as the last item of an array.
fn array_end(event: &Bytes) -> Bytes {
    let data = event
        .strip_prefix(b"data: ")
        .unwrap_or(event)
        .trim_ascii_end();
    let mut out = Vec::with_capacity(data.len() + 4);
    out.extend_from_slice(b",\n");
    out.extend_from_slice(data);
    out.push(b']');
    out.into()
}
