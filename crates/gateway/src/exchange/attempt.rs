//! The attempt loop: pick a member, attempt, classify the outcome, record it, and maybe pick another.
//!
//! Everything up to the answer's head happens here; what is given to the caller before that (interim answers) does not commit. Once
//! [`Loop::run`] has returned an answer, the exchange belongs to that endpoint.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use smallvec::SmallVec;
use tidegate_core::{MemberKey, NoPick, Pick, PickRequest, Scope, Verdict};
use tidegate_route::retry::{AttemptOutcome, Decision, GiveUp, Tries};

use super::race::{Contender, Raced};
use super::relay::Fault;
use super::source::{Cursor, Source, SourceError};
use super::timer::{Timer, rest};
use super::{Context, Report, head, outcome};
use crate::clock;
use crate::down::{Down, DownError};
use crate::provider::attempt::Asking;
use crate::provider::heartbeat::Heartbeat;
use crate::provider::target::{Asked, Refusal};
use crate::service::Service;
use crate::snapshot::{RouteState, Snapshot};
use crate::stats::{AttemptKind, Attempts, Traffic};
use crate::up::{OutRequest, Up, UpError, UpResponse};
use crate::upstream::{Target, Upstream};
use crate::watch::Watch;
use crate::worker::Worker;

/// How often a request may lose its instance without an answer before its caller is told: it may be what kills them.
const REPEATS: u32 = 4;
/// Before the second repeat, twice as long before each further one. The first is made at once; connections that were kept, of a host that just
/// dies, are known to be dead a moment later.
const PAUSE: Duration = Duration::from_millis(50);

/// One upstream that the request may go to, or the one behind a provider.
pub(crate) struct Planned {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) traffic: Arc<Traffic>,
    /// For hash balancers.
    pub(crate) hash: Option<u64>,
    /// The provider: its keys are what is picked, and decide what follows an attempt.
    pub(crate) asked: Option<Box<Asked>>,
    /// The service whose instances are the members.
    pub(crate) service: Option<Arc<Service>>,
}

/// What follows an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Another one at once. It costs nothing of the retries.
    Free,
    /// Another one after this pause, if the budget has one.
    Retry(Duration),
    /// The next target in line; without one, what there is goes to the caller.
    Next,
    /// What there is goes to the caller.
    Stop,
}

impl From<Decision> for Then {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Safe => Self::Free,
            Decision::Retry(pause) => Self::Retry(pause),
            Decision::GiveUp(GiveUp::NoAttemptsLeft) => Self::Next,
            // A fallback is for what failed retryably; a good answer and the caller's own fault go to the caller.
            Decision::GiveUp(GiveUp::NotWanted | GiveUp::Pushback | GiveUp::NotReplayable) => {
                Self::Stop
            }
        }
    }
}

/// When and why the exchange must be over.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Deadline {
    pub(crate) at: Option<Instant>,
    /// The caller's own (`grpc-timeout`), not the route's: running out says nothing about the endpoint.
    pub(crate) callers: bool,
}

impl Deadline {
    /// The earlier of the route's timeout and the caller's own deadline.
    pub(crate) fn of(state: &RouteState, headers: &HeaderMap, context: Context<'_>) -> Self {
        let routes = state
            .route
            .timeout
            .and_then(|t| context.started.checked_add(t));
        let callers = if context.is_grpc {
            head::grpc_deadline(headers, context.started)
        } else {
            None
        };
        match (routes, callers) {
            (Some(r), Some(c)) if c < r => Self {
                at: Some(c),
                callers: true,
            },
            (None, Some(c)) => Self {
                at: Some(c),
                callers: true,
            },
            (routes, _) => Self {
                at: routes,
                callers: false,
            },
        }
    }
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
    /// What a provider's answer is read with.
    pub(crate) asking: Option<Box<Asking>>,
}

/// Why there is no answer to relay.
#[derive(Debug)]
pub(crate) enum Lost {
    /// No member was fit.
    NoneFit(NoPick),
    /// No instance of a service became ready in time.
    NotReady,
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
    /// A provider gave no answer for the caller, or has no key left to ask with.
    Refused(Box<Refusal>),
}

impl Lost {
    /// Whether it is certain that nobody works on the request.
    pub(crate) fn is_refusal(&self) -> bool {
        match self {
            Lost::NoneFit(_) | Lost::NotReady | Lost::Overflow | Lost::Refused(_) => true,
            Lost::Up(e) => !matches!(e, UpError::Reset | UpError::Malformed),
            Lost::PerTryTimeout
            | Lost::Deadline
            | Lost::Idle
            | Lost::Gone
            | Lost::Malformed(_)
            | Lost::TooLarge => false,
        }
    }

