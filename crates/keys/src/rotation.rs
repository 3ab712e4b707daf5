//! One request's way over the keys of a provider.
//!
//! Rotating over keys has a budget of its own, the pool: a key that its provider refused (dead, limited, used up) is never
//! tried again by the same request, and the next one is tried at once, however few retries the route allows. So fifty keys of
//! which one works serve every request. A key that answers with a failure says less: the provider may be down, or the request be
//! one that nobody can answer. A few others are tried at once all the same; beyond that it is for the route's retries.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tidegate_core::{
    MemberKey, NoPick, Pick, PickRequest, Rng, Scope, SmallRng, Time, Verdict, hash,
};

use crate::choice::{MemberTag, Sessions};
use crate::judge::{Next, NoAnswer, Outcome};
use crate::key::{ApiKey, Fingerprint};
use crate::notes::Note;
use crate::outbox::{Slot, What};
use crate::provider::{Live, Provider};

/// Keys that one request goes on to after failed answers without a word of the route's retries: enough for a key or two gone bad, and no storm
/// where all of a provider is.
const FAILED_ANSWERS: u32 = 3;

/// What a request has tried at a provider.
#[derive(Debug)]
pub struct Rotation {
    provider: Arc<Provider>,
    live: Arc<Live>,
    scope: Scope,
    session: Option<u64>,
    worker: usize,
    /// Refused by the provider: never again in this request.
    refused: SmallVec<[MemberKey; 4]>,
    /// Failed otherwise: others first.
    tried: SmallVec<[MemberKey; 4]>,
    /// Failed answers after which another key was tried at once.
    failed: u32,
    /// That key, until it is asked for.
    another: Option<Pick<ApiKey>>,
    seen: SmallVec<[OutCause; 2]>,
}

/// Why a key did not serve a request.
#[derive(Clone, Debug, PartialEq)]
pub struct OutCause {
    /// Which key.
    pub fingerprint: Fingerprint,
    /// The class of what happened (`limited`).
    pub class: String,
    /// The status that told it, 0 if there was no answer.
    pub status: u16,
    /// When it may be back; `None`: unknown, or only by a probe.
    pub returns_at: Option<Time>,
}

/// No key is left for a request.
#[derive(Clone, Debug, PartialEq)]
pub struct AllOut {
    /// When the first one may return, as its provider or the policy said; `None`: only probes bring one back, or this
    /// request has tried those that are fit.
    pub earliest: Option<Time>,
    /// Keys that return are being tried by other requests right now: waiting a moment may help.
    pub busy: bool,
    /// Why, by key, as far as it is known. Without secrets.
    pub causes: Vec<OutCause>,
}

/// Told to callers where nothing better is known.
const SOON: Duration = Duration::from_secs(1);

impl AllOut {
    /// 429 where limits and quotas are what keeps keys out, 503 where it is anything else.
    pub fn status(&self) -> u16 {
        let limit =
            |cause: &OutCause| matches!(cause.class.as_str(), "limited" | "quota_exhausted");
        // A dead key beside a limited one does not make waiting wrong.
        if self.causes.iter().any(limit) {
            429
        } else {
            503
        }
    }

    /// For `Retry-After`, in whole seconds (rounded up) and at least one; `None` where there is no time to tell.
    pub fn retry_after(&self, now: Time) -> Option<Duration> {
        if self.busy {
            return Some(SOON);
        }
        let left = now.until(self.earliest?);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(Duration::from_secs(seconds).max(SOON))
    }

    /// In a line for people: `3 keys are out: 1 key dead, 2 limited`.
    pub fn message(&self) -> String {
        let mut classes: Vec<(&str, usize)> = Vec::new();
        for cause in &self.causes {
            match classes.iter_mut().find(|(class, _)| *class == cause.class) {
                Some((_, count)) => *count += 1,
                None => classes.push((&cause.class, 1)),
            }
        }
        if classes.is_empty() {
            return "no key is fit".to_owned();
        }
        let words: Vec<String> = classes
            .iter()
            .map(|(class, count)| format!("{count} {}", class.replace('_', " ")))
            .collect();
        format!("no key is fit: {}", words.join(", "))
    }
}

