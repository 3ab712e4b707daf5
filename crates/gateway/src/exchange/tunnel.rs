//! An upgraded connection (WebSocket and the like): bytes as they come, both ways, each way ending on its own. Either side may be a
//! stream of HTTP/2 (RFC 8441): its data are the bytes, and its END_STREAM is the end of its way.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

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
        let broken = request.poll_up(&mut up, down, &mut moved.up, cx).is_err()
            || answer
                .poll_down(&mut up, down, &mut moved.down, cx)
                .is_err();
        if broken || (request.over && answer.over) {
            return Poll::Ready(());
        }
        if before != (moved.up, moved.down) {
            watch.set(idle.map(|t| Instant::now() + t));
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
    fn poll_up(
        &mut self,
        up: &mut Up,
        down: &mut Down<'_>,
        moved: &mut u64,
        cx: &mut Context<'_>,
    ) -> Result<(), ()> {
        while !self.ended {
            match up.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => return Ok(()),
            }
            match down.poll_part(cx) {
                Poll::Ready(Ok(Part::Data(data))) => {
                    *moved += data.len() as u64;
                    up.data(data, false).map_err(|_| ())?;
                }
                Poll::Ready(Ok(_)) => self.ended = true,
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => break,
            }
        }
        match up.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) if self.ended => {
                self.over |= up.poll_close(cx).is_ready();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn poll_down(
        &mut self,
        up: &mut Up,
        down: &mut Down<'_>,
        moved: &mut u64,
        cx: &mut Context<'_>,
    ) -> Result<(), ()> {
        while !self.ended {
            match down.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => return Ok(()),
            }
            match up.poll_part(cx) {
                Poll::Ready(Ok(Part::Data(data))) => {
                    *moved += data.len() as u64;
                    down.data(data, false).map_err(|_| ())?;
                }
                Poll::Ready(Ok(_)) => self.ended = true,
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => break,
            }
        }
        match down.poll_flush(cx) {
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) if self.ended => {
                self.over |= down.poll_close(cx).is_ready();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
