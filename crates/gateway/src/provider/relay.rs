//! The answer of a provider on its way to the caller, from its first content on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_core::{InFlight, Permit, Verdict};
use tidegate_keys::{NoAnswer, Outcome};
use tidegate_llm::classify::Evidence;
use tidegate_llm::usage::Usage;
use tidegate_llm::{Broke, FactReader, Fault, FaultKind, Step};

use super::attempt::Asking;
use super::resume::Broken;
use super::target::Asked;
use crate::clock;
use crate::down::Down;
use crate::exchange::attempt::{Deadline, Won, count};
use crate::exchange::source::Cursor;
use crate::exchange::timer::Timer;
use crate::exchange::{Context, Running, head};
use crate::snapshot::RouteState;
use crate::trace;
use crate::up::Up;
use crate::upstream::Target;

/// An answer is whole for the caller before the provider has closed its framing: so long is waited for that, to keep the connection.
const LINGER: Duration = Duration::from_secs(1);

/// How the relay ended.
enum Ended {
    Whole,
    /// The provider failed in the middle.
    Broken,
    /// Time ran out.
    Late(Broke),
    /// The exchange's own time did.
    Over,
    Gone,
}

impl Ended {
    /// For the attempt's span: what it means for the key, and why.
    fn cause(&self, asking: &Asking) -> (&'static str, &'static str) {
        match self {
            Self::Whole => ("ok", ""),
            Self::Broken => match asking.answer.evidence() {
                Some(evidence) => trace::class(&evidence.class),
                None => ("failure", "upstream-reset"),
            },
            Self::Late(_) => ("failure", "timeout"),
            Self::Over => ("neutral", "timeout"),
            Self::Gone => ("neutral", "caller-gone"),
        }
    }
}

/// A part of an answer; mostly all of it.
pub(super) struct Part<'a> {
    /// Who could be asked for the rest if it breaks off.
    pub(super) asked: Option<&'a Asked>,
    /// What the parts before it used.
    pub(super) before: Option<Usage>,
    pub(super) timer: Timer,
}

/// An answer of which the caller has the head and the first content.
pub(super) struct Begun<'a> {
    up: Up,
    cursor: Cursor,
    asking: Box<Asking>,
    part: Part<'a>,
    /// The caller took it.
    given: bool,
    /// Bytes that the caller had before.
    sent_before: u64,
    _in_flight: InFlight<Arc<Target>>,
    _permit: Permit,
}

