//! Bodies of errors, written and read in each dialect.
//!
//! | dialect | shape |
//! |---|---|
//! | OpenAI | `{"error":{"message","type","param","code"}}` |
//! | Anthropic | `{"type":"error","error":{"type","message"}}` |
//! | Gemini | `{"error":{"code","message","status"}}` |
//! | Cohere, Bedrock | `{"message"}` |

use std::borrow::Cow;

use bytes::Bytes;
use http::StatusCode;

use crate::json::{Json, Tree, object, parse};
use crate::{Dialect, Endpoint};

/// What an error says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told<'a> {
    pub(crate) message: Cow<'a, str>,
    /// The type in OpenAI's or Anthropic's words, if the error came with one.
    pub(crate) kind: Option<Cow<'a, str>>,
    pub(crate) code: Option<Cow<'a, str>>,
    pub(crate) param: Option<Cow<'a, str>>,
}

/// The type in OpenAI's words.
fn openai_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// The type in Anthropic's words (its page on errors).
fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        504 => "timeout_error",
        _ => "api_error",
    }
}

/// The canonical code of Google's APIs (google.rpc.Code).
fn google_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        400..=499 => "INVALID_ARGUMENT",
        501 => "UNIMPLEMENTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    }
}

/// The body of an error.
pub(crate) fn write(dialect: Dialect, status: StatusCode, told: &Told<'_>) -> Bytes {
    let mut out = Vec::with_capacity(128 + told.message.len());
    write_into(&mut out, dialect, status, told);
    out.into()
}

fn write_into(out: &mut Vec<u8>, dialect: Dialect, status: StatusCode, told: &Told<'_>) {
    match dialect {
        Dialect::OpenAi => object(out, |body| {
            body.obj("error", |error| {
                error.str("message", &told.message);
                error.str("type", told.kind.as_deref().unwrap_or(openai_type(status)));
                error.str_or_null("param", told.param.as_deref());
                error.str_or_null("code", told.code.as_deref());
            });
        }),
        Dialect::Anthropic => object(out, |body| {
            body.str("type", "error");
            body.obj("error", |error| {
                error.str("type", anthropic_type(status));
                error.str("message", &told.message);
            });
        }),
        Dialect::Gemini => object(out, |body| {
            body.obj("error", |error| {
                error.int("code", status.as_u16().into());
                error.str("message", &told.message);
                error.str("status", google_status(status));
            });
        }),
        Dialect::Cohere | Dialect::Bedrock => object(out, |body| {
            body.str("message", &told.message);
        }),
    }
}

/// The last frames of a stream that can't go on.
pub(crate) fn stream_end(
    dialect: Dialect,
    endpoint: Endpoint,
    status: StatusCode,
    told: &Told<'_>,
) -> Bytes {
    let mut out = Vec::with_capacity(192 + told.message.len());
    match (dialect, endpoint) {
        // The event named `error` of the Responses API is flat.
        (Dialect::OpenAi, Endpoint::Responses) => {
            out.extend_from_slice(b"event: error\ndata: ");
            object(&mut out, |body| {
                body.str("type", "error");
                body.str_or_null("code", told.code.as_deref());
                body.str("message", &told.message);
                body.str_or_null("param", told.param.as_deref());
            });
        }
        (Dialect::Anthropic, _) => {
            out.extend_from_slice(b"event: error\ndata: ");
            write_into(&mut out, dialect, status, told);
        }
        _ => {
            out.extend_from_slice(b"data: ");
            write_into(&mut out, dialect, status, told);
        }
    }
    out.extend_from_slice(b"\n\n");
    out.into()
}

/// Reads the body of a provider's error; `None` if there is no message in it. Dialects are told by shape: servers that call
/// themselves compatible answer in all of them.
pub(crate) fn read(body: &[u8]) -> Option<Told<'_>> {
    let tree = parse(body).ok()?;
    told(&tree)
}

