//! A caller's connection of HTTP/1.1: one exchange after the other, parked in between.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::StatusCode;
use tidegate_wire::grpc::http_to_grpc_status;
use tidegate_wire::h1::{HeadReader, RequestError, RequestHead};

use super::{DRAIN_LINGER, Origin, old_at};
use crate::clock;
use crate::down::Down;
use crate::down::h1::H1Exchange;
use crate::exchange::reply::{self, Problem};
use crate::exchange::{Incoming, handle, head};
use crate::io::{Transport, late, spare};
use crate::listener::ListenerState;
use crate::watch::Watch;
use crate::worker::Worker;

/// What is left of a body that nobody wants is read and thrown away up to this size; beyond, the connection is closed.
const SKIP: u64 = 64 * 1024;
/// How long a caller may still send after an answer that closes, before the socket goes.
const LINGER: Duration = Duration::from_secs(2);

/// A connection is parked when no request has come for this long (or at once, when many are waiting already).
const HOT: Duration = Duration::from_millis(500);

/// What a connection remembers between requests.
struct Memory {
    requests: u64,
    born: Instant,
}

/// What a connection needs for a request, and not while it is parked: apart from the task, whose state is rounded up to much more than it
/// has.
struct Kept<G> {
    origin: Origin,
    memory: Memory,
    _guards: G,
}

/// A connection between two bursts.
enum Between {
    /// Something may be there to read.
    Ready(Box<H1Exchange>),
    Parked(Transport),
}

/// Serves the connection to its end.
///
/// Not an `async fn`: that keeps its arguments twice.
pub(super) fn serve<G>(
    worker: Rc<Worker>,
    origin: Origin,
    conn: Box<H1Exchange>,
    guards: G,
) -> impl Future<Output = ()> {
    let watch = Watch::new(&worker.watches);
    let mut kept = Box::new(Kept {
        origin,
        memory: Memory {
            requests: 0,
            born: Instant::now(),
        },
        _guards: guards,
    });
    // A handshake may have read the first request already: the socket is waited for only after a read found nothing.
    let mut between = Some(Between::Ready(conn));
    async move {
        loop {
            if let Some(Between::Parked(io)) = &between
                && !wait(&worker, &kept.origin.listener, io, &watch).await
            {
                break;
            }
            let conn = match between.take() {
                Some(Between::Ready(conn)) => conn,
                Some(Between::Parked(io)) => Box::new(H1Exchange::new(io, worker.shared.clone())),
                None => break,
            };
            // The state of an exchange is large; it exists only while there is one.
            let mut burst = Box::pin(burst(&worker, &mut kept, conn, &watch));
            let turned = poll_fn(|cx| {
                late::count_poll();
                clock::stand_still(|| burst.as_mut().poll(cx))
            });
            match turned.await {
                Some(conn) => between = Some(Between::Parked(conn.into_io())),
                None => break,
            }
        }
    }
}

/// Parks the connection until something can be read; false when it has been idle for too long or a drain has ended its time.
fn wait<'a>(
    worker: &'a Worker,
    listener: &ListenerState,
    io: &'a Transport,
    watch: &'a Watch,
) -> impl Future<Output = bool> + 'a {
    let idle = listener.config.limits.idle_timeout;
    watch.set(idle.map(|t| Instant::now() + t));
    let mut lingering = false;
    poll_fn(move |cx| {
        if worker.shared.is_draining() && !lingering {
            lingering = true;
            watch.set(Some(Instant::now() + DRAIN_LINGER));
        }
        if watch.poll_over(cx).is_ready() {
            return Poll::Ready(false);
        }
        io.poll_read_ready(cx).map(|ready| ready.is_ok())
    })
}

/// Serves requests until none is at hand; gives the connection back unless it is over.
async fn burst<G>(
    worker: &Rc<Worker>,
    kept: &mut Kept<G>,
    mut held: Box<H1Exchange>,
    watch: &Watch,
) -> Option<Box<H1Exchange>> {
    let Kept { origin, memory, .. } = kept;
    let conn = &mut *held;
    let caller = origin.caller();
    let listener = &*origin.listener;
    let mut reader = HeadReader::new();
    loop {
        let request = match read_head(worker, conn, listener, watch, &mut reader).await {
            Head::Request(request) => request,
            Head::Idle => return Some(held),
            Head::Gone => return None,
            Head::Refused(problem) => {
                worker
                    .shared
                    .stats
                    .process
                    .bad_requests
                    .fetch_add(1, Relaxed);
                conn.begin_refusal();
                if reply::problem(&mut Down::H1(conn), &problem, false, false)
                    .await
                    .is_ok()
                {
                    linger(conn, watch).await;
                }
                return None;
            }
        };
        memory.requests += 1;
        let max = listener.config.max_requests_per_connection;
        conn.closing = (max > 0 && memory.requests >= max)
            || old_at(listener, memory.born).is_some_and(|old| clock::now() >= old);
        conn.begin(&request);
        watch.set(None);
        let mut incoming = Incoming {
            method: request.method,
            target: request.target,
            version: head::version_of(request.version),
            headers: request.headers,
            body: request.body,
            upgrade: request.upgrade,
        };
        handle(worker, &caller, &mut incoming, &mut Down::H1(conn), watch).await;
        if !conn.may_continue() {
            if conn.is_answered() && !conn.body_done() && skip(conn, watch).await {
                continue;
            }
            if conn.is_answered() && !conn.is_tunnel() {
                linger(conn, watch).await;
            }
            return None;
        }
    }
}

