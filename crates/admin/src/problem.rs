//! Errors of the admin API, all as `application/problem+json` (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

/// The body of every error answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the title is that of the status, `code` tells more.
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// The status in words.
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// A stable word for programs (`not_found`, `config_refused`); also in the header `x-tidegate-error`.
    pub code: Box<str>,
    /// What happened, to what, and what would help.
    pub detail: String,
    /// Diagnostics of a refused configuration, as `tidegate check` prints them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnostics: Option<String>,
}

impl Problem {
    /// A problem with that status; `code` is a constant word.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank".into(),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            code: code.into(),
            detail: detail.into(),
            diagnostics: None,
        }
    }

    /// With the diagnostics of a refused configuration.
    pub(crate) fn with_diagnostics(mut self, text: String) -> Self {
        self.diagnostics = Some(text);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Ok(code) = HeaderValue::from_str(&self.code) {
            headers.insert("x-tidegate-error", code);
        }
        response
    }
}
