//! gRPC's framing, for the calls that run often or carry much: a message is a slice of what was read, and an answer is one write.
//!
//! tonic's own server is used where neither matters (health, reflection). Here it would answer OUT_OF_RANGE to a message that is too large where
//! callers of aipod know RESOURCE_EXHAUSTED, box every body, and compress every answer or none.

use std::io::{Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::GzEncoder;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use prost::Message;
use tidegate_wire::grpc::{GRPC_TIMEOUT, parse_timeout};
use tokio::time::Instant;

use super::body::Body;
use super::fault::{grpc_response, put_grpc, result_too_large, too_large};
use super::{Door, heavy};
use crate::blocking::in_place_if_heavy;
use crate::{Code, Fault};

/// The flag and the length in front of a message.
const PREFIX: usize = 5;

/// Answers from this size on are compressed for a caller that accepts it. Below, the compressor's start costs more than it saves.
const COMPRESS: usize = 1024;

/// How a caller compresses its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

/// What the head of a call says beyond its path.
#[derive(Debug, Clone)]
pub(crate) struct CallHead {
    pub(crate) encoding: Encoding,
    pub(crate) accepts_gzip: bool,
    pub(crate) deadline: Option<Instant>,
    /// `idempotency-key`: the call may run again.
    pub(crate) retry: Option<bool>,
    pub(crate) id: String,
}

impl CallHead {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Fault> {
        let encoding = match headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
            None | Some(b"identity") => Encoding::Identity,
            Some(b"gzip") => Encoding::Gzip,
            Some(b"deflate") => Encoding::Deflate,
            Some(other) => {
                return Err(Fault::new(
                    Code::Unimplemented,
                    "bad_request",
                    format!(
                        "grpc-encoding `{}`: only gzip and deflate are understood",
                        String::from_utf8_lossy(other)
                    ),
                ));
            }
        };
        let accepts_gzip = headers
            .get("grpc-accept-encoding")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|list| list.split(',').any(|one| one.trim() == "gzip"));
        let timeout = match headers.get(&GRPC_TIMEOUT) {
            None => None,
            Some(value) => Some(parse_timeout(value.as_bytes()).ok_or_else(|| {
                Fault::new(
                    Code::InvalidArgument,
                    "bad_request",
                    "grpc-timeout is not a number of at most eight digits and a unit",
                )
            })?),
        };
        Ok(Self {
            encoding,
            accepts_gzip,
            deadline: timeout.and_then(|after: Duration| Instant::now().checked_add(after)),
            retry: headers.contains_key("idempotency-key").then_some(true),
            id: super::request_id(headers),
        })
    }
}

/// Messages of a request as they come: whether each is compressed, and its bytes.
#[derive(Debug)]
pub(crate) struct Messages {
    body: Incoming,
    /// What was read and begins with a message.
    held: Bytes,
    /// A message of which only a part is here.
    part: BytesMut,
    limit: u64,
}

impl Messages {
    pub(crate) fn new(body: Incoming, limit: u64) -> Self {
        Self {
            body,
            held: Bytes::new(),
            part: BytesMut::new(),
            limit,
        }
    }

    /// How long the message at the beginning of `bytes` is with its prefix, once that is known.
    fn needs(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(prefix) = bytes.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        if prefix[0] > 1 {
            return Err(broken("a message's first byte must be 0 or 1"));
        }
        if u64::from(len) > self.limit {
            return Err(too_large("a message", self.limit));
        }
        Ok(Some(PREFIX + len as usize))
    }

    /// A whole message, if one is here.
    fn cut(&mut self) -> Result<Option<(bool, Bytes)>, Fault> {
        if self.part.is_empty() {
            match self.needs(&self.held)? {
                Some(needed) if self.held.len() >= needed => {
                    let message = self.held.split_to(needed);
                    return Ok(Some((message[0] == 1, message.slice(PREFIX..))));
                }
                _ => self.part.extend_from_slice(&std::mem::take(&mut self.held)),
            }
        }
        match self.needs(&self.part)? {
            Some(needed) if self.part.len() >= needed => {
                let message = self.part.split_to(needed).freeze();
                self.held = std::mem::take(&mut self.part).freeze();
                Ok(Some((message[0] == 1, message.slice(PREFIX..))))
            }
            _ => Ok(None),
        }
    }
}

impl Stream for Messages {
    type Item = Result<(bool, Bytes), Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(message) = this.cut()? {
                return Poll::Ready(Some(Ok(message)));
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        if this.part.is_empty() {
                            this.held = data;
                        } else {
                            this.part.extend_from_slice(&data);
                        }
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(super::left(&error)))),
                None if this.part.is_empty() => return Poll::Ready(None),
                None => {
                    this.part.clear();
                    return Poll::Ready(Some(Err(broken("the request ends within a message"))));
                }
            }
        }
    }
}

fn broken(message: &str) -> Fault {
    Fault::new(Code::InvalidArgument, "truncated", message)
}

