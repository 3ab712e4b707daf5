//! Heads on their way through: what a proxy must take out, put in and leave alone.

use std::time::{Duration, Instant};

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode, Version};
use tidegate_core::Rng;
use tidegate_wire::headers::{
    TRACEPARENT, TRACESTATE, ensure_request_id, pass_trace, strip_hop_by_hop,
};
use tidegate_wire::{grpc, h1};

use crate::worker::Worker;

/// Prepares the caller's header fields for the endpoint: hop-by-hop fields out, `via`, request id and trace context in.
/// The forwarding fields have been written before routing, which asks for the caller's address. `marked`: `via` is wanted,
/// which no provider gets, and a request id of our own where the caller sent none, which is for the access log and servers of one's own.
/// `traced`: the request is within a span of ours already.
pub(crate) fn request(
    headers: &mut HeaderMap,
    version: Version,
    upgrade: bool,
    marked: bool,
    traced: bool,
    worker: &Worker,
) {
    strip_hop_by_hop(headers, upgrade);
    if marked {
        let mut rng = worker.rng.borrow_mut();
        worker.shared.via.append(headers, version);
        let fresh = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        ensure_request_id(headers, fresh);
    }
    if traced {
        return;
    }
    // One look at the names costs less than a lookup for each that usually is not there.
    let (mut parent, mut state) = (false, false);
    for name in headers.keys() {
        match name.as_str().len() {
            10 => state |= *name == TRACESTATE,
            11 => parent |= *name == TRACEPARENT,
            _ => {}
        }
    }
    if parent {
        pass_trace(headers);
    } else if state {
        // Means nothing without its parent.
        headers.remove(&TRACESTATE);
    }
}

/// Prepares an endpoint's answer for the caller.
pub(crate) fn response(headers: &mut HeaderMap, status: StatusCode, to_h2: bool) {
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    strip_hop_by_hop(headers, switching);
    if to_h2 {
        headers.remove(TRANSFER_ENCODING);
    }
}

/// Trailers may not carry what frames or routes a message.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers, false);
    if trailers.contains_key(CONTENT_LENGTH) {
        trailers.remove(CONTENT_LENGTH);
    }
    if trailers.contains_key(HOST) {
        trailers.remove(HOST);
    }
}

/// The deadline that `grpc-timeout` asks for.
pub(crate) fn grpc_deadline(headers: &HeaderMap, now: Instant) -> Option<Instant> {
    let asked = headers
        .get("grpc-timeout")
        .and_then(|v| grpc::parse_timeout(v.as_bytes()))?;
    now.checked_add(asked)
}

/// Tells the endpoint how much time is left.
pub(crate) fn shorten_deadline(headers: &mut HeaderMap, left: Duration) {
    grpc::shorten_timeout(headers, left);
}

/// Version of HTTP/1 as the vocabulary crate writes it.
pub(crate) fn version_of(version: h1::Version) -> Version {
    match version {
        h1::Version::Http10 => Version::HTTP_10,
        h1::Version::Http11 => Version::HTTP_11,
    }
}
