//! One instance of the model: a process of its own (`tidegate demo-instance`), as a real model server would be.
//!
//! It answers JSON and gRPC on one loopback port. What the demo does to it comes as lines on stdin, a door that nobody
//! else has: `slow MS`, `break`, `reset`, `recover`, `drain`. When stdin closes the demo is gone and so is the instance.

use std::convert::Infallible;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::model::{Model, Version};
use super::wire::{self, Opinion, Question};

/// Far above any sentence.
const MAX_BODY: usize = 64 << 10;

/// What the demo tells an instance to do from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// As it should.
    Good,
    /// Right, but this much later.
    Slow(Duration),
    /// 503 (gRPC: UNAVAILABLE) to everything.
    Broken,
    /// Every connection is reset as soon as a request comes.
    Reset,
    /// Finish what is under way, take nothing new, end.
    Draining,
}

impl Conduct {
    /// The line on stdin.
    pub(crate) fn line(self) -> String {
        match self {
            Conduct::Good => "recover".into(),
            Conduct::Slow(delay) => format!("slow {}", delay.as_millis()),
            Conduct::Broken => "break".into(),
            Conduct::Reset => "reset".into(),
            Conduct::Draining => "drain".into(),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        Some(match line.trim() {
            "recover" => Conduct::Good,
            "break" => Conduct::Broken,
            "reset" => Conduct::Reset,
            "drain" => Conduct::Draining,
            other => {
                let delay = other.strip_prefix("slow ")?.parse().ok()?;
                Conduct::Slow(Duration::from_millis(delay))
            }
        })
    }
}

/// The line on stdout that says that the port listens.
pub(crate) const READY: &str = "ready";

#[derive(Debug)]
struct Instance {
    name: String,
    model: Model,
    conduct: watch::Receiver<Conduct>,
}

/// Runs until it is drained, killed, or stdin closes.
pub(crate) fn run(version: Version, name: &str, port: u16) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let (conduct, receiver) = watch::channel(Conduct::Good);
    let instance = Instance {
        name: name.to_owned(),
        model: Model::train(version),
        conduct: receiver,
    };
    match runtime.block_on(serve(instance, conduct, port)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &std::io::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

async fn serve(
    instance: Instance,
    conduct: watch::Sender<Conduct>,
    port: u16,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    let port = listener.local_addr()?.port();
    // A thread, not the runtime's stdin: that one would keep the process alive until the next line.
    std::thread::spawn(move || obey(&conduct));
    writeln!(std::io::stdout(), "{READY} {port}")?;
    let instance = Arc::new(instance);
    let mut changes = instance.conduct.clone();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&instance), stream));
                }
                // Out of descriptors: the next moment may have some.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            drained = changes.wait_for(|conduct| *conduct == Conduct::Draining) => {
                drop(drained);
                break;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Does what stdin says; its end is the end of the demo, so of this process.
fn obey(conduct: &watch::Sender<Conduct>) {
    for line in std::io::stdin().lock().lines() {
        match line.as_deref().map(Conduct::parse) {
            Ok(Some(told)) => {
                conduct.send_replace(told);
            }
            Ok(None) => {}
            Err(_) => break,
        }
    }
    std::process::exit(0);
}

