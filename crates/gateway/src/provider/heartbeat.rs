//! Signs of life for a caller that waits for a stream: they commit to no provider, what fails behind them is mended all the same.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tidegate_llm::Call;
use tidegate_wire::h1::BodyLength;

use crate::clock;
use crate::down::{Down, DownError};
use crate::snapshot::RouteState;

/// Comments at an interval, after a head of our own.
pub(crate) struct Heartbeat {
    every: Duration,
    /// When the next one is due.
    pub(crate) next: Instant,
    bytes: &'static [u8],
    head: Option<(StatusCode, HeaderMap)>,
}

impl Heartbeat {
    /// None where the route has none, or the call's answer has no place for it.
    pub(crate) fn of(state: &RouteState, call: &Call) -> Option<Box<Self>> {
        let every = state.config.heartbeat?;
        let bytes = call.heartbeat()?;
        let (status, mut headers) = call.early_head()?;
        state.route.response_headers.apply(&mut headers);
        Some(Box::new(Self {
            every,
            next: clock::now() + every,
            bytes,
            head: Some((status, headers)),
        }))
    }

    /// As [`of`](Self::of), for a caller that has a head already.
    pub(crate) fn further(state: &RouteState, call: &Call) -> Option<Box<Self>> {
        let mut beat = Self::of(state, call)?;
        beat.head = None;
        Some(beat)
    }

    /// Whether the head is sent.
    pub(crate) fn begun(&self) -> bool {
        self.head.is_none()
    }

    /// Gives what is due.
    ///
    /// # Errors
    /// The caller has left.
    pub(crate) fn poll(
        &mut self,
        down: &mut Down<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), DownError> {
        let now = clock::now();
        if now >= self.next {
            self.next = now + self.every;
            if let Some((status, headers)) = self.head.take() {
                down.head(status, headers, BodyLength::Chunked, false)?;
            }
            // A caller that takes nothing needs no further sign.
            if let Poll::Ready(room) = down.poll_room(cx) {
                room?;
                down.data(Bytes::from_static(self.bytes), false)?;
            }
        }
        if self.begun()
            && let Poll::Ready(flushed) = down.poll_flush(cx)
        {
            flushed?;
        }
        Ok(())
    }
}
