//! A fault as each protocol tells it. The table of codes is gRPC's own mapping, in `tidegate_wire::grpc`; here are the words that HTTP can say better.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use prost::Message;
use serde::Serialize;
use tidegate_wire::grpc::{GrpcStatus, insert_status};

use super::body::Body;
use crate::{Code, Fault};

/// The header with the stable word of an error that Tidegate made.
pub(crate) const ERROR: &str = "x-tidegate-error";

/// The word of an HTTP method that a path does not take.
const METHOD_NOT_ALLOWED: &str = "method_not_allowed";

/// What is read from a path.
pub(crate) const READ: &str = "GET, HEAD";

/// The longest text that a caller is told: it travels in a header.
const LONGEST: usize = 1024;

/// The status in gRPC's words.
pub(crate) fn grpc_status(code: Code) -> GrpcStatus {
    match code {
        Code::Cancelled => GrpcStatus::Cancelled,
        Code::Unknown => GrpcStatus::Unknown,
        Code::InvalidArgument => GrpcStatus::InvalidArgument,
        Code::DeadlineExceeded => GrpcStatus::DeadlineExceeded,
        Code::NotFound => GrpcStatus::NotFound,
        Code::AlreadyExists => GrpcStatus::AlreadyExists,
        Code::PermissionDenied => GrpcStatus::PermissionDenied,
        Code::ResourceExhausted => GrpcStatus::ResourceExhausted,
        Code::FailedPrecondition => GrpcStatus::FailedPrecondition,
        Code::Aborted => GrpcStatus::Aborted,
        Code::OutOfRange => GrpcStatus::OutOfRange,
        Code::Unimplemented => GrpcStatus::Unimplemented,
        Code::Internal => GrpcStatus::Internal,
        Code::Unavailable => GrpcStatus::Unavailable,
        Code::DataLoss => GrpcStatus::DataLoss,
        Code::Unauthenticated => GrpcStatus::Unauthenticated,
    }
}

/// The status of an HTTP answer.
pub(crate) fn http_status(fault: &Fault) -> StatusCode {
    match (fault.code, fault.reason) {
        (Code::ResourceExhausted, "too_large" | "upload_quota") => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::ResourceExhausted, "disk_full") => StatusCode::INSUFFICIENT_STORAGE,
        // 429 would have clients try again, and 413 speaks of the request.
        (Code::ResourceExhausted, "result_too_large" | "memory" | "memory_limit") => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        (_, METHOD_NOT_ALLOWED) => StatusCode::METHOD_NOT_ALLOWED,
        (code, _) => grpc_status(code).to_http(),
    }
}

/// `google.rpc.Status`, for `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(map = "string, string", tag = "3")]
    metadata: std::collections::HashMap<String, String>,
}

/// Writes a fault into the trailers of a call.
pub(crate) fn put_grpc(fault: &Fault, headers: &mut HeaderMap) {
    let status = grpc_status(fault.code);
    insert_status(headers, status, shortened(&told(fault)));
    headers.insert(ERROR, HeaderValue::from_static(fault.reason));
    let info = ErrorInfo {
        reason: fault.reason.to_owned(),
        domain: "tidegate".to_owned(),
        metadata: fault
            .exception
            .iter()
            .map(|kind| ("exception".to_owned(), shortened(kind).to_owned()))
            .collect(),
    };
    let details = RpcStatus {
        code: i32::from(status.code()),
        // The text is in `grpc-message`; twice would double the trailers.
        message: String::new(),
        details: vec![Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
            value: info.encode_to_vec(),
        }],
    };
    let text = STANDARD_NO_PAD.encode(details.encode_to_vec());
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert("grpc-status-details-bin", value);
    }
}

/// A call that failed before its answer began: everything is in the head.
pub(crate) fn grpc_response(fault: &Fault) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    put_grpc(fault, headers);
    response
}

/// The problem document (RFC 9457) of an HTTP answer.
#[derive(Debug, Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<&'a str>,
    /// Where clients of Triton and TensorFlow Serving look for the text.
    error: &'a str,
}

/// The document's text.
pub(crate) fn problem(fault: &Fault) -> Vec<u8> {
    let status = http_status(fault);
    let detail = told(fault);
    let problem = Problem {
        kind: "about:blank",
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        code: fault.reason,
        detail: &detail,
        exception: fault.exception.as_deref(),
        error: &detail,
    };
    serde_json::to_vec(&problem).unwrap_or_default()
}

/// An HTTP answer that tells a fault.
pub(crate) fn http_response(fault: &Fault) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(problem(fault))));
    *response.status_mut() = http_status(fault);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(ERROR, HeaderValue::from_static(fault.reason));
    response
}

