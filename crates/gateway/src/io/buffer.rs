//! What is to be written to an HTTP/1.1 connection: heads and small pieces gathered, large pieces kept as they are.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::late::PutOff;
use super::{Transport, spare};

/// Pieces up to this size are copied behind what is already there: cheaper than one more slice in the system call.
const COPY: usize = 4 * 1024;
/// Bytes waiting beyond which the writer is held back.
const HIGH_WATER: usize = 64 * 1024;
/// Slices in one system call.
const SLICES: usize = 16;

/// Bytes waiting for the socket.
#[derive(Debug, Default)]
pub(crate) struct WriteBuf {
    /// Pieces in front of `tail`.
    queue: VecDeque<Bytes>,
    tail: BytesMut,
    queued: usize,
    /// True once any byte went to the socket since [`WriteBuf::start`].
    wrote: bool,
    put_off: PutOff,
}

impl WriteBuf {
    /// The growing end, for encoders that append.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail = spare::take_buffer();
        }
        &mut self.tail
    }

    pub(crate) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY {
            if !data.is_empty() {
                self.tail().extend_from_slice(&data);
            }
            return;
        }
        if !self.tail.is_empty() {
            let front = self.tail.split().freeze();
            self.queued += front.len();
            self.queue.push_back(front);
        }
        self.queued += data.len();
        self.queue.push_back(data);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.is_empty()
    }

    /// A new message begins: nothing of it has been written.
    pub(crate) fn start(&mut self) {
        self.wrote = false;
    }

    /// Whether a byte of the message may have reached the peer.
    pub(crate) fn wrote(&self) -> bool {
        self.wrote
    }

    /// Says that bytes have gone out although this buffer is a new one.
    pub(crate) fn mark_wrote(&mut self) {
        self.wrote = true;
    }

    /// Bytes waiting.
    pub(crate) fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= HIGH_WATER
    }

    /// Gives the memory back.
    pub(crate) fn release(&mut self) {
        debug_assert!(self.is_empty());
        if self.queue.capacity() > 0 {
            self.queue = VecDeque::new();
        }
        self.give_tail_back();
    }

    fn give_tail_back(&mut self) {
        if self.tail.capacity() > 0 {
            spare::put_buffer(std::mem::take(&mut self.tail));
        }
    }

    /// Writes until nothing is left, while the worker is busy not before [its turn](super::late) ends.
    pub(crate) fn poll_flush_late(
        &mut self,
        io: &mut Transport,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        // Under TLS writes are gathered below it.
        if !self.is_empty() && io.is_plain() && !self.is_full() && self.put_off.waits(cx) {
            return Poll::Pending;
        }
        self.poll_flush(io, cx)
    }

    /// Whether what is here waits for the end of the worker's turn.
    pub(crate) fn is_put_off(&self) -> bool {
        self.put_off.is_set()
    }

    /// Writes until nothing is left.
    pub(crate) fn poll_flush<I: AsyncWrite + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let n = if self.queue.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let mut used = 0;
                for (slot, piece) in slices
                    .iter_mut()
                    .zip(self.queue.iter().map(|b| &b[..]).chain([&self.tail[..]]))
                {
                    *slot = IoSlice::new(piece);
                    used += 1;
                }
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..used]))?
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote = true;
            self.advance(n);
        }
        self.put_off = PutOff::default();
        // Whoever writes next has it, warm; this message may be written for long.
        self.give_tail_back();
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let Some(front) = self.queue.front_mut() else {
                self.tail.advance(n);
                return;
            };
            let step = n.min(front.len());
            front.advance(step);
            self.queued -= step;
            n -= step;
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

/// Largest read.
const READ_MAX: usize = 128 * 1024;

/// Bytes read and not yet understood. Reads grow while they fill the buffer, so that a gigabyte costs few calls and an idle or small
/// exchange little memory.
#[derive(Debug)]
pub(crate) struct ReadBuf {
    pub(crate) bytes: BytesMut,
    size: usize,
}

impl Default for ReadBuf {
    fn default() -> Self {
        Self {
            bytes: BytesMut::new(),
            size: spare::BUFFER,
        }
    }
}

impl ReadBuf {
    /// Reads once; 0 is the end of the stream.
    pub(crate) fn poll_fill<I: AsyncRead + Unpin>(
        &mut self,
        io: &mut I,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let fresh = self.bytes.capacity() == 0;
        if fresh {
            self.bytes = spare::take_buffer();
        }
        if self.bytes.capacity() - self.bytes.len() < self.size / 2 {
            self.bytes.reserve(self.size);
        }
        let room = self.bytes.capacity() - self.bytes.len();
        let read = {
            let read = std::pin::pin!(io.read_buf(&mut self.bytes));
            std::future::Future::poll(read, cx)
        };
        let Poll::Ready(read) = read else {
            // While one waits for its peer, others can use the buffer.
            if fresh {
                spare::put_fresh_buffer(std::mem::take(&mut self.bytes));
            }
            return Poll::Pending;
        };
        let n = read?;
        if n == room && self.size < READ_MAX {
            self.size *= 2;
        }
        Poll::Ready(Ok(n))
    }

    /// Gives the memory back; only when nothing is buffered.
    pub(crate) fn release(&mut self) {
        debug_assert!(self.bytes.is_empty());
        if self.bytes.capacity() > 0 {
            spare::put_buffer(std::mem::take(&mut self.bytes));
        }
        self.size = spare::BUFFER;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_and_small_pieces_come_out_in_order() {
        let mut buf = WriteBuf::default();
        let mut expect = Vec::new();
        for (i, len) in [10, 5000, 3, 9000, 70_000, 1].into_iter().enumerate() {
            let piece = vec![i as u8; len];
            expect.extend_from_slice(&piece);
            buf.push(piece.into());
        }
        assert!(buf.is_full());
        let mut out = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(buf.poll_flush(&mut out, &mut cx).is_ready());
        assert_eq!(out, expect);
        assert!(buf.is_empty() && buf.wrote() && buf.queued == 0);
    }
}
