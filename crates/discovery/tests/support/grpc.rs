//! A gRPC health service, by hyper's HTTP/2 server; a GET of anything else is answered with 200.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// What the service answers.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// A `HealthCheckResponse` of this status, then OK.
    Status(u8),
    /// Trailers only, with this gRPC status.
    Refused(u8),
    /// Plain HTTP 200 of something that is no gRPC server.
    NotGrpc,
}

pub struct HealthServer {
    pub at: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    /// Request messages as they came.
    pub asked: Arc<Mutex<Vec<Bytes>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServer {
    /// In clear text, or with TLS.
    pub async fn start(answer: Answer, tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("bound");
        let (answer, asked) = (
            Arc::new(Mutex::new(answer)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let shared = (answer.clone(), asked.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                let (shared, tls) = (shared.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, shared).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, shared).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            at,
            answer,
            asked,
            task,
        }
    }

    pub fn say(&self, answer: Answer) {
        *self.answer.lock().expect("not poisoned") = answer;
    }
}

type Shared = (Arc<Mutex<Answer>>, Arc<Mutex<Vec<Bytes>>>);

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (answer, asked): Shared,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (answer, asked) = (answer.clone(), asked.clone());
        async move {
            if request.method() == http::Method::GET {
                return Ok(Response::new(Frames(Vec::new().into_iter())));
            }
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.headers()["te"], "trailers");
            let message = request
                .into_body()
                .collect()
                .await
                .expect("a message")
                .to_bytes();
            asked.lock().expect("not poisoned").push(message);
            let answer = *answer.lock().expect("not poisoned");
            let (mut frames, mut response) = (
                Vec::new(),
                Response::builder().header("content-type", "application/grpc"),
            );
            match answer {
                Answer::Status(status) => {
                    frames.push(Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status])));
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().expect("a value"));
                    frames.push(Frame::trailers(trailers));
                }
                Answer::Refused(code) => {
                    response = response.header("grpc-status", code.to_string())
                }
                Answer::NotGrpc => frames.push(Frame::data(Bytes::from_static(b"hello"))),
            }
            Ok::<_, Infallible>(
                response
                    .body(Frames(frames.into_iter()))
                    .expect("a response"),
            )
        }
    });
    // A probe that closes at once is no error of the server's.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Frames that are all there.
struct Frames<I>(I);

impl<I: Iterator<Item = Frame<Bytes>> + Unpin> hyper::body::Body for Frames<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}
