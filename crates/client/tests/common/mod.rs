//! A server of `ai.AI` that does what a test tells it, and a proxy whose connections can be cut.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Input {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) kwargs_json: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) binary_data: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Output {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data_json: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) data: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) progress: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UploadRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UploadStatus {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(uint64, tag = "2")]
    pub(crate) offset: u64,
}

/// A call as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) kwargs: Value,
    pub(crate) version: String,
    pub(crate) binary: usize,
    pub(crate) metadata: MetadataMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.metadata
            .get(name)
            .and_then(|value| value.to_str().ok())
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// What the next unary calls end with; then they succeed.
    pub(crate) failures: Vec<Status>,
    pub(crate) seen: Vec<Seen>,
    /// Uploads by id: token, and what has come.
    pub(crate) uploads: HashMap<String, (String, Vec<u8>)>,
    /// Bytes of input that have come in all attempts.
    pub(crate) received: u64,
    /// Streamed calls that have ended, answered or left.
    pub(crate) ended: usize,
}

/// The server; it ends when it is dropped.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    pub(crate) fn at(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let incoming = {
            let _inside = runtime.enter();
            // One that had this address may still be ending.
            let until = std::time::Instant::now() + Duration::from_secs(10);
            loop {
                match TcpIncoming::bind(address) {
                    Ok(incoming) => break incoming,
                    Err(error) => assert!(std::time::Instant::now() < until, "{address}: {error}"),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        let address = incoming.local_addr().unwrap();
        let models = Named::<Ai>::new(&state);
        let uploads = Named::<Uploads>::new(&state);
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(models)
                .add_service(uploads)
                .serve_with_incoming(incoming),
        );
        Self {
            address,
            state,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    pub(crate) fn fail(&self, status: Status) -> &Self {
        self.state().failures.push(status);
        self
    }
}

impl Drop for Fake {
    /// As kill -9: connections break.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Waits for a condition; fails after some seconds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

type Shared = Arc<Mutex<State>>;
type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One of the server's services.
pub(crate) struct Named<S> {
    state: Shared,
    kind: std::marker::PhantomData<fn() -> S>,
}

impl<S> Named<S> {
    fn new(state: &Shared) -> Self {
        Self {
            state: Arc::clone(state),
            kind: std::marker::PhantomData,
        }
    }
}

impl<S> Clone for Named<S> {
    fn clone(&self) -> Self {
        Self::new(&self.state)
    }
}

pub(crate) struct Ai;
pub(crate) struct Uploads;

impl NamedService for Named<Ai> {
    const NAME: &'static str = "ai.AI";
}

impl NamedService for Named<Uploads> {
    const NAME: &'static str = "tidegate.Uploads";
}

impl<S> Service<http::Request<Body>> for Named<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Later<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let state = Arc::clone(&self.state);
        let path = request.uri().path().to_owned();
        Box::pin(async move {
            Ok(match path.as_str() {
                "/ai.AI/chaos" => {
                    Grpc::new(ProstCodec::<Raw, Raw>::default())
                        .streaming(Chaos(state), request)
                        .await
                }
                "/tidegate.Uploads/Status" => {
                    Grpc::new(ProstCodec::<UploadStatus, UploadRequest>::default())
                        .unary(Status_(state), request)
                        .await
                }
                other => {
                    let method = other.trim_start_matches("/ai.AI/").to_owned();
                    Grpc::new(ProstCodec::<Output, Input>::default())
                        .unary(Unary(state, method), request)
                        .await
                }
            })
        })
    }
}

struct Unary(Shared, String);

impl Service<Request<Input>> for Unary {
    type Response = Response<Output>;
    type Error = Status;
    type Future = Later<Result<Response<Output>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Input>) -> Self::Future {
        let kwargs: Value = serde_json::from_slice(&request.get_ref().kwargs_json).unwrap();
        let failure = {
            let mut state = self.0.lock().unwrap();
            state.seen.push(Seen {
                method: self.1.clone(),
                kwargs: kwargs.clone(),
                version: request.get_ref().version.clone(),
                binary: request.get_ref().binary_data.len(),
                metadata: request.metadata().clone(),
            });
            if state.failures.is_empty() {
                None
            } else {
                Some(state.failures.remove(0))
            }
        };
        Box::pin(async move {
            if let Some(status) = failure {
                return Err(status);
            }
            if kwargs["hangs"] == true {
                std::future::pending::<()>().await;
            }
            let data_json = json!({"kwargs": kwargs}).to_string().into_bytes();
            Ok(Response::new(Output { data_json }))
        })
    }
}

struct Status_(Shared);

impl Service<Request<UploadRequest>> for Status_ {
    type Response = Response<UploadStatus>;
    type Error = Status;
    type Future = Later<Result<Response<UploadStatus>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<UploadRequest>) -> Self::Future {
        let UploadRequest { id, token } = request.into_inner();
        let answer = match self.0.lock().unwrap().uploads.get(&id) {
            None => Err(Status::new(Code::NotFound, "no such upload")),
            Some((owner, _)) if *owner != token => {
                Err(Status::new(Code::PermissionDenied, "another's"))
            }
            Some((_, bytes)) => Ok(Response::new(UploadStatus {
                offset: bytes.len() as u64,
                id,
            })),
        };
        Box::pin(std::future::ready(answer))
    }
}

/// Methods: `digest` (the length and the sum of the input), `count` (items), `silent` (no heartbeat, no result), `slow` (three heartbeats
/// first), `stays` (heartbeats for ever), `late` (its answer begins only after half a second).
struct Chaos(Shared);

pub(crate) struct Results(mpsc::Receiver<Result<Raw, Status>>);

