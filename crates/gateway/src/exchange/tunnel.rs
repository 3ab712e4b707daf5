//! An upgraded connection (WebSocket and the like): bytes as they come, both ways, each way ending on its own. Either side may be a
//! stream of HTTP/2 (RFC 8441): its data are the bytes, and its END_STREAM is the end of its way.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::clock;
use crate::down::{Down, Part};
use crate::up::Up;
use crate::watch::Watch;

/// Bytes moved (up, down).
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) up: u64,
    pub(crate) down: u64,
}

/// Relays until both ways have ended, either side breaks, or nothing moves for `idle`.
pub(crate) async fn tunnel(
    mut up: Up,
    down: &mut Down<'_>,
    watch: &Watch,
    idle: Option<Duration>,
) -> Moved {
    up.tunnel();
    down.tunnel();
    let mut moved = Moved::default();
    let mut request = Way::default();
    let mut answer = Way::default();
    poll_fn(|cx| {
        if watch.poll_over(cx).is_ready() {
            return Poll::Ready(());
        }
        let before = (moved.up, moved.down);
        let broken = request.poll(down, &mut up, &mut moved.up, cx).is_err()
            || answer.poll(&mut up, down, &mut moved.down, cx).is_err();
        if broken || (request.over && answer.over) {
            return Poll::Ready(());
        }
        if before != (moved.up, moved.down) {
            watch.set(idle.map(|t| clock::now() + t));
        }
        Poll::Pending
    })
    .await;
    if !(request.over && answer.over) {
        // Cut, not ended: neither side may take it for an end of the other's choice.
        up.cancel();
        down.cut();
    }
    moved
}

/// One direction.
#[derive(Default)]
struct Way {
    /// The sender has ended; what is left is to tell the receiver.
    ended: bool,
    over: bool,
}

impl Way {
    /// Moves what there is; an error when either side broke.
    fn poll(
        &mut self,
        from: &mut impl Side,
        to: &mut impl Side,
        moved: &mut u64,
        cx: &mut Context<'_>,
    ) -> Result<(), Broken> {
        while !self.ended {
            match to.poll_room(cx)? {
                Poll::Ready(()) => {}
                Poll::Pending => return Ok(()),
            }
            match from.poll_part(cx)? {
                Poll::Ready(Part::Data(data)) => {
                    *moved += data.len() as u64;
                    to.data(data)?;
                }
                Poll::Ready(_) => self.ended = true,
                Poll::Pending => break,
            }
        }
        if to.poll_flush(cx)?.is_ready() && self.ended {
            self.over |= to.poll_close(cx).is_ready();
        }
        Ok(())
    }
}

/// One end of a tunnel: the caller's or the endpoint's.
trait Side {
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Broken>>;
    fn data(&mut self, data: Bytes) -> Result<(), Broken>;
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A side is gone; why makes no difference here.
struct Broken;

macro_rules! side {
    ($end:ty) => {
        impl Side for $end {
            fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
                <$end>::poll_room(self, cx).map_err(|_| Broken)
            }

            fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Broken>> {
                <$end>::poll_part(self, cx).map_err(|_| Broken)
            }

            fn data(&mut self, data: Bytes) -> Result<(), Broken> {
                <$end>::data(self, data, false).map_err(|_| Broken)
            }

            fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
                <$end>::poll_flush(self, cx).map_err(|_| Broken)
            }

            fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
                <$end>::poll_close(self, cx)
            }
        }
    };
}

side!(Up);
side!(Down<'_>);
