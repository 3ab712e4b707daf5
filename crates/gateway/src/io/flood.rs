//! Counts the HTTP/2 frames that cost their receiver work and carry nothing: PING, SETTINGS, PRIORITY, RST_STREAM, empty DATA and
//! HEADERS, WINDOW_UPDATE and CONTINUATION, relative to the frames that do carry something, either way: who downloads sends nothing but
//! window updates, some clients two for each frame that they get.
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

/// Finds the frames in one direction's bytes, however they are cut.
#[derive(Debug)]
struct Heads {
    /// Bytes to pass over before the next frame head.
    skip: usize,
    head: [u8; 9],
    have: usize,
}

/// What a frame's head says.
#[derive(Debug, Clone, Copy)]
struct Frame {
    kind: u8,
    length: usize,
    flags: u8,
}

impl Frame {
    /// DATA or HEADERS that say something.
    fn carries(self) -> bool {
        const END_STREAM: u8 = 0x1;
        match self.kind {
            0x0 => self.length > 0 || self.flags & END_STREAM != 0,
            0x1 => self.length > 0,
            _ => false,
        }
    }
}

impl Heads {
    /// The first frame comes after `skip` bytes.
    fn after(skip: usize) -> Self {
        Self {
            skip,
            head: [0; 9],
            have: 0,
        }
    }

    fn find(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let pass = self.skip.min(bytes.len());
            self.skip -= pass;
            bytes = &bytes[pass..];
            let take = (9 - self.have).min(bytes.len());
            if self.skip > 0 || take == 0 {
                continue;
            }
            self.head[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            if self.have == 9 {
                self.have = 0;
                let length = usize::from(self.head[0]) << 16
                    | usize::from(self.head[1]) << 8
                    | usize::from(self.head[2]);
                self.skip = length;
                found(Frame {
                    kind: self.head[3],
                    length,
                    flags: self.head[4],
                });
            }
        }
    }
}

/// The account of one connection.
#[derive(Debug)]
pub(crate) struct FloodGuard {
    received: Heads,
    sent: Heads,
    control: u32,
    carriers: u32,
    since: Instant,
}

impl FloodGuard {
    /// For a server side that starts at the client's preface.
    pub(crate) fn server(now: Instant) -> Self {
        Self {
            received: Heads::after(PREFACE),
            sent: Heads::after(0),
            control: 0,
            carriers: 0,
            since: now,
        }
    }

    /// Takes what was sent to the peer.
    pub(crate) fn send(&mut self, sent: &[u8]) {
        let carriers = &mut self.carriers;
        self.sent.find(sent, |frame| {
            *carriers = carriers.saturating_add(u32::from(frame.carries()));
        });
    }

    /// Takes what was read; false when the peer floods.
    pub(crate) fn admit(&mut self, read: &[u8]) -> bool {
        let (carriers, control) = (&mut self.carriers, &mut self.control);
        self.received.find(read, |frame| {
            let count = if frame.carries() {
                &mut *carriers
            } else {
                &mut *control
            };
            *count = count.saturating_add(1);
        });
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
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, buf))?;
        this.guard.send(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let of_this = left.min(buf.len());
            this.guard.send(&buf[..of_this]);
            left -= of_this;
        }
        Poll::Ready(Ok(written))
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
    fn what_is_sent_pays_for_the_window_updates_of_who_downloads() {
        let mut guard = FloodGuard::server(Instant::now());
        assert!(guard.admit(&[0; 24]));
        for _ in 0..FREE {
            guard.send(&frame(0, 0, &[0; 1000]));
            for _ in 0..2 {
                assert!(guard.admit(&frame(8, 0, &[0; 4])));
            }
        }
        // Answers to the peer's own pings pay for none.
        let mut guard = FloodGuard::server(Instant::now());
        assert!(guard.admit(&[0; 24]));
        let refused = (0..=FREE).any(|_| {
            guard.send(&frame(6, 1, &[0; 8]));
            !guard.admit(&frame(6, 0, &[0; 8]))
        });
        assert!(refused);
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
