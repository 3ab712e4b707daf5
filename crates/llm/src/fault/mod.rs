//! What goes wrong, and how it is told in the caller's own dialect.

mod body;

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use thiserror::Error;

use crate::{Dialect, Endpoint};

pub(crate) use body::{Told, read, write};

static ERROR: HeaderName = HeaderName::from_static("x-tidegate-error");

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The body is no JSON.
    NotJson,
    /// A field has a type or value that the dialect does not know.
    BadField,
    /// The request names no model.
    MissingModel,
    /// No route or provider serves the model.
    UnknownModel,
    /// The virtual key may not use the model.
    ModelNotAllowed,
    /// The body is longer than the bound.
    BodyTooLarge,
    /// The path is no endpoint of the dialect, or the provider does not have it.
    UnsupportedEndpoint,
    /// The path is an endpoint for POST alone.
    WrongMethod,
    /// The provider's dialect can't express what was asked.
    Untranslatable,
    /// No virtual key, or one that is unknown or revoked.
    Unauthorized,
    /// The virtual key's requests or tokens per minute are used up.
    RateLimited,
    /// The virtual key's budget is used up.
    BudgetExhausted,
    /// Every key is limited or out of quota: 429 with the earliest return.
    KeysLimited,
    /// Every key is dead or spared, every provider down.
    ProviderUnavailable,
    /// The provider's answer is no answer.
    BadAnswer,
    /// A stream broke off in the middle.
    StreamBroken,
    /// Nothing came in time.
    Timeout,
    /// The process has no memory left for another request body.
    Overloaded,
    /// Tidegate's own fault.
    Internal,
}

impl FaultKind {
    /// For programs: the value of `x-tidegate-error`.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotJson => "invalid_json",
            Self::BadField => "invalid_field",
            Self::MissingModel => "missing_model",
            Self::UnknownModel => "unknown_model",
            Self::ModelNotAllowed => "model_not_allowed",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedEndpoint => "unsupported_endpoint",
            Self::WrongMethod => "method_not_allowed",
            Self::Untranslatable => "not_translatable",
            Self::Unauthorized => "invalid_virtual_key",
            Self::RateLimited => "rate_limited",
            Self::BudgetExhausted => "budget_exhausted",
            Self::KeysLimited => "keys_limited",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::BadAnswer => "bad_provider_answer",
            Self::StreamBroken => "stream_broken",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Internal => "internal",
        }
    }

    /// The status of an answer that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotJson | Self::BadField | Self::MissingModel | Self::Untranslatable => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ModelNotAllowed => StatusCode::FORBIDDEN,
            Self::UnknownModel | Self::UnsupportedEndpoint => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited | Self::BudgetExhausted | Self::KeysLimited => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::BadAnswer | Self::StreamBroken => StatusCode::BAD_GATEWAY,
            Self::ProviderUnavailable | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Whether the caller can do something about it.
    pub fn is_callers(self) -> bool {
        !matches!(
            self,
            Self::KeysLimited
                | Self::ProviderUnavailable
                | Self::BadAnswer
                | Self::StreamBroken
                | Self::Timeout
                | Self::Overloaded
                | Self::Internal
        )
    }
}

/// Something that went wrong, in words for the caller. It never holds a key, a prompt or an answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// One sentence for people.
    pub message: Cow<'static, str>,
    /// The field that is wrong (`messages[2].content`).
    pub param: Option<String>,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault in words.
    pub fn new(kind: FaultKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            param: None,
            retry_after: None,
        }
    }

    /// With the field that is wrong.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// With the time to come back after.
    #[must_use]
    pub fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// A field of the wrong type or value.
    pub(crate) fn field(param: impl Into<String>, expected: &str) -> Self {
        let param = param.into();
        Self::new(FaultKind::BadField, format!("{param} must be {expected}")).at(param)
    }

    /// The answer in a dialect.
    pub fn answer(&self, dialect: Dialect) -> ErrorAnswer {
        let mut answer = error_answer(dialect, self.kind.status(), &self.told());
        answer
            .headers
            .insert(ERROR.clone(), HeaderValue::from_static(self.kind.code()));
        if self.kind == FaultKind::WrongMethod {
            answer
                .headers
                .insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if let Some(after) = self.retry_after {
            // Rounded up: a caller must not come back too early.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            answer.headers.insert(RETRY_AFTER, seconds.into());
        }
        answer
    }

    /// The last bytes of a stream that can't go on: a typed error in the caller's dialect, and never a mark of a good end.
    pub fn stream_end(&self, dialect: Dialect, endpoint: Endpoint) -> Bytes {
        body::stream_end(dialect, endpoint, self.kind.status(), &self.told())
    }

    fn told(&self) -> Told<'_> {
        Told {
            message: Cow::Borrowed(&self.message),
            kind: None,
            code: Some(Cow::Borrowed(self.kind.code())),
            param: self.param.as_deref().map(Cow::Borrowed),
        }
    }
}

/// An error as an answer.
#[derive(Clone, Debug)]
pub struct ErrorAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, `content-type` among them; no `content-length`.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// An error answer in a dialect, without headers of ours.
pub(crate) fn error_answer(dialect: Dialect, status: StatusCode, told: &Told<'_>) -> ErrorAnswer {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    ErrorAnswer {
        status,
        headers,
        body: write(dialect, status, told),
    }
}
