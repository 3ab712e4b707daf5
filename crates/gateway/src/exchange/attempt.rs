//! The attempt loop: pick a member, attempt, classify the outcome, record it, and maybe pick another.
//!
//! Everything up to the answer's head happens here; what is given to the caller before that (interim answers) does not commit. Once
//! [`Loop::run`] has returned an answer, the exchange belongs to that endpoint.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tidegate_core::{FailureKind, MemberKey, NoPick, Pick, PickRequest, Scope, Verdict};
use tidegate_route::retry::{AttemptOutcome, Decision, GiveUp, Tries, Written, is_idempotent};

use super::outcome;
use super::relay::{self, Fault};
use super::source::{Cursor, Source, SourceError};
use super::timer::Timer;
use crate::down::{Down, DownError};
use crate::snapshot::{RouteState, Snapshot};
use crate::stats::{AttemptKind, Attempts, Traffic};
use crate::up::conns::Place;
use crate::up::{OutRequest, Up, UpError, UpResponse};
use crate::upstream::{Protocol, Target, Upstream};
use crate::watch::Watch;
use crate::worker::Worker;

/// One upstream that the request may go to.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) traffic: Arc<Traffic>,
    /// For hash balancers.
    pub(crate) hash: Option<u64>,
}

/// When and why the exchange must be over.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadline {
    pub(crate) at: Option<Instant>,
    /// The caller's own (`grpc-timeout`), not the route's: running out says nothing about the endpoint.
    pub(crate) callers: bool,
}

/// An endpoint's answer, its body still to come.
pub(crate) struct Won {
    pub(crate) up: Up,
    pub(crate) cursor: Cursor,
    pub(crate) response: UpResponse,
    pub(crate) pick: Pick<Arc<Target>>,
    /// From the attempt's start to the head.
    pub(crate) latency: Duration,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) traffic: Arc<Traffic>,
    /// Requests in flight at the upstream, given back when the exchange ends.
    pub(crate) permit: tidegate_core::Permit,
}

/// Why there is no answer to relay.
#[derive(Debug)]
pub(crate) enum Lost {
    /// No member was fit.
    NoneFit(NoPick),
    /// A circuit breaker is open.
    Overflow,
    Up(UpError),
    PerTryTimeout,
    Deadline,
    /// No byte either way for too long.
    Idle,
    Gone,
    Malformed(&'static str),
    TooLarge,
}

/// One attempt.
struct Contender {
    pick: Pick<Arc<Target>>,
    stage: Stage,
    cursor: Cursor,
    started: Instant,
    per_try: Option<Instant>,
}

enum Stage {
    /// A connection was at hand; the request starts with the first poll.
    Placed(Option<Place>),
    Connecting(Pin<Box<dyn Future<Output = Result<Place, UpError>>>>),
    Running(Up),
}

/// What became of a race of contenders.
enum Raced {
    Answer(Box<Contender>, UpResponse),
    /// None is left; the last one's fault.
    Fault(Fault),
    PerTryTimeout(Written),
    Deadline,
    Idle,
}

/// The state of one request's attempts.
pub(crate) struct Loop<'a, 'd> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) down: &'a mut Down<'d>,
    pub(crate) state: &'a RouteState,
    pub(crate) request: &'a mut OutRequest,
    pub(crate) source: &'a mut Source,
    pub(crate) grpc: bool,
    pub(crate) deadline: Deadline,
    pub(crate) watch: &'a Watch,
    pub(crate) timer: &'a mut Timer,
    /// Attempts made, for the log.
    pub(crate) made: &'a mut u32,
}