async fn connection(instance: Arc<Instance>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // A second descriptor of the socket: hyper owns the first, and a reset needs an option set before both close.
    let socket = SockRef::from(&stream).try_clone();
    let reset = Arc::new(Notify::new());
    let mut conduct = instance.conduct.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let (instance, reset) = (Arc::clone(&instance), Arc::clone(&reset));
        async move {
            if *instance.conduct.borrow() == Conduct::Reset {
                reset.notify_one();
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(answer(&instance, request).await)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut draining = false;
    loop {
        tokio::select! {
            _ = &mut http => return,
            () = reset.notified() => {
                if let Ok(socket) = socket {
                    // With nothing to linger for, closing sends RST.
                    let _ = socket.set_linger(Some(Duration::ZERO));
                }
                return;
            }
            _ = conduct.wait_for(|conduct| *conduct == Conduct::Draining), if !draining => {
                draining = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(instance: &Instance, request: Request<Incoming>) -> Reply {
    let conduct = *instance.conduct.borrow();
    if let Conduct::Slow(delay) = conduct {
        tokio::time::sleep(delay).await;
    }
    let unfit = matches!(conduct, Conduct::Broken | Conduct::Draining);
    match (request.method(), request.uri().path()) {
        (&Method::GET, wire::HEALTH) if unfit => text(StatusCode::SERVICE_UNAVAILABLE, "unfit\n"),
        (&Method::GET, wire::HEALTH) => text(StatusCode::OK, "fit\n"),
        (&Method::POST, wire::PREDICT) if conduct == Conduct::Broken => {
            text(StatusCode::SERVICE_UNAVAILABLE, "broken\n")
        }
        (&Method::POST, wire::GRPC_PREDICT) if conduct == Conduct::Broken => grpc_status(14),
        (&Method::POST, wire::PREDICT) => predict(instance, request).await,
        (&Method::POST, wire::GRPC_PREDICT) => grpc_predict(instance, request).await,
        (_, wire::PREDICT | wire::GRPC_PREDICT | wire::HEALTH) => {
            text(StatusCode::METHOD_NOT_ALLOWED, "another method, please\n")
        }
        _ => text(StatusCode::NOT_FOUND, "POST /v1/predict, GET /healthz\n"),
    }
}

async fn predict(instance: &Instance, request: Request<Incoming>) -> Reply {
    let question = body(request)
        .await
        .and_then(|body| serde_json::from_slice::<Question>(&body).ok());
    let Some(question) = question else {
        return text(StatusCode::BAD_REQUEST, "expected {\"text\": \"…\"}\n");
    };
    match serde_json::to_vec(&opinion(instance, &question.text)) {
        Ok(json) => {
            let mut reply = reply(Full::from(json));
            let json = HeaderValue::from_static("application/json");
            reply.headers_mut().insert(header::CONTENT_TYPE, json);
            reply
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "no answer\n"),
    }
}

async fn grpc_predict(instance: &Instance, request: Request<Incoming>) -> Reply {
    let question = body(request)
        .await
        .and_then(|body| wire::decode_question(&body));
    let Some(question) = question else {
        return grpc_status(3);
    };
    let opinion = wire::encode_opinion(&opinion(instance, &question));
    let ok = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::from(opinion).with_trailers(std::future::ready(Some(Ok(ok))));
    grpc(Response::new(body.boxed_unsync()))
}

fn opinion(instance: &Instance, text: &str) -> Opinion {
    let answer = instance.model.predict(text);
    Opinion {
        label: answer.label.name().to_owned(),
        confidence: answer.confidence,
        version: instance.model.version().name().to_owned(),
        instance: instance.name.clone(),
        because: answer.because,
    }
}

async fn body(request: Request<Incoming>) -> Option<Bytes> {
    let body = Limited::new(request.into_body(), MAX_BODY);
    Some(body.collect().await.ok()?.to_bytes())
}

fn text(status: StatusCode, words: &'static str) -> Reply {
    let mut reply = reply(Full::from(words));
    *reply.status_mut() = status;
    reply
}

/// A gRPC answer that is its status alone (trailers only).
fn grpc_status(code: u32) -> Reply {
    let mut reply = grpc(reply(Full::default()));
    reply
        .headers_mut()
        .insert("grpc-status", HeaderValue::from(code));
    reply
}

fn grpc(mut reply: Reply) -> Reply {
    let grpc = HeaderValue::from_static("application/grpc");
    reply.headers_mut().insert(header::CONTENT_TYPE, grpc);
    reply
}

fn reply(body: Full<Bytes>) -> Reply {
    Response::new(body.boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_instance_is_told_it_understands() {
        for conduct in [
            Conduct::Good,
            Conduct::Slow(Duration::from_millis(120)),
            Conduct::Broken,
            Conduct::Reset,
            Conduct::Draining,
        ] {
            assert_eq!(Conduct::parse(&conduct.line()), Some(conduct));
        }
        assert_eq!(Conduct::parse("slow"), None);
    }
}
