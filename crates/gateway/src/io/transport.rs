//! A connection as HTTP/1.1 sees it: plain or under TLS, from a caller or to an endpoint.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{client, server};

use super::{Raw, Turn};

/// A byte stream.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(Raw),
    TlsServer(Box<server::TlsStream<Turn>>),
    TlsClient(Box<client::TlsStream<Turn>>),
}

impl Transport {
    /// Whether [`Transport::poll_read_ready`] alone says that nothing can be read: TLS may hold plain text back.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self, Transport::Plain(_))
    }

    /// Ready once a read may give something. Valid after a read has returned pending: TLS then holds no plain text back.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(raw) => raw.poll_read_ready(cx),
            Transport::TlsServer(tls) => tls.get_ref().0.poll_read_ready(cx),
            Transport::TlsClient(tls) => tls.get_ref().0.poll_read_ready(cx),
        }
    }

    pub(crate) fn set_reset_on_close(&self) {
        match self {
            Transport::Plain(raw) => raw.set_reset_on_close(),
            Transport::TlsServer(tls) => tls.get_ref().0.set_reset_on_close(),
            Transport::TlsClient(tls) => tls.get_ref().0.set_reset_on_close(),
        }
    }
}

macro_rules! each {
    ($self:ident, $s:ident => $e:expr) => {
        match $self.get_mut() {
            Transport::Plain(raw) => {
                let $s = Pin::new(raw);
                $e
            }
            Transport::TlsServer(tls) => {
                let $s = Pin::new(&mut **tls);
                $e
            }
            Transport::TlsClient(tls) => {
                let $s = Pin::new(&mut **tls);
                $e
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_shutdown(cx))
    }
}
