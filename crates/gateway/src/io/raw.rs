//! A stream socket, TCP or Unix: one type, so that everything above is written once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream socket registered with this worker's runtime.
#[derive(Debug)]
pub(crate) enum Raw {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Raw {
    /// Ready once a read would not block; registers no buffer, so that an idle connection holds none.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Raw::Tcp(s) => s.poll_read_ready(cx),
            Raw::Unix(s) => s.poll_read_ready(cx),
        }
    }

    pub(crate) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Raw::Tcp(s) => s.poll_write_ready(cx),
            Raw::Unix(s) => s.poll_write_ready(cx),
        }
    }

    pub(crate) fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Raw::Tcp(s) => s.try_write(buf),
            Raw::Unix(s) => s.try_write(buf),
        }
    }

    pub(crate) fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Raw::Tcp(s) => s.try_write_vectored(bufs),
            Raw::Unix(s) => s.try_write_vectored(bufs),
        }
    }

    /// Small writes go out at once: a proxy has already gathered what belongs together.
    pub(crate) fn set_nodelay(&self) {
        if let Raw::Tcp(s) = self {
            // Fails only on a socket that is already dead; the next read says so.
            let _ = s.set_nodelay(true);
        }
    }

    /// The kernel asks a silent peer after this time whether it is still there.
    pub(crate) fn set_keepalive(&self, after: Option<std::time::Duration>) {
        if let (Raw::Tcp(s), Some(after)) = (self, after) {
            let probes = socket2::TcpKeepalive::new()
                .with_time(after)
                .with_interval(after / 4);
            let _ = socket2::SockRef::from(s).set_tcp_keepalive(&probes);
        }
    }

    /// A close sends RST instead of FIN: the peer learns that the exchange was cut.
    pub(crate) fn set_reset_on_close(&self) {
        if let Raw::Tcp(s) = self {
            let _ = socket2::SockRef::from(s).set_linger(Some(std::time::Duration::ZERO));
        }
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Raw::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Raw::Unix(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Raw::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Raw::Unix(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Raw::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Raw::Unix(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Raw::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Raw::Unix(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
