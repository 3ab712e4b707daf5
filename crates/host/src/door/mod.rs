//! A door: the socket of one instance, and all protocols on it.
//!
//! A connection speaks HTTP/1.1 or HTTP/2 with prior knowledge. A request becomes a [`Call`](crate::Call) of the [`Model`], the answer goes back in the
//! protocol's words. What each protocol says is in `docs/src/models-protocols.md`.

mod aipod;
mod body;
mod chaos;
mod events;
mod fault;
mod grpc;
mod health;
mod http_api;
mod inference;
mod kwargs;
mod plain;
mod tensor;
mod tfserving;
mod upload;
mod uploads;
mod value;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tidegate_wire::grpc::is_grpc;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::body::Body;
use crate::blocking::{HEAVY, in_place};
use crate::socket::Socket;
use crate::spool::Spool;
use crate::{Answer, Call, Code, Fault, Model};

/// A stream's window: with `store`'s batches it bounds the memory of an upload, and is large enough that a fast one does not wait.
const STREAM_WINDOW: u32 = 1 << 20;

/// A connection's window, for several uploads that do not wait for each other.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Larger frames than the protocol's 16 KiB: fewer steps for a large input.
const FRAME: u32 = 128 << 10;

/// Calls of one connection at a time; the group's queue bounds them before.
const STREAMS: u32 = 16_384;

/// Between two looks for uploads whose time is over.
const SWEEP: Duration = Duration::from_secs(30);

/// How a door behaves.
#[derive(Debug, Clone)]
pub struct DoorOptions {
    /// Most bytes of a message in memory (`limits.message`).
    pub message: u64,
    /// Times its compressed size that an upload may have beyond the first 64 MiB (`limits.ratio`); may change.
    pub ratio: Arc<AtomicU64>,
    /// Requests of one stream of the Open Inference Protocol that run at a time, from 1.
    pub parallel: usize,
    /// Between two signs of life of a call that takes long: 1 s.
    pub heartbeat: Duration,
    /// Where uploads lie; the doors of a service share it.
    pub spool: Arc<Spool>,
}

/// Serves a model on a socket until `shutdown` resolves, and then until the calls under way are answered: new ones are not
/// accepted, and callers are told so (GOAWAY). Dropping the future cuts everything.
pub async fn serve(
    listener: UnixListener,
    model: Arc<dyn Model>,
    options: DoorOptions,
    shutdown: impl Future<Output = ()>,
) {
    let spool = options.spool.clone();
    let (health, health_service) = health::health();
    let (close, closing) = watch::channel(false);
    let door = Arc::new(Door {
        model,
        options,
        closing,
        health: health_service,
        reflection: health::reflection(),
    });
    health.tell(&door.model).await;
    let mut tasks = JoinSet::new();
    let follower = tasks.spawn(health.clone().follow(door.model.clone()));
    let graceful = GracefulShutdown::new();
    let server = server();
    let mut sweep = tokio::time::interval(SWEEP);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match Socket::new(stream) {
                    Ok(socket) => {
                        tasks.spawn(connection(&server, &graceful, socket, door.clone()));
                    }
                    Err(error) => tracing::warn!(%error, "door does not accept"),
                },
                Err(error) => {
                    // Out of descriptors, most likely: give others time to close theirs.
                    tracing::warn!(%error, "door does not accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            _ = sweep.tick() => { in_place(|| spool.sweep()); }
            () = &mut shutdown => break,
        }
    }
    drop(listener);
    // Streams that would stay open without a call in them end now.
    follower.abort();
    close.send_replace(true);
    health.end(&door.model).await;
    graceful.shutdown().await;
}

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        // The gateway keeps idle connections and ends them; ended here, one could be lost under a request.
        .header_read_timeout(None);
    server
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS);
    server
}

fn connection(
    server: &auto::Builder<TokioExecutor>,
    graceful: &GracefulShutdown,
    socket: Socket,
    door: Arc<Door>,
) -> impl Future<Output = ()> + Send + use<> {
    let service = service_fn(move |request| handle(door.clone(), request));
    let connection = server
        .serve_connection(TokioIo::new(socket), service)
        .into_owned();
    let connection = graceful.watch(connection);
    async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "door connection");
        }
    }
}

/// What the protocols need.
pub(crate) struct Door {
    pub(crate) model: Arc<dyn Model>,
    pub(crate) options: DoorOptions,
    closing: watch::Receiver<bool>,
    health: health::Service,
    reflection: [health::Service; 2],
}

