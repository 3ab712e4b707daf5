//! The pings of an HTTP/2 connection. The codec has one handle for them and one may be under way, so that three purposes share it:
//! measuring for the windows ([`super::window`]), noticing a dead peer, and knowing that the peer's first SETTINGS have come (they are
//! the first thing it sends, so they come before any answer to a PING).
//!
//! Streams add what they receive to the [`Link`]; everything else happens when the connection's task runs anyway.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ::h2::{Ping, PingPong, client, server};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::window::{Estimator, WORTH, Windows};

/// What the streams of a connection and the task that drives it tell each other.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// Bytes of bodies since the last measurement began.
    received: Cell<usize>,
    /// Streams of different callers.
    callers: Cell<usize>,
    /// The window of each stream.
    window: Cell<u32>,
    settled: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
}

impl Link {
    pub(crate) fn received(&self, bytes: usize) {
        self.received.set(self.received.get().wrapping_add(bytes));
    }

    /// How many different callers have a stream on the connection; of a caller's own connection it is never told.
    pub(crate) fn shared_by(&self, callers: usize) {
        self.callers.set(callers);
    }

    /// The receive window of each stream, in bytes; 0 before the start.
    pub(crate) fn window(&self) -> u32 {
        self.window.get()
    }

    /// Ready once the peer's settings are known, or the connection is over.
    pub(crate) fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        if self.settled.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        // It sends the ping whose answer settles it.
        if let Some(driver) = self.driver.borrow().as_ref() {
            driver.wake_by_ref();
        }
        Poll::Pending
    }

    fn settle(&self) {
        if !self.settled.replace(true) {
            for waker in self.waiting.take() {
                waker.wake();
            }
        }
    }
}

/// Keepalive of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keepalive {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
}

/// A codec whose windows can be set.
pub(crate) trait Adjust {
    /// False when the peer has not acknowledged earlier settings yet.
    fn adjust(&mut self, windows: Windows) -> bool;
}

impl<I: AsyncRead + AsyncWrite + Unpin> Adjust for client::Connection<I, Bytes> {
    fn adjust(&mut self, windows: Windows) -> bool {
        if self.set_initial_window_size(windows.stream).is_err() {
            return false;
        }
        self.set_target_window_size(windows.connection);
        true
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Adjust for server::Connection<I, Bytes> {
    fn adjust(&mut self, windows: Windows) -> bool {
        if self.set_initial_window_size(windows.stream).is_err() {
            return false;
        }
        self.set_target_window_size(windows.connection);
        true
    }
}

/// A ping under way.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    /// It measures.
    measures: bool,
}

/// Looks after the pings of one connection. Lives in the task that drives it.
#[derive(Debug)]
pub(crate) struct Pulse {
    pings: PingPong,
    link: Rc<Link>,
    estimator: Estimator,
    sent: Option<Sent>,
    /// The round trip of a measurement. Judged in the task's next turn, when the streams have taken what came with the answer.
    measured: Option<Duration>,
    wanted: Option<Windows>,
    keepalive: Option<Beat>,
    over: bool,
}

#[derive(Debug)]
struct Beat {
    set: Keepalive,
    sleep: Pin<Box<Sleep>>,
    /// What had been received at the last look.
    seen: usize,
}

impl Pulse {
    /// `start` is what the connection began with.
    pub(crate) fn new(
        pings: PingPong,
        link: Rc<Link>,
        start: Windows,
        keepalive: Option<Keepalive>,
    ) -> Self {
        link.window.set(start.stream);
        Self {
            pings,
            link,
            estimator: Estimator::new(start),
            sent: None,
            measured: None,
            wanted: None,
            keepalive: keepalive.map(|set| Beat {
                set,
                sleep: Box::pin(tokio::time::sleep(set.interval)),
                seen: 0,
            }),
            over: false,
        }
    }

    /// To be called whenever the connection was polled and is still open. Ready when the peer does not answer any more.
    pub(crate) fn poll(&mut self, codec: &mut impl Adjust, cx: &mut Context<'_>) -> Poll<()> {
        if self.over {
            return Poll::Pending;
        }
        self.keep_driver(cx);
        if let Some(round_trip) = self.measured.take() {
            let bytes = self.link.received.replace(0);
            let callers = self.link.callers.get();
            let grown = self
                .estimator
                .sample(bytes, round_trip, callers, Instant::now());
            if let Some(windows) = grown {
                self.link.window.set(windows.stream);
                self.wanted = Some(windows);
            }
        }
        if let Some(sent) = self.sent
            && let Poll::Ready(answer) = self.pings.poll_pong(cx)
        {
            self.sent = None;
            if answer.is_err() {
                // The connection has ended; its own poll says so.
                self.over = true;
                return Poll::Pending;
            }
            let now = Instant::now();
            self.link.settle();
            if let Some(beat) = &mut self.keepalive {
                beat.sleep.as_mut().reset((now + beat.set.interval).into());
            }
            if sent.measures {
                self.measured = Some(now - sent.at);
                cx.waker().wake_by_ref();
            }
        }
        if let Some(windows) = self.wanted
            && codec.adjust(windows)
        {
            self.wanted = None;
            cx.waker().wake_by_ref();
        }
        self.begin(cx);
        self.poll_beat(cx)
    }

    /// Sends a ping if one of the purposes wants it.
    fn begin(&mut self, cx: &Context<'_>) {
        if self.sent.is_some() || self.measured.is_some() {
            return;
        }
        // The clock is read only when enough has come to be worth it.
        if self.link.received.get() >= WORTH && !self.estimator.is_done() {
            let now = Instant::now();
            if self.estimator.is_due(now) {
                self.link.received.set(0);
                self.send(now, true, cx);
                return;
            }
        }
        if !self.link.settled.get() && !self.link.waiting.borrow().is_empty() {
            self.send(Instant::now(), false, cx);
        }
    }

    fn send(&mut self, at: Instant, measures: bool, cx: &Context<'_>) {
        if self.pings.send_ping(Ping::opaque()).is_ok() {
            self.sent = Some(Sent { at, measures });
            // The codec writes it when it is polled.
            cx.waker().wake_by_ref();
        }
    }

    fn poll_beat(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(beat) = &mut self.keepalive else {
                return Poll::Pending;
            };
            if beat.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            let received = self.link.received.get();
            let next = match self.sent {
                Some(sent) if now >= sent.at + beat.set.timeout => return Poll::Ready(()),
                Some(sent) => sent.at + beat.set.timeout,
                // Whoever sends is alive.
                None if received != beat.seen => now + beat.set.interval,
                None => now + beat.set.timeout,
            };
            let quiet = self.sent.is_none() && received == beat.seen;
            beat.seen = received;
            beat.sleep.as_mut().reset(next.into());
            if quiet {
                self.send(now, false, cx);
            }
        }
    }

    fn keep_driver(&self, cx: &Context<'_>) {
        let mut driver = self.link.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
    }
}

impl Drop for Pulse {
    /// Nobody waits for settings of a connection that is gone.
    fn drop(&mut self) {
        self.link.driver.borrow_mut().take();
        self.link.settle();
    }
}