/// Undoes the compression of a message, up to `limit` bytes.
pub(crate) fn plain(
    compressed: bool,
    message: Bytes,
    encoding: Encoding,
    limit: u64,
) -> Result<Bytes, Fault> {
    if !compressed {
        return Ok(message);
    }
    let mut whole = Vec::new();
    let read = match encoding {
        Encoding::Gzip => GzDecoder::new(&message[..])
            .take(limit + 1)
            .read_to_end(&mut whole),
        Encoding::Deflate => ZlibDecoder::new(&message[..])
            .take(limit + 1)
            .read_to_end(&mut whole),
        Encoding::Identity => {
            return Err(Fault::new(
                Code::Internal,
                "bad_request",
                "a compressed message in a call without grpc-encoding",
            ));
        }
    };
    read.map_err(|error| {
        Fault::new(
            Code::InvalidArgument,
            "bad_request",
            format!("the message does not decompress: {error}"),
        )
    })?;
    if whole.len() as u64 > limit {
        return Err(too_large("a message", limit));
    }
    Ok(Bytes::from(whole))
}

/// The only message of a unary call.
async fn only(mut messages: Messages, head: &CallHead) -> Result<Bytes, Fault> {
    let limit = messages.limit;
    let (compressed, message) = messages
        .next()
        .await
        .ok_or_else(|| broken("a call without a message"))??;
    let ended = messages.part.is_empty()
        && messages.held.is_empty()
        && HttpBody::is_end_stream(&messages.body);
    if !ended && messages.next().await.transpose()?.is_some() {
        return Err(Fault::new(
            Code::Unimplemented,
            "bad_request",
            "more than one message in a unary call",
        ));
    }
    if !compressed {
        return Ok(message);
    }
    let encoding = head.encoding;
    heavy(message.len(), move || {
        plain(compressed, message, encoding, limit)
    })
    .await?
}

/// A message with its prefix.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + len);
    frame.put_u8(0);
    // Answers of 4 GiB are refused before they are made.
    frame.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// A framed message compressed, with its prefix.
fn compressed(frame: &Bytes) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(vec![1, 0, 0, 0, 0], Compression::fast());
    encoder.write_all(&frame[PREFIX..])?;
    let mut whole = encoder.finish()?;
    let len = u32::try_from(whole.len() - PREFIX).map_err(std::io::Error::other)?;
    whole[1..PREFIX].copy_from_slice(&len.to_be_bytes());
    Ok(Bytes::from(whole))
}

/// The head of an answer.
pub(crate) fn answer_head(door: &Door, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(
        "grpc-accept-encoding",
        HeaderValue::from_static("identity,deflate,gzip"),
    );
    door.name_instance(headers);
    response
}

/// The trailers of a call that ended well.
pub(crate) fn well() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

/// The trailers of one that did not.
pub(crate) fn badly(fault: &Fault) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(4);
    put_grpc(fault, &mut trailers);
    trailers
}

/// Runs a unary call: reads the message, waits for `work` no longer than the deadline, and answers.
pub(crate) async fn unary<Req, Res, Work>(
    door: &Door,
    request: Request<Incoming>,
    work: impl FnOnce(Req, CallHead) -> Work,
) -> Response<Body>
where
    Req: Message + Default,
    Res: Message,
    Work: Future<Output = Result<Res, Fault>>,
{
    let head = match CallHead::read(request.headers()) {
        Ok(head) => head,
        Err(fault) => return grpc_response(&fault),
    };
    let accepts_gzip = head.accepts_gzip;
    let deadline = head.deadline;
    let run = async {
        let messages = Messages::new(request.into_body(), door.options.message);
        let message = only(messages, &head).await?;
        let input = in_place_if_heavy(message.len(), || Req::decode(message));
        let input = input.map_err(|error| {
            Fault::new(
                Code::InvalidArgument,
                "bad_request",
                format!("the message does not parse: {error}"),
            )
        })?;
        work(input, head).await
    };
    let output = match until(deadline, run).await {
        Ok(output) => output,
        Err(fault) => return grpc_response(&fault),
    };
    if output.encoded_len() as u64 > u64::from(u32::MAX) {
        return grpc_response(&result_too_large("an answer", u64::from(u32::MAX)));
    }
    let mut frame = framed(&output);
    let mut gzip = false;
    if accepts_gzip && frame.len() >= COMPRESS {
        let whole = frame.clone();
        // Should it fail, the answer goes as it is.
        if let Ok(Ok(smaller)) = heavy(frame.len(), move || compressed(&whole)).await {
            frame = smaller;
            gzip = true;
        }
    }
    let mut response = answer_head(
        door,
        Body::Whole {
            data: frame,
            trailers: Some(Box::new(well())),
        },
    );
    if gzip {
        response
            .headers_mut()
            .insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    response
}

/// Waits no longer than until the deadline.
pub(crate) async fn until<T, E: From<Fault>>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match deadline {
        None => work.await,
        Some(at) => tokio::time::timeout_at(at, work)
            .await
            .unwrap_or_else(|_| Err(late().into())),
    }
}

/// The deadline passed.
pub(crate) fn late() -> Fault {
    Fault::new(
        Code::DeadlineExceeded,
        "deadline",
        "the caller's deadline passed",
    )
}
