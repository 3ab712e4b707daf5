//! The attempts of a request, as far as their spans tell of them: names and numbers, never what was said.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Scheme;
use tidegate_core::{Member, MemberKey, Verdict};
use tidegate_keys::{Fingerprint, class_name};
use tidegate_llm::classify::Class;
use tidegate_llm::usage::Usage;
use tidegate_llm::{Facts, ProviderKind};

use super::finished::cut;
use crate::clock;
use crate::exchange::attempt::Planned;
use crate::exchange::race::End;
use crate::provider::attempt::Asking;
use crate::up::OutRequest;
use crate::upstream::Target;

/// One try at one member.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(super) span: u64,
    pub(super) member: MemberKey,
    /// Name of the upstream or provider.
    pub(super) pool: Arc<str>,
    pub(super) target: Arc<Target>,
    pub(super) started: Instant,
    /// None while it is under way.
    pub(super) took: Option<Duration>,
    pub(super) sent: Option<Sent>,
    pub(super) settled: Settled,
    pub(super) model: Option<Box<Model>>,
}

/// The request as it went out.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(super) secure: bool,
    /// Without its query.
    pub(super) path: Box<str>,
    pub(super) h2: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// 0: there was no answer.
    pub(super) status: u16,
    pub(super) grpc: Option<u16>,
    /// For the member's health.
    pub(super) verdict: &'static str,
    /// In one word; empty where the status says it.
    pub(super) cause: &'static str,
}

/// What a model was asked, and what its answer says of itself.
#[derive(Debug)]
pub(crate) struct Model {
    pub(super) kind: ProviderKind,
    /// By the provider's name.
    pub(super) name: String,
    pub(super) key: Fingerprint,
    pub(super) stream: bool,
    pub(super) used: Option<Usage>,
    /// From the attempt's start.
    pub(super) first_content: Option<Duration>,
    pub(super) facts: Facts,
}

impl Attempt {
    pub(super) fn new(
        span: u64,
        planned: &Planned,
        member: &Member<Arc<Target>>,
        asking: Option<&Asking>,
    ) -> Self {
        Self {
            span,
            member: member.key(),
            pool: match asking {
                Some(asking) => asking.provider.name().clone(),
                None => planned.upstream.name.clone(),
            },
            target: member.payload().clone(),
            started: clock::now(),
            took: None,
            sent: None,
            settled: Settled::default(),
            model: asking.map(|asking| {
                Box::new(Model {
                    kind: asking.provider.keys.live().spec.kind,
                    name: cut(&asking.model),
                    key: asking.key.key().fingerprint.clone(),
                    stream: asking.stream,
                    used: None,
                    first_content: None,
                    facts: Facts::default(),
                })
            }),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.took.is_some()
    }

    pub(super) fn is_asking(&self) -> bool {
        self.model.is_some()
    }

    pub(super) fn sent(&mut self, request: &OutRequest, h2: bool) {
        self.sent = Some(Sent {
            secure: request.scheme == Scheme::HTTPS,
            path: cut(request.path.path()).into(),
            h2,
        });
    }

    pub(super) fn switched(&mut self, status: u16) {
        self.settled = Settled::answered(status, None, &Verdict::Ok, "");
    }

    pub(super) fn end(&mut self, settled: Settled) {
        self.settled = settled;
        self.took = Some(clock::since(self.started));
    }

    pub(super) fn told(
        &mut self,
        asking: &mut Asking,
        used: Usage,
        (verdict, cause): (&'static str, &'static str),
    ) {
        if let Some(model) = &mut self.model {
            model.used = Some(used);
            model.first_content = asking.first_token;
            model.facts = asking
                .facts
                .take()
                .map_or_else(Facts::default, |f| f.facts());
        }
        self.end(Settled {
            // Its head came, and was good.
            status: 200,
            grpc: None,
            verdict,
            cause,
        });
    }
}

impl Settled {
    /// There was an answer, whether the caller got it or not.
    pub(crate) fn answered(
        status: u16,
        grpc: Option<u16>,
        verdict: &Verdict,
        cause: &'static str,
    ) -> Self {
        Self {
            status,
            grpc,
            verdict: word(verdict),
            cause,
        }
    }

    /// There was none for the caller.
    pub(crate) fn lost(end: End, verdict: &Verdict, asking: Option<&Asking>) -> Self {
        let evidence = asking.and_then(|asking| asking.answer.evidence());
        if let (End::Unfit, Some(evidence)) = (end, evidence) {
            let (verdict, cause) = class(&evidence.class);
            return Self {
                status: evidence.status,
                grpc: None,
                verdict,
                cause,
            };
        }
        Self {
            verdict: word(verdict),
            cause: match end {
                End::Up(e) => e.code(),
                End::Unfit => "bad-answer",
                End::Late(_) => "timeout",
                End::Spare => "cancelled",
            },
            ..Self::default()
        }
    }
}

/// What a provider's answer means for its key, and the word for it.
pub(crate) fn class(class: &Class) -> (&'static str, &'static str) {
    let verdict = match class {
        Class::Ok => "ok",
        Class::CallerFault => "neutral",
        Class::ProviderDown | Class::Broken => "failure",
        Class::KeyDead
        | Class::ModelDenied
        | Class::Limited { .. }
        | Class::QuotaExhausted { .. }
        | Class::Region => "evidence",
    };
    (verdict, class_name(class))
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Neutral => "neutral",
        Verdict::Failure(_) => "failure",
        Verdict::Evidence { .. } => "evidence",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::up::UpError;
    use tidegate_core::FailureKind;

    #[test]
    fn an_attempt_without_an_answer_says_why_and_one_that_was_not_needed_is_no_failure() {
        let failure = Verdict::Failure(FailureKind::LocalOrigin);
        let lost = |end, verdict| {
            let settled = Settled::lost(end, verdict, None);
            (settled.status, settled.verdict, settled.cause)
        };
        let up = End::Up(UpError::Connect);
        assert_eq!(lost(up, &failure), (0, "failure", "connect-failure"));
        let late = End::Late(None);
        assert_eq!(lost(late, &Verdict::Neutral), (0, "neutral", "timeout"));
        let spare = lost(End::Spare, &Verdict::Neutral);
        assert_eq!(spare, (0, "neutral", "cancelled"));
    }

    #[test]
    fn what_a_provider_says_of_a_key_is_evidence_and_what_of_itself_a_failure() {
        assert_eq!(class(&Class::KeyDead), ("evidence", "key_dead"));
        assert_eq!(class(&Class::ProviderDown), ("failure", "provider_down"));
        assert_eq!(class(&Class::CallerFault), ("neutral", "caller_fault"));
    }
}