/// The path is one of ours, and takes other methods: `allowed`, as the header `Allow` has them.
pub(crate) fn not_allowed(allowed: &'static str) -> Response<Body> {
    let fault = Fault::new(
        Code::Unimplemented,
        METHOD_NOT_ALLOWED,
        format!("this path takes {allowed}"),
    );
    let mut response = http_response(&fault);
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// The sentence for people, with the exception's type where it does not say it.
pub(crate) fn told(fault: &Fault) -> Cow<'_, str> {
    match &fault.exception {
        Some(kind) if !fault.message.contains(kind.as_str()) => {
            format!("{kind}: {}", fault.message).into()
        }
        _ => fault.message.as_str().into(),
    }
}

fn shortened(text: &str) -> &str {
    let mut end = text.len().min(LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The caller's request can't be understood.
pub(crate) fn bad_request(message: impl Into<String>) -> Fault {
    Fault::new(Code::InvalidArgument, "bad_request", message)
}

/// The arguments do not fit.
pub(crate) fn bad_arguments(message: impl Into<String>) -> Fault {
    Fault::new(Code::InvalidArgument, "bad_arguments", message)
}

/// What the model gave is larger than it may be: no fault of the caller's.
pub(crate) fn result_too_large(what: &str, most: u64) -> Fault {
    Fault::new(
        Code::ResourceExhausted,
        "result_too_large",
        format!("{what} may have at most {most} bytes (limits.message)"),
    )
}

/// What the caller sent is larger than it may be.
pub(crate) fn too_large(what: &str, most: u64) -> Fault {
    Fault::new(
        Code::ResourceExhausted,
        "too_large",
        format!("{what} may have at most {most} bytes"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_s_exception_is_told_with_its_type_and_without_line_breaks_in_headers() {
        let mut fault = Fault::new(Code::Internal, "model_error", "no\r\nsuch: ключ");
        fault.exception = Some("KeyError".into());
        let response = grpc_response(&fault);
        assert_eq!(response.headers()["grpc-status"], "13");
        assert_eq!(response.headers()[ERROR], "model_error");
        let message = response.headers()["grpc-message"].to_str().unwrap();
        assert!(message.starts_with("KeyError: no%0D%0Asuch"), "{message}");
        let details = STANDARD_NO_PAD
            .decode(response.headers()["grpc-status-details-bin"].as_bytes())
            .unwrap();
        let status = RpcStatus::decode(&details[..]).unwrap();
        let info = ErrorInfo::decode(&status.details[0].value[..]).unwrap();
        assert_eq!(info.reason, "model_error");
        assert_eq!(info.metadata["exception"], "KeyError");
    }

    /// What stands in quotation marks at the beginning of a text.
    fn quoted(text: &str) -> Option<&str> {
        text.trim_start().strip_prefix('"')?.split('"').next()
    }

    fn sources(folder: &std::path::Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                sources(&path, out);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                out.push(std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_word_that_a_caller_may_get_is_in_the_documentation() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let page = root.join("../../docs/src/models-protocols.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = page.split("### Errors").nth(1).unwrap();
        let table = table.split("gRPC: `grpc-status`").next().unwrap();
        let mut texts = Vec::new();
        sources(&root.join("src"), &mut texts);
        let mut words = std::collections::BTreeSet::new();
        for text in &texts {
            let code = text.split("mod tests {").next().unwrap();
            for made in code.split("Fault::new(").skip(1) {
                let (code, rest) = made.split_once(',').unwrap_or_default();
                words.extend(quoted(rest).filter(|_| code.trim_start().starts_with("Code::")));
            }
            words.extend(code.split("fault.reason = ").skip(1).filter_map(quoted));
            // What a worker may say.
            let known = code.split("const KNOWN: ").nth(1).unwrap_or_default();
            let known = known.split("];").next().unwrap_or_default();
            words.extend(known.lines().filter_map(quoted));
        }
        assert!(words.len() > 35, "{words:?}");
        let missing: Vec<_> = words
            .iter()
            .filter(|word| !table.contains(&format!("`{word}`")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let fault = Fault::new(Code::Unknown, "model_error", "ж".repeat(5000));
        let mut headers = HeaderMap::new();
        put_grpc(&fault, &mut headers);
        // Percent-encoded: three bytes for each of UTF-8's.
        assert_eq!(headers["grpc-message"].len(), LONGEST * 3);
    }

    #[test]
    fn sizes_and_a_full_disk_have_http_statuses_of_their_own() {
        let status = |reason| http_status(&Fault::new(Code::ResourceExhausted, reason, ""));
        assert_eq!(status("queue_full"), 429);
        assert_eq!(status("too_large"), 413);
        assert_eq!(status("upload_quota"), 413);
        assert_eq!(status("disk_full"), 507);
        for word in ["result_too_large", "memory", "memory_limit"] {
            assert_eq!(status(word), 500, "{word}");
        }
    }
}
