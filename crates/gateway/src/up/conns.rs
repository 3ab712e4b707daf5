//! The connections of one worker to one endpoint.
//!
//! HTTP/1.1: a stack of idle connections, the warmest on top. HTTP/2: a few connections, each filled up to a soft limit of streams before
//! the next is opened, so that no request waits behind a full one. New connections are bounded by the upstream's shared [`Slots`].

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::connect::{Fresh, connect};
use super::h1::{H1Conn, H1Up};
use super::h2::{H2Conn, H2Up, Lease};
use super::queue::Queue;
use super::slots::{Slot, Waiting};
use super::{OutRequest, Up, UpError};
use crate::clock;
use crate::io::buffer::{ReadBuf, WriteBuf};
use crate::limits::secret;
use crate::upstream::{Protocol, Target, Upstream};

/// Connections being opened at once to one endpoint for HTTP/2: a burst of requests must not open one each.
const OPENING: usize = 2;

/// What the connections of one worker to the endpoints of one upstream know of each other.
#[derive(Debug, Default)]
pub(crate) struct Siblings {
    open: Cell<usize>,
    homes: RefCell<Vec<Weak<EndpointConns>>>,
}

impl Siblings {
    /// Connections of this worker to the whole upstream.
    pub(crate) fn open(&self) -> usize {
        self.open.get()
    }

    /// Closes a connection that idles at another endpoint than `asking`.
    fn give_up_idle(&self, asking: &EndpointConns) {
        let homes = self.homes.borrow();
        let others = homes
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|home| !std::ptr::eq(&**home, asking));
        for home in others {
            if home.give_up_idle() {
                return;
            }
        }
    }

    /// Wakes whoever waits on this worker for any endpoint of the upstream.
    fn wake(&self) {
        for home in self.homes.borrow().iter().filter_map(Weak::upgrade) {
            home.wake_all();
        }
    }
}

/// Counts an open connection for the endpoint (all workers) and for the upstream (this worker).
#[derive(Debug)]
pub(crate) struct OpenConn {
    target: Arc<Target>,
    siblings: Rc<Siblings>,
}

impl OpenConn {
    fn new(target: &Arc<Target>, siblings: &Rc<Siblings>) -> Self {
        count(&target.open, 1);
        siblings.open.set(siblings.open() + 1);
        Self {
            target: target.clone(),
            siblings: siblings.clone(),
        }
    }
}

impl Drop for OpenConn {
    fn drop(&mut self) {
        count(&self.target.open, -1);
        self.siblings.open.set(self.siblings.open() - 1);
        // A worker without any may open one, whatever the limit: nobody else would tell those who wait.
        if self.siblings.open() == 0 {
            self.siblings.wake();
        }
    }
}

fn count(counter: &AtomicU64, by: i64) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EndpointConns {
    pub(super) upstream: Arc<Upstream>,
    target: Arc<Target>,
    siblings: Rc<Siblings>,
    #[expect(
        clippy::vec_box,
        reason = "leased and returned for every request: a pointer moves, not the connection"
    )]
    idle: RefCell<Vec<Box<H1Conn>>>,
    h2: RefCell<Vec<Rc<H2Conn>>>,
    opening: Cell<usize>,
    /// Somebody waits for one of these to be open, or to have failed.
    awaits_opening: Cell<bool>,
    waiters: RefCell<Queue>,
    /// What ALPN agreed on last, for `protocol: auto` under TLS.
    speaks_h2: Cell<Option<bool>>,
    /// The endpoint is gone: connections that come back are closed.
    retired: Cell<bool>,
}

/// A place for one request.
#[derive(Debug)]
pub(crate) enum Place {
    H1(Box<H1Conn>, Rc<EndpointConns>),
    H2(Lease),
}

impl Place {
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self, Place::H2(_))
    }

    /// Begins the request.
    pub(crate) fn start(self, request: &OutRequest) -> Result<Up, UpError> {
        match self {
            Place::H1(conn, home) => Ok(Up::H1(H1Up::start(conn, home, request))),
            Place::H2(lease) => H2Up::start(lease, request).map(Up::H2),
        }
    }
}

/// What to do next for somebody who wants a place.
enum Step {
    Take(Place),
    Open(Slot, Protocol),
    /// Every connection is busy and there is no slot for a further one.
    AwaitSlot,
    /// Others are being opened: one of them will do.
    AwaitConnect,
}

/// A request on its way to a place.
pub(crate) struct Placing {
    place: Pin<Box<dyn Future<Output = Result<Place, UpError>>>>,
    on_endpoint: Rc<Cell<bool>>,
}

