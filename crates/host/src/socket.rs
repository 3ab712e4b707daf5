//! A Unix stream socket whose owner is not woken each time that its peer reads.
//!
//! The kernel wakes whoever polls a Unix socket for writing whenever the peer has taken bytes out of it; on TCP it does so only
//! after a write that found no room. tokio polls its sockets for reading and writing at once, so that every answer wakes
//! its sender a second time, for nothing: a third of the wake-ups of a host whose calls come one by one. This one is polled
//! for reading, and for writing only while a write waits for room.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Most bytes of one read: the room for them is zeroed first.
const READ: usize = 64 << 10;

/// The socket, registered with the runtime that it was made in.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: AsyncFd<UnixStream>,
    /// A second descriptor, polled for writing, while a write waits.
    room: Mutex<Option<AsyncFd<UnixStream>>>,
}

impl Socket {
    /// Takes a socket over.
    ///
    /// # Errors
    /// It can't be registered.
    pub(crate) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        let stream = AsyncFd::with_interest(stream.into_std()?, Interest::READABLE)?;
        Ok(Self {
            stream,
            room: Mutex::default(),
        })
    }

    /// Halves for a reader and a writer. The peer sees the end when the writing half is dropped.
    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        let socket = Arc::new(self);
        (ReadHalf(Arc::clone(&socket)), WriteHalf(socket))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.get_ref().write(bytes)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.get_ref().write_vectored(slices)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if room.is_none() {
            let second = self.stream.get_ref().try_clone()?;
            *room = Some(AsyncFd::with_interest(second, Interest::WRITABLE)?);
        }
        if let Some(polled) = &*room {
            ready!(polled.poll_write_ready(cx))?.retain_ready();
        }
        *room = None;
        Poll::Ready(Ok(()))
    }

    fn poll_written(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&Self) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(self) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_writable(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = buf.remaining().min(READ);
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled_to(length);
            match ready.try_io(|stream| stream.get_ref().read(room)) {
                Ok(Ok(read)) => {
                    // It was emptied: what comes later is told anew, and no further read is needed to learn that. Not at the end, which is told once.
                    if 0 < read && read < length {
                        ready.clear_ready();
                    }
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Socket::poll_read(&self, cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown(Shutdown::Write))
    }
}

/// Reads from a socket.
#[derive(Debug)]
pub(crate) struct ReadHalf(Arc<Socket>);

impl AsyncRead for ReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

/// Writes to a socket, without waiting.
#[derive(Debug)]
pub(crate) struct WriteHalf(Arc<Socket>);

impl WriteHalf {
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    /// Waits until a write that would have blocked may be tried again; for one waiter at a time.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.0.poll_writable(cx)).await
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // Whoever is gone needs no end.
        let _ = self.0.stream.get_ref().shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Socket, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        (Socket::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn a_peer_that_reads_late_gets_all_of_it_in_order() {
        let (mut ours, mut theirs) = pair();
        let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).unwrap();
            all
        });
        ours.write_all(&sent).await.unwrap();
        ours.shutdown().await.unwrap();
        assert!(reader.join().unwrap() == expected);
    }

    #[tokio::test]
    async fn everything_is_read_and_then_the_end() {
        let (mut ours, mut theirs) = pair();
        let writer = thread::spawn(move || {
            for length in [1, 70_000, 3, 200_000] {
                theirs.write_all(&vec![7; length]).unwrap();
            }
        });
        let mut all = Vec::new();
        ours.read_to_end(&mut all).await.unwrap();
        writer.join().unwrap();
        assert_eq!(all.len(), 270_004);
        assert_eq!(ours.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_peer_sees_the_end_when_the_writing_half_is_dropped() {
        let (ours, mut theirs) = pair();
        let (_read, write) = ours.split();
        assert_eq!(write.try_write(b"last").unwrap(), 4);
        drop(write);
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).map(|_| all)
        });
        assert_eq!(reader.join().unwrap().unwrap(), b"last");
    }

    #[tokio::test]
    async fn a_write_that_waits_fails_when_the_peer_goes() {
        let (ours, theirs) = pair();
        let (_read, write) = ours.split();
        let bytes = [0; 1 << 16];
        let full = loop {
            if let Err(error) = write.try_write(&bytes) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        let closer = thread::spawn(move || drop(theirs));
        write.writable().await.unwrap();
        closer.join().unwrap();
        let gone = write.try_write(&bytes).unwrap_err();
        assert_ne!(gone.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_peer_that_reads_wakes_nobody() {
        const CALLS: u64 = 200;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let metrics = runtime.metrics();
        runtime.block_on(async {
            let (mut ours, mut theirs) = pair();
            let peer = thread::spawn(move || {
                let mut byte = [0];
                for _ in 0..CALLS {
                    theirs.read_exact(&mut byte).unwrap();
                    // Time enough to fall asleep again, if it was woken.
                    thread::yield_now();
                    theirs.write_all(&byte).unwrap();
                }
            });
            let before = metrics.worker_park_count(0);
            for _ in 0..CALLS {
                ours.write_all(&[1]).await.unwrap();
                assert_eq!(ours.read_u8().await.unwrap(), 1);
            }
            let parks = metrics.worker_park_count(0) - before;
            assert!(
                parks <= CALLS + 2,
                "{parks} times asleep for {CALLS} answers"
            );
            peer.join().unwrap();
        });
    }
}
