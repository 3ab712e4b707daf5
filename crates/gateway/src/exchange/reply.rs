//! Answers that Tidegate makes itself.
//!
//! Each carries `x-tidegate-error: <code>`; a gRPC caller gets a headers-only answer with a proper status, any other caller
//! `application/problem+json` (RFC 9457).

use std::borrow::Cow;
use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use tidegate_core::Decision;
use tidegate_wire::grpc::{self, GrpcStatus};
use tidegate_wire::h1::BodyLength;

use crate::down::{Down, DownError};

static ERROR: HeaderName = HeaderName::from_static("x-tidegate-error");

/// An error answer.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) grpc: GrpcStatus,
    /// For programs: `x-tidegate-error`.
    pub(crate) code: &'static str,
    /// For people: one sentence.
    pub(crate) detail: Cow<'static, str>,
    pub(crate) retry_after: Option<Duration>,
    /// What a rate limiter said: `x-ratelimit-*` (draft-ietf-httpapi-ratelimit-headers-03).
    pub(crate) limit: Option<Decision>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        grpc: GrpcStatus,
        code: &'static str,
        detail: &'static str,
    ) -> Self {
        Self {
            status,
            grpc,
            code,
            detail: Cow::Borrowed(detail),
            retry_after: None,
            limit: None,
        }
    }

    /// A request that can't be understood.
    pub(crate) fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            detail: detail.into(),
            ..Self::new(
                StatusCode::BAD_REQUEST,
                GrpcStatus::InvalidArgument,
                code,
                "",
            )
        }
    }

    /// What the rate limiter said, for the caller.
    pub(crate) fn limit_headers(&self, headers: &mut HeaderMap) {
        let Some(limit) = &self.limit else { return };
        let reset = limit
            .retry_after
            .map_or(0, |t| t.as_secs() + u64::from(t.subsec_nanos() > 0));
        headers.insert("x-ratelimit-limit", HeaderValue::from(limit.limit));
        headers.insert("x-ratelimit-remaining", HeaderValue::from(limit.remaining));
        headers.insert("x-ratelimit-reset", HeaderValue::from(reset));
    }

    fn body(&self) -> Bytes {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut body = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{},"code":"{}","detail":"#,
            self.status.as_u16(),
            self.code
        );
        // The detail may quote nothing of the request, but a config may name anything.
        body.push_str(&serde_json::Value::from(&*self.detail).to_string());
        body.push_str("}\n");
        body.into()
    }
}

/// Sends the problem; the exchange is over then. `is_head`: the request was HEAD. Returns the bytes of its body.
pub(crate) async fn problem(
    down: &mut Down<'_>,
    problem: &Problem,
    is_grpc: bool,
    is_head: bool,
) -> Result<u64, DownError> {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(&ERROR, HeaderValue::from_static(problem.code));
    if let Some(after) = problem.retry_after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    problem.limit_headers(&mut headers);
    if problem.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE"),
        );
    }
    if is_grpc && down.is_h2() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        grpc::insert_status(&mut headers, problem.grpc, &problem.detail);
        return whole(down, StatusCode::OK, headers, Bytes::new(), is_head).await;
    }
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    whole(down, problem.status, headers, problem.body(), is_head).await
}

/// Sends a whole answer. Returns the bytes of its body.
pub(crate) async fn whole(
    down: &mut Down<'_>,
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    is_head: bool,
) -> Result<u64, DownError> {
    let sent = if is_head { 0 } else { body.len() as u64 };
    let length = if body.is_empty() {
        BodyLength::None
    } else {
        BodyLength::Exact(body.len() as u64)
    };
    let mut headers = headers;
    if down.is_h2() && !body.is_empty() {
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    // HTTP/1.1 leaves the body of an answer to HEAD out by itself.
    let end = body.is_empty() || is_head && down.is_h2();
    if let Down::H1(d) = down {
        d.close_if_unread();
    }
    down.head(status, headers, length, end)?;
    if !end {
        down.data(body, true)?;
    }
    poll_fn(|cx| down.poll_flush(cx)).await?;
    Ok(sent)
}