impl Placing {
    /// Whether the endpoint is what it waits for: a connection to it is being opened. False while it stands in our own queue.
    pub(crate) fn waits_on_endpoint(&self) -> bool {
        self.on_endpoint.get()
    }
}

impl Future for Placing {
    type Output = Result<Place, UpError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.place.as_mut().poll(cx)
    }
}

impl EndpointConns {
    pub(crate) fn new(
        upstream: Arc<Upstream>,
        target: Arc<Target>,
        siblings: Rc<Siblings>,
    ) -> Rc<Self> {
        let home = Rc::new(Self {
            upstream,
            target,
            siblings: siblings.clone(),
            idle: RefCell::default(),
            h2: RefCell::default(),
            opening: Cell::new(0),
            awaits_opening: Cell::new(false),
            waiters: RefCell::default(),
            speaks_h2: Cell::new(None),
            retired: Cell::new(false),
        });
        let mut homes = siblings.homes.borrow_mut();
        homes.retain(|home| home.strong_count() > 0);
        homes.push(Rc::downgrade(&home));
        drop(homes);
        home
    }

    /// A connection that is at hand with room for one request: the usual case, without any waiting state.
    pub(crate) fn try_place(self: &Rc<Self>, wanted: Protocol) -> Option<Place> {
        match self.step(wanted) {
            Step::Take(place) => Some(place),
            // The slot goes back; `place` takes it again.
            Step::Open(..) | Step::AwaitSlot | Step::AwaitConnect => None,
        }
    }

    /// Finds or makes a connection with room for one request. `wanted` is the protocol that the request asks for.
    pub(crate) fn placing(self: &Rc<Self>, wanted: Protocol) -> Placing {
        let on_endpoint = Rc::new(Cell::new(false));
        let (home, tell) = (self.clone(), on_endpoint.clone());
        Placing {
            place: Box::pin(async move { home.place(wanted, &tell).await }),
            on_endpoint,
        }
    }

    /// The same for a request that wants to switch protocols: whether a peer of HTTP/2 can is in its settings, so they must have come.
    pub(crate) fn placing_settled(self: &Rc<Self>, wanted: Protocol) -> Placing {
        let on_endpoint = Rc::new(Cell::new(false));
        let (home, tell) = (self.clone(), on_endpoint.clone());
        let place = Box::pin(async move {
            let place = home.place(wanted, &tell).await?;
            if let Place::H2(lease) = &place {
                tell.set(true);
                let limit = home.upstream.settings.connect_timeout;
                tokio::time::timeout(limit, poll_fn(|cx| lease.poll_settled(cx)))
                    .await
                    .map_err(|_| UpError::ConnectTimeout)?;
            }
            Ok(place)
        });
        Placing { place, on_endpoint }
    }

    /// See [`EndpointConns::placing`]; `on_endpoint` is told what is waited for.
    async fn place(
        self: &Rc<Self>,
        wanted: Protocol,
        on_endpoint: &Cell<bool>,
    ) -> Result<Place, UpError> {
        match self.step(wanted) {
            Step::Take(place) => return Ok(place),
            Step::Open(slot, protocol) => {
                on_endpoint.set(true);
                if let Some(place) = self.open(slot, protocol).await? {
                    return Ok(place);
                }
            }
            Step::AwaitSlot | Step::AwaitConnect => {}
        }
        let Some(_pending) = self.upstream.live.pending.try_acquire() else {
            return Err(UpError::Overflow);
        };
        // For how long is the exchange's own business: its deadline, its idle timeout, a caller that leaves.
        loop {
            let queued = Queued {
                home: self,
                waiting: self.upstream.live.slots.wait(),
            };
            let step = poll_fn(|cx| {
                // Registered before the look, so that nothing that comes free in between is missed.
                queued.register(cx.waker());
                let step = self.step(wanted);
                on_endpoint.set(!matches!(step, Step::AwaitSlot));
                match step {
                    Step::AwaitSlot | Step::AwaitConnect => {
                        queued.pass_on();
                        Poll::Pending
                    }
                    step => Poll::Ready(step),
                }
            })
            .await;
            drop(queued);
            match step {
                Step::Take(place) => return Ok(place),
                Step::Open(slot, protocol) => {
                    if let Some(place) = self.open(slot, protocol).await? {
                        return Ok(place);
                    }
                }
                Step::AwaitSlot | Step::AwaitConnect => {}
            }
        }
    }

