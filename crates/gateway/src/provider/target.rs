//! A provider as a target of one request: which key is next, what became of the ones before, what is told when none is left.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use tidegate_keys::{AllOut, KeyPick, Next, NoAnswer, Outcome, Rotation};
use tidegate_llm::classify::{Class, Evidence};
use tidegate_llm::usage::Usage;
use tidegate_llm::{
    Answer, Call, ErrorAnswer, Fault, FaultKind, PrepareOptions, Secret, Unfinished,
};
use tidegate_route::RequestView;
use tidegate_route::retry::{MAX_SAFE_RETRIES, RetryPolicy, Tries};
use tidegate_wire::h1::BodyLength;

use super::Provider;
use super::access;
use super::accounts::Ledger;
use super::attempt::{Asking, Made};
use super::heartbeat::Heartbeat;
use super::talk::Talk;
use crate::exchange::attempt::Then;
use crate::exchange::race::End;
use crate::io::spare;
use crate::snapshot::RouteState;
use crate::up::{OutRequest, UpError};
use crate::worker::Worker;

/// A provider that the request may be answered by.
pub(crate) struct Asked {
    pub(crate) provider: Arc<Provider>,
    call: Rc<Call>,
    rotation: RefCell<Rotation>,
    /// What the attempt that ended last asks for.
    next: Cell<Option<Step>>,
    /// Why it was refused, if it was.
    refusal: RefCell<Option<Box<Refusal>>>,
    /// Attempts of which nothing was processed.
    safe: Cell<u32>,
    /// Addresses that could not be reached.
    addresses_lost: Cell<usize>,
    /// What the caller's virtual key is charged with.
    ledger: Option<Rc<Ledger>>,
    /// A stream that breaks off is to go on.
    goes_on: bool,
    /// What it goes on from.
    before: RefCell<Option<Arc<Unfinished>>>,
}

/// What follows an attempt.
#[derive(Clone, Copy)]
enum Step {
    By(Next),
    /// Nothing of it was processed, and nobody is to blame.
    Again,
}

/// Why a provider does not answer.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) fault: Fault,
    /// The provider's own words, for what is the caller's fault.
    pub(crate) answer: Option<ErrorAnswer>,
    because: Because,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Because {
    /// The caller asked for what can't be had.
    Caller,
    /// No key is left.
    AllOut,
    /// The last attempt failed.
    Failed,
}

impl Asked {
    /// `model` is the route's; without it the caller's is asked for.
    pub(crate) fn new(
        provider: &Arc<Provider>,
        call: &Rc<Call>,
        model: Option<&str>,
        view: &RequestView<'_>,
        worker: usize,
        goes_on: bool,
    ) -> Self {
        let live = provider.keys.live();
        let model = live.map(model.unwrap_or(call.model()));
        let session = provider.session(view, call);
        Self {
            rotation: RefCell::new(provider.keys.rotation(&model, session, worker)),
            provider: provider.clone(),
            call: call.clone(),
            next: Cell::new(None),
            refusal: RefCell::default(),
            safe: Cell::new(0),
            addresses_lost: Cell::new(0),
            ledger: None,
            goes_on,
            before: RefCell::default(),
        }
    }

    /// Whether this is what an attempt was made for.
    pub(crate) fn is_of(&self, asking: &Asking) -> bool {
        Arc::ptr_eq(&self.provider, &asking.provider)
            && self.rotation.borrow().model() == asking.model
    }

    /// Further attempts go on with an answer that broke off.
    pub(crate) fn go_on_from(&self, unfinished: Unfinished) {
        self.before.replace(Some(Arc::new(unfinished)));
    }

    /// Signs of life for a caller who waits for the rest of a stream.
    pub(crate) fn heartbeat(&self, state: &RouteState) -> Option<Box<Heartbeat>> {
        Heartbeat::further(state, &self.call)
    }

    /// Ends an attempt whose answer the caller has a part of.
    pub(crate) fn broke(
        &self,
        key: KeyPick,
        outcome: Outcome<'_>,
        latency: Option<Duration>,
        worker: &Worker,
    ) {
        let mut rotation = self.rotation.borrow_mut();
        rotation.finish(key, outcome, latency, worker.now());
    }

    /// What the caller's virtual key is charged with in the end.
    pub(crate) fn settle(&self, usage: &Usage) {
        if let Some(ledger) = &self.ledger {
            ledger.settle(usage);
        }
    }

    /// Bytes of the request, and the most tokens that its answer may have if the caller says so.
    pub(crate) fn size(&self) -> (u64, Option<u64>) {
        (self.call.body().len() as u64, self.call.max_tokens())
    }

    /// The model, by the provider's name.
    pub(crate) fn model(&self) -> String {
        self.rotation.borrow().model().to_owned()
    }

    pub(crate) fn charge_to(&mut self, ledger: &Rc<Ledger>) {
        self.ledger = Some(ledger.clone());
    }

    /// No provider took the request in the end.
    pub(crate) fn unused(&self) {
        if let Some(ledger) = &self.ledger {
            ledger.unused();
        }
    }