impl Loop<'_, '_> {
    /// Attempts until an answer is to be relayed or nothing more may be tried.
    pub(crate) async fn run(
        mut self,
        plan: &[Planned],
    ) -> Result<Won, (Lost, Option<Arc<Traffic>>)> {
        let mut tries = Tries::default();
        let mut tried: SmallVec<[MemberKey; 4]> = SmallVec::new();
        let mut lost = Lost::Overflow;
        let mut at: Option<Arc<Traffic>> = None;
        for (n, planned) in plan.iter().enumerate() {
            let more_targets = n + 1 < plan.len();
            let upstream = &planned.upstream;
            let counts = &upstream.attempts;
            at = Some(planned.traffic.clone());
            let Some(permit) = upstream.live.requests.try_acquire() else {
                counts.count(self.worker.index, AttemptKind::Overflow);
                lost = Lost::Overflow;
                continue;
            };
            let mut retrying = None;
            loop {
                let pick = match self.pick(planned, &tried) {
                    Ok(pick) => pick,
                    Err(none) => {
                        counts.count(self.worker.index, AttemptKind::NoneFit);
                        // An earlier attempt's failure says more than "nobody else is fit".
                        if tries.counted == 0 {
                            lost = Lost::NoneFit(none);
                        }
                        break;
                    }
                };
                tries.counted += 1;
                *self.made += 1;
                tried.push(pick.member().key());
                let first = self.contender(planned, pick);
                let raced = self.race(planned, first, &mut tried).await;
                drop(retrying.take());
                let (outcome, answer) = match raced {
                    Raced::Answer(contender, response) => {
                        let outcome = outcome::of_head(&response, self.grpc);
                        (outcome, Some((contender, response)))
                    }
                    Raced::Fault(Fault::Up(e)) => {
                        lost = if e == UpError::Overflow {
                            Lost::Overflow
                        } else {
                            Lost::Up(e)
                        };
                        (outcome::of_error(e), None)
                    }
                    Raced::Fault(
                        Fault::Gone | Fault::Source(SourceError::Down(DownError::Gone)),
                    ) => {
                        return Err((Lost::Gone, at));
                    }
                    Raced::Fault(Fault::Source(SourceError::Down(DownError::Malformed(why)))) => {
                        return Err((Lost::Malformed(why), at));
                    }
                    Raced::Fault(Fault::Source(SourceError::TooLarge)) => {
                        return Err((Lost::TooLarge, at));
                    }
                    Raced::PerTryTimeout(written) => {
                        lost = Lost::PerTryTimeout;
                        (AttemptOutcome::PerTryTimeout { written }, None)
                    }
                    // A global timeout is never retried.
                    Raced::Deadline => return Err((Lost::Deadline, at)),
                    Raced::Idle => return Err((Lost::Idle, at)),
                };
                let policy = &self.state.route.retry;
                let may = self.source.replayable() || untouched(self.source);
                let decision = policy.decide(
                    &outcome,
                    &self.request.method,
                    self.grpc,
                    tries,
                    self.worker.random(),
                );
                let pause = match decision {
                    Decision::Safe if may => {
                        tries.counted -= 1;
                        tries.safe += 1;
                        None
                    }
                    Decision::Retry(pause) if may && self.in_time(pause) => {
                        match self.state.budget.try_retry(upstream.live.requests.held()) {
                            Some(spent) => {
                                retrying = Some(spent);
                                Some(pause)
                            }
                            None => {
                                counts.count(self.worker.index, AttemptKind::BudgetDenied);
                                match self.give_up(planned, answer, permit, more_targets && may) {
                                    Some(won) => return Ok(won),
                                    None => break,
                                }
                            }
                        }
                    }
                    _ => {
                        // A fallback is for what failed retryably; a good answer and the caller's own fault go to the caller.
                        let wanted = !matches!(
                            decision,
                            Decision::GiveUp(
                                GiveUp::NotWanted | GiveUp::Pushback | GiveUp::NotReplayable
                            )
                        );
                        match self.give_up(planned, answer, permit, more_targets && may && wanted) {
                            Some(won) => return Ok(won),
                            None if wanted && may => break,
                            None => return Err((lost, at)),
                        }
                    }
                };
                // The answer is thrown away: its endpoint is done with.
                if let Some((contender, response)) = answer {
                    self.discard(planned, *contender, &response);
                }
                counts.count(self.worker.index, AttemptKind::Retry);
                if let Some(pause) = pause
                    && self.pause(pause).await.is_err()
                {
                    return Err((Lost::Gone, at));
                }
            }
        }
        Err((lost, at))
    }

