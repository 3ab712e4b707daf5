//! The writing half of a worker's connection: anyone puts frames, few system calls send them.
//!
//! Whoever has put frames flushes, and most times the socket takes all of them at once: no task is woken for a call.
//! Only what the socket does not take is left to the link's own task.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::net::tcp;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::frame::{self, Kind, PIECE};
use crate::socket;

/// Data up to this length is copied behind its header; longer data is sent from where it is.
const COPIED: usize = 16 << 10;
/// The buffer that is kept when it is empty.
const KEPT: usize = 64 << 10;
/// Slices that one system call takes.
const SLICES: usize = 16;

/// The writing half of a socket.
#[derive(Debug)]
pub(crate) enum Writer {
    Unix(socket::WriteHalf),
    Tcp(tcp::OwnedWriteHalf),
}

impl Writer {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(half) => half.try_write(bytes),
            Self::Tcp(half) => half.try_write(bytes),
        }
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(half) => half.try_write_vectored(slices),
            Self::Tcp(half) => half.try_write_vectored(slices),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Unix(half) => half.writable().await,
            Self::Tcp(half) => half.writable().await,
        }
    }
}

/// The writing half of a worker's connection. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Link {
    inner: Arc<Inner>,
    /// Writes what is left over.
    rest: AbortHandle,
}

#[derive(Debug)]
struct Inner {
    writer: Writer,
    out: Mutex<Out>,
    /// There is something to write that the socket did not take.
    blocked: Notify,
}

/// Frames that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct Out {
    queue: VecDeque<Bytes>,
    tail: BytesMut,
    dead: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Flushed {
    All,
    Blocked,
    Dead,
}

impl Link {
    pub(crate) fn new(writer: Writer) -> Arc<Self> {
        let inner = Arc::new(Inner {
            writer,
            out: Mutex::default(),
            blocked: Notify::new(),
        });
        let rest = Arc::clone(&inner);
        let rest = tokio::spawn(async move {
            loop {
                rest.blocked.notified().await;
                loop {
                    if rest.writer.writable().await.is_err() {
                        return;
                    }
                    match rest.write() {
                        Flushed::All => break,
                        Flushed::Blocked => {}
                        Flushed::Dead => return,
                    }
                }
            }
        });
        let rest = rest.abort_handle();
        Arc::new(Self { inner, rest })
    }