    /// For the log: whom the caller was referred to.
    pub(crate) fn tell(&self, talk: &mut Talk) {
        talk.provider = Some(self.provider.name().clone());
        talk.model = Some(self.model());
    }

    /// The next attempt: a key, and the request made for it. `headers` are the caller's.
    pub(crate) fn begin(
        &self,
        worker: &Worker,
        headers: &HeaderMap,
    ) -> Result<Box<Asking>, Box<Refusal>> {
        let mut rotation = self.rotation.borrow_mut();
        loop {
            let now = worker.now();
            let key = rotation
                .next(now, &mut *worker.rng.borrow_mut())
                .map_err(|out| Box::new(Refusal::all_out(&out, out.retry_after(now))))?;
            let Some(token) = key.key().token.wire(now) else {
                let evidence = access::missing(key.key().token.access());
                rotation.finish(key, Outcome::Answer(&evidence), None, now);
                continue;
            };
            let (key, fault) = match self.ask(&rotation, key, token, headers, worker) {
                Ok(asking) => return Ok(asking),
                Err(unmade) => *unmade,
            };
            if fault.kind != FaultKind::Internal {
                return Err(Box::new(Refusal {
                    fault,
                    answer: None,
                    because: Because::Caller,
                }));
            }
            // A key that can't be written into a request is as good as dead.
            let evidence = Evidence::local(Class::KeyDead, 0, "key-unusable", &fault.message);
            rotation.finish(key, Outcome::Answer(&evidence), None, now);
        }
    }

    /// The request with this key, made where it will stay.
    fn ask(
        &self,
        rotation: &Rotation,
        key: KeyPick,
        token: Arc<str>,
        headers: &HeaderMap,
        worker: &Worker,
    ) -> Result<Box<Asking>, Box<(KeyPick, Fault)>> {
        let (live, model) = (rotation.live(), rotation.model());
        let now_unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs());
        let before = self.before.borrow().clone();
        let options = PrepareOptions {
            now_unix,
            count_usage: true,
            seed: worker.random(),
            continue_from: before.as_ref().map(|before| before.text()),
            remember: self.goes_on,
        };
        let secret = Secret::of(&token);
        let map = spare::take_map();
        let call = &*self.call;
        let made = match call.prepare_in(&live.spec, secret, model, headers, options, map) {
            Ok(made) => made,
            Err(fault) => return Err(Box::new((key, fault))),
        };
        let mut kept = worker.shared.providers.bodies.keep();
        if made.body.as_ptr() != call.body().as_ptr() {
            kept.add(made.body.len() as u64);
        }
        let base = &live.spec.base_url;
        let request = OutRequest {
            method: made.method,
            scheme: base.scheme.clone(),
            authority: Some(base.authority.clone()),
            path: made.target,
            headers: made.headers,
            body: BodyLength::Exact(made.body.len() as u64),
            upgrade: false,
            // Answers are paid for, but a caller that gets none is worse.
            replay: true,
        };
        let secret = (!token.is_empty()).then_some(token);
        let answer = match before {
            None => Answer::new(made.plan, secret, now_unix),
            Some(before) => Answer::going_on(made.plan, secret, now_unix, before),
        };
        Ok(Asking::new(Made {
            provider: &self.provider,
            key,
            model,
            request,
            body: made.body,
            kept,
            answer,
            call,
            ledger: self.ledger.clone(),
            timeouts: &live.timeouts,
        }))
    }

    /// Ends an attempt that no answer goes to the caller from.
    pub(crate) fn end(&self, mut asking: Asking, end: &End, latency: Duration, worker: &Worker) {
        if matches!(end, End::Late(Some(_))) {
            asking.late();
        }
        let Asking { key, answer, .. } = asking;
        let mut rotation = self.rotation.borrow_mut();
        let now = worker.now();
        // What a key is known for is shown to others than who asked.
        let shown = answer.evidence().map(|evidence| self.unquoted(evidence));
        let outcome = match end {
            End::Unfit => match answer.evidence().zip(shown.as_ref()) {
                Some((evidence, shown)) => {
                    self.refusal
                        .replace(Some(Box::new(Refusal::failed(&answer, evidence))));
                    Outcome::Answer(shown)
                }
                None => Outcome::NoAnswer(NoAnswer::Reset),
            },
            End::Up(UpError::Unsent | UpError::Refused) if self.safe.get() < MAX_SAFE_RETRIES => {
                self.safe.set(self.safe.get() + 1);
                key.stale();
                self.next.set(Some(Step::Again));
                return;
            }
            // One address of several: the key is not to blame while there are others.
            End::Up(UpError::Connect | UpError::ConnectTimeout) if self.has_other_address() => {
                drop(key);
                self.next.set(Some(Step::Again));
                return;
            }
            End::Up(UpError::Connect | UpError::ConnectTimeout) => {
                Outcome::NoAnswer(NoAnswer::Connect)
            }
            End::Up(UpError::Overflow) => Outcome::NoAnswer(NoAnswer::Refused),
            // Again and again: no chance, and not the connection's age.
            End::Up(UpError::Unsent | UpError::Refused) => Outcome::NoAnswer(NoAnswer::Stale),
            End::Up(UpError::Reset | UpError::Malformed | UpError::NoTunnel) => {
                Outcome::NoAnswer(NoAnswer::Reset)
            }
            End::Late(Some(_)) => match &shown {
                Some(shown) => Outcome::Answer(shown),
                None => Outcome::NoAnswer(NoAnswer::Timeout),
            },
            End::Late(None) | End::Spare => Outcome::Cancelled,
        };
        let next = rotation.finish(key, outcome, Some(latency), now);
        self.next.set(Some(Step::By(next)));
    }

    /// What a provider said, without what it quotes of the request.
    fn unquoted(&self, evidence: &Evidence) -> Evidence {
        let before = self.before.borrow();
        let before = before.as_ref().map_or("", |before| before.text());
        evidence.without_quotes(self.call.body(), before)
    }

    /// Counts an address that can't be reached; false if it was the last.
    fn has_other_address(&self) -> bool {
        let lost = self.addresses_lost.get() + 1;
        self.addresses_lost.set(lost);
        lost < self.provider.upstream.live.pool.members().len() && lost <= MAX_SAFE_RETRIES as usize
    }

    /// The address that this attempt would have gone to is not there: as bad as one that refuses.
    pub(crate) fn unreachable(&self, asking: Asking, worker: &Worker) {
        self.end(asking, &End::Up(UpError::Connect), Duration::ZERO, worker);
    }

    /// What follows the attempt that ended last. Going over the keys is free: each one that was refused is tried once, a few that failed are
    /// left for others.
    pub(crate) fn then(&self, policy: &RetryPolicy, tries: Tries, random: u64) -> Then {
        match self.next.take() {
            Some(Step::Again | Step::By(Next::Rotate | Next::Another)) => Then::Free,
            Some(Step::By(Next::Retry)) if tries.counted < policy.attempts => {
                Then::Retry(policy.backoff.delay(tries.counted, random))
            }
            Some(Step::By(Next::Retry | Next::Elsewhere)) => Then::Next,
            Some(Step::By(Next::Done)) | None => Then::Stop,
        }
    }

    /// Why the attempt that ended last was refused.
    pub(crate) fn refusal(&self) -> Option<Box<Refusal>> {
        self.refusal.take()
    }
}

