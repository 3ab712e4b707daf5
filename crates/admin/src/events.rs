//! `/api/v1/events`: what happened, as a list, a long poll or a stream (server-sent events).
//!
//! Waiting requests look every [`LOOK`]: the source has no wake-up, and a look is one comparison of a number. Waiting
//! slots are few, so that a forgotten browser tab cannot use up the port.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tidegate_gateway::view::EventView;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::Source;
use crate::api::{DEFAULT_EVENTS, Shared, Stamp, parsed};
use crate::problem::Problem;
use crate::server::ended;

/// How often a waiting request looks for new events.
const LOOK: Duration = Duration::from_millis(100);
/// A stream says something at least this often, so that proxies between do not think it dead.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Most events in one answer.
const MAX_EVENTS: usize = 1000;
/// Longest wait of a long poll, seconds.
const MAX_WAIT: f64 = 60.0;
/// More than any source keeps.
const ALL: usize = 1 << 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    after: Option<u64>,
    limit: Option<usize>,
    wait: Option<f64>,
}

#[derive(Serialize)]
struct Events {
    #[serde(flatten)]
    stamp: Stamp,
    events: Vec<EventView>,
    last: u64,
}

/// Events above `after`, oldest first, or the newest ones when there is no `after`; at most `limit`.
pub(crate) fn read(source: &dyn Source, after: Option<u64>, limit: usize) -> Vec<EventView> {
    match after {
        Some(after) => source.events(after, limit),
        None => {
            let mut all = source.events(0, ALL);
            all.drain(..all.len().saturating_sub(limit));
            all
        }
    }
}

pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = parsed(query)?;
    let bad = |detail: String| Problem::new(StatusCode::BAD_REQUEST, "bad_query", detail);
    let limit = query.limit.unwrap_or(DEFAULT_EVENTS);
    if !(1..=MAX_EVENTS).contains(&limit) {
        return Err(bad(format!("limit is 1 to {MAX_EVENTS}, not {limit}")));
    }
    let wait = query.wait.unwrap_or(0.0);
    if !(0.0..=MAX_WAIT).contains(&wait) {
        return Err(bad(format!("wait is 0 to {MAX_WAIT} seconds, not {wait}")));
    }
    if wants_stream(&headers) {
        let after = resume(&headers, &shared.instance).or(query.after);
        return Ok(stream(&shared, after, limit)?.into_response());
    }
    let mut events = read(&*shared.source, query.after, limit);
    if events.is_empty() && wait > 0.0 {
        let _slot = waiting_slot(&shared)?;
        let deadline = Instant::now() + Duration::from_secs_f64(wait);
        let mut closed = shared.closed.clone();
        while events.is_empty() && Instant::now() < deadline {
            tokio::select! {
                () = ended(&mut closed) => break,
                () = tokio::time::sleep_until(deadline.min(Instant::now() + LOOK)) => {}
            }
            events = read(&*shared.source, query.after, limit);
        }
    }
    let last = events
        .last()
        .map_or(query.after.unwrap_or(0), |event| event.seq);
    Ok(Json(Events {
        stamp: shared.stamp(),
        events,
        last,
    })
    .into_response())
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    accept.split(',').any(|range| {
        range
            .split(';')
            .next()
            .is_some_and(|name| name.trim() == "text/event-stream")
    })
}

/// Where a reconnecting client was. An id of an earlier run means nothing here: all of this run is new to it.
fn resume(headers: &HeaderMap, instance: &str) -> Option<u64> {
    let (run, seq) = headers
        .get("last-event-id")?
        .to_str()
        .ok()?
        .split_once('-')?;
    if run == instance {
        seq.parse().ok()
    } else {
        Some(0)
    }
}

fn waiting_slot(shared: &Shared) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&shared.waiting)
        .try_acquire_owned()
        .map_err(|_| {
            let detail = format!(
                "{} requests wait for events already; ask again later",
                shared.options.limits.waiting
            );
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_waiting", detail)
        })
}

fn stream(shared: &Arc<Shared>, after: Option<u64>, limit: usize) -> Result<Response, Problem> {
    let slot = waiting_slot(shared)?;
    // One part in the channel: a slow reader slows the reading of events, it does not pile them up.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(feed(Arc::clone(shared), after, limit, sender, slot));
    let headers = [(header::CONTENT_TYPE, "text/event-stream")];
    Ok((headers, Body::new(Channel(receiver))).into_response())
}

async fn feed(
    shared: Arc<Shared>,
    after: Option<u64>,
    limit: usize,
    sender: mpsc::Sender<Bytes>,
    _slot: OwnedSemaphorePermit,
) {
    let mut closed = shared.closed.clone();
    let mut events = read(&*shared.source, after, limit);
    let mut after = after.unwrap_or(0);
    let mut said = Instant::now();
    // Said at once, so that the client's `open` comes with the head.
    let mut part = String::from(": tidegate events\n\n");
    loop {
        for event in &events {
            after = event.seq;
            // Serialising plain strings and numbers does not fail; JSON holds no raw line break.
            let data = serde_json::to_string(event).unwrap_or_default();
            part.push_str(&format!(
                "id: {}-{}\ndata: {data}\n\n",
                shared.instance, event.seq
            ));
        }
        if part.is_empty() && said.elapsed() >= KEEPALIVE {
            part.push_str(": still here\n\n");
        }
        if !part.is_empty() {
            said = Instant::now();
            tokio::select! {
                sent = sender.send(Bytes::from(std::mem::take(&mut part))) => if sent.is_err() { return },
                () = ended(&mut closed) => return,
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            () = ended(&mut closed) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        events = shared.source.events(after, MAX_EVENTS);
    }
}

/// The parts of a channel as a body.
struct Channel(mpsc::Receiver<Bytes>);

impl HttpBody for Channel {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|part| part.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn an_id_of_an_earlier_run_resumes_at_the_beginning() {
        let mut headers = HeaderMap::new();
        assert_eq!(resume(&headers, "aa"), None);
        headers.insert("last-event-id", HeaderValue::from_static("aa-17"));
        assert_eq!(resume(&headers, "aa"), Some(17));
        assert_eq!(resume(&headers, "bb"), Some(0));
    }
}