/// A key with one request in flight on it. Dropped without [`KeyPick::finish`] it was a cancellation.
#[derive(Debug)]
pub struct KeyPick {
    pick: Pick<ApiKey>,
    provider: Arc<Provider>,
    live: Arc<Live>,
    worker: usize,
    trial: bool,
}

impl Rotation {
    pub(crate) fn new(
        provider: Arc<Provider>,
        scope: Scope,
        session: Option<u64>,
        worker: usize,
    ) -> Rotation {
        // A session's prompts are cached for each model apart.
        let session = session.map(|s| hash::mix(s ^ hash::hash64(scope.as_str().as_bytes(), 2)));
        Rotation {
            live: provider.live(),
            provider,
            scope,
            session,
            worker,
            refused: SmallVec::new(),
            tried: SmallVec::new(),
            failed: 0,
            another: None,
            seen: SmallVec::new(),
        }
    }

    /// The provider.
    pub fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// What the configuration said when the request began.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The model, by the provider's name.
    pub fn model(&self) -> &str {
        self.scope.as_str()
    }

    /// The next key.
    ///
    /// # Errors
    /// [`AllOut`] if none is left that this request may use.
    pub fn next(&mut self, now: Time, rng: &mut impl Rng) -> Result<KeyPick, AllOut> {
        let ttl = self.live.sticky_ttl();
        let session = self.session.filter(|_| ttl.is_some());
        let home = session.and_then(|s| self.provider.sessions.get()?.find(s, now));
        let prefer = home.and_then(|tag| {
            self.live
                .roster
                .iter()
                .find(|(of, _)| *of == tag)
                .map(|(_, member)| *member)
        });
        let request = PickRequest {
            hash: session,
            exclude: &self.tried,
            never: &self.refused,
            prefer,
            scope: &self.scope,
            ..PickRequest::default()
        };
        let picked = match self.another.take() {
            Some(pick) => Ok(pick),
            None => self.provider.pool().pick(&request, now, rng),
        };
        let pick = match picked {
            Ok(pick) => pick,
            Err(none) => return Err(self.all_out(none, now)),
        };
        if let (Some(session), Some(ttl)) = (session, ttl) {
            let tag = MemberTag::of(pick.member().id());
            if home.is_some_and(|home| home != tag) {
                self.provider.counts().sticky_move(self.worker);
            }
            let sessions = self.provider.sessions.get_or_init(Sessions::default);
            sessions.keep(session, tag, ttl, now);
        }
        Ok(KeyPick {
            trial: pick.is_trial(),
            pick,
            provider: self.provider.clone(),
            live: self.live.clone(),
            worker: self.worker,
        })
    }

    /// Ends an attempt: as [`KeyPick::finish`], and this request goes elsewhere next.
    pub fn finish(
        &mut self,
        pick: KeyPick,
        outcome: Outcome<'_>,
        latency: Option<Duration>,
        now: Time,
    ) -> Next {
        let member = pick.pick.member().key();
        let fingerprint = pick.key().fingerprint.clone();
        let mut next = pick.finish(outcome, latency, now);
        match next {
            Next::Done => return next,
            Next::Rotate => self.refused.push(member),
            _ if self.tried.contains(&member) => {}
            Next::Another | Next::Retry | Next::Elsewhere => self.tried.push(member),
        }
        // Before content nobody sees that it broke: another key is no retry that a caller would have to be told of.
        let answered = matches!(
            outcome,
            Outcome::Answer(_) | Outcome::NoAnswer(NoAnswer::Reset)
        );
        if next == Next::Retry && answered && self.failed < FAILED_ANSWERS {
            self.another = self.untried(now);
            if self.another.is_some() {
                self.failed += 1;
                next = Next::Another;
            }
        }
        let (class, status) = match outcome {
            Outcome::Answer(e) => (crate::judge::class_name(&e.class), e.status),
            Outcome::NoAnswer(why) => (why.as_str(), 0),
            Outcome::Cancelled => ("cancelled", 0),
        };
        self.seen.push(OutCause {
            fingerprint,
            class: class.to_owned(),
            status,
            returns_at: None,
        });
        next
    }

