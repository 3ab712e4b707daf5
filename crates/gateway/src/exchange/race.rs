//! One attempt and its hedges: contenders for the answer of one request.
//!
//! A contender has picked a member and is on its way: to a connection, then with the request, then waiting for the answer's head. There
//! is one, unless the route hedges. The first head wins, and whatever else runs then is broken off. Every contender that does not win is
//! ended here, with its verdict.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use smallvec::SmallVec;
use tidegate_core::{FailureKind, MemberKey, Pick, Verdict};
use tidegate_route::retry::{Written, is_idempotent};

use super::Report;
use super::attempt::{Loop, Planned, Won, count};
use super::outcome;
use super::relay::{self, Fault};
use super::source::{Cursor, Source};
use crate::clock;
use crate::down::Down;
use crate::provider::attempt::Asking;
use crate::service;
use crate::stats::AttemptKind;
use crate::trace::Settled;
use crate::up::conns::{Place, Placing};
use crate::up::{OutRequest, Up, UpError, UpResponse};
use crate::upstream::{Protocol, Target};
use crate::worker::Worker;

/// One try at one member.
pub(super) struct Contender {
    pick: Pick<Arc<Target>>,
    stage: Stage,
    cursor: Cursor,
    started: Instant,
    per_try: Option<Instant>,
    /// What a provider's attempt has beyond that.
    asking: Option<Box<Asking>>,
}

/// How an attempt ended from which the caller gets nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// No answer came.
    Up(UpError),
    /// One came that is none for the caller.
    Unfit,
    /// Time ran out; what the endpoint is charged with for it.
    Late(Option<FailureKind>),
    /// It was not needed, or the caller is no longer there.
    Spare,
}

impl End {
    fn of(fault: &Fault) -> Self {
        match fault {
            Fault::Up(e) => Self::Up(*e),
            Fault::Unfit => Self::Unfit,
            Fault::Source(_) | Fault::Gone => Self::Spare,
        }
    }

    /// What the endpoint is charged with; `None` where it is not its doing.
    fn blame(self) -> Option<FailureKind> {
        match self {
            Self::Up(e) => outcome::blame(e),
            Self::Late(kind) => kind,
            // It did answer.
            Self::Unfit | Self::Spare => None,
        }
    }
}

/// How far it has come.
enum Stage {
    /// A connection was at hand; the request starts with the first poll.
    Placed(Option<Place>),
    Connecting(Placing),
    Running(Up),
}

/// What became of a race.
pub(super) enum Raced {
    Answer(Box<Contender>, UpResponse),
    /// None is left; the last one's fault.
    Fault(Fault),
    PerTryTimeout(Written),
    Deadline,
    Idle,
}

impl Raced {
    /// Whether nothing of the request reached the member, and another try there has no sense for now.
    pub(super) fn is_unreached(&self) -> bool {
        matches!(self, Self::Fault(Fault::Up(e)) if does_not_take(*e))
    }
}

/// Whether the member takes no connections or requests.
fn does_not_take(e: UpError) -> bool {
    matches!(
        e,
        UpError::Connect | UpError::ConnectTimeout | UpError::Refused
    )
}

impl Contender {
    /// Begins an attempt. With a connection at hand the request is started with the first poll.
    pub(super) fn new(
        run: &mut Loop<'_, '_>,
        planned: &Planned,
        pick: Pick<Arc<Target>>,
        asking: Option<Box<Asking>>,
    ) -> Self {
        let conns = run.worker.conns(&planned.upstream, pick.member());
        let upgrade = run.request.upgrade && asking.is_none();
        let wanted = match run.grpc {
            true if asking.is_none() => Protocol::Http2,
            true => Protocol::Auto,
            // HTTP/1.1 can switch to any protocol; HTTP/2 only where the upstream speaks nothing else.
            false if upgrade => Protocol::Http1,
            false => Protocol::Auto,
        };
        let started = clock::now();
        if let Some(trace) = run.report.trace() {
            trace.begin(run.worker, planned, pick.member(), asking.as_deref());
        }
        let at_hand = match upgrade {
            true => None,
            false => conns.try_place(wanted),
        };
        let stage = match at_hand {
            Some(place) => Stage::Placed(Some(place)),
            None if upgrade => Stage::Connecting(conns.placing_settled(wanted)),
            None => Stage::Connecting(conns.placing(wanted)),
        };
        Self {
            pick,
            stage,
            cursor: Cursor::default(),
            started,
            per_try: run.state.route.retry.per_try_timeout.map(|t| started + t),
            asking,
        }
    }

    /// When it must have come further.
    fn due(&self) -> Option<Instant> {
        let content = self.asking.as_ref().and_then(|asking| asking.due);
        self.per_try.into_iter().chain(content).min()
    }