/// How a part ended, besides well.
enum Over {
    /// It can go on, and the caller has not been told yet.
    Broken(Box<Broken>),
    /// What the caller is told, and how that is called.
    Told(Bytes, &'static str),
}

/// Gives the caller the head and the first content. `None`: the answer is none of a provider's.
pub(super) fn begin<'a>(
    context: Context<'_>,
    state: &RouteState,
    won: Won,
    part: Part<'a>,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) -> Option<Begun<'a>> {
    let Won {
        up,
        cursor,
        mut response,
        pick,
        latency,
        upstream,
        traffic,
        permit,
        asking,
    } = won;
    let mut asking = asking?;
    let worker = context.worker;
    running.count_as(&traffic);
    // An answer may begin before the request has come whole.
    if cursor.done {
        asking.committed();
    }
    asking.key.content_began(worker.now());
    // The endpoint has answered; whether the key did is another matter.
    count(&upstream.attempts, worker.index, &Verdict::Ok);
    if let Some(after) = asking.first_token.filter(|_| asking.stream) {
        asking.provider.stats.first_token(worker.index, after);
    }
    let report = &mut running.report;
    report.member = Some(pick.member().id().clone());
    let in_flight = pick.finish_held(Verdict::Ok, Some(latency), worker.now());
    let begun = report.talk.as_ref().is_some_and(|talk| talk.begun);
    head::response(&mut response.headers, response.status, down.is_h2());
    state.route.response_headers.apply(&mut response.headers);
    report.status = response.status.as_u16();
    let mut given = match begun {
        // The caller has had a head long since.
        true => Ok(()),
        false => down.head(response.status, response.headers, response.body, false),
    };
    let sent_before = report.bytes_down;
    asking.said = report.talk.as_mut().and_then(|talk| talk.said.take());
    asking.facts = report.trace().map(|_| FactReader::new(asking.stream));
    asking.note();
    for piece in asking.out.drain(..) {
        report.bytes_down += piece.len() as u64;
        given = given.and_then(|()| down.data(piece, false));
    }
    Some(Begun {
        up,
        cursor,
        asking,
        part,
        given: given.is_ok(),
        sent_before,
        _in_flight: in_flight,
        _permit: permit,
    })
}

/// Relays what follows and gives the verdict on the key.
///
/// Not an `async fn`: that keeps its arguments twice.
#[allow(clippy::manual_async_fn, reason = "see above")]
pub(super) fn rest<'a>(
    context: Context<'a>,
    state: &'a RouteState,
    mut begun: Begun<'a>,
    deadline: Deadline,
    down: &'a mut Down<'_>,
    running: &'a mut Running<'_>,
) -> impl Future<Output = Option<Broken>> {
    async move {
        let mut pieces = 1;
        let mut ended = Ended::Gone;
        if begun.given {
            let idle = state.route.idle_timeout;
            context.watch.set(idle.map(|t| clock::now() + t));
            let mut pump = Pump {
                asking: &mut begun.asking,
                down,
                watch: context.watch,
                idle,
                deadline,
                worker: context.worker.index,
                timer: std::mem::take(&mut begun.part.timer),
                bytes: 0,
                pieces: 1,
            };
            ended = pump.run(&mut begun.up, &mut begun.cursor).await;
            running.report.bytes_down += pump.bytes;
            pieces = pump.pieces;
        }
        match begun.end(context, &ended, pieces, running)? {
            Over::Broken(broken) => return Some(*broken),
            Over::Told(told, code) => {
                Box::pin(give_up(context, told, code, down, running)).await;
            }
        }
        None
    }
}

impl Begun<'_> {
    /// Gives the verdict on the key, and lets go of it. `None`: there is nothing left to be done.
    fn end(
        mut self,
        context: Context<'_>,
        ended: &Ended,
        pieces: u64,
        running: &mut Running<'_>,
    ) -> Option<Over> {
        let worker = context.worker;
        let report = &mut running.report;
        let asking = &mut *self.asking;
        let bytes = report.bytes_down - self.sent_before;
        let used = usage(asking, bytes, pieces, ended);
        if let Some(trace) = report.trace() {
            let cause = ended.cause(asking);
            trace.told(asking, used, cause);
        }
        let provider = &asking.provider;
        provider.stats.used(worker.index, &asking.model, &used);
        let spent = self.part.before.map_or(used, |before| before.plus(&used));
        if let Some(talk) = &mut report.talk {
            talk.provider = Some(provider.name().clone());
            talk.key = Some(asking.key.key().fingerprint.clone());
            talk.usage = Some(spent);
            talk.said = asking.said.take();
        }
        let now = worker.now();
        let Asking {
            key,
            mut answer,
            first_byte,
            model,
            ledger,
            ..
        } = *self.asking;
        let mut told = None;
        match ended {
            Ended::Whole => {
                let ok = Evidence::ok(report.status);
                key.finish(Outcome::Answer(&ok), first_byte, now);
                keep(self.up);
            }
            Ended::Broken | Ended::Late(_) => {
                let mut code = "stream_broken";
                if let Ended::Late(broke) = ended {
                    code = "timeout";
                    answer.broken(*broke);
                }
                self.up.cancel();
                // The request is not kept for so long, so what quotes it can't be told from the rest.
                let shown = answer.evidence().map(Evidence::without_words);
                let outcome = match &shown {
                    Some(shown) => Outcome::Answer(shown),
                    None => Outcome::NoAnswer(NoAnswer::Reset),
                };
                match self.part.asked {
                    Some(asked) => asked.broke(key, outcome, first_byte, worker),
                    None => {
                        key.finish(outcome, first_byte, now);
                    }
                }
                let terminal = answer.terminal_error();
                let may_go_on = self.part.asked.is_some();
                if let Some(unfinished) = answer.unfinished().filter(|_| may_go_on) {
                    if let Some(talk) = &mut report.talk {
                        talk.model = Some(model);
                    }
                    return Some(Over::Broken(Box::new(Broken {
                        unfinished,
                        told: terminal,
                        code,
                        spent,
                    })));
                }
                told = Some(Over::Told(terminal, code));
            }
            Ended::Over => {
                let fault = Fault::new(FaultKind::Timeout, "the answer was not complete in time");
                told = Some(Over::Told(answer.terminal(&fault), "timeout"));
                self.up.cancel();
                key.finish(Outcome::Cancelled, first_byte, now);
            }
            Ended::Gone => {
                self.up.cancel();
                key.finish(Outcome::Cancelled, first_byte, now);
            }
        }
        if let Some(ledger) = &ledger {
            ledger.sent(&model);
            ledger.settle(&spent);
        }
        if let Some(talk) = &mut running.report.talk {
            talk.model = Some(model);
        }
        told
    }
}