    fn pick(&self, planned: &Planned, tried: &[MemberKey]) -> Result<Pick<Arc<Target>>, NoPick> {
        let request = PickRequest {
            hash: planned.hash,
            exclude: tried,
            scope: &Scope::EMPTY,
            local: &self.snapshot.local,
        };
        planned.upstream.live.pool.pick(
            &request,
            self.worker.now(),
            &mut *self.worker.rng.borrow_mut(),
        )
    }

    /// Begins an attempt. With a connection at hand the request is started at once.
    fn contender(&self, planned: &Planned, pick: Pick<Arc<Target>>) -> Contender {
        let conns = self.worker.conns(&planned.upstream, pick.member());
        let wanted = match self.grpc {
            true => Protocol::Http2,
            // HTTP/1.1 can switch to any protocol; HTTP/2 only where the upstream speaks nothing else.
            false if self.request.upgrade => Protocol::Http1,
            false => Protocol::Auto,
        };
        let started = Instant::now();
        let at_hand = match self.request.upgrade {
            true => None,
            false => conns.try_place(wanted),
        };
        let stage = match at_hand {
            Some(place) => Stage::Placed(Some(place)),
            None if self.request.upgrade => {
                Stage::Connecting(Box::pin(async move { conns.place_settled(wanted).await }))
            }
            None => Stage::Connecting(Box::pin(async move { conns.place(wanted).await })),
        };
        Contender {
            pick,
            stage,
            cursor: Cursor::default(),
            started,
            per_try: self.state.route.retry.per_try_timeout.map(|t| started + t),
        }
    }

