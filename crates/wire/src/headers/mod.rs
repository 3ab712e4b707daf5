//! What a gateway does to header fields on the way: removes those that end here, and adds those
//! that say where a request came from and how it can be found again.
//!
//! All functions work on [`http::HeaderMap`], so HTTP/1.1 and HTTP/2 share them.

mod forwarded;
mod hop;
mod request_id;
mod trace;
mod via;

pub use forwarded::{Caller, ForwardedPolicy, Peer, Scheme};
pub use hop::strip_hop_by_hop;
pub use request_id::{REQUEST_ID, ensure_request_id, format_request_id};
pub use trace::{
    TRACEPARENT, TRACESTATE, TraceContext, TracePolicy, TraceStep, pass_trace, propagate_trace,
    trace_parent,
};
pub use via::{Via, ViaError};