    fn step(self: &Rc<Self>, wanted: Protocol) -> Step {
        let protocol = match (self.upstream.settings.protocol, wanted) {
            (Protocol::Auto, Protocol::Auto) if self.upstream.settings.tls.is_some() => {
                match self.speaks_h2.get() {
                    Some(true) => Protocol::Http2,
                    Some(false) => Protocol::Http1,
                    None => Protocol::Auto,
                }
            }
            (Protocol::Auto, Protocol::Auto) => Protocol::Http1,
            (Protocol::Auto, wanted) => wanted,
            (set, _) => set,
        };
        if protocol == Protocol::Http2 {
            self.step_h2()
        } else {
            if let Some(conn) = self.take_idle() {
                return Step::Take(Place::H1(conn, self.clone()));
            }
            match self.take_slot() {
                Some(slot) => Step::Open(slot, protocol),
                None => Step::AwaitSlot,
            }
        }
    }

    fn step_h2(self: &Rc<Self>) -> Step {
        let soft = self.upstream.settings.http2_streams;
        let now = clock::now();
        let mut conns = self.h2.borrow_mut();
        conns.retain(|c| !c.closed.get() && c.old_at.is_none_or(|at| now < at));
        let mut best: Option<&Rc<H2Conn>> = None;
        let mut spare: Option<&Rc<H2Conn>> = None;
        for conn in conns.iter() {
            let active = conn.active.get();
            let limit = conn.peer_limit();
            if active >= limit || self.is_used_up(conn.streams.get()) {
                continue;
            }
            // The fullest below the soft limit: frames of many streams share a write, and spare connections can end.
            if active < soft.min(conn.room()) {
                if best.is_none_or(|b| b.active.get() < active) {
                    best = Some(conn);
                }
            } else if spare.is_none_or(|s| s.active.get() > active) {
                spare = Some(conn);
            }
        }
        if let Some(conn) = best {
            return Step::Take(Place::H2(Lease::new(conn.clone(), self.clone())));
        }
        let may_open = self.opening.get() < OPENING;
        if may_open && let Some(slot) = self.take_slot() {
            return Step::Open(slot, Protocol::Http2);
        }
        // Over the soft limit is better than waiting for a slot.
        if let Some(conn) = spare {
            return Step::Take(Place::H2(Lease::new(conn.clone(), self.clone())));
        }
        if may_open {
            Step::AwaitSlot
        } else {
            self.awaits_opening.set(true);
            Step::AwaitConnect
        }
    }

    /// Whether a connection that is open has room for a request of one protocol or the other.
    fn has_place(&self) -> bool {
        !self.idle.borrow().is_empty()
            || self.h2.borrow().iter().any(|c| {
                !c.closed.get()
                    && c.active.get() < c.peer_limit()
                    && !self.is_used_up(c.streams.get())
            })
    }

    /// A slot for a new connection. When all are taken, one that idles at another endpoint gives its up: it would keep it until its idle
    /// timeout while requests wait here.
    fn take_slot(&self) -> Option<Slot> {
        let slots = &self.upstream.live.slots;
        slots.try_take(self.siblings.open()).or_else(|| {
            self.siblings.give_up_idle(self);
            slots.try_take(self.siblings.open())
        })
    }