    /// Goes on towards the answer's head.
    fn poll(
        &mut self,
        request: &mut OutRequest,
        down: &mut Down<'_>,
        source: &mut Source,
        report: &mut Report,
        cx: &mut Context<'_>,
    ) -> Poll<Result<UpResponse, Fault>> {
        loop {
            match &mut self.stage {
                Stage::Placed(place) => {
                    let Some(place) = place.take() else {
                        return Poll::Ready(Err(Fault::Up(UpError::Unsent)));
                    };
                    let request = match &mut self.asking {
                        Some(asking) => &mut asking.request,
                        None => &mut *request,
                    };
                    if let Some(trace) = report.trace() {
                        trace.sent(self.pick.member().key(), request, place.is_h2());
                    }
                    match place.start(request) {
                        Ok(up) => self.stage = Stage::Running(up),
                        Err(e) => return Poll::Ready(Err(Fault::Up(e))),
                    }
                }
                Stage::Connecting(placing) => match Pin::new(placing).poll(cx) {
                    Poll::Ready(Ok(place)) => self.stage = Stage::Placed(Some(place)),
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(Fault::Up(e))),
                    Poll::Pending => {
                        // A body is not read before there is somewhere to put it; that the caller left is seen all the same.
                        if down.poll_gone(cx).is_ready() {
                            return Poll::Ready(Err(Fault::Gone));
                        }
                        return Poll::Pending;
                    }
                },
                Stage::Running(up) => {
                    let cursor = &mut self.cursor;
                    return match &mut self.asking {
                        None => relay::poll_head(up, down, source, cursor, true, cx),
                        Some(asking) => asking.poll(up, down, cursor, cx),
                    };
                }
            }
        }
    }

    fn written(&self) -> Written {
        match &self.stage {
            Stage::Placed(_) | Stage::Connecting(_) => Written::Nothing,
            Stage::Running(_) => Written::Some,
        }
    }

    /// What the endpoint is charged with when time runs out: nothing while the request stands in our own queue, nor while the endpoint
    /// would take more of it and the caller sends none.
    fn silence(&mut self) -> Option<FailureKind> {
        let endpoints = match &mut self.stage {
            Stage::Placed(_) => false,
            Stage::Connecting(placing) => placing.waits_on_endpoint(),
            Stage::Running(_) if self.cursor.done => true,
            Stage::Running(up) => {
                let mut cx = Context::from_waker(Waker::noop());
                up.poll_room(&mut cx).is_pending()
            }
        };
        endpoints.then_some(FailureKind::LocalOrigin)
    }

    /// Ends an attempt that has no answer for the caller.
    fn lose(mut self, worker: &Worker, planned: &Planned, report: &mut Report, end: End) {
        let verdict = match (&planned.service, end) {
            // The host tells when its instance is there again, or another one in its place.
            (Some(_), End::Up(e)) if does_not_take(e) => Verdict::Evidence {
                cause: e.describe().into(),
                until: Some(worker.now() + service::spared(e == UpError::Refused)),
            },
            _ => end.blame().map_or(Verdict::Neutral, Verdict::Failure),
        };
        if let Some(trace) = report.trace() {
            let settled = Settled::lost(end, &verdict, self.asking.as_deref());
            trace.settle(self.pick.member().key(), settled);
        }
        if let (Some(asking), Some(asked)) = (self.asking.take(), &planned.asked) {
            asked.end(*asking, &end, self.started.elapsed(), worker);
        }
        if let Stage::Running(up) = self.judged(worker, planned, verdict) {
            up.cancel();
        }
    }

    /// Ends an attempt whose answer is not used because another will be made.
    pub(super) fn discard(self, run: &mut Loop<'_, '_>, planned: &Planned, response: &UpResponse) {
        let worker: &Worker = run.worker;
        // Its body is not looked at.
        let status = response.status.as_u16();
        let code = outcome::grpc_code(&response.headers).filter(|_| run.grpc);
        if outcome::is_overload(status, code) {
            let latency = Some(clock::since(self.started));
            self.pick.overloaded(latency, worker.now());
        }
        let verdict = outcome::verdict(status, code);
        if let Some(trace) = run.report.trace() {
            let settled = Settled::answered(status, code, &verdict, "");
            trace.settle(self.pick.member().key(), settled);
        }
        if let Stage::Running(up) = self.judged(worker, planned, verdict) {
            // A complete answer without a body leaves the connection usable; any other is broken off.
            if up.body_done() {
                up.finish()
            } else {
                up.cancel()
            }
        }
    }

    fn judged(self, worker: &Worker, planned: &Planned, verdict: Verdict) -> Stage {
        count(&planned.upstream.attempts, worker.index, &verdict);
        let latency = Some(clock::since(self.started));
        self.pick.finish(verdict, latency, worker.now());
        self.stage
    }

    /// The exchange belongs to this one's endpoint.
    pub(super) fn won(
        self,
        planned: &Planned,
        response: UpResponse,
        permit: tidegate_core::Permit,
    ) -> Option<Won> {
        match self.stage {
            Stage::Running(up) => Some(Won {
                up,
                cursor: self.cursor,
                response,
                pick: self.pick,
                asking: self.asking,
                latency: clock::since(self.started),
                upstream: planned.upstream.clone(),
                traffic: planned.traffic.clone(),
                permit,
            }),
            Stage::Placed(_) | Stage::Connecting(_) => None,
        }
    }
}