    /// Runs one attempt, and hedges it if the route says so, until a head has come or nothing is left.
    async fn race(
        &mut self,
        planned: &Planned,
        first: Contender,
        tried: &mut SmallVec<[MemberKey; 4]>,
    ) -> Raced {
        let hedge = self
            .state
            .route
            .hedge
            .filter(|_| self.state.route.retry.replay || is_idempotent(&self.request.method));
        let mut hedge_at = hedge.map(|h| first.started + h.delay);
        let mut running: SmallVec<[Contender; 1]> = SmallVec::new();
        running.push(first);
        let mut made = 1;
        poll_fn(|cx| {
            if self.timer.is_over(self.deadline.at, cx) {
                for mut contender in running.drain(..) {
                    let kind = silence(&mut contender).filter(|_| !self.deadline.callers);
                    self.lose(planned, contender, kind);
                }
                return Poll::Ready(Raced::Deadline);
            }
            if self.watch.poll_over(cx).is_ready() {
                for mut contender in running.drain(..) {
                    let kind = silence(&mut contender);
                    self.lose(planned, contender, kind);
                }
                return Poll::Ready(Raced::Idle);
            }
            let taken = self.source.taken();
            loop {
                let mut i = 0;
                while i < running.len() {
                    match self.poll_contender(&mut running[i], cx) {
                        Poll::Pending => i += 1,
                        Poll::Ready(Ok(response)) => {
                            let won = running.remove(i);
                            for other in running.drain(..) {
                                self.lose(planned, other, None);
                            }
                            return Poll::Ready(Raced::Answer(Box::new(won), response));
                        }
                        Poll::Ready(Err(fault)) => {
                            let contender = running.remove(i);
                            let blame = blame(&fault);
                            self.lose(planned, contender, blame);
                            // Only the endpoint's own trouble leaves the others running.
                            if running.is_empty() || blame.is_none() {
                                for other in running.drain(..) {
                                    self.lose(planned, other, None);
                                }
                                return Poll::Ready(Raced::Fault(fault));
                            }
                        }
                    }
                }
                // The earliest of the per-try timeouts and the next hedge.
                let Some(per_try) = running.iter().filter_map(|c| c.per_try).min() else {
                    break;
                };
                let now = Instant::now();
                if per_try > now {
                    break;
                }
                let late = running
                    .iter()
                    .position(|c| c.per_try == Some(per_try))
                    .unwrap_or(0);
                let mut contender = running.remove(late);
                let written = written(&contender);
                let kind = silence(&mut contender);
                self.lose(planned, contender, kind);
                if running.is_empty() {
                    return Poll::Ready(Raced::PerTryTimeout(written));
                }
            }
            if let (Some(at), Some(h)) = (hedge_at, hedge)
                && Instant::now() >= at
            {
                hedge_at = None;
                // Two that read from a caller who still sends would each get a part of it once more comes than is kept.
                if made < h.attempts && self.source.complete() && self.source.replayable() {
                    if let Some(contender) = self.hedged(planned, tried) {
                        made += 1;
                        running.push(contender);
                        cx.waker().wake_by_ref();
                    }
                    hedge_at = (made < h.attempts).then(|| Instant::now() + h.delay);
                }
            }
            if self.source.taken() != taken {
                // An upload that moves is not idle, however long it takes.
                let idle = self.state.route.idle_timeout;
                self.watch.set(idle.map(|t| Instant::now() + t));
            }
            let wake_at = running
                .iter()
                .filter_map(|c| c.per_try)
                .chain(hedge_at)
                .min();
            // The deadline has a timer already; the earlier of the two moves it.
            let next = match (wake_at, self.deadline.at) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if self.timer.is_over(next, cx) {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await
    }

    fn hedged(&self, planned: &Planned, tried: &mut SmallVec<[MemberKey; 4]>) -> Option<Contender> {
        let pick = self.pick(planned, tried).ok()?;
        // The same member again would only add to its load.
        if tried.contains(&pick.member().key()) {
            return None;
        }
        tried.push(pick.member().key());
        planned
            .upstream
            .attempts
            .count(self.worker.index, AttemptKind::Hedge);
        Some(self.contender(planned, pick))
    }

    fn poll_contender(
        &mut self,
        contender: &mut Contender,
        cx: &mut Context<'_>,
    ) -> Poll<Result<UpResponse, Fault>> {
        loop {
            match &mut contender.stage {
                Stage::Placed(place) => match place.take().map(|p| p.start(self.request)) {
                    Some(Ok(up)) => contender.stage = Stage::Running(up),
                    Some(Err(e)) => return Poll::Ready(Err(Fault::Up(e))),
                    None => return Poll::Ready(Err(Fault::Up(UpError::Unsent))),
                },
                Stage::Connecting(connecting) => match connecting.as_mut().poll(cx) {
                    Poll::Ready(Ok(place)) => match place.start(self.request) {
                        Ok(up) => contender.stage = Stage::Running(up),
                        Err(e) => return Poll::Ready(Err(Fault::Up(e))),
                    },
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(Fault::Up(e))),
                    Poll::Pending => {
                        // A body is not read before there is somewhere to put it; that the caller left is seen all the same.
                        if self.source.complete() && self.down.poll_gone(cx).is_ready() {
                            return Poll::Ready(Err(Fault::Gone));
                        }
                        return Poll::Pending;
                    }
                },
                Stage::Running(up) => {
                    return relay::poll_head(up, self.down, self.source, &mut contender.cursor, cx);
                }
            }
        }
    }

    /// Ends an attempt that has no answer. `blame` is what the endpoint is charged with.
    fn lose(&self, planned: &Planned, contender: Contender, blame: Option<FailureKind>) {
        let verdict = blame.map_or(Verdict::Neutral, Verdict::Failure);
        count(&planned.upstream.attempts, self.worker.index, &verdict);
        contender.pick.finish(
            verdict,
            Some(contender.started.elapsed()),
            self.worker.now(),
        );
        if let Stage::Running(up) = contender.stage {
            up.cancel();
        }
    }

    /// Ends an attempt whose answer is not used because another will be made.
    fn discard(&self, planned: &Planned, contender: Contender, response: &UpResponse) {
        let verdict = outcome::verdict_of_head(response, self.grpc);
        count(&planned.upstream.attempts, self.worker.index, &verdict);
        contender.pick.finish(
            verdict,
            Some(contender.started.elapsed()),
            self.worker.now(),
        );
        if let Stage::Running(up) = contender.stage {
            // A complete answer without a body leaves the connection usable; any other is broken off.
            if up.body_done() {
                up.finish()
            } else {
                up.cancel()
            }
        }
    }

    /// No further attempt here: the answer, if there is one and no fallback should be tried instead.
    fn give_up(
        &self,
        planned: &Planned,
        answer: Option<(Box<Contender>, UpResponse)>,
        permit: tidegate_core::Permit,
        fallback: bool,
    ) -> Option<Won> {
        let (contender, response) = answer?;
        if fallback {
            self.discard(planned, *contender, &response);
            return None;
        }
        let Contender {
            pick,
            stage,
            cursor,
            started,
            ..
        } = *contender;
        match stage {
            Stage::Running(up) => Some(Won {
                up,
                cursor,
                response,
                pick,
                latency: started.elapsed(),
                upstream: planned.upstream.clone(),
                traffic: planned.traffic.clone(),
                permit,
            }),
            Stage::Placed(_) | Stage::Connecting(_) => None,
        }
    }

    fn in_time(&self, pause: Duration) -> bool {
        self.deadline
            .at
            .is_none_or(|at| Instant::now() + pause < at)
    }

    /// Waits between attempts; an error when the caller has left meanwhile.
    async fn pause(&mut self, pause: Duration) -> Result<(), ()> {
        let over = Instant::now() + pause;
        let mut timer = Timer::default();
        poll_fn(|cx| {
            if timer.is_over(Some(over), cx) {
                return Poll::Ready(Ok(()));
            }
            if self.source.complete() && self.down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(()));
            }
            Poll::Pending
        })
        .await
    }
}