    /// Closes the connection that has idled longest; false when none idles.
    fn give_up_idle(&self) -> bool {
        let coldest = {
            let mut idle = self.idle.borrow_mut();
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        if coldest.is_some() {
            return true;
        }
        let mut conns = self.h2.borrow_mut();
        let idle = conns.iter().position(|c| c.active.get() == 0);
        // Its slot comes free when its task has closed it.
        idle.map(|at| conns.swap_remove(at)).is_some()
    }

    /// Closes an idle connection if somebody waits for its slot, on whatever worker. For a look at every tick.
    pub(crate) fn yield_idle(&self) {
        if self.upstream.live.slots.contended() {
            self.give_up_idle();
        }
    }

    /// When a connection that is opened now is to be replaced: connections that were opened together do not go together.
    pub(super) fn old_at(&self, now: Instant) -> Option<Instant> {
        let age = self.upstream.settings.max_age?;
        let spread = 0.9 + 0.2 * (secret() >> 11) as f64 / (1u64 << 53) as f64;
        now.checked_add(age.mul_f64(spread))
    }

    fn is_used_up(&self, requests: u64) -> bool {
        let max = self.upstream.settings.max_requests_per_connection;
        max > 0 && requests >= max
    }

    fn take_idle(&self) -> Option<Box<H1Conn>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut conn) = idle.pop() {
            if conn.is_quiet() {
                return Some(conn);
            }
        }
        None
    }

    /// `None` when the connection turned out to speak HTTP/2 and another request took its place already.
    async fn open(
        self: &Rc<Self>,
        slot: Slot,
        protocol: Protocol,
    ) -> Result<Option<Place>, UpError> {
        let open = OpenConn::new(&self.target, &self.siblings);
        let opening = Opening::new(self);
        let fresh = connect(&self.upstream, &self.target, protocol).await?;
        let conn = match fresh {
            Fresh::H1(io) => {
                self.speaks_h2.set(Some(false));
                let now = Instant::now();
                let conn = H1Conn {
                    io,
                    read: ReadBuf::default(),
                    write: WriteBuf::default(),
                    idle_since: now,
                    old_at: self.old_at(now),
                    requests: 0,
                    _slot: slot,
                    _open: open,
                };
                return Ok(Some(Place::H1(Box::new(conn), self.clone())));
            }
            Fresh::H2(io) => {
                H2Conn::open(io, self, slot, open, self.upstream.settings.keepalive).await?
            }
            Fresh::H2Tls(io) => {
                self.speaks_h2.set(Some(true));
                H2Conn::open(*io, self, slot, open, self.upstream.settings.keepalive).await?
            }
        };
        let lease = Lease::new(conn.clone(), self.clone());
        // How many streams the peer takes at once is in its settings. A burst that does not wait for them is refused beyond
        // that number, by some servers (gRPC's C core) in words that do not say that nothing was done. A peer that keeps
        // them back is given what it would have had without them.
        let limit = self.upstream.settings.connect_timeout;
        let _ = tokio::time::timeout(limit, poll_fn(|cx| lease.poll_settled(cx))).await;
        drop(opening);
        self.h2.borrow_mut().push(conn);
        self.wake();
        Ok(Some(Place::H2(lease)))
    }

    /// Takes a connection back after an exchange.
    pub(crate) fn put_h1(&self, mut conn: Box<H1Conn>) {
        let old = conn.old_at.is_some_and(|at| clock::now() >= at);
        if self.retired.get() || old || self.is_used_up(u64::from(conn.requests)) {
            return;
        }
        // Somebody on another worker waits for a slot, and nobody here for a connection: the slot goes there.
        if self.waiters.borrow().is_empty() && self.upstream.live.slots.contended() {
            return;
        }
        conn.idle_since = clock::now();
        self.idle.borrow_mut().push(conn);
        self.wake();
    }

    /// A stream ended: there is room on its connection.
    pub(crate) fn stream_over(&self) {
        self.wake();
    }

    /// Drops connections that can't take streams any more.
    pub(crate) fn forget_closed(&self) {
        self.h2.borrow_mut().retain(|c| !c.closed.get());
        self.wake_all();
    }

    /// Wakes the next who waits here: there is room for a request.
    fn wake(&self) {
        self.wake_after(None);
    }

    fn wake_after(&self, after: Option<u64>) {
        let next = self.waiters.borrow_mut().next(after);
        if let Some(waker) = next {
            waker.wake();
        }
    }

    fn wake_all(&self) {
        let wakers = self.waiters.borrow_mut().all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Closes what has been idle for too long; true when nothing is left.
    pub(crate) fn sweep(&self, now: Instant) -> bool {
        let idle_timeout = self.upstream.settings.idle_timeout;
        let keep = |since: Instant| idle_timeout.is_none_or(|t| now.duration_since(since) < t);
        self.idle
            .borrow_mut()
            .retain_mut(|c| keep(c.idle_since) && c.is_quiet());
        self.h2
            .borrow_mut()
            .retain(|c| !c.closed.get() && (c.active.get() > 0 || keep(c.idle_since.get())));
        self.idle.borrow().is_empty() && self.h2.borrow().is_empty() && self.opening.get() == 0
    }

    /// The endpoint is no member any more: idle connections close now, busy ones when they are done.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.h2.borrow_mut().clear();
    }
}

/// A request that waits for a connection here or for a slot anywhere. Leaves nothing behind when it gives up.
struct Queued<'a> {
    home: &'a EndpointConns,
    waiting: Waiting,
}

impl Queued<'_> {
    fn register(&self, waker: &Waker) {
        let id = self.waiting.id();
        self.home.waiters.borrow_mut().register(id, waker);
        self.waiting.register(waker);
    }

    /// Nothing here is for this one: what there is (a connection of the other protocol, a slot while enough are being opened) is for
    /// those behind it.
    fn pass_on(&self) {
        if self.home.has_place() {
            self.home.wake_after(Some(self.waiting.id()));
        }
        self.waiting.pass_on();
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.home.waiters.borrow_mut().remove(self.waiting.id());
        if self.home.has_place() {
            self.home.wake();
        }
    }
}

/// Counts a connection that is being opened.
struct Opening<'a>(&'a EndpointConns);

impl<'a> Opening<'a> {
    fn new(home: &'a EndpointConns) -> Self {
        home.opening.set(home.opening.get() + 1);
        Self(home)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
        if self.0.awaits_opening.replace(false) {
            self.0.wake_all();
        }
    }
}
