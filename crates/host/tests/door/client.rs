//! Callers: gRPC's own client, and plain HTTP.

use std::path::Path;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use tidegate_host::proto::ai::{Input, Output, Raw};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) async fn channel(socket: &Path) -> Channel {
    Endpoint::from_shared(format!("unix:{}", socket.display()))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

/// A unary call.
pub(crate) async fn unary<Req, Res>(
    channel: &Channel,
    path: &'static str,
    request: tonic::Request<Req>,
) -> Result<tonic::Response<Res>, Status>
where
    Req: Message + Send + Sync + 'static,
    Res: Message + Default + Send + Sync + 'static,
{
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    client.ready().await.unwrap();
    let codec = ProstCodec::default();
    client
        .unary(request, PathAndQuery::from_static(path), codec)
        .await
}

pub(crate) fn input(kwargs: &str) -> tonic::Request<Input> {
    tonic::Request::new(Input {
        kwargs_json: Bytes::copy_from_slice(kwargs.as_bytes()),
        ..Input::default()
    })
}

/// `ai.AI/predict`, the result as JSON.
pub(crate) async fn predict(channel: &Channel, kwargs: &str) -> Result<serde_json::Value, Status> {
    let output: Output = unary(channel, "/ai.AI/predict", input(kwargs))
        .await?
        .into_inner();
    Ok(serde_json::from_slice(&output.data_json).unwrap())
}

/// Begins `chaos` with these messages.
pub(crate) async fn chaos<S>(
    channel: &Channel,
    metadata: &[(&'static str, &str)],
    messages: S,
) -> Result<tonic::Response<Streaming<Raw>>, Status>
where
    S: futures_util::Stream<Item = Raw> + Send + 'static,
{
    let mut request = tonic::Request::new(messages);
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    let mut client = Grpc::new(channel.clone()).max_decoding_message_size(64 << 20);
    client.ready().await.unwrap();
    client
        .streaming(
            request,
            PathAndQuery::from_static("/ai.AI/chaos"),
            ProstCodec::default(),
        )
        .await
}

/// What came of a `chaos` call.
#[derive(Debug)]
pub(crate) struct Told {
    /// Messages that are data, decompressed.
    pub(crate) data: Vec<Vec<u8>>,
    pub(crate) trailers: tonic::metadata::MetadataMap,
}

pub(crate) async fn told(mut answers: Streaming<Raw>) -> Result<Told, Status> {
    let mut data = Vec::new();
    while let Some(raw) = answers.message().await? {
        assert!(!raw.data.is_empty(), "no message is empty");
        if raw.data != "PONG" {
            assert_eq!(&raw.data[..4], [0x28, 0xb5, 0x2f, 0xfd]);
            data.push(zstd::decode_all(&raw.data[..]).unwrap());
        }
    }
    let trailers = answers.trailers().await?.unwrap_or_default();
    Ok(Told { data, trailers })
}

pub(crate) fn raw(data: impl Into<Bytes>) -> Raw {
    Raw {
        data: data.into(),
        ..Raw::default()
    }
}

pub(crate) fn packed(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 3).unwrap()
}

/// The messages of a call: kwargs, then the input in pieces.
pub(crate) fn messages(kwargs: &str, input: &[u8]) -> Vec<Raw> {
    let mut messages = vec![raw(packed(kwargs.as_bytes()))];
    if !input.is_empty() {
        let packed = packed(input);
        messages.extend(packed.chunks(32 << 10).map(|piece| raw(piece.to_vec())));
    }
    messages
}

/// One request over HTTP/1.1.
pub(crate) async fn http(socket: &Path, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

pub(crate) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Request<Full<Bytes>> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "door");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder
        .body(Full::new(Bytes::copy_from_slice(body)))
        .unwrap()
}

pub(crate) async fn get(socket: &Path, path: &str) -> Response<Bytes> {
    http(socket, request("GET", path, &[], b"")).await
}

pub(crate) async fn post(
    socket: &Path,
    path: &str,
    headers: &[(&str, &str)],
    body: impl AsRef<[u8]>,
) -> Response<Bytes> {
    http(socket, request("POST", path, headers, body.as_ref())).await
}

pub(crate) fn json(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body())
        .unwrap_or_else(|error| panic!("{error}: {:?}", response.body()))
}

/// The status and the word of an error, which must be a problem document.
pub(crate) fn problem(response: &Response<Bytes>) -> (StatusCode, String) {
    let headers: &HeaderMap = response.headers();
    assert_eq!(headers["content-type"], "application/problem+json");
    let document = json(response);
    assert_eq!(
        document["code"],
        headers["x-tidegate-error"].to_str().unwrap()
    );
    assert_eq!(document["status"], response.status().as_u16());
    assert_eq!(document["error"], document["detail"]);
    (
        response.status(),
        document["code"].as_str().unwrap().to_owned(),
    )
}

/// The word of a gRPC error.
pub(crate) fn reason(status: &Status) -> &str {
    status
        .metadata()
        .get("x-tidegate-error")
        .map_or("", |value| value.to_str().unwrap())
}

/// A gRPC call as bytes: what tonic's client would never send. Gives the head, the body, and the trailers (those of the head where there is
/// nothing else).
pub(crate) async fn grpc(
    socket: &Path,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (HeaderMap, Bytes, HeaderMap) {
    let stream = UnixStream::connect(socket).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut builder = Request::builder()
        .method("POST")
        .uri(format!("http://door{path}"))
        .header("content-type", "application/grpc");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let request = builder.body(Full::new(body.into())).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (head, body) = response.into_parts();
    let whole = body.collect().await.unwrap();
    let trailers = whole
        .trailers()
        .cloned()
        .unwrap_or_else(|| head.headers.clone());
    (head.headers, whole.to_bytes(), trailers)
}

/// A message with its prefix.
pub(crate) fn framed(compressed: bool, message: &[u8]) -> Vec<u8> {
    let mut frame = vec![u8::from(compressed)];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}