/// Whether nothing of the body has been read, so that nothing is lost for another attempt.
fn untouched(source: &Source) -> bool {
    source.taken() == 0
}

fn written(contender: &Contender) -> Written {
    match &contender.stage {
        Stage::Placed(_) | Stage::Connecting(_) => Written::Nothing,
        Stage::Running(_) => Written::Some,
    }
}

/// What an endpoint is charged with when time runs out: nothing while it would take more of the request and the caller sends none.
fn silence(contender: &mut Contender) -> Option<FailureKind> {
    let callers = match &mut contender.stage {
        Stage::Running(up) if !contender.cursor.done => {
            let mut cx = Context::from_waker(Waker::noop());
            up.poll_room(&mut cx).is_ready()
        }
        _ => false,
    };
    (!callers).then_some(FailureKind::LocalOrigin)
}

/// What an endpoint is charged with for a fault; `None` where it is not its doing.
fn blame(fault: &Fault) -> Option<FailureKind> {
    match fault {
        Fault::Up(e) => outcome::blame(*e),
        Fault::Source(_) | Fault::Gone => None,
    }
}

/// Counts an attempt by its verdict.
pub(crate) fn count(attempts: &Attempts, worker: usize, verdict: &Verdict) {
    let kind = match verdict {
        Verdict::Ok => AttemptKind::Ok,
        Verdict::Neutral => AttemptKind::Neutral,
        Verdict::Failure(_) | Verdict::Evidence { .. } => AttemptKind::Failure,
    };
    attempts.count(worker, kind);
}
