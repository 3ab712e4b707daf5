//! Moving the bytes of one exchange: the request up while the answer comes down.
//!
//! Nothing is buffered beyond what a write did not take: a piece is read only when the other side has room for it.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;

use super::head;
use super::source::{Cursor, Source, SourceError};
use crate::down::{Down, DownError, Part};
use crate::up::{Up, UpError, UpHead, UpResponse};

/// Why an attempt has no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The endpoint's side failed, or what is between it and us.
    Up(UpError),
    /// The caller's did.
    Source(SourceError),
    /// An answer came, but none for the caller: what it says is kept where it was read.
    Unfit,
    /// The caller left.
    Gone,
}

/// Moves what there is of the request. Ready when all of it is with the socket or the codec.
pub(crate) fn poll_request(
    up: &mut Up,
    down: &mut Down<'_>,
    source: &mut Source,
    cursor: &mut Cursor,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Fault>> {
    while !cursor.done {
        ready!(up.poll_room(cx)).map_err(Fault::Up)?;
        match source.poll_next(cursor, down, cx) {
            Poll::Ready(Ok((Part::Data(data), end))) => up.data(data, end).map_err(Fault::Up)?,
            Poll::Ready(Ok((Part::Trailers(trailers), _))) => {
                up.trailers(trailers).map_err(Fault::Up)?
            }
            Poll::Ready(Ok((Part::End, _))) => up.data(Bytes::new(), true).map_err(Fault::Up)?,
            Poll::Ready(Err(e)) => return Poll::Ready(Err(Fault::Source(e))),
            Poll::Pending => {
                ready!(up.poll_flush(cx)).map_err(Fault::Up)?;
                return Poll::Pending;
            }
        }
    }
    up.poll_flush_late(cx).map_err(Fault::Up)
}

/// Sends the request and waits for the answer's head; interim answers pass to the caller on the way, if it may see them.
pub(crate) fn poll_head(
    up: &mut Up,
    down: &mut Down<'_>,
    source: &mut Source,
    cursor: &mut Cursor,
    interim: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<UpResponse, Fault>> {
    // An answer may come before the request is complete: both ways are looked at, whatever the other does.
    match poll_request(up, down, source, cursor, cx) {
        Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
        // All of it goes out when the worker's turn ends, and then everything is looked at again.
        Poll::Pending if cursor.done && up.is_put_off() => return Poll::Pending,
        _ => {}
    }
    loop {
        match up.poll_head(cx) {
            Poll::Ready(Ok(UpHead::Final(response))) => return Poll::Ready(Ok(response)),
            Poll::Ready(Ok(UpHead::Interim(..))) if !interim => {}
            Poll::Ready(Ok(UpHead::Interim(status, mut headers))) => {
                head::response(&mut headers, status, down.is_h2());
                down.informational(status, &headers);
                if let Poll::Ready(Err(_)) = down.poll_flush(cx) {
                    return Poll::Ready(Err(Fault::Gone));
                }
            }
            Poll::Ready(Err(e)) => return Poll::Ready(Err(Fault::Up(e))),
            Poll::Pending => break,
        }
    }
    if cursor.done && down.poll_gone(cx).is_ready() {
        return Poll::Ready(Err(Fault::Gone));
    }
    Poll::Pending
}

/// How the body of an answer ended.
#[derive(Debug)]
pub(crate) enum BodyEnd {
    /// Whole, with these trailers.
    Whole(Option<HeaderMap>),
    /// The endpoint broke off in the middle: the caller must not take what it has for the whole.
    Cut(UpError),
    /// The caller left.
    Gone,
    /// The caller's request turned out malformed or too long after the answer had begun.
    Refused,
}

/// State of the way down.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    ended: bool,
    trailers: Option<HeaderMap>,
    /// Bytes of the answer's body so far.
    pub(crate) bytes: u64,
    /// The rest of the request is of no interest: the endpoint stopped reading.
    request_over: bool,
}

impl Answer {
    /// `ended` when the head was all of it.
    pub(crate) fn new(ended: bool) -> Self {
        Self {
            ended,
            ..Self::default()
        }
    }

    /// Moves both bodies until the answer is complete and flushed. The flag given to `progress` is set whenever a byte moved.
    pub(crate) fn poll(
        &mut self,
        up: &mut Up,
        down: &mut Down<'_>,
        source: &mut Source,
        cursor: &mut Cursor,
        moved: &mut bool,
        cx: &mut Context<'_>,
    ) -> Poll<BodyEnd> {
        if !cursor.done && !self.request_over && !self.ended {
            let before = source.taken();
            match poll_request(up, down, source, cursor, cx) {
                Poll::Ready(Err(
                    Fault::Source(SourceError::Down(DownError::Gone)) | Fault::Gone,
                )) => {
                    return Poll::Ready(BodyEnd::Gone);
                }
                Poll::Ready(Err(Fault::Source(_))) => {
                    down.cut();
                    return Poll::Ready(BodyEnd::Refused);
                }
                // The answer decides what that means.
                Poll::Ready(Err(Fault::Up(_) | Fault::Unfit)) => self.request_over = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            *moved |= source.taken() != before;
        } else if !self.request_over && !self.ended {
            let _ = up.poll_flush_late(cx);
        }
        while !self.ended {
            match down.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(BodyEnd::Gone),
                Poll::Pending => break,
            }
            let given = match up.poll_part(cx) {
                Poll::Ready(Ok(Part::Data(data))) => {
                    self.bytes += data.len() as u64;
                    self.ended = up.body_done();
                    down.data(data, self.ended)
                }
                Poll::Ready(Ok(Part::Trailers(mut trailers))) => {
                    self.ended = true;
                    head::clean_trailers(&mut trailers);
                    self.trailers = Some(trailers.clone());
                    down.trailers(trailers)
                }
                Poll::Ready(Ok(Part::End)) => {
                    self.ended = true;
                    down.data(Bytes::new(), true)
                }
                Poll::Ready(Err(e)) => return Poll::Ready(BodyEnd::Cut(e)),
                Poll::Pending => break,
            };
            *moved = true;
            if given.is_err() {
                return Poll::Ready(BodyEnd::Gone);
            }
        }
        if self.ended && down.ends_late() {
            return Poll::Ready(BodyEnd::Whole(self.trailers.take()));
        }
        match down.poll_flush_late(cx) {
            Poll::Ready(Ok(())) if self.ended => Poll::Ready(BodyEnd::Whole(self.trailers.take())),
            Poll::Ready(Ok(())) => {
                if cursor.done && down.poll_gone(cx).is_ready() {
                    return Poll::Ready(BodyEnd::Gone);
                }
                Poll::Pending
            }
            Poll::Ready(Err(_)) => Poll::Ready(BodyEnd::Gone),
            Poll::Pending => Poll::Pending,
        }
    }
}
