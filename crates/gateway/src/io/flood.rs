//! Counts the HTTP/2 frames that cost their receiver work and carry nothing: PING, SETTINGS, PRIORITY, RST_STREAM, empty DATA and
//! HEADERS, WINDOW_UPDATE and CONTINUATION, relative to the frames that do carry something.
//!
//! The h2 codec bounds memory (pending resets, header lists, continuation runs); a peer may still burn the worker's CPU with cheap
//! control frames. Envoy bounds the same ratio. Only frame heads are looked at: nine bytes a frame, nothing a byte.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Control frames that are free in each window, whatever the traffic.
const FREE: u32 = 2_000;
/// Control frames a carrying frame pays for: window updates legitimately come several to a DATA frame.
const PER_CARRIER: u32 = 20;
/// After this long the account starts anew.
const WINDOW: Duration = Duration::from_secs(10);

const PREFACE: usize = 24;

/// The account of one connection.
#[derive(Debug)]
pub(crate) struct FloodGuard {
    /// Bytes to pass over before the next frame head.
    skip: usize,
    head: [u8; 9],
    have: usize,
    control: u32,
    carriers: u32,
    since: Instant,
}

impl FloodGuard {
    /// For a server side that starts at the client's preface.
    pub(crate) fn server(now: Instant) -> Self {
        Self {
            skip: PREFACE,
            head: [0; 9],
            have: 0,
            control: 0,
            carriers: 0,
            since: now,
        }
    }

    /// Takes what was read; false when the peer floods.
    pub(crate) fn admit(&mut self, mut read: &[u8]) -> bool {
        while !read.is_empty() {
            let pass = self.skip.min(read.len());
            self.skip -= pass;
            read = &read[pass..];
            let take = (9 - self.have).min(read.len());
            if self.skip > 0 || take == 0 {
                continue;
            }
            self.head[self.have..self.have + take].copy_from_slice(&read[..take]);
            self.have += take;
            read = &read[take..];
            if self.have == 9 {
                self.have = 0;
                let length = usize::from(self.head[0]) << 16
                    | usize::from(self.head[1]) << 8
                    | usize::from(self.head[2]);
                self.skip = length;
                self.count(self.head[3], length, self.head[4]);
            }
        }
        if self.control <= FREE + self.carriers.saturating_mul(PER_CARRIER) {
            return true;
        }
        // Only a full window's excess is a flood: a connection that lives for days may send many pings.
        let now = Instant::now();
        if now.duration_since(self.since) > WINDOW {
            self.since = now;
            self.control = 0;
            self.carriers = 0;
            return true;
        }
        false
    }

    fn count(&mut self, kind: u8, length: usize, flags: u8) {
        const END_STREAM: u8 = 0x1;
        let carries = match kind {
            0x0 => length > 0 || flags & END_STREAM != 0,
            0x1 => length > 0,
            _ => false,
        };
        if carries {
            self.carriers = self.carriers.saturating_add(1);
        } else {
            self.control = self.control.saturating_add(1);
        }
    }
}

/// The server side of an HTTP/2 connection: the bytes read while the protocol was found out, then the stream, counted.
#[derive(Debug)]
pub(crate) struct Guarded<I> {
    io: I,
    prefix: Bytes,
    guard: FloodGuard,
}

impl<I> Guarded<I> {
    pub(crate) fn new(io: I, prefix: Bytes) -> Self {
        Self {
            io,
            prefix,
            guard: FloodGuard::server(Instant::now()),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guarded<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.prefix.is_empty() {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        } else {
            let n = this.prefix.len().min(buf.remaining());
            buf.put_slice(&this.prefix.split_to(n));
        }
        if this.guard.admit(&buf.filled()[before..]) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "flood of control frames",
            )))
        }
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Guarded<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut f = vec![
            0,
            (payload.len() >> 8) as u8,
            payload.len() as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        f.extend_from_slice(payload);
        f
    }

    #[test]
    fn a_ping_flood_is_refused_and_data_pays_for_window_updates() {
        let mut guard = FloodGuard::server(Instant::now());
        assert!(guard.admit(&[0; 24]));
        for _ in 0..FREE {
            assert!(guard.admit(&frame(6, 0, &[0; 8])));
        }
        assert!(!guard.admit(&frame(6, 0, &[0; 8])));

        let mut guard = FloodGuard::server(Instant::now());
        assert!(guard.admit(&[0; 24]));
        for _ in 0..FREE {
            assert!(guard.admit(&frame(0, 0, b"x")));
            for _ in 0..10 {
                assert!(guard.admit(&frame(8, 0, &[0; 4])));
            }
        }
    }

    #[test]
    fn frames_are_counted_alike_however_they_are_cut() {
        let mut stream = vec![0; 24];
        for _ in 0..FREE + 1 {
            stream.extend(frame(2, 0, &[0; 5]));
        }
        for cut in [1, 3, 9, 10, 1000] {
            let mut guard = FloodGuard::server(Instant::now());
            let refused = stream.chunks(cut).any(|piece| !guard.admit(piece));
            assert!(refused, "cut into {cut}");
        }
    }
}