/// Ends an answer that will not be whole.
pub(crate) async fn give_up(
    context: Context<'_>,
    told: Bytes,
    code: &'static str,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let report = &mut running.report;
    report.error = true;
    report.code = code;
    report.bytes_down += told.len() as u64;
    if let Some(said) = report.talk.as_mut().and_then(|talk| talk.said.as_mut()) {
        said.answered(&told);
    }
    finish(context, told, down).await;
}

/// Bytes of a stream for a token: a frame mostly holds one, and is mostly envelope.
const FRAME: u64 = 256;

/// What the answer used: what the provider said, else what can be told from what came.
fn usage(asking: &Asking, bytes: u64, pieces: u64, ended: &Ended) -> Usage {
    let asked = asking.asked_bytes as u64;
    let said = match asking.stream {
        true => 4 * pieces.max(bytes / FRAME),
        false => bytes,
    };
    match asking.answer.usage() {
        Some(usage) if matches!(ended, Ended::Whole) => *usage,
        Some(usage) => usage.or_estimate(asked, said),
        None => Usage::estimate(asked, said),
    }
}

/// Ends an answer that will not be whole: a stream with an error that says so, anything else by a cut. True if the caller was told.
pub(super) async fn finish(context: Context<'_>, told: Bytes, down: &mut Down<'_>) -> bool {
    if told.is_empty() || down.data(told, true).is_err() {
        // What came before is passed on, as far as the socket takes it: with nothing at all a caller might think that it was never asked.
        let _ = poll_fn(|cx| Poll::Ready(down.poll_flush(cx))).await;
        down.cut();
        return false;
    }
    // A time of its own: that of the exchange may be what has run out.
    let watch = context.watch;
    watch.set(Some(clock::now() + LINGER));
    let flushed = poll_fn(|cx| {
        if watch.poll_over(cx).is_ready() {
            return Poll::Ready(false);
        }
        down.poll_flush(cx).map(|done| done.is_ok())
    });
    let told = flushed.await;
    if !told {
        down.cut();
    }
    told
}

/// The connection can serve another request once the provider has ended its answer's framing, which is mostly on its way.
fn keep(mut up: Up) {
    if up.body_done() {
        return up.finish();
    }
    tokio::task::spawn_local(async move {
        let rest = poll_fn(|cx| {
            while !up.body_done() {
                if std::task::ready!(up.poll_part(cx)).is_err() {
                    return Poll::Ready(());
                }
            }
            Poll::Ready(())
        });
        let _ = tokio::time::timeout(LINGER, rest).await;
        if up.body_done() {
            up.finish()
        } else {
            up.cancel()
        }
    });
}

/// What moves the answer.
struct Pump<'p, 'd> {
    asking: &'p mut Asking,
    down: &'p mut Down<'d>,
    watch: &'p crate::watch::Watch,
    idle: Option<Duration>,
    deadline: Deadline,
    worker: usize,
    /// One timer for both bounds; it is moved only when it goes off.
    timer: Timer,
    bytes: u64,
    /// Pieces of content.
    pieces: u64,
}

