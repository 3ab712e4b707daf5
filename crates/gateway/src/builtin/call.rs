//! One call of gRPC on the caller's stream: messages in and out, and the status at the end.

use std::borrow::Cow;
use std::future::poll_fn;
use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use tidegate_wire::grpc::{self, GrpcStatus};
use tidegate_wire::h1::BodyLength;

use crate::down::{Down, DownError, Part};
use crate::exchange::timer::Timer;
use crate::exchange::{Context, Running};

/// Longest message that a caller may send; the longest that makes sense is a name.
const MESSAGE: usize = 64 * 1024;
/// Flag and length in front of each message.
const PREFIX: usize = 5;

static ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Why a call is over.
#[derive(Debug)]
pub(super) enum End {
    /// The caller left.
    Gone,
    Status(GrpcStatus, Cow<'static, str>),
}

impl End {
    pub(super) fn new(status: GrpcStatus, detail: &'static str) -> Self {
        End::Status(status, Cow::Borrowed(detail))
    }

    pub(super) fn ok() -> Self {
        End::new(GrpcStatus::Ok, "")
    }
}

impl From<super::proto::Malformed> for End {
    fn from(_: super::proto::Malformed) -> Self {
        End::new(GrpcStatus::Internal, "the message is not valid protobuf")
    }
}

impl From<DownError> for End {
    fn from(e: DownError) -> Self {
        match e {
            DownError::Gone => End::Gone,
            DownError::Malformed(why) => End::new(GrpcStatus::Internal, why),
        }
    }
}

/// What came of the caller's messages, cut at their prefixes.
#[derive(Debug, Default)]
struct Inbox {
    bytes: BytesMut,
    over: bool,
}

impl Inbox {
    fn put(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// The next whole message. `Ok(None)`: more must come.
    fn take(&mut self) -> Result<Option<Bytes>, End> {
        let Some((prefix, _)) = self.bytes.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        match prefix[0] {
            0 => {}
            1 => {
                return Err(End::new(
                    GrpcStatus::Unimplemented,
                    "compressed messages are not understood here",
                ));
            }
            _ => {
                return Err(End::new(
                    GrpcStatus::Internal,
                    "a message's flag is not valid",
                ));
            }
        }
        if length > MESSAGE {
            return Err(End::new(
                GrpcStatus::ResourceExhausted,
                "the message is longer than 64 KiB",
            ));
        }
        if self.bytes.len() < PREFIX + length {
            return Ok(None);
        }
        self.bytes.advance(PREFIX);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// No message may end in the middle.
    fn end(&self) -> Result<(), End> {
        if self.bytes.is_empty() {
            Ok(())
        } else {
            Err(End::new(GrpcStatus::Internal, "the last message is cut"))
        }
    }
}

/// A call under way.
pub(super) struct Call<'c, 'd> {
    pub(super) context: Context<'c>,
    down: &'c mut Down<'d>,
    inbox: Inbox,
    /// The answer's head was sent.
    begun: bool,
    deadline: Option<Instant>,
    timer: Timer,
    received: u64,
    sent: u64,
}

impl<'c, 'd> Call<'c, 'd> {
    pub(super) fn new(
        context: Context<'c>,
        deadline: Option<Instant>,
        down: &'c mut Down<'d>,
    ) -> Self {
        Self {
            context,
            down,
            inbox: Inbox::default(),
            begun: false,
            deadline,
            timer: Timer::default(),
            received: 0,
            sent: 0,
        }
    }

    fn poll_deadline(&mut self, cx: &mut Task<'_>) -> Result<(), End> {
        if self.timer.is_over(self.deadline, self.context.watch, cx) {
            return Err(End::new(
                GrpcStatus::DeadlineExceeded,
                "the deadline is over",
            ));
        }
        Ok(())
    }

    /// The next message; `None` when the caller will send no more. It must come within `patience`.
    pub(super) async fn next(&mut self, patience: Option<Duration>) -> Result<Option<Bytes>, End> {
        let watch = self.context.watch;
        watch.set(patience.map(|t| Instant::now() + t));
        poll_fn(|cx| {
            self.poll_deadline(cx)?;
            if watch.poll_over(cx).is_ready() {
                return Poll::Ready(Err(End::new(
                    GrpcStatus::DeadlineExceeded,
                    "no message came for too long",
                )));
            }
            self.poll_message(cx)
        })
        .await
    }

    fn poll_message(&mut self, cx: &mut Task<'_>) -> Poll<Result<Option<Bytes>, End>> {
        loop {
            if let Some(message) = self.inbox.take()? {
                return Poll::Ready(Ok(Some(message)));
            }
            if self.inbox.over {
                self.inbox.end()?;
                return Poll::Ready(Ok(None));
            }
            if self.down.body_done() {
                self.inbox.over = true;
                continue;
            }
            match ready!(self.down.poll_part(cx))? {
                Part::Data(data) => {
                    self.received += data.len() as u64;
                    self.inbox.put(&data);
                }
                Part::Trailers(_) | Part::End => self.inbox.over = true,
            }
        }
    }

    /// The only message of a call that has one.
    pub(super) async fn only(&mut self) -> Result<Bytes, End> {
        let patience = Some(self.context.caller.listener.config.limits.header_timeout);
        let message = self
            .next(patience)
            .await?
            .ok_or(End::new(GrpcStatus::Internal, "the call has no message"))?;
        match self.next(patience).await? {
            None => Ok(message),
            Some(_) => Err(End::new(
                GrpcStatus::Internal,
                "the call has more than one message",
            )),
        }
    }

    /// Sends a message; ready when it is with the codec.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), End> {
        if !self.begun {
            self.begun = true;
            let length = BodyLength::Chunked;
            self.down.head(StatusCode::OK, head(), length, false)?;
        }
        let mut framed = BytesMut::with_capacity(PREFIX + message.len());
        framed.extend_from_slice(&[0]);
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
        framed.extend_from_slice(message);
        self.sent += framed.len() as u64;
        self.down.data(framed.freeze(), false)?;
        let watch = self.context.watch;
        let idle = self.context.caller.listener.config.limits.idle_timeout;
        watch.set(idle.map(|t| Instant::now() + t));
        poll_fn(|cx| {
            self.poll_deadline(cx)?;
            if watch.poll_over(cx).is_ready() {
                return Poll::Ready(Err(End::Gone));
            }
            self.down.poll_flush(cx).map_err(End::from)
        })
        .await
    }

    /// Waits for the next look at the state: a fraction of a second, or until a drain begins.
    pub(super) async fn pause(&mut self) -> Result<(), End> {
        let watch = self.context.watch;
        let shared = &self.context.worker.shared;
        // Over at the next sweep.
        watch.set(Some(Instant::now()));
        poll_fn(|cx| {
            self.poll_deadline(cx)?;
            if self.down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(End::Gone));
            }
            if shared.is_draining() {
                return Poll::Ready(Ok(()));
            }
            watch.poll_over(cx).map(Ok)
        })
        .await
    }