impl Stream for Results {
    type Item = Result<Raw, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

impl Service<Request<Streaming<Raw>>> for Chaos {
    type Response = Response<Results>;
    type Error = Status;
    type Future = Later<Result<Response<Results>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Raw>>) -> Self::Future {
        let state = Arc::clone(&self.0);
        Box::pin(async move {
            let (metadata, _, messages) = request.into_parts();
            if metadata
                .get("x-func-name")
                .is_some_and(|name| name == "late")
            {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
            let (sender, receiver) = mpsc::channel(4);
            tokio::spawn(async move {
                if let Err(status) = serve(&state, metadata, messages, &sender).await {
                    let _ = sender.send(Err(status)).await;
                }
                state.lock().unwrap().ended += 1;
            });
            Ok(Response::new(Results(receiver)))
        })
    }
}

async fn serve(
    state: &Shared,
    metadata: MetadataMap,
    mut messages: Streaming<Raw>,
    out: &mpsc::Sender<Result<Raw, Status>>,
) -> Result<(), Status> {
    let text = |name: &str| {
        metadata
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let method = text("x-func-name").unwrap();
    let first = messages
        .message()
        .await?
        .ok_or_else(|| Status::invalid_argument("empty"))?;
    let kwargs: Value =
        serde_json::from_slice(&zstd::decode_all(first.data.as_slice()).unwrap()).unwrap();
    state.lock().unwrap().seen.push(Seen {
        method: method.clone(),
        version: kwargs["version"].as_str().unwrap_or_default().to_owned(),
        kwargs: kwargs.clone(),
        binary: 0,
        metadata: metadata.clone(),
    });
    let id = text("x-tidegate-upload-id").unwrap_or_default();
    let offset: usize = text("x-tidegate-upload-offset").map_or(0, |text| text.parse().unwrap());
    {
        let mut state = state.lock().unwrap();
        let token = text("x-tidegate-upload-token").unwrap_or_default();
        let upload = state
            .uploads
            .entry(id.clone())
            .or_insert_with(|| (token, Vec::new()));
        upload.1.truncate(offset);
    }
    let mut decoder = zstd::stream::write::Decoder::new(Vec::new()).unwrap();
    while let Some(message) = messages.message().await? {
        std::io::Write::write_all(&mut decoder, &message.data).unwrap();
        std::io::Write::flush(&mut decoder).unwrap();
        let got = std::mem::take(decoder.get_mut());
        let mut state = state.lock().unwrap();
        state.received += got.len() as u64;
        state
            .uploads
            .get_mut(&id)
            .unwrap()
            .1
            .extend_from_slice(&got);
    }
    let input = state.lock().unwrap().uploads.remove(&id).unwrap().1;
    if let Some(size) = kwargs["_aipod_binary_size"].as_u64() {
        assert_eq!(input.len() as u64, size);
    }
    let failure = {
        let mut state = state.lock().unwrap();
        if state.failures.is_empty() {
            None
        } else {
            Some(state.failures.remove(0))
        }
    };
    if let Some(status) = failure {
        return Err(status);
    }
    let pong = || {
        Ok(Raw {
            data: b"PONG".to_vec(),
            ..Raw::default()
        })
    };
    let item = |value: Value| {
        Ok(Raw {
            data: zstd::encode_all(value.to_string().as_bytes(), 3).unwrap(),
            ..Raw::default()
        })
    };
    match method.as_str() {
        "digest" => {
            let sum: u64 = input.iter().map(|byte| u64::from(*byte)).sum();
            let _ = out
                .send(item(json!({"size": input.len(), "sum": sum})))
                .await;
        }
        "count" => {
            for n in 0..kwargs["n"].as_u64().unwrap() {
                let _ = out.send(pong()).await;
                let _ = out.send(item(json!(n))).await;
            }
            if kwargs["fails"] == true {
                return Err(Status::unavailable("no more"));
            }
        }
        "steps" => {
            let asked = text("x-tidegate-progress").is_some();
            let told =
                json!({"progress": 0.5, "message": null, "stage": "fit", "data": {"loss": 1}});
            for _ in 0..2 * u8::from(asked) {
                let _ = out
                    .send(Ok(Raw {
                        progress: told.to_string().into_bytes(),
                        ..Raw::default()
                    }))
                    .await;
            }
            let _ = out.send(item(json!(asked))).await;
        }
        "late" => {
            let _ = out.send(item(json!("begun"))).await;
        }
        "slow" => {
            for _ in 0..3 {
                let _ = out.send(pong()).await;
            }
            let _ = out.send(item(Value::Null)).await;
        }
        "stays" => while out.send(pong()).await.is_ok() {},
        "silent" => out.closed().await,
        other => return Err(Status::unimplemented(format!("no method {other}"))),
    }
    Ok(())
}

/// Passes connections on; the first one is cut after so many bytes from the caller.
pub(crate) struct Cutter {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Cutter {
    pub(crate) async fn start(to: SocketAddr, after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let first = count.fetch_add(1, Ordering::SeqCst) == 0;
                tokio::spawn(pass(caller, to, if first { after } else { u64::MAX }));
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut caller: TcpStream, to: SocketAddr, mut left: u64) {
    let Ok(mut server) = TcpStream::connect(to).await else {
        return;
    };
    let (mut from_caller, mut from_server) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            read = caller.read(&mut from_caller) => match read {
                Ok(length) if length > 0 && left > length as u64 => {
                    left -= length as u64;
                    if server.write_all(&from_caller[..length]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut from_server) => match read {
                Ok(length) if length > 0 => {
                    if caller.write_all(&from_server[..length]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