impl Pump<'_, '_> {
    async fn run(&mut self, up: &mut Up, cursor: &mut Cursor) -> Ended {
        let mut last = clock::now();
        let mut ended = self.asking.whole;
        let mut alarm = next_alarm(self.deadline.at, self.asking.idle, last, ended);
        let mut fault = None;
        let stats = self.asking.provider.stats.clone();
        if ended && self.down.data(Bytes::new(), true).is_err() {
            return Ended::Gone;
        }
        poll_fn(|cx| {
            while self.timer.is_over(alarm, self.watch, cx) {
                let now = alarm.map_or_else(clock::now, |at| at.max(clock::now()));
                if self.deadline.at.is_some_and(|at| at <= now) {
                    return Poll::Ready(Ended::Over);
                }
                if self.asking.idle.is_some_and(|idle| last + idle <= now) && !ended {
                    // A caller that takes nothing holds the provider up, not the other way round.
                    if self.down.poll_room(cx).is_pending() {
                        last = now;
                    } else {
                        return Poll::Ready(Ended::Late(Broke::Idle));
                    }
                }
                alarm = next_alarm(self.deadline.at, self.asking.idle, last, ended);
            }
            if self.watch.poll_over(cx).is_ready() {
                // A caller that takes nothing is the one who is idle.
                let callers = ended || self.down.poll_room(cx).is_pending();
                return Poll::Ready(match callers {
                    true => Ended::Gone,
                    false => Ended::Late(Broke::Idle),
                });
            }
            if !cursor.done && !ended {
                self.asking.send(up, self.down, cursor, cx);
            }
            while !ended && fault.is_none() {
                match self.down.poll_room(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Ended::Gone),
                    Poll::Pending => break,
                }
                let Poll::Ready(step) = self.asking.read(up, cx) else {
                    break;
                };
                let now = clock::now();
                self.watch.set(self.idle.map(|t| now + t));
                if step == Step::Progress {
                    self.pieces += 1;
                    if self.asking.stream {
                        stats.next_token(self.worker, now - last);
                    }
                    last = now;
                }
                self.asking.note();
                for piece in self.asking.out.drain(..) {
                    self.bytes += piece.len() as u64;
                    if self.down.data(piece, false).is_err() {
                        return Poll::Ready(Ended::Gone);
                    }
                }
                match step {
                    Step::Progress | Step::Ping => {}
                    Step::Done => {
                        ended = true;
                        if self.down.data(Bytes::new(), true).is_err() {
                            return Poll::Ready(Ended::Gone);
                        }
                    }
                    Step::Failed => fault = Some(Ended::Broken),
                }
            }
            if let Some(fault) = fault.take() {
                return Poll::Ready(fault);
            }
            if ended && self.down.ends_late() {
                return Poll::Ready(Ended::Whole);
            }
            match self.down.poll_flush_late(cx) {
                Poll::Ready(Ok(())) if ended => Poll::Ready(Ended::Whole),
                Poll::Ready(Ok(())) => self.down.poll_gone(cx).map(|()| Ended::Gone),
                Poll::Ready(Err(_)) => Poll::Ready(Ended::Gone),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// When the bounds of an answer are looked at next. One that is whole waits for nobody but its caller: its provider can't be idle any
/// more, and an alarm for that would go off for ever.
fn next_alarm(
    deadline: Option<Instant>,
    idle: Option<Duration>,
    last: Instant,
    ended: bool,
) -> Option<Instant> {
    let idle = idle.filter(|_| !ended).map(|idle| last + idle);
    deadline.into_iter().chain(idle).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_whole_is_bound_by_its_deadline_alone() {
        let last = Instant::now();
        let (soon, late) = (Duration::from_secs(1), last + Duration::from_secs(9));
        let alarm = |deadline, ended| next_alarm(deadline, Some(soon), last, ended);
        assert_eq!(alarm(Some(late), false), Some(last + soon));
        assert_eq!(alarm(Some(late), true), Some(late));
        assert_eq!(alarm(None, true), None);
        assert_eq!(next_alarm(Some(late), None, last, false), Some(late));
    }
}
