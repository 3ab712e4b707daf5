//! Copies of requests for a shadow upstream: never awaited, their answers thrown away.
//!
//! A copy is sent once the primary has its whole request, and only if the body was kept whole (`retry.buffer`); others are counted as
//! dropped. So a slow shadow can hold up nothing, and costs the memory of the kept body at most.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use tidegate_core::{Locality, PickRequest, Verdict};
use tidegate_route::UpstreamIndex;

use super::source::Source;
use super::{Context, outcome};
use crate::down::Part;
use crate::up::{OutRequest, UpError, UpHead};
use crate::upstream::{Protocol, Upstream};
use crate::worker::Worker;

/// A copy may take this long in all.
const LIMIT: Duration = Duration::from_secs(60);
/// Copies under way on one worker at most.
pub(crate) const AT_ONCE: usize = 256;

/// A request waiting for its body to be whole.
pub(crate) struct Copy {
    worker: Rc<Worker>,
    upstream: Arc<Upstream>,
    request: OutRequest,
    grpc: bool,
    local: Locality,
}

impl Copy {
    pub(crate) fn new(context: Context<'_>, index: UpstreamIndex, request: &OutRequest) -> Self {
        let mut headers = request.headers.clone();
        let host = request
            .authority
            .as_ref()
            .map(|a| a.as_str())
            .or_else(|| request.headers.get(HOST).and_then(|h| h.to_str().ok()))
            .unwrap_or("localhost");
        let host = shadow(host);
        if let Ok(value) = HeaderValue::from_str(&host) {
            headers.insert(HOST, value);
        }
        Self {
            worker: context.worker.clone(),
            upstream: context.snapshot.upstreams[index.get()].clone(),
            request: OutRequest {
                method: request.method.clone(),
                scheme: request.scheme.clone(),
                authority: Authority::try_from(host).ok(),
                path: request.path.clone(),
                headers,
                body: request.body,
                upgrade: false,
                replay: false,
            },
            grpc: context.is_grpc,
            local: context.snapshot.local.clone(),
        }
    }

    /// Sends the copy in the background.
    pub(crate) fn send(self, source: &Source) {
        let process = &self.worker.shared.stats.process;
        let Some((body, trailers)) = source.whole() else {
            process.mirror_dropped.fetch_add(1, Relaxed);
            return;
        };
        if self.worker.mirrors.get() >= AT_ONCE {
            process.mirror_dropped.fetch_add(1, Relaxed);
            return;
        }
        process.mirrored.fetch_add(1, Relaxed);
        let body = body.to_vec();
        let trailers = trailers.cloned();
        let worker = self.worker.clone();
        worker.mirrors.set(worker.mirrors.get() + 1);
        tokio::task::spawn_local(async move {
            let worker = self.worker.clone();
            let _ = tokio::time::timeout(LIMIT, self.run(body, trailers)).await;
            worker.mirrors.set(worker.mirrors.get() - 1);
        });
    }

    async fn run(self, body: Vec<Bytes>, trailers: Option<HeaderMap>) {
        let Self {
            worker,
            upstream,
            request,
            grpc,
            local,
        } = self;
        let Some(_permit) = upstream.live.requests.try_acquire() else {
            return;
        };
        let ask = PickRequest {
            local: &local,
            ..PickRequest::default()
        };
        let picked = upstream
            .live
            .pool
            .pick(&ask, worker.now(), &mut *worker.rng.borrow_mut());
        let Ok(pick) = picked else { return };
        let started = Instant::now();
        let conns = worker.conns(&upstream, pick.member());
        let wanted = if grpc {
            Protocol::Http2
        } else {
            Protocol::Auto
        };
        let verdict = match exchange(conns, wanted, &request, body, trailers).await {
            Ok((status, code)) => outcome::verdict(status, code.filter(|_| grpc)),
            Err(e) => outcome::blame(e).map_or(Verdict::Neutral, Verdict::Failure),
        };
        super::attempt::count(&upstream.attempts, worker.index, &verdict);
        pick.finish(verdict, Some(started.elapsed()), worker.now());
    }
}

/// Sends the request, reads the answer to its end and forgets it; gives status and gRPC status.
async fn exchange(
    conns: Rc<crate::up::conns::EndpointConns>,
    wanted: Protocol,
    request: &OutRequest,
    body: Vec<Bytes>,
    mut trailers: Option<HeaderMap>,
) -> Result<(u16, Option<u16>), UpError> {
    let mut up = conns.placing(wanted).await?.start(request)?;
    let empty = body.is_empty() && trailers.is_none();
    let mut pieces = body.into_iter().peekable();
    let mut sent = empty && request.body == tidegate_wire::h1::BodyLength::None;
    let mut status = 0;
    let mut code = None;
    poll_fn(|cx| {
        while !sent {
            if up.poll_room(cx)?.is_pending() {
                break;
            }
            match pieces.next() {
                Some(piece) => {
                    sent = pieces.peek().is_none() && trailers.is_none();
                    up.data(piece, sent)?;
                }
                None => {
                    sent = true;
                    match trailers.take() {
                        Some(trailers) => up.trailers(trailers)?,
                        None => up.data(Bytes::new(), true)?,
                    }
                }
            }
        }
        let _ = up.poll_flush(cx)?;
        while status == 0 {
            if let UpHead::Final(response) = ready!(up.poll_head(cx))? {
                status = response.status.as_u16();
                code = outcome::grpc_code(&response.headers);
            }
        }
        while !up.body_done() {
            if let Part::Trailers(trailers) = ready!(up.poll_part(cx))? {
                code = outcome::grpc_code(&trailers).or(code);
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    up.finish();
    Ok((status, code))
}

/// `host:port` becomes `host-shadow:port`, as Envoy and Istio write it.
fn shadow(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => format!("{name}-shadow:{port}"),
        _ => format!("{host}-shadow"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_shadow_host_keeps_its_port() {
        assert_eq!(super::shadow("a.local:80"), "a.local-shadow:80");
        assert_eq!(super::shadow("a.local"), "a.local-shadow");
    }
}