    /// What is told when `later` came after something else.
    fn after(before: Option<Lost>, later: Lost) -> Lost {
        match (before, later) {
            (Some(Lost::Refused(before)), Lost::Refused(later)) => Lost::Refused(before.and(later)),
            // An earlier failure says more than "nobody else is fit".
            (Some(before), Lost::NoneFit(_)) => before,
            (_, later) => later,
        }
    }
}

impl From<SourceError> for Lost {
    fn from(e: SourceError) -> Self {
        match e {
            SourceError::Down(DownError::Gone) => Self::Gone,
            SourceError::Down(DownError::Malformed(why)) => Self::Malformed(why),
            SourceError::TooLarge => Self::TooLarge,
        }
    }
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
    /// Signs of life for a caller who waits for a stream.
    pub(crate) beat: &'a mut Option<Box<Heartbeat>>,
    /// Attempts made, and their spans.
    pub(crate) report: &'a mut Report,
}

impl Loop<'_, '_> {
    /// Attempts until an answer is to be relayed or nothing more may be tried.
    pub(crate) async fn run(
        &mut self,
        plan: &[Planned],
    ) -> Result<Won, (Lost, Option<Arc<Traffic>>)> {
        let mut tries = Tries::default();
        let mut tried: SmallVec<[MemberKey; 4]> = SmallVec::new();
        let mut lost = None;
        let mut at: Option<Arc<Traffic>> = None;
        'plan: for (n, planned) in plan.iter().enumerate() {
            let more_targets = n + 1 < plan.len();
            let upstream = &planned.upstream;
            let counts = &upstream.attempts;
            at = Some(planned.traffic.clone());
            let Some(permit) = upstream.live.requests.try_acquire() else {
                counts.count(self.worker.index, AttemptKind::Overflow);
                lost = Some(Lost::Overflow);
                continue;
            };
            let mut retrying = None;
            let mut patience = None;
            let mut repeats = 0;
            loop {
                let first = match self.begin(planned, &mut tried) {
                    Ok(first) => Ok(first),
                    // With another target in line nobody waits.
                    Err(Lost::NoneFit(_)) if planned.service.is_some() && !more_targets => {
                        Box::pin(self.await_instance(planned, &mut tried, &mut patience)).await
                    }
                    Err(none) => Err(none),
                };
                let first = match first {
                    Ok(first) => first,
                    Err(over @ (Lost::Gone | Lost::Deadline | Lost::Idle)) => {
                        return Err((over, at));
                    }
                    Err(none) => {
                        // What can't be asked of a provider at all is the caller's fault.
                        if !matches!(&none, Lost::Refused(refusal) if refusal.is_callers()) {
                            counts.count(self.worker.index, AttemptKind::NoneFit);
                        }
                        lost = Some(Lost::after(lost, none));
                        break;
                    }
                };
                tries.counted += 1;
                self.report.attempts += 1;
                let raced = self.race(planned, first, &mut tried).await;
                drop(retrying.take());
                let unreached = planned.service.is_some() && raced.is_unreached();
                let (outcome, answer) = match raced {
                    Raced::Answer(contender, response) => {
                        let outcome = outcome::of_head(&response, self.grpc);
                        (outcome, Some((contender, response)))
                    }
                    Raced::Fault(Fault::Up(e)) => {
                        lost = Some(Lost::Up(e));
                        (outcome::of_error(e), None)
                    }
                    Raced::Fault(Fault::Unfit) => {
                        if let Some(refusal) = planned.asked.as_ref().and_then(|a| a.refusal()) {
                            lost = Some(Lost::after(lost, Lost::Refused(refusal)));
                        }
                        (AttemptOutcome::Status(502), None)
                    }
                    Raced::Fault(Fault::Gone) => return Err((Lost::Gone, at)),
                    Raced::Fault(Fault::Source(e)) => return Err((e.into(), at)),
                    Raced::PerTryTimeout(written) => {
                        lost = Some(Lost::PerTryTimeout);
                        (AttemptOutcome::PerTryTimeout { written }, None)
                    }
                    // A global timeout is never retried.
                    Raced::Deadline => return Err((Lost::Deadline, at)),
                    Raced::Idle => return Err((Lost::Idle, at)),
                };
                let policy = &self.state.route.retry;
                let may = self.source.replayable() || untouched(self.source);
                let random = self.worker.random();
                let mut rested = None;
                let then = match &planned.asked {
                    // It is spared from here on, so that the next one is another, or is waited for.
                    None if unreached => Then::Free,
                    // Its host died, most likely: the next one runs it.
                    None if repeats < REPEATS && self.may_repeat(planned, &outcome) => {
                        rested = (repeats > 0).then(|| PAUSE * (1 << (repeats - 1)));
                        repeats += 1;
                        Then::Free
                    }
                    None if answer.is_some() && keeps_answers(planned, self.state) => Then::Stop,
                    None => {
                        let method = &self.request.method;
                        policy
                            .decide(&outcome, method, self.grpc, tries, random)
                            .into()
                    }
                    Some(_) if answer.is_some() => Then::Stop,
                    Some(asked) => asked.then(policy, tries, random),
                };
                let pause = match then {
                    Then::Free if may => {
                        tries.counted -= 1;
                        tries.safe += u32::from(planned.asked.is_none());
                        rested
                    }
                    Then::Retry(pause) if may && self.in_time(pause) => {
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
                        let wanted = then != Then::Stop;
                        match self.give_up(planned, answer, permit, more_targets && may && wanted) {
                            Some(won) => return Ok(won),
                            None if wanted && may => break,
                            None => break 'plan,
                        }
                    }
                };
                // The answer is thrown away: its endpoint is done with.
                if let Some((contender, response)) = answer {
                    contender.discard(self, planned, &response);
                }
                counts.count(self.worker.index, AttemptKind::Retry);
                if let Some(pause) = pause
                    && rest(clock::now() + pause, self.down).await.is_err()
                {
                    return Err((Lost::Gone, at));
                }
            }
        }
        // A plan is never empty, and whatever ends it says why.
        Err((lost.unwrap_or(Lost::NoneFit(NoPick::Empty)), at))
    }

    /// Begins an attempt: with a provider, its key first.
    pub(super) fn begin(
        &mut self,
        planned: &Planned,
        tried: &mut SmallVec<[MemberKey; 4]>,
    ) -> Result<Contender, Lost> {
        let Some(asked) = &planned.asked else {
            let pick = self.pick(planned, tried).map_err(Lost::NoneFit)?;
            tried.push(pick.member().key());
            return Ok(Contender::new(self, planned, pick, None));
        };
        if let Some(trace) = self.report.trace() {
            // Before the request is made, which may be signed with its headers.
            trace.next(self.worker, &mut self.request.headers);
        }
        let asking = asked
            .begin(self.worker, &self.request.headers)
            .map_err(Lost::Refused)?;
        match self.pick(planned, tried) {
            Ok(pick) => {
                tried.push(pick.member().key());
                Ok(Contender::new(self, planned, pick, Some(asking)))
            }
            Err(none) => {
                asked.unreachable(*asking, self.worker);
                Err(Lost::NoneFit(none))
            }
        }
    }

    pub(super) fn pick(
        &self,
        planned: &Planned,
        tried: &[MemberKey],
    ) -> Result<Pick<Arc<Target>>, NoPick> {
        let request = PickRequest {
            hash: planned.hash,
            exclude: tried,
            scope: &Scope::EMPTY,
            local: &self.snapshot.local,
            ..PickRequest::default()
        };
        planned.upstream.live.pool.pick(
            &request,
            self.worker.now(),
            &mut *self.worker.rng.borrow_mut(),
        )
    }

    /// No further attempt here: the answer, if there is one and no fallback should be tried instead.
    fn give_up(
        &mut self,
        planned: &Planned,
        answer: Option<(Box<Contender>, UpResponse)>,
        permit: tidegate_core::Permit,
        fallback: bool,
    ) -> Option<Won> {
        let (contender, response) = answer?;
        if fallback {
            contender.discard(self, planned, &response);
            return None;
        }
        contender.won(planned, response, permit)
    }

    /// Whether an instance that went away with the request unanswered is no reason to tell the caller: it may run twice, and another
    /// instance, or the next one, runs it.
    fn may_repeat(&self, planned: &Planned, outcome: &AttemptOutcome) -> bool {
        matches!(outcome, AttemptOutcome::Reset { .. })
            && keeps_answers(planned, self.state)
            && planned
                .service
                .as_ref()
                .is_some_and(|service| service.may_repeat(self.request))
    }

    fn in_time(&self, pause: Duration) -> bool {
        self.deadline.at.is_none_or(|at| clock::now() + pause < at)
    }
}

/// Whether an answer of a hosted model is final: its host has tried again where that may be done, and knows where it may not. A route that
/// says itself what is retried has its way.
fn keeps_answers(planned: &Planned, state: &RouteState) -> bool {
    planned.service.is_some() && state.config.retry == tidegate_config::model::Retry::default()
}

/// Whether nothing of the body has been read, so that nothing is lost for another attempt.
fn untouched(source: &Source) -> bool {
    source.taken() == 0
}

/// Counts an attempt by its verdict.
pub(crate) fn count(attempts: &Attempts, worker: usize, verdict: &Verdict) {
    let kind = match verdict {
        Verdict::Ok => AttemptKind::Ok,
        Verdict::Neutral => AttemptKind::Neutral,
        Verdict::Failure(_) => AttemptKind::Failure,
        Verdict::Evidence { .. } => AttemptKind::Evidence,
    };
    attempts.count(worker, kind);
}
