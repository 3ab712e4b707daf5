//! Paths of HTTP, and what their handlers share.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::body::Body;
use super::fault::{READ, bad_request, http_response, not_allowed, too_large};
use super::{Door, heavy, inference, plain, tfserving, uploads};
use crate::spool::inflate_whole;
use crate::{Code, Fault};

/// Answers a request that is no gRPC.
pub(super) async fn answer(door: Arc<Door>, request: Request<Incoming>) -> Response<Body> {
    let mut response = match route(&door, request).await {
        Ok(response) => response,
        Err(fault) => http_response(&fault),
    };
    door.name_instance(response.headers_mut());
    response
}

async fn route(door: &Arc<Door>, request: Request<Incoming>) -> Result<Response<Body>, Fault> {
    let path = request.uri().path().to_owned();
    let segments = path
        .trim_start_matches('/')
        .split('/')
        .map(|segment| percent_decode_str(segment).decode_utf8())
        .collect::<Result<Vec<Cow<'_, str>>, _>>()
        .map_err(|_| bad_request("the path is no UTF-8"))?;
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let post = request.method() == Method::POST;
    match &segments[..] {
        ["livez"] if get => Ok(Response::new(Body::whole(Bytes::from_static(b"ok")))),
        ["readyz"] if get => {
            door.ready()?;
            Ok(Response::new(Body::whole(Bytes::from_static(b"ok"))))
        }
        ["livez" | "readyz"] => Ok(not_allowed(READ)),
        ["tidegate", "uploads", id] => {
            uploads::answer(door, request.method(), id, request.headers())
        }
        ["v2", rest @ ..] => inference::rest::answer(door, rest, request).await,
        ["v1", "models", rest @ ..] => tfserving::answer(door, rest, request).await,
        [service] if get => plain::describe(door, service),
        [service] => {
            check_model(door, service)?;
            Ok(not_allowed(READ))
        }
        [service, method] if post => plain::call(door, service, method, request).await,
        [service, method] => {
            check_model(door, service)?;
            door.known(method, |_| ())?;
            Ok(not_allowed("POST"))
        }
        _ => Err(unknown_path(&path)),
    }
}

pub(super) fn unknown_path(path: &str) -> Fault {
    let path: String = path.chars().take(200).collect();
    Fault::new(
        Code::NotFound,
        "unknown_path",
        format!("nothing answers this method at `{path}`"),
    )
}

/// Another model's name.
pub(super) fn check_model(door: &Door, name: &str) -> Result<(), Fault> {
    if door.model.about().service == name {
        return Ok(());
    }
    let name: String = name.chars().take(100).collect();
    Err(Fault::new(
        Code::NotFound,
        "unknown_model",
        format!("no model `{name}` here"),
    ))
}

/// An answer of JSON.
pub(super) fn json(text: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::whole(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// An answer with nothing but a status.
pub(super) fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// The whole body, without its content coding, up to `most` bytes.
pub(super) async fn read(body: Incoming, headers: &HeaderMap, most: u64) -> Result<Bytes, Fault> {
    if announced(headers).is_some_and(|length| length > most) {
        return Err(too_large("a body", most));
    }
    let limit = usize::try_from(most).unwrap_or(usize::MAX);
    let whole = Limited::new(body, limit)
        .collect()
        .await
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                too_large("a body", most)
            } else {
                super::left(error.as_ref())
            }
        })?
        .to_bytes();
    let coding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes().to_ascii_lowercase());
    match coding.as_deref() {
        None | Some(b"identity" | b"") => Ok(whole),
        Some(b"gzip") => heavy(whole.len(), move || undo(GzDecoder::new(&whole[..]), most)).await?,
        Some(b"deflate") => {
            heavy(whole.len(), move || {
                undo(ZlibDecoder::new(&whole[..]), most)
            })
            .await?
        }
        Some(b"zstd") => {
            heavy(whole.len(), move || {
                inflate_whole(&whole, most, u64::MAX).map(Bytes::from)
            })
            .await?
        }
        Some(_) => Err(unknown_coding()),
    }
}

pub(super) fn unknown_coding() -> Fault {
    bad_request("this content-encoding is not understood")
}

fn undo(decoder: impl Read, most: u64) -> Result<Bytes, Fault> {
    let mut whole = Vec::new();
    decoder
        .take(most.saturating_add(1))
        .read_to_end(&mut whole)
        .map_err(|error| bad_request(format!("the body does not decompress: {error}")))?;
    if whole.len() as u64 > most {
        return Err(too_large("a body", most));
    }
    Ok(Bytes::from(whole))
}

/// The length that a body says it has.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// `idempotency-key`: the call may run again.
pub(super) fn retry(headers: &HeaderMap) -> Option<bool> {
    headers.contains_key("idempotency-key").then_some(true)
}