    /// Ends the call.
    pub(super) async fn finish(self, end: End, running: &mut Running<'_>) {
        let report = &mut running.report;
        (report.bytes_up, report.bytes_down) = (self.received, self.sent);
        let End::Status(status, detail) = end else {
            if self.begun {
                self.down.cut();
            }
            return;
        };
        let mut fields = if self.begun {
            HeaderMap::with_capacity(2)
        } else {
            head()
        };
        grpc::insert_status(&mut fields, status, &detail);
        let given = if self.begun {
            self.down.trailers(fields)
        } else {
            // Without a message the head is the trailers as well.
            self.down
                .head(StatusCode::OK, fields, BodyLength::None, true)
        };
        if given.is_ok() {
            report.status = StatusCode::OK.as_u16();
            report.grpc = Some(u16::from(status.code()));
        }
    }
}

fn head() -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(&ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
        let mut out = vec![flag];
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(message);
        out
    }

    fn status(end: Result<Option<Bytes>, End>) -> Option<GrpcStatus> {
        match end {
            Err(End::Status(status, _)) => Some(status),
            _ => None,
        }
    }

    #[test]
    fn compressed_overlong_and_cut_messages_are_refused() {
        for (bytes, want) in [
            (framed(1, 3, b"abc"), GrpcStatus::Unimplemented),
            (framed(2, 3, b"abc"), GrpcStatus::Internal),
            // Refused by its prefix: nothing of it is kept.
            (
                framed(0, MESSAGE as u32 + 1, b""),
                GrpcStatus::ResourceExhausted,
            ),
            (framed(0, u32::MAX, b""), GrpcStatus::ResourceExhausted),
        ] {
            let mut inbox = Inbox::default();
            inbox.put(&bytes);
            assert_eq!(status(inbox.take()), Some(want), "{bytes:?}");
        }
        let mut inbox = Inbox::default();
        inbox.put(&framed(0, 10, b"abc"));
        assert!(matches!(inbox.take(), Ok(None)));
        assert!(matches!(
            inbox.end(),
            Err(End::Status(GrpcStatus::Internal, _))
        ));
    }

    proptest! {
        #[test]
        fn messages_are_whole_however_they_are_cut(messages in prop::collection::vec(any::<Vec<u8>>(), 0..6), cut in 1usize..40) {
            let stream: Vec<u8> = messages
                .iter()
                .flat_map(|m| framed(0, m.len() as u32, m))
                .collect();
            let mut inbox = Inbox::default();
            let mut got = Vec::new();
            for piece in stream.chunks(cut) {
                inbox.put(piece);
                while let Ok(Some(message)) = inbox.take() {
                    got.push(message.to_vec());
                }
            }
            prop_assert_eq!(got, messages);
            prop_assert!(inbox.end().is_ok());
        }
    }
}