    /// A key that is fit and that this request has not tried.
    fn untried(&self, now: Time) -> Option<Pick<ApiKey>> {
        let mut never = self.refused.clone();
        never.extend_from_slice(&self.tried);
        let request = PickRequest {
            hash: self.session.filter(|_| self.live.sticky_ttl().is_some()),
            never: &never,
            scope: &self.scope,
            ..PickRequest::default()
        };
        // Requests that fail at the same moment need not go the same way.
        let seed = hash::mix(now.0 ^ std::ptr::from_ref(self).addr() as u64);
        let picked = self
            .provider
            .pool()
            .pick(&request, now, &mut SmallRng::new(seed));
        picked.ok()
    }

    fn all_out(&self, none: NoPick, now: Time) -> AllOut {
        self.provider.counts().exhausted(self.worker);
        let members = self.provider.pool().members();
        let held = self.provider.notes.holding(&self.scope, now);
        let mut causes: Vec<OutCause> = Vec::new();
        for (key, note) in held {
            let Some(member) = members.iter().find(|m| m.payload().id == key) else {
                continue;
            };
            causes.push(OutCause {
                fingerprint: member.payload().fingerprint.clone(),
                class: note.class,
                status: note.status,
                returns_at: note.until.filter(|until| *until != Time::NEVER),
            });
        }
        // What this request met itself, where it did not put the key out.
        let unheard = self.seen.iter().filter(|seen| {
            !causes
                .iter()
                .any(|cause| cause.fingerprint == seen.fingerprint)
        });
        let unheard: Vec<OutCause> = unheard.cloned().collect();
        causes.extend(unheard);
        causes.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
        AllOut {
            earliest: match none {
                NoPick::NoneFit { returns_at } => returns_at,
                NoPick::Empty | NoPick::TrialsTaken => None,
            },
            busy: none == NoPick::TrialsTaken,
            causes,
        }
    }
}

impl KeyPick {
    /// The key.
    pub fn key(&self) -> &ApiKey {
        self.pick.payload()
    }

    /// True if this request decides whether the key is back.
    pub fn is_trial(&self) -> bool {
        self.pick.is_trial()
    }

    /// Content has begun: a trial is passed now, so that others need not wait for the end of a stream. What becomes of
    /// the rest still counts.
    pub fn content_began(&mut self, now: Time) {
        if self.pick.is_trial() {
            self.pick.passed(now);
            self.provider.outbox.nudge();
        }
    }

    /// The connection was closed when it was used again, and nothing was processed: this says nothing about the key, and is
    /// counted by itself.
    pub fn stale(self) {
        self.provider.counts().stale(self.worker);
    }

    /// Ends the attempt with its outcome: the health of the key, in the scope that it concerns, here and (through the
    /// store) on every replica. `latency`: to the first byte of the answer.
    pub fn finish(self, outcome: Outcome<'_>, latency: Option<Duration>, now: Time) -> Next {
        let model = self.pick.scope().clone();
        let key = self.key().id.clone();
        let notes = &self.provider.notes;
        let last = self.trial.then(|| {
            notes
                .get(&key, &model)
                .or_else(|| notes.get(&key, &Scope::EMPTY))
        });
        let last = last.flatten().and_then(|note| note.length());
        let judgement = self.live.failover.judge(outcome, &model, last, now);
        self.provider
            .counts()
            .attempt(self.worker, &outcome, &judgement);
        let note = match outcome {
            _ if matches!(judgement.verdict, Verdict::Ok | Verdict::Neutral) => None,
            Outcome::Answer(evidence) => Some(Note::of_answer(evidence, &model, now)),
            Outcome::NoAnswer(why) => Some(Note::of_silence(why, &model, now)),
            Outcome::Cancelled => None,
        };
        let scope = judgement.scope;
        match (&judgement.verdict, note) {
            (Verdict::Evidence { until, .. }, Some(note)) => {
                let until = until.unwrap_or(Time::NEVER);
                let note = Note {
                    until: Some(until),
                    ..note
                };
                notes.take(&key, &scope, note.clone());
                self.pick.finish_in(&scope, judgement.verdict, latency, now);
                self.provider
                    .tell(Slot { key, scope }, What::Out { until, note }, now);
            }
            (Verdict::Failure(_), Some(note)) => {
                notes.take(&key, &scope, note);
                self.pick.finish_in(&scope, judgement.verdict, latency, now);
                // It may have been the last one before the threshold.
                self.provider.outbox.nudge();
            }
            _ => self.pick.finish_in(&scope, judgement.verdict, latency, now),
        }
        judgement.next
    }
}
