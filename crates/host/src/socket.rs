//! A Unix stream socket whose owner is not woken each time that its peer reads.
//!
//! The kernel wakes whoever polls a Unix socket for writing whenever the peer has taken bytes out of it; on TCP it does so only
//! after a write that found no room. tokio polls its sockets for reading and writing at once, so that every answer wakes
//! its sender a second time, for nothing: a third of the wake-ups of a host whose calls come one by one. This one is polled
//! for reading, and for writing only while a write waits for room.
//!
//! tokio's pipes are what is polled in one direction alone without unsafe code; they read and write any descriptor.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// The socket, registered with the runtime that it was made in.
#[derive(Debug)]
pub(crate) struct Socket {
    reads: pipe::Receiver,
    /// A second descriptor, polled for writing, while a write waits.
    room: Option<pipe::Sender>,
}

impl Socket {
    /// Takes a socket over.
    ///
    /// # Errors
    /// It can't be registered.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        let descriptor = OwnedFd::from(stream.into_std()?);
        Ok(Self {
            reads: pipe::Receiver::from_owned_fd_unchecked(descriptor)?,
            room: None,
        })
    }

    /// Halves for a reader and a writer. The peer sees the end when the writing half is dropped.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub(crate) fn split(self) -> io::Result<(pipe::Receiver, WriteHalf)> {
        let descriptor = self.reads.as_fd().try_clone_to_owned()?;
        Ok((self.reads, WriteHalf(descriptor)))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.room.is_none() {
            self.room = Some(room(&self.reads)?);
        }
        if let Some(room) = &self.room {
            ready!(room.poll_write_ready(cx))?;
        }
        self.room = None;
        Poll::Ready(Ok(()))
    }

    fn poll_written(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&pipe::Receiver) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(&self.reads) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_room(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

/// Another descriptor of a socket, polled for writing.
fn room(socket: &impl AsFd) -> io::Result<pipe::Sender> {
    pipe::Sender::from_owned_fd_unchecked(socket.as_fd().try_clone_to_owned()?)
}

fn write(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}

fn write_vectored(socket: &impl AsFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(socket, slices)?)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reads).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |socket| write(socket, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |socket| write_vectored(socket, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&self.reads, Shutdown::Write)?))
    }
}

/// Writes to a socket, without waiting.
#[derive(Debug)]
pub(crate) struct WriteHalf(OwnedFd);

impl WriteHalf {
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        write(&self.0, bytes)
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        write_vectored(&self.0, slices)
    }

    /// Waits until a write that would have blocked may be tried again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        room(&self.0)?.writable().await
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // Whoever is gone needs no end.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::thread;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Our end, and the peer's, which blocks.
    fn pair() -> (Socket, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = UnixStream::from_std(ours).unwrap();
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
        let (_read, write) = ours.split().unwrap();
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
        let (_read, write) = ours.split().unwrap();
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
