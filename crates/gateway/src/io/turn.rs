//! One write a connection a turn of the worker.
//!
//! An HTTP/2 codec flushes whenever it is polled, and a busy connection is polled once for nearly every frame: the kernel then
//! costs more than everything else together. Under a [`Turn`] what the codec writes is gathered, and goes out when the worker's
//! run queue is empty, just before the thread parks (`flush_dirty`, called from the runtime's park hook), or earlier when it is
//! large or has been put off often. Nothing waits for a timer, so an idle worker adds no latency.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Raw;

/// Gathered bytes beyond which nothing more is put off.
const GATHER: usize = 32 * 1024;
/// A single write of this size goes out with what is gathered: copying it would cost more than the call.
const WRITE_THROUGH: usize = 16 * 1024;
/// Flushes put off in a row before one is made anyway: a worker that never parks must still write.
const PUT_OFF: u32 = 16;
/// Gathered bytes beyond which the writer is held back while the socket is full.
const HELD_BACK: usize = 64 * 1024;

thread_local! {
    /// Connections of this worker with gathered bytes.
    static DIRTY: RefCell<Vec<Rc<Inner>>> = const { RefCell::new(Vec::new()) };
}

/// Writes what every connection of this thread has gathered. Called from the runtime's park hook.
pub(crate) fn flush_dirty() {
    DIRTY.with_borrow_mut(|dirty| {
        for inner in dirty.drain(..) {
            inner.queued.set(false);
            inner.write_out();
        }
    });
}

/// A socket whose writes are gathered, shared with the park hook.
#[derive(Debug)]
pub(crate) struct Turn(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: RefCell<Raw>,
    out: RefCell<BytesMut>,
    waker: RefCell<Option<Waker>>,
    failed: Cell<Option<io::ErrorKind>>,
    put_off: Cell<u32>,
    queued: Cell<bool>,
    blocked: Cell<bool>,
    gather: Cell<bool>,
}

impl Turn {
    /// Passes writes straight on until [`Turn::gather`].
    pub(crate) fn new(raw: Raw) -> Self {
        Turn(Rc::new(Inner {
            raw: RefCell::new(raw),
            out: RefCell::default(),
            waker: RefCell::default(),
            failed: Cell::default(),
            put_off: Cell::default(),
            queued: Cell::default(),
            blocked: Cell::default(),
            gather: Cell::default(),
        }))
    }

    /// From now on writes are gathered.
    pub(crate) fn gather(&self) {
        self.0.gather.set(true);
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.raw.borrow().poll_read_ready(cx)
    }

    pub(crate) fn set_reset_on_close(&self) {
        self.0.raw.borrow().set_reset_on_close();
    }
}

impl Inner {
    /// Writes as much as the socket takes; a failure is kept for the next poll and its task woken.
    fn write_out(&self) {
        let mut out = self.out.borrow_mut();
        let raw = self.raw.borrow();
        self.put_off.set(0);
        while !out.is_empty() {
            match raw.try_write(&out) {
                Ok(n) => out.advance(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    if e.kind() == io::ErrorKind::WouldBlock {
                        self.blocked.set(true);
                    } else {
                        self.failed.set(Some(e.kind()));
                        out.clear();
                    }
                    // The task registers for writability, or sees the failure.
                    if let Some(waker) = self.waker.borrow().as_ref() {
                        waker.wake_by_ref();
                    }
                    return;
                }
            }
        }
        self.blocked.set(false);
        if out.capacity() > 2 * GATHER {
            *out = BytesMut::new();
        }
    }

    fn failure(&self) -> io::Result<()> {
        match self.failed.get() {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn keep_waker(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Waits until the socket takes bytes again, and writes; ready when nothing blocks any more.
    fn poll_unblock(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.blocked.get() {
            std::task::ready!(self.raw.borrow().poll_write_ready(cx))?;
            self.write_out();
            self.failure()?;
        }
        Poll::Ready(Ok(()))
    }

    fn mark_dirty(self: &Rc<Self>) {
        if !self.queued.replace(true) {
            DIRTY.with_borrow_mut(|d| d.push(self.clone()));
        }
    }
}

impl AsyncRead for Turn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &self.0;
        inner.failure()?;
        Pin::new(&mut *inner.raw.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Turn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &self.0;
        inner.failure()?;
        if !inner.gather.get() {
            return Pin::new(&mut *inner.raw.borrow_mut()).poll_write_vectored(cx, bufs);
        }
        inner.keep_waker(cx);
        if inner.blocked.get()
            && inner.out.borrow().len() >= HELD_BACK
            && inner.poll_unblock(cx)?.is_pending()
        {
            return Poll::Pending;
        }
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let mut out = inner.out.borrow_mut();
        if total >= WRITE_THROUGH && !inner.blocked.get() {
            // One call for what is gathered and the large piece, without copying it.
            let mut slices: smallvec::SmallVec<[IoSlice<'_>; 8]> = smallvec::SmallVec::new();
            let gathered = out.len();
            if gathered > 0 {
                slices.push(IoSlice::new(&out));
            }
            slices.extend(bufs.iter().map(|b| IoSlice::new(b)));
            let written = inner.raw.borrow().try_write_vectored(&slices);
            drop(slices);
            match written {
                Ok(n) if n > gathered => {
                    out.clear();
                    return Poll::Ready(Ok(n - gathered));
                }
                Ok(n) => out.advance(n),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(e) => {
                    inner.failed.set(Some(e.kind()));
                    return Poll::Ready(Err(e));
                }
            }
            // The socket is full: from here on writability is waited for.
            inner.blocked.set(true);
            if out.len() >= HELD_BACK {
                drop(out);
                std::task::ready!(inner.poll_unblock(cx))?;
                out = inner.out.borrow_mut();
            }
        }
        let mut room = HELD_BACK.saturating_sub(out.len()).max(WRITE_THROUGH);
        let mut taken = 0;
        for b in bufs {
            let n = b.len().min(room);
            out.extend_from_slice(&b[..n]);
            taken += n;
            room -= n;
        }
        drop(out);
        inner.mark_dirty();
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &self.0;
        inner.failure()?;
        if !inner.gather.get() {
            return Poll::Ready(Ok(()));
        }
        if inner.blocked.get() {
            return inner.poll_unblock(cx);
        }
        let len = inner.out.borrow().len();
        if len == 0 {
            return Poll::Ready(Ok(()));
        }
        inner.put_off.set(inner.put_off.get() + 1);
        if len >= GATHER || inner.put_off.get() > PUT_OFF {
            inner.write_out();
            inner.failure()?;
            if inner.blocked.get() {
                return inner.poll_unblock(cx);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &self.0;
        if inner.failed.get().is_none() {
            inner.write_out();
            std::task::ready!(inner.poll_unblock(cx))?;
        }
        Pin::new(&mut *inner.raw.borrow_mut()).poll_shutdown(cx)
    }
}

impl Drop for Turn {
    /// What the codec wrote last (a GOAWAY, a final response) still goes out if the socket takes it.
    fn drop(&mut self) {
        if self.0.failed.get().is_none() {
            self.0.write_out();
        }
        self.0.waker.borrow_mut().take();
    }
}
