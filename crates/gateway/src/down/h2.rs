//! The caller's side over one stream of HTTP/2.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use tidegate_wire::h1::BodyLength;

use super::{DownError, Part};
use crate::io::pulse::Link;

/// One stream.
#[derive(Debug)]
pub(crate) struct H2Stream {
    recv: RecvStream,
    respond: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    /// Given and not yet covered by the peer's window: mostly nothing, or one piece. An answer that was kept back comes in several.
    waiting: VecDeque<Bytes>,
    /// The answer ends with what waits.
    ends: bool,
    data_over: bool,
    body_done: bool,
    /// In a tunnel: our way has ended.
    closed: bool,
    link: Rc<Link>,
}

impl H2Stream {
    pub(crate) fn new(recv: RecvStream, respond: SendResponse<Bytes>, link: Rc<Link>) -> Self {
        let body_done = recv.is_end_stream();
        Self {
            recv,
            respond,
            send: None,
            waiting: VecDeque::new(),
            ends: false,
            data_over: false,
            body_done,
            closed: false,
            link,
        }
    }

    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, DownError>> {
        if !self.data_over {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Asked for only when the other side has room: taking it is consuming it.
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    self.link.received(data.len());
                    self.body_done = self.recv.is_end_stream();
                    return Poll::Ready(Ok(Part::Data(data)));
                }
                Some(Err(_)) => return Poll::Ready(Err(DownError::Gone)),
                None => self.data_over = true,
            }
        }
        let part = match ready!(self.recv.poll_trailers(cx)) {
            Ok(Some(trailers)) => Part::Trailers(trailers),
            Ok(None) => Part::End,
            Err(_) => return Poll::Ready(Err(DownError::Gone)),
        };
        self.body_done = true;
        Poll::Ready(Ok(part))
    }

    pub(crate) fn body_done(&self) -> bool {
        self.body_done
    }

    pub(crate) fn informational(&mut self, status: StatusCode, headers: &HeaderMap) {
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers.clone();
        // A stream that has ended meanwhile says so at the next poll.
        let _ = self.respond.send_informational(head);
    }

    pub(crate) fn head(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
        _body: BodyLength,
        end: bool,
    ) -> Result<(), DownError> {
        let mut head = Response::new(());
        *head.status_mut() = status;
        *head.headers_mut() = headers;
        self.send = Some(
            self.respond
                .send_response(head, end)
                .map_err(|_| DownError::Gone)?,
        );
        Ok(())
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Ok(()));
        };
        while let Some(data) = self.waiting.pop_front() {
            let end = self.ends && self.waiting.is_empty();
            match send_within_window(send, data, end) {
                Ok(None) => {}
                Ok(Some(rest)) => {
                    self.waiting.push_front(rest);
                    match ready!(send.poll_capacity(cx)) {
                        Some(Ok(_)) => {}
                        _ => return Poll::Ready(Err(DownError::Gone)),
                    }
                }
                Err(()) => return Poll::Ready(Err(DownError::Gone)),
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn data(&mut self, data: Bytes, end: bool) -> Result<(), DownError> {
        let Some(send) = &mut self.send else {
            return Err(DownError::Gone);
        };
        if !self.waiting.is_empty() {
            // Behind what waits, in order.
            if !data.is_empty() {
                self.waiting.push_back(data);
            }
            self.ends = end;
            return Ok(());
        }
        match send_within_window(send, data, end) {
            Ok(None) => Ok(()),
            Ok(Some(rest)) => {
                self.waiting.push_back(rest);
                self.ends = end;
                Ok(())
            }
            Err(()) => Err(DownError::Gone),
        }
    }

    pub(crate) fn trailers(&mut self, trailers: HeaderMap) -> Result<(), DownError> {
        let Some(send) = &mut self.send else {
            return Err(DownError::Gone);
        };
        send.send_trailers(trailers).map_err(|_| DownError::Gone)
    }

    /// The connection's task writes; only what the window holds back is waited for.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownError>> {
        self.poll_room(cx)
    }

    /// In a tunnel: nothing more will be sent.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = ready!(self.poll_room(cx));
        if let Some(send) = &mut self.send
            && !std::mem::replace(&mut self.closed, true)
        {
            // Refused only when the stream is over: the peer knows.
            let _ = send.send_data(Bytes::new(), true);
        }
        Poll::Ready(())
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|_| ())
    }

    pub(crate) fn cut(&mut self) {
        self.reset(Reason::INTERNAL_ERROR);
    }

    /// The answer is complete; what is left of the request is not wanted. Said when the stream is dropped: h2 then resets it with
    /// NO_ERROR after the answer has been written. A reset by hand would throw away what of the answer waits to be written.
    pub(crate) fn stop_request(&mut self) {
        // Of a whole answer nothing waits; of one that was broken off the rest has lost its sense.
        self.waiting.clear();
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        match &mut self.send {
            Some(send) => send.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

/// Sends what the stream's window covers now and asks for the rest, which is given back.
pub(crate) fn send_within_window(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    end: bool,
) -> Result<Option<Bytes>, ()> {
    if data.is_empty() {
        return send.send_data(data, end).map(|()| None).map_err(|_| ());
    }
    send.reserve_capacity(data.len());
    let window = send.capacity();
    if window >= data.len() {
        return send.send_data(data, end).map(|()| None).map_err(|_| ());
    }
    if window > 0 {
        send.send_data(data.split_to(window), false)
            .map_err(|_| ())?;
        send.reserve_capacity(data.len());
    }
    Ok(Some(data))
}