impl Loop<'_, '_> {
    /// Runs one attempt, and hedges it if the route says so, until a head has come or nothing is left.
    ///
    /// Not an `async fn`: that keeps its arguments twice.
    pub(super) fn race(
        &mut self,
        planned: &Planned,
        first: Contender,
        tried: &mut SmallVec<[MemberKey; 4]>,
    ) -> impl Future<Output = Raced> {
        let worker: &Rc<Worker> = self.worker;
        let hedge = self
            .state
            .route
            .hedge
            .filter(|_| self.state.route.retry.replay || is_idempotent(&self.request.method));
        let mut hedge_at = hedge.map(|h| first.started + h.delay);
        let mut running: SmallVec<[Contender; 1]> = SmallVec::new();
        running.push(first);
        let mut made = 1;
        poll_fn(move |cx| {
            if self.timer.is_over(self.deadline.at, self.watch, cx) {
                for mut contender in running.drain(..) {
                    let kind = contender.silence().filter(|_| !self.deadline.callers);
                    contender.lose(worker, planned, self.report, End::Late(kind));
                }
                return Poll::Ready(Raced::Deadline);
            }
            if self.watch.poll_over(cx).is_ready() {
                for mut contender in running.drain(..) {
                    let kind = contender.silence();
                    contender.lose(worker, planned, self.report, End::Late(kind));
                }
                return Poll::Ready(Raced::Idle);
            }
            if let Some(beat) = &mut self.beat
                && beat.poll(self.down, cx).is_err()
            {
                for contender in running.drain(..) {
                    contender.lose(worker, planned, self.report, End::Spare);
                }
                return Poll::Ready(Raced::Fault(Fault::Gone));
            }
            let taken = self.source.taken();
            loop {
                let mut i = 0;
                while i < running.len() {
                    match running[i].poll(self.request, self.down, self.source, self.report, cx) {
                        Poll::Pending => i += 1,
                        Poll::Ready(Ok(response)) => {
                            let won = running.remove(i);
                            for other in running.drain(..) {
                                other.lose(worker, planned, self.report, End::Spare);
                            }
                            return Poll::Ready(Raced::Answer(Box::new(won), response));
                        }
                        Poll::Ready(Err(fault)) => {
                            running
                                .remove(i)
                                .lose(worker, planned, self.report, End::of(&fault));
                            // What went wrong on one way leaves the others running; without the caller none of them has a sense.
                            if running.is_empty() || matches!(fault, Fault::Source(_) | Fault::Gone)
                            {
                                for other in running.drain(..) {
                                    other.lose(worker, planned, self.report, End::Spare);
                                }
                                return Poll::Ready(Raced::Fault(fault));
                            }
                        }
                    }
                }
                // The earliest of the per-try timeouts and the next hedge.
                let Some(per_try) = running.iter().filter_map(Contender::due).min() else {
                    break;
                };
                if per_try > clock::now() {
                    break;
                }
                let late = running
                    .iter()
                    .position(|c| c.due() == Some(per_try))
                    .unwrap_or(0);
                let mut contender = running.remove(late);
                let written = contender.written();
                let kind = contender.silence();
                contender.lose(worker, planned, self.report, End::Late(kind));
                if running.is_empty() {
                    return Poll::Ready(Raced::PerTryTimeout(written));
                }
            }
            if let (Some(at), Some(h)) = (hedge_at, hedge)
                && clock::now() >= at
            {
                hedge_at = None;
                // Two that read from a caller who still sends would each get a part of it once more comes than is kept.
                if made < h.attempts && self.source.complete() && self.source.replayable() {
                    if let Some(contender) = self.hedged(planned, tried) {
                        made += 1;
                        running.push(contender);
                        cx.waker().wake_by_ref();
                    }
                    hedge_at = (made < h.attempts).then(|| clock::now() + h.delay);
                }
            }
            if self.source.taken() != taken {
                // An upload that moves is not idle, however long it takes.
                let idle = self.state.route.idle_timeout;
                self.watch.set(idle.map(|t| clock::now() + t));
            }
            let wake_at = running
                .iter()
                .filter_map(Contender::due)
                .chain(hedge_at)
                .chain(self.beat.as_ref().map(|beat| beat.next))
                .min();
            // The deadline has a timer already; the earlier of the two moves it.
            let next = match (wake_at, self.deadline.at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if self.timer.is_over(next, self.watch, cx) {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
    }

    fn hedged(
        &mut self,
        planned: &Planned,
        tried: &mut SmallVec<[MemberKey; 4]>,
    ) -> Option<Contender> {
        let pick = self.pick(planned, tried).ok()?;
        // The same member again would only add to its load.
        if tried.contains(&pick.member().key()) {
            return None;
        }
        tried.push(pick.member().key());
        let attempts = &planned.upstream.attempts;
        attempts.count(self.worker.index, AttemptKind::Hedge);
        Some(Contender::new(self, planned, pick, None))
    }
}
