//! The wire: HTTP/1.1 framing, header hygiene and the gRPC conventions on top of HTTP, as pure
//! functions over bytes. No I/O, no clock, no randomness: whoever owns the socket feeds bytes in
//! and sends bytes out.
//!
//! Why not hyper's codec: a gateway has to refuse every message that two parsers could read in two
//! ways (request smuggling), reuse its buffers and header maps across requests, and park an idle
//! connection without a codec. All three are decisions about framing, so framing lives here.
//!
//! - [`h1`]: heads, bodies and their encoders for HTTP/1.0 and HTTP/1.1 (RFC 9112, strict).
//! - [`headers`]: hop-by-hop fields, `Forwarded`, `Via`, request ids, trace context.
//! - [`grpc`]: deadlines, status, messages and pushback of gRPC over HTTP/2.

pub mod grpc;
pub mod h1;
pub mod headers;