impl Refusal {
    fn all_out(out: &AllOut, retry_after: Option<Duration>) -> Self {
        let kind = match out.status() {
            429 => FaultKind::KeysLimited,
            _ => FaultKind::ProviderUnavailable,
        };
        Self {
            fault: Fault::new(kind, out.message()).after(retry_after),
            answer: None,
            because: Because::AllOut,
        }
    }

    fn failed(answer: &Answer, evidence: &Evidence) -> Self {
        let (kind, because) = match &evidence.class {
            Class::CallerFault => (FaultKind::BadField, Because::Caller),
            Class::Broken if evidence.status == 504 => (FaultKind::Timeout, Because::Failed),
            Class::Broken => (FaultKind::BadAnswer, Because::Failed),
            Class::Limited { .. } | Class::QuotaExhausted { .. } => {
                (FaultKind::KeysLimited, Because::Failed)
            }
            _ => (FaultKind::ProviderUnavailable, Because::Failed),
        };
        // What is the caller's fault is told in the provider's words, without what looks like a secret.
        let words: Cow<'static, str> = match because {
            Because::Caller if !evidence.excerpt.is_empty() => evidence.excerpt.clone().into(),
            Because::Caller => "the provider refused the request".into(),
            _ => "the provider did not answer as it should".into(),
        };
        Self {
            fault: Fault::new(kind, words),
            answer: Some(answer.error_answer()),
            because,
        }
    }

    /// Whether the request itself is at fault.
    pub(crate) fn is_callers(&self) -> bool {
        self.because == Because::Caller
    }

    /// What is told when both were met on the way: the caller's own fault before all, then that no key is left, with the earliest
    /// return.
    pub(crate) fn and(self: Box<Self>, later: Box<Self>) -> Box<Self> {
        match (self.because, later.because) {
            (Because::Caller, _) => self,
            (_, Because::Caller) => later,
            (Because::AllOut, Because::AllOut) => {
                let earliest = [self.fault.retry_after, later.fault.retry_after]
                    .into_iter()
                    .flatten()
                    .min();
                let limited = |r: &Refusal| r.fault.kind == FaultKind::KeysLimited;
                let mut told = if limited(&self) && !limited(&later) {
                    self
                } else {
                    later
                };
                told.fault.retry_after = earliest;
                told
            }
            (Because::AllOut, Because::Failed) => self,
            (Because::Failed, _) => later,
        }
    }

    /// The answer in a dialect.
    pub(crate) fn answer(&self, dialect: tidegate_llm::Dialect) -> (ErrorAnswer, &'static str) {
        match &self.answer {
            Some(answer) if self.because == Because::Caller => (answer.clone(), "refused"),
            _ => (self.fault.answer(dialect), self.fault.kind.code()),
        }
    }
}
