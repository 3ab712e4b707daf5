//! The request's body as attempts read it: straight from the caller, with the beginning kept so that another attempt can have it too.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use smallvec::SmallVec;

use crate::down::{Down, DownError, Part};

/// The body and what is kept of it.
#[derive(Debug)]
pub(crate) struct Source {
    /// One piece for most requests that have a body at all: no allocation.
    kept: SmallVec<[Bytes; 1]>,
    kept_bytes: usize,
    limit: usize,
    /// More went by than is kept: no other attempt can be made.
    spilled: bool,
    /// All of the body has come (and `trailers` with it).
    complete: bool,
    trailers: Option<HeaderMap>,
    /// Bytes taken from the caller.
    taken: u64,
    /// Most bytes that the caller may send; 0: no limit.
    max: u64,
}

/// How far one attempt has read.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    at: usize,
    /// The end was given.
    pub(crate) done: bool,
}

/// Why the body can't be read on.
#[derive(Debug)]
pub(crate) enum SourceError {
    Down(DownError),
    /// Longer than the route or listener allows.
    TooLarge,
}

impl Source {
    /// `limit` bytes are kept for further attempts.
    pub(crate) fn new(limit: usize, max: u64, empty: bool) -> Self {
        Self {
            kept: SmallVec::new(),
            kept_bytes: 0,
            limit,
            spilled: false,
            complete: empty,
            trailers: None,
            taken: 0,
            max,
        }
    }

    /// A body that came whole: any number of attempts can have it.
    pub(crate) fn of_whole(body: Bytes, trailers: Option<HeaderMap>) -> Self {
        let taken = body.len() as u64;
        Self {
            kept_bytes: body.len(),
            kept: (!body.is_empty()).then_some(body).into_iter().collect(),
            limit: usize::MAX,
            spilled: false,
            complete: true,
            trailers,
            taken,
            max: 0,
        }
    }

    /// Whether a further attempt would see the whole body.
    pub(crate) fn replayable(&self) -> bool {
        !self.spilled
    }

    /// Whether the whole body has come from the caller.
    pub(crate) fn complete(&self) -> bool {
        self.complete
    }

    /// Bytes taken from the caller so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// The attempt at `cursor` is committed: nothing needs to be kept any more but what it has not read yet.
    pub(crate) fn commit(&mut self, cursor: &mut Cursor) {
        self.limit = 0;
        if !self.complete {
            self.spilled = true;
        }
        self.kept.drain(..cursor.at.min(self.kept.len()));
        cursor.at = 0;
    }

    /// The next piece for the attempt at `cursor`; the flag says that it is the last.
    pub(crate) fn poll_next(
        &mut self,
        cursor: &mut Cursor,
        down: &mut Down<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Part, bool), SourceError>> {
        debug_assert!(!cursor.done);
        if cursor.at < self.kept.len() {
            let data = self.kept[cursor.at].clone();
            cursor.at += 1;
            cursor.done = self.complete && cursor.at == self.kept.len() && self.trailers.is_none();
            return Poll::Ready(Ok((Part::Data(data), cursor.done)));
        }
        if self.complete {
            cursor.done = true;
            let part = self.trailers.clone().map_or(Part::End, Part::Trailers);
            return Poll::Ready(Ok((part, true)));
        }
        let part = ready!(down.poll_part(cx)).map_err(SourceError::Down)?;
        match &part {
            Part::Data(data) => {
                self.taken += data.len() as u64;
                if self.max > 0 && self.taken > self.max {
                    return Poll::Ready(Err(SourceError::TooLarge));
                }
                self.complete = down.body_done();
                cursor.done = self.complete;
                self.keep(data);
                cursor.at = self.kept.len();
            }
            Part::Trailers(trailers) => {
                self.complete = true;
                cursor.done = true;
                if self.limit > 0 {
                    self.trailers = Some(trailers.clone());
                }
            }
            Part::End => {
                self.complete = true;
                cursor.done = true;
            }
        }
        Poll::Ready(Ok((part, cursor.done)))
    }

    fn keep(&mut self, data: &Bytes) {
        if self.spilled || data.is_empty() {
            return;
        }
        if self.kept_bytes + data.len() > self.limit {
            self.spilled = true;
            self.kept = SmallVec::new();
            return;
        }
        self.kept_bytes += data.len();
        self.kept.push(data.clone());
    }

    /// The whole body, if it came whole and was kept: for a copy to a mirror.
    pub(crate) fn whole(&self) -> Option<(&[Bytes], Option<&HeaderMap>)> {
        (self.complete && !self.spilled).then_some((&self.kept[..], self.trailers.as_ref()))
    }
}