    /// To put frames; they go with the next [`Self::flush`].
    pub(crate) fn out(&self) -> MutexGuard<'_, Out> {
        self.inner.out()
    }

    /// Sends what was put, now or as soon as the worker reads.
    pub(crate) fn flush(&self) {
        if self.inner.write() == Flushed::Blocked {
            self.inner.blocked.notify_one();
        }
    }

    /// Puts and sends a frame without data.
    pub(crate) fn send(&self, kind: Kind, call: u64, meta: &[u8]) {
        self.out().put(kind, call, meta, &[]);
        self.flush();
    }

    /// Nothing is sent any more.
    pub(crate) fn close(&self) {
        *self.out() = Out {
            dead: true,
            ..Out::default()
        };
        // It may wait for a worker that never reads again.
        self.rest.abort();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

impl Inner {
    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Flushed {
        let mut out = self.out();
        loop {
            if out.dead {
                return Flushed::Dead;
            }
            if out.queue.is_empty() && out.tail.is_empty() {
                return Flushed::All;
            }
            let written = if out.queue.is_empty() {
                self.writer.try_write(&out.tail)
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let parts = out
                    .queue
                    .iter()
                    .map(|part| &part[..])
                    .chain([&out.tail[..]]);
                let mut count = 0;
                for (slice, part) in slices.iter_mut().zip(parts) {
                    *slice = IoSlice::new(part);
                    count += 1;
                }
                self.writer.try_write_vectored(&slices[..count])
            };
            match written {
                Ok(written) => out.consume(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flushed::Blocked,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The reading half sees the end, and says so.
                Err(_) => {
                    *out = Out {
                        dead: true,
                        ..Out::default()
                    };
                    return Flushed::Dead;
                }
            }
        }
    }
}

impl Out {
    /// Puts a frame with little data.
    pub(crate) fn put(&mut self, kind: Kind, call: u64, meta: &[u8], data: &[u8]) {
        if self.dead {
            return;
        }
        frame::put_head(&mut self.tail, kind, false, call, meta.len(), data.len());
        self.tail.put_slice(meta);
        self.tail.put_slice(data);
    }

    /// Puts a message of any length, in as many frames as it needs.
    pub(crate) fn put_message(&mut self, kind: Kind, call: u64, meta: &[u8], data: &[Bytes]) {
        let length: usize = data.iter().map(Bytes::len).sum();
        if self.dead {
            return;
        }
        if meta.len() + length <= PIECE {
            frame::put_head(&mut self.tail, kind, false, call, meta.len(), length);
            self.tail.put_slice(meta);
            for each in data {
                self.put_bytes(each.clone());
            }
            return;
        }
        let (mut left, mut meta) = (length, meta);
        let mut data = data.iter().cloned();
        let mut current = Bytes::new();
        loop {
            let mut piece = left.min(PIECE);
            left -= piece;
            frame::put_head(&mut self.tail, kind, left > 0, call, meta.len(), piece);
            self.tail.put_slice(meta);
            meta = &[];
            while piece > 0 {
                if current.is_empty() {
                    let Some(next) = data.next() else { break };
                    current = next;
                    continue;
                }
                let part = current.split_to(piece.min(current.len()));
                piece -= part.len();
                self.put_bytes(part);
            }
            if left == 0 {
                return;
            }
        }
    }

    /// Puts one piece of a long input.
    pub(crate) fn put_piece(&mut self, kind: Kind, call: u64, more: bool, data: Bytes) {
        if !self.dead {
            frame::put_head(&mut self.tail, kind, more, call, 0, data.len());
            self.put_bytes(data);
        }
    }

    fn put_bytes(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED {
            self.tail.put_slice(&bytes);
        } else {
            if !self.tail.is_empty() {
                let before = self.tail.split().freeze();
                self.queue.push_back(before);
            }
            self.queue.push_back(bytes);
        }
    }

    fn consume(&mut self, mut written: usize) {
        while let Some(front) = self.queue.front_mut() {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.queue.pop_front();
        }
        if written < self.tail.len() {
            self.tail.advance(written);
        } else if self.tail.capacity() > KEPT {
            self.tail = BytesMut::new();
        } else {
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::frame::{Gather, Gathered};

    #[tokio::test]
    async fn a_worker_that_reads_late_gets_all_of_it_in_order() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_read, write) = socket::Socket::new(ours).unwrap().split().unwrap();
        let link = Link::new(Writer::Unix(write));
        let big = Bytes::from(vec![7_u8; 3 << 20]);
        for call in 0..20 {
            link.out().put_message(
                Kind::Call,
                call,
                b"{}",
                &[Bytes::from_static(b"abc"), big.clone()],
            );
            link.flush();
            link.send(Kind::Cancel, call, b"");
        }
        let (mut reader, mut read, mut gather) = (theirs, BytesMut::new(), Gather::new(u64::MAX));
        let mut seen = Vec::new();
        while seen.len() < 40 {
            assert!(reader.read_buf(&mut read).await.unwrap() > 0);
            while let Some(frame) = frame::take(&mut read).unwrap() {
                if let Gathered::Whole(frame) = gather.add(frame).unwrap() {
                    seen.push((frame.kind, frame.call, frame.data.len()));
                }
            }
        }
        let expected: Vec<_> = (0..20)
            .flat_map(|call| [(Kind::Call, call, big.len() + 3), (Kind::Cancel, call, 0)])
            .collect();
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn a_link_that_nobody_has_any_more_closes_its_socket_whether_or_not_the_worker_reads() {
        for left_over in [0, 8 << 20] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let (read, write) = socket::Socket::new(ours).unwrap().split().unwrap();
            let link = Link::new(Writer::Unix(write));
            link.out()
                .put_message(Kind::Call, 1, b"", &[Bytes::from(vec![7_u8; left_over])]);
            link.flush();
            // The task that writes has begun to wait.
            tokio::task::yield_now().await;
            drop((read, link));
            let mut theirs = theirs;
            let mut rest = Vec::new();
            let ended = theirs.read_to_end(&mut rest);
            let ended = tokio::time::timeout(std::time::Duration::from_secs(20), ended).await;
            assert!(ended.is_ok(), "the socket is open after {left_over} bytes");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]
        #[test]
        fn a_message_of_any_length_is_read_back(
            lengths in proptest::collection::vec(prop_oneof![0_usize..100, 10_000_usize..40_000, Just(PIECE), Just(PIECE + 1)], 0..4),
            cuts in proptest::collection::vec(prop_oneof![1_usize..40, 100_000_usize..2_000_000], 4..20),
        ) {
            let parts: Vec<Bytes> =
                lengths.iter().enumerate().map(|(index, length)| Bytes::from(vec![index as u8; *length])).collect();
            let mut out = Out::default();
            out.put_message(Kind::Call, 3, b"{\"a\":1}", &parts);
            out.put(Kind::Cancel, 3, b"", b"");
            // As a socket would take it: some bytes at a time, then all.
            let mut read = BytesMut::new();
            let mut cuts = cuts.into_iter();
            while !out.queue.is_empty() || !out.tail.is_empty() {
                let mut cut = cuts.next().unwrap_or(usize::MAX);
                let mut taken = 0;
                for part in out.queue.iter().map(|part| &part[..]).chain([&out.tail[..]]) {
                    let length = cut.min(part.len());
                    read.extend_from_slice(&part[..length]);
                    taken += length;
                    cut -= length;
                }
                out.consume(taken);
            }
            let mut gather = Gather::new(u64::MAX);
            let mut seen = Vec::new();
            while let Some(frame) = frame::take(&mut read).unwrap() {
                if let Gathered::Whole(frame) = gather.add(frame).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen.len(), 2);
            prop_assert!(seen[0].data == parts.concat());
            prop_assert_eq!(&seen[0].meta[..], b"{\"a\":1}");
        }
    }
}
