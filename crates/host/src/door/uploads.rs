//! How far an upload came, over gRPC and HTTP.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use hyper::body::Incoming;
use serde::Serialize;

use super::Door;
use super::body::Body;
use super::fault::{grpc_response, not_allowed};
use super::grpc;
use crate::proto::uploads::{UploadRemoved, UploadRequest, UploadStatus};
use crate::{Code, Fault};

/// `tidegate.Uploads` over gRPC.
pub(super) async fn call(
    door: &Arc<Door>,
    method: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let spool = &door.options.spool;
    match method {
        "Status" => {
            grpc::unary(door, request, |asked: UploadRequest, _| async move {
                let status = spool.status(&asked.id, &asked.token)?;
                Ok(UploadStatus {
                    complete: status.offset == status.size,
                    id: status.id,
                    offset: status.offset,
                    size: status.size,
                    expires_in: status.expires_in.as_secs(),
                    instance: door.model.about().instance.clone(),
                })
            })
            .await
        }
        "Remove" => {
            grpc::unary(door, request, |asked: UploadRequest, _| async move {
                spool.remove(&asked.id, &asked.token)?;
                Ok(UploadRemoved {})
            })
            .await
        }
        other => grpc_response(&Fault::new(
            Code::Unimplemented,
            "unknown_method",
            format!("tidegate.Uploads has no method `{other}`"),
        )),
    }
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    id: &'a str,
    offset: u64,
    size: u64,
    complete: bool,
    expires_in: u64,
    instance: &'a str,
}

/// `/tidegate/uploads/ID` over HTTP.
pub(super) fn answer(
    door: &Door,
    method: &Method,
    id: &str,
    headers: &HeaderMap,
) -> Result<Response<Body>, Fault> {
    if !matches!(*method, Method::GET | Method::HEAD | Method::DELETE) {
        return Ok(not_allowed("GET, HEAD, DELETE"));
    }
    let token = headers
        .get("x-tidegate-upload-token")
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| {
            Fault::new(
                Code::Unauthenticated,
                "upload_token",
                "the header x-tidegate-upload-token is missing",
            )
        })?;
    let spool = &door.options.spool;
    if method == Method::DELETE {
        spool.remove(id, token)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::NO_CONTENT;
        return Ok(response);
    }
    let status = spool.status(id, token)?;
    let about = door.model.about();
    let told = Told {
        id: &status.id,
        offset: status.offset,
        size: status.size,
        complete: status.offset == status.size,
        expires_in: status.expires_in.as_secs(),
        instance: &about.instance,
    };
    let text = serde_json::to_vec(&told).unwrap_or_default();
    let mut response = super::http_api::json(Bytes::from(text));
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        http::HeaderValue::from_static("no-store"),
    );
    Ok(response)
}