/// What came of waiting for a head.
enum Head {
    Request(RequestHead),
    /// Nothing is there yet: the connection should be parked.
    Idle,
    Gone,
    Refused(Problem),
}

/// Waits for a request, for a moment with the exchange's state in place.
///
/// Between two requests of a busy caller there are microseconds: parking would free and build that state each time. How many connections
/// may wait so is bounded, and with it the memory.
async fn read_head(
    worker: &Worker,
    conn: &mut H1Exchange,
    listener: &ListenerState,
    watch: &Watch,
    reader: &mut HeadReader,
) -> Head {
    let limits = &listener.limits;
    let mut timed = false;
    let mut hot = None;
    if !conn.write.is_empty() {
        let idle = listener.config.limits.idle_timeout;
        watch.set(idle.map(|t| clock::now() + t));
    }
    poll_fn(|cx| {
        // The end of the answer before.
        if !conn.write.is_empty() {
            if watch.poll_over(cx).is_ready() {
                return Poll::Ready(Head::Gone);
            }
            if std::task::ready!(conn.poll_flush_late(cx)).is_err() {
                return Poll::Ready(Head::Gone);
            }
        }
        loop {
            if !conn.read.bytes.is_empty() {
                let mut scratch = spare::take_map();
                match reader.request(&mut conn.read.bytes, limits, &mut scratch) {
                    Ok(Some(head)) => {
                        *reader = HeadReader::new();
                        return Poll::Ready(Head::Request(head));
                    }
                    Ok(None) => {}
                    Err(e) => return Poll::Ready(Head::Refused(refusal(&e))),
                }
                if !timed {
                    timed = true;
                    watch.set(Some(clock::now() + listener.config.limits.header_timeout));
                }
                if watch.poll_over(cx).is_ready() {
                    return Poll::Ready(Head::Refused(Problem::new(
                        StatusCode::REQUEST_TIMEOUT,
                        http_to_grpc_status(StatusCode::REQUEST_TIMEOUT),
                        "header-timeout",
                        "the request's head did not come in time",
                    )));
                }
            }
            // Asked first where that is enough: after an answer nothing is there yet, and no buffer is needed to learn that.
            let nothing = hot.is_none()
                && conn.read.bytes.is_empty()
                && conn.io.is_plain()
                && conn.io.poll_read_ready(cx).is_pending();
            let filled = match nothing {
                true => Poll::Pending,
                false => conn.read.poll_fill(&mut conn.io, cx),
            };
            match filled {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Head::Gone),
                Poll::Ready(Ok(_)) => continue,
                Poll::Pending if !conn.read.bytes.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
            if hot.is_none() {
                conn.read.release();
                conn.write.release();
                hot = worker.hot();
                if hot.is_none() {
                    return Poll::Ready(Head::Idle);
                }
                watch.set(Some(clock::now() + HOT));
            }
            if worker.shared.is_draining() || watch.poll_over(cx).is_ready() {
                return Poll::Ready(Head::Idle);
            }
            return Poll::Pending;
        }
    })
    .await
}

fn refusal(e: &RequestError) -> Problem {
    let status = e.status();
    Problem {
        detail: e.to_string().into(),
        ..Problem::new(status, http_to_grpc_status(status), e.code(), "")
    }
}

/// Reads and throws away the rest of a small request body; true when another request may follow.
async fn skip(conn: &mut H1Exchange, watch: &Watch) -> bool {
    if conn.unread_body().is_none_or(|left| left > SKIP) || !conn.keeps_alive() {
        return false;
    }
    watch.set(Some(Instant::now() + LINGER));
    poll_fn(|cx| {
        while !conn.body_done() {
            if watch.poll_over(cx).is_ready() {
                return Poll::Ready(false);
            }
            if std::task::ready!(conn.poll_part(cx)).is_err() {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    })
    .await
}

/// Closes so that the caller can still read the answer: our side ends, and what it sends is read for a while. A plain close with
/// unread bytes would reset the connection and could destroy the answer on its way.
async fn linger(conn: &mut H1Exchange, watch: &Watch) {
    watch.set(Some(Instant::now() + LINGER));
    poll_fn(|cx| {
        if watch.poll_over(cx).is_ready() {
            return Poll::Ready(());
        }
        // The end of an answer may have been left to the connection.
        if std::task::ready!(conn.poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        std::task::ready!(conn.poll_close(cx));
        loop {
            conn.read.bytes.clear();
            match std::task::ready!(conn.read.poll_fill(&mut conn.io, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand idle connections are ten thousand of these.
    #[test]
    fn a_parked_connection_is_small() {
        fn state<A, B, C, D, R>(_: impl FnOnce(A, B, C, D) -> R) -> usize {
            std::mem::size_of::<R>()
        }
        let task = state(serve::<(usize, usize)>);
        // With the runtime's own 112 bytes it is rounded up to a multiple of 128.
        assert!(task <= 256 - 112, "{task} bytes");
        let kept = std::mem::size_of::<Kept<(usize, usize)>>();
        assert!(kept <= 80, "{kept} bytes");
    }
}