fn told<'a>(tree: &Json<'a>) -> Option<Told<'a>> {
    // Gemini's streams and Google's batch errors wrap the object in an array.
    let tree = tree.items().first().unwrap_or(tree);
    let error = tree.at("error");
    let own = |key: &str| {
        let inner = error.at(key);
        if inner.given() {
            inner.clone()
        } else {
            tree.at(key).clone()
        }
    };
    let message = own("message")
        .cow()
        .or_else(|| error.cow())
        .or_else(|| tree.at("Message").cow())
        .or_else(|| tree.at("detail").cow())
        .or_else(|| tree.at("detail").items().first()?.at("msg").cow())
        .or_else(|| tree.at("base_resp").at("status_msg").cow())?;
    let code = match own("code") {
        Json::Str(code) => Some(code),
        // Google's code is the HTTP status; its word says more.
        _ => own("status").cow(),
    };
    Some(Told {
        message,
        kind: error.at("type").cow(),
        code,
        param: own("param").cow(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, FaultKind};

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_fault_is_told_in_each_dialect() {
        let fault = Fault::field("messages[0].content", "a string");
        let openai = fault.answer(Dialect::OpenAi);
        assert_eq!(openai.status, 400);
        assert_eq!(openai.headers["x-tidegate-error"], "invalid_field");
        assert_eq!(
            text(&openai.body),
            r#"{"error":{"message":"messages[0].content must be a string","type":"invalid_request_error","param":"messages[0].content","code":"invalid_field"}}"#
        );
        assert_eq!(
            text(&fault.answer(Dialect::Anthropic).body),
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"messages[0].content must be a string"}}"#
        );
        assert_eq!(
            text(&fault.answer(Dialect::Gemini).body),
            r#"{"error":{"code":400,"message":"messages[0].content must be a string","status":"INVALID_ARGUMENT"}}"#
        );
    }

    #[test]
    fn retry_after_is_rounded_up() {
        let fault = Fault::new(FaultKind::KeysLimited, "no key is free")
            .after(Some(std::time::Duration::from_millis(1001)));
        let answer = fault.answer(Dialect::Anthropic);
        assert_eq!(answer.status, 429);
        assert_eq!(answer.headers["retry-after"], "2");
    }

    #[test]
    fn a_streams_last_frame_is_a_typed_error_and_no_good_end() {
        let fault = Fault::new(FaultKind::StreamBroken, "the provider broke off");
        let end = |dialect, endpoint| text(&fault.stream_end(dialect, endpoint)).to_owned();
        assert_eq!(
            end(Dialect::OpenAi, Endpoint::Chat),
            "data: {\"error\":{\"message\":\"the provider broke off\",\"type\":\"server_error\",\"param\":null,\"code\":\"stream_broken\"}}\n\n"
        );
        assert_eq!(
            end(Dialect::OpenAi, Endpoint::Responses),
            "event: error\ndata: {\"type\":\"error\",\"code\":\"stream_broken\",\"message\":\"the provider broke off\",\"param\":null}\n\n"
        );
        assert_eq!(
            end(Dialect::Anthropic, Endpoint::Messages),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"the provider broke off\"}}\n\n"
        );
        assert_eq!(
            end(Dialect::Gemini, Endpoint::StreamGenerate),
            "data: {\"error\":{\"code\":502,\"message\":\"the provider broke off\",\"status\":\"INTERNAL\"}}\n\n"
        );
    }

    #[test]
    fn a_providers_error_is_read_in_whatever_shape_it_comes() {
        for (body, message, code) in [
            (
                r#"{"error":{"message":"m","type":"t","code":"c","param":null}}"#,
                "m",
                Some("c"),
            ),
            (
                r#"{"type":"error","error":{"type":"t","message":"m"}}"#,
                "m",
                None,
            ),
            (
                r#"[{"error":{"code":400,"message":"m","status":"INVALID_ARGUMENT"}}]"#,
                "m",
                Some("INVALID_ARGUMENT"),
            ),
            (r#"{"message":"m"}"#, "m", None),
            (r#"{"Message":"m"}"#, "m", None),
            (r#"{"error":"m"}"#, "m", None),
            (r#"{"detail":[{"msg":"m"}]}"#, "m", None),
            (
                r#"{"object":"error","message":"m","code":"c"}"#,
                "m",
                Some("c"),
            ),
        ] {
            let told = read(body.as_bytes()).expect(body);
            assert_eq!(
                (told.message.as_ref(), told.code.as_deref()),
                (message, code),
                "{body}"
            );
        }
        assert_eq!(read(b"<html>"), None);
        assert_eq!(read(b"{}"), None);
    }
}