async fn handle(door: Arc<Door>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let grpc = is_grpc(request.headers());
    if grpc
        && request.version() == Version::HTTP_2
        && let Some(method) = aipod::method(request.uri().path())
    {
        return Ok(aipod::unary(&door, method, request).await);
    }
    // Everything else is boxed, so that the state of a plain call stays small.
    Ok(if grpc {
        Box::pin(grpc_call(door, request)).await
    } else {
        Box::pin(http_api::answer(door, request)).await
    })
}

async fn grpc_call(door: Arc<Door>, request: Request<Incoming>) -> Response<Body> {
    if request.version() != Version::HTTP_2 {
        return fault::http_response(&fault::bad_request("gRPC needs HTTP/2"));
    }
    let path = request.uri().path().to_owned();
    let mut parts = path.splitn(3, '/').skip(1);
    match (parts.next().unwrap_or(""), parts.next().unwrap_or("")) {
        ("ai.AI", "chaos") => chaos::chaos(door, request).await,
        ("inference.GRPCInferenceService", method) => {
            inference::grpc::call(door, method, request).await
        }
        ("tidegate.Uploads", method) => uploads::call(&door, method, request).await,
        ("grpc.health.v1.Health", _) => (door.health)(request).await,
        ("grpc.reflection.v1.ServerReflection", _) => (door.reflection[0])(request).await,
        ("grpc.reflection.v1alpha.ServerReflection", _) => (door.reflection[1])(request).await,
        _ => fault::grpc_response(&Fault::new(
            Code::Unimplemented,
            "unknown_method",
            format!("no gRPC method `{path}` here"),
        )),
    }
}

impl Door {
    /// Refuses calls while nothing is known of the model. Afterwards they go to the group, whatever this door's worker does: it has
    /// another run them, or waits for one.
    pub(crate) fn takes(&self) -> Result<(), Fault> {
        if self.model.ready() || !self.model.about().class.is_empty() {
            return Ok(());
        }
        Err(not_ready())
    }

    /// Whether the worker starts or drains.
    pub(crate) fn ready(&self) -> Result<(), Fault> {
        if self.model.ready() {
            return Ok(());
        }
        Err(not_ready())
    }

    /// The bound of an upload's compression, as it is now.
    pub(crate) fn ratio(&self) -> u64 {
        self.options.ratio.load(Ordering::Relaxed)
    }

    /// Resolves when the door closes.
    pub(crate) async fn closed(&self) {
        // An end of the sender is an end of the door.
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
    }

    /// What is asked of a public method; refuses any other name, before anything large is read.
    pub(crate) fn known<T>(
        &self,
        name: &str,
        ask: impl FnOnce(&crate::Method) -> T,
    ) -> Result<T, Fault> {
        kwargs::check_method(name)?;
        self.takes()?;
        let about = self.model.about();
        let method = about.methods.get(name);
        method.map(ask).ok_or_else(|| kwargs::unknown_method(name))
    }

    /// All of a public method.
    pub(crate) fn method(&self, name: &str) -> Result<crate::Method, Fault> {
        self.known(name, Clone::clone)
    }

    /// Runs a call.
    pub(crate) async fn call(&self, call: Call) -> Result<Answer, Fault> {
        let deadline = call.deadline;
        grpc::until(deadline, self.model.call(call)).await
    }

    fn name_instance(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.model.about().instance) {
            headers.insert("x-tidegate-instance", value);
        }
    }
}

/// Nobody is there for a call.
fn not_ready() -> Fault {
    Fault::new(
        Code::Unavailable,
        "not_ready",
        "the instance takes no calls: its worker starts or drains",
    )
}

/// What the caller calls its request; bounded, since it goes to logs.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get("x-request-id")
        .and_then(|value| value.to_str().ok())
        .map(|id| id.chars().take(128).collect())
        .unwrap_or_default()
}

/// The request broke off.
fn left(error: &dyn std::error::Error) -> Fault {
    Fault::new(
        Code::Cancelled,
        "cancelled",
        format!("the request broke off: {error}"),
    )
}

/// Does work on so many bytes where it holds up nobody.
async fn heavy<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Fault> {
    if size < HEAVY {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "door thread");
        Fault::new(Code::Internal, "internal", "the host failed")
    })
}
