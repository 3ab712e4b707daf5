//! What the callers saw, counted: the demo's judge. Everything here comes from answers that callers got, nothing from
//! what the gateway says of itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::model::{Label, Version};

/// How far back recent rates and latencies look.
const RECENT: Duration = Duration::from_secs(2);
/// Seconds that the view's small charts show.
const HISTORY: usize = 60;
/// Failures whose words are kept.
const KEPT_FAILURES: usize = 10;

/// One right answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// What it is about.
    pub(crate) what: What,
    /// Which instance, key or worker answered.
    pub(crate) instance: String,
    /// When the caller first sent the request.
    pub(crate) sent: Instant,
    /// When the answer was complete.
    pub(crate) done: Instant,
    /// Gateway processes that had been killed on purpose before the caller's connection was opened.
    pub(crate) kills: u64,
}

impl Answer {
    fn latency(&self) -> Duration {
        self.done.saturating_duration_since(self.sent)
    }

    /// The classifier's opinion, if it is one.
    pub(crate) fn opinion(&self) -> Option<&Opined> {
        match &self.what {
            What::Opinion(opinion) => Some(opinion),
            What::Chat { .. } | What::Hosted => None,
        }
    }
}

/// What an answer is about.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// The classifier's opinion.
    Opinion(Opined),
    /// A chat completion of the provider of language models.
    Chat {
        /// As a stream of events.
        streamed: bool,
    },
    /// An answer of the hosted model.
    Hosted,
}

/// An opinion of the classifier.
#[derive(Clone, Debug)]
pub(crate) struct Opined {
    /// The text that was asked about.
    pub(crate) text: &'static str,
    /// What the instance said of it.
    pub(crate) label: Label,
    /// The feature that weighed most, with its log-odds.
    pub(crate) reason: Option<(String, f64)>,
    /// Which version answered.
    pub(crate) version: Version,
    /// Whether the model was right about the text; a wrong opinion is a right answer of that model.
    pub(crate) hit: bool,
    /// Whether it came over gRPC.
    pub(crate) grpc: bool,
}

/// Answers and opinions of one version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VersionCount {
    /// Answers.
    pub(crate) answers: u64,
    /// Of them right about the text.
    pub(crate) hits: u64,
}

/// The time during which one set of weights held.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// Weights of v1 and v2.
    pub(crate) weights: [u32; 2],
    /// Answers of v1 and v2.
    pub(crate) answers: [u64; 2],
}

/// Totals since the start; differences of two belong to the time between.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Requests with a right answer.
    pub(crate) answered: u64,
    /// Of them over gRPC.
    pub(crate) grpc: u64,
    /// Of them chat completions.
    pub(crate) chats: u64,
    /// Of those streamed.
    pub(crate) streamed: u64,
    /// Of them calls of the hosted model.
    pub(crate) hosted: u64,
    /// Requests without one.
    pub(crate) failed: u64,
    /// Requests that were in flight in a gateway process that was killed, and that the caller's client sent again.
    pub(crate) resent: u64,
    /// Connections opened.
    pub(crate) connections: u64,
    /// By version.
    pub(crate) versions: [VersionCount; 2],
}

/// One instance's share of the recent traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Recent {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Median latency.
    pub(crate) p50: Duration,
}

/// One second of traffic.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Second {
    /// Answers.
    pub(crate) answers: u32,
    /// Slowest of the classifier's.
    pub(crate) slowest: Duration,
}

/// The recent traffic as a whole.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecentAll {
    /// Answers a second.
    pub(crate) rate: f64,
    /// Median latency of the classifier: the other models take the time that they take.
    pub(crate) p50: Duration,
    /// 99th percentile of it.
    pub(crate) p99: Duration,
    /// By instance, key and worker.
    pub(crate) instances: BTreeMap<String, Recent>,
}

impl RecentAll {
    /// An instance's, key's or worker's share; nothing where none answered.
    pub(crate) fn of(&self, instance: &str) -> Recent {
        self.instances.get(instance).copied().unwrap_or_default()
    }
}

/// The count of everything.
#[derive(Debug)]
pub(crate) struct Traffic {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    start: Instant,
    totals: Totals,
    failures: Vec<String>,
    latency: Histogram,
    recent: VecDeque<Answer>,
    phases: Vec<Phase>,
    seconds: VecDeque<(u64, Second)>,
    awaited: BTreeMap<String, Awaited>,
    after_kill: Option<(u64, Option<Instant>)>,
}

#[derive(Clone, Copy, Debug)]
struct Awaited {
    since: Instant,
    first: Option<Instant>,
}

impl Traffic {
    /// Begins to count.
    pub(crate) fn new(start: Instant, weights: [u32; 2]) -> Self {
        Self {
            inner: Mutex::new(Inner {
                start,
                totals: Totals::default(),
                failures: Vec::new(),
                latency: Histogram::default(),
                recent: VecDeque::new(),
                phases: vec![Phase {
                    weights,
                    answers: [0; 2],
                }],
                seconds: VecDeque::new(),
                awaited: BTreeMap::new(),
                after_kill: None,
            }),
        }
    }

    /// A caller got its answer.
    pub(crate) fn answered(&self, answer: Answer) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.totals.answered += 1;
        let mut slowest = Duration::ZERO;
        match &answer.what {
            What::Opinion(opinion) => {
                let version = opinion.version.index();
                inner.totals.grpc += u64::from(opinion.grpc);
                inner.totals.versions[version].answers += 1;
                inner.totals.versions[version].hits += u64::from(opinion.hit);
                slowest = answer.latency();
                inner.latency.record(slowest);
                if let Some(phase) = inner.phases.last_mut() {
                    phase.answers[version] += 1;
                }
            }
            What::Chat { streamed } => {
                inner.totals.chats += 1;
                inner.totals.streamed += u64::from(*streamed);
            }
            What::Hosted => inner.totals.hosted += 1,
        }
        if let Some(awaited) = inner.awaited.get_mut(&answer.instance) {
            // An answer whose request was sent before may come from the instance's earlier life.
            if awaited.first.is_none() && answer.sent >= awaited.since {
                awaited.first = Some(answer.done);
            }
        }
        if let Some((kills, first @ None)) = &mut inner.after_kill
            && answer.kills >= *kills
        {
            *first = Some(answer.done);
        }
        let second = answer.done.saturating_duration_since(inner.start).as_secs();
        match inner.seconds.back_mut() {
            Some((at, count)) if *at == second => {
                count.answers += 1;
                count.slowest = count.slowest.max(slowest);
            }
            _ => {
                let count = Second {
                    answers: 1,
                    slowest,
                };
                inner.seconds.push_back((second, count));
                if inner.seconds.len() > HISTORY {
                    inner.seconds.pop_front();
                }
            }
        }
        inner.recent.push_back(answer);
        inner.forget(Instant::now());
    }

    /// A caller got no answer, or not the right one.
    pub(crate) fn failed(&self, why: String) {
        let mut inner = self.lock();
        inner.totals.failed += 1;
        if inner.failures.len() < KEPT_FAILURES {
            let at = inner.start.elapsed().as_secs_f64();
            inner.failures.push(format!("{at:.1} s: {why}"));
        }
    }

    /// A caller sent a request again because the gateway process that held it was killed.
    pub(crate) fn resent(&self) {
        self.lock().totals.resent += 1;
    }

    /// A caller opened a connection.
    pub(crate) fn connected(&self) {
        self.lock().totals.connections += 1;
    }

    /// From now on other weights hold.
    pub(crate) fn begin_phase(&self, weights: [u32; 2]) {
        self.lock().phases.push(Phase {
            weights,
            answers: [0; 2],
        });
    }

    /// Notes the first answer of this instance to a request that is sent from now on.
    pub(crate) fn await_instance(&self, instance: &str) {
        let awaited = Awaited {
            since: Instant::now(),
            first: None,
        };
        self.lock().awaited.insert(instance.to_owned(), awaited);
    }

    /// When that answer came.
    pub(crate) fn first_answer(&self, instance: &str) -> Option<Instant> {
        self.lock().awaited.get(instance)?.first
    }

    /// Notes the first answer over a connection that was opened after this many kills of a gateway.
    pub(crate) fn await_kill(&self, kills: u64) {
        self.lock().after_kill = Some((kills, None));
    }

    /// When that answer came.
    pub(crate) fn first_after_kill(&self) -> Option<Instant> {
        self.lock().after_kill?.1
    }

    /// Totals since the start.
    pub(crate) fn totals(&self) -> Totals {
        self.lock().totals.clone()
    }

    /// What went wrong, in words, the first few.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.lock().failures.clone()
    }

    /// Weights and what came of them, in order.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.lock().phases.clone()
    }

    /// The classifier's latencies since the start.
    pub(crate) fn latency(&self) -> Histogram {
        self.lock().latency.clone()
    }

    /// The last seconds that are complete, oldest first; seconds without any answer included.
    pub(crate) fn seconds(&self) -> Vec<Second> {
        let inner = self.lock();
        let now = inner.start.elapsed().as_secs();
        let from = now.saturating_sub(HISTORY as u64);
        let mut all = vec![Second::default(); usize::try_from(now - from).unwrap_or(0)];
        for (at, second) in &inner.seconds {
            let place = at
                .checked_sub(from)
                .and_then(|place| usize::try_from(place).ok());
            if let Some(slot) = place.and_then(|place| all.get_mut(place)) {
                *slot = *second;
            }
        }
        all
    }

    /// The latest answer of the classifier.
    pub(crate) fn latest(&self) -> Option<Answer> {
        let inner = self.lock();
        let mut newest_first = inner.recent.iter().rev();
        newest_first
            .find(|answer| answer.opinion().is_some())
            .cloned()
    }

    /// Rates and latencies of the last moments.
    pub(crate) fn recent(&self) -> RecentAll {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.forget(now);
        let window = RECENT
            .min(now.saturating_duration_since(inner.start))
            .as_secs_f64()
            .max(0.1);
        let mut all = Vec::with_capacity(inner.recent.len());
        let mut each: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for answer in &inner.recent {
            let latency = answer.latency();
            if answer.opinion().is_some() {
                all.push(latency);
            }
            each.entry(&answer.instance).or_default().push(latency);
        }
        let rate = |count: usize| count as f64 / window;
        RecentAll {
            rate: rate(inner.recent.len()),
            p99: quantile(&mut all, 0.99),
            p50: quantile(&mut all, 0.5),
            instances: each
                .into_iter()
                .map(|(name, mut latencies)| {
                    let recent = Recent {
                        rate: rate(latencies.len()),
                        p50: quantile(&mut latencies, 0.5),
                    };
                    (name.to_owned(), recent)
                })
                .collect(),
        }
    }

    /// The share of its version's answers that came from this instance since `since` (which lies at most two seconds
    /// back), 0 to 1.
    pub(crate) fn share(&self, instance: &str, version: Version, since: Instant) -> f64 {
        let inner = self.lock();
        let (mut its, mut all) = (0_u32, 0_u32);
        let of_version = |answer: &&Answer| answer.opinion().is_some_and(|o| o.version == version);
        for answer in inner.recent.iter().filter(of_version) {
            if answer.sent >= since {
                all += 1;
                its += u32::from(answer.instance == instance);
            }
        }
        f64::from(its) / f64::from(all.max(1))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a few assignments: a panic in between leaves numbers, not a broken structure.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget(&mut self, now: Instant) {
        while self
            .recent
            .front()
            .is_some_and(|answer| now.saturating_duration_since(answer.done) > RECENT)
        {
            self.recent.pop_front();
        }
    }
}

fn quantile(latencies: &mut [Duration], q: f64) -> Duration {
    if latencies.is_empty() {
        return Duration::ZERO;
    }
    let rank = ((latencies.len() - 1) as f64 * q).round() as usize;
    *latencies.select_nth_unstable(rank).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(start: Instant, ms: u64, instance: &str) -> Answer {
        Answer {
            what: opinion(Version::V1),
            instance: instance.into(),
            sent: start,
            done: start + Duration::from_millis(ms),
            kills: 0,
        }
    }

    fn opinion(version: Version) -> What {
        What::Opinion(Opined {
            text: "",
            label: Label::Positive,
            reason: None,
            version,
            hit: true,
            grpc: false,
        })
    }

    #[test]
    fn answers_count_for_the_weights_that_held_when_they_came() {
        let start = Instant::now();
        let traffic = Traffic::new(start, [90, 10]);
        traffic.answered(answer(start, 1, "a"));
        traffic.begin_phase([50, 50]);
        traffic.answered(answer(start, 2, "a"));
        traffic.answered(Answer {
            what: opinion(Version::V2),
            ..answer(start, 3, "b")
        });
        let phases = traffic.phases();
        assert_eq!([phases[0].answers, phases[1].answers], [[1, 0], [1, 1]]);
    }

    #[test]
    fn an_answer_of_the_former_life_does_not_count_as_the_first_of_the_new_one() {
        let start = Instant::now();
        let traffic = Traffic::new(start, [1, 1]);
        traffic.await_instance("a");
        traffic.answered(answer(start, 1, "a"));
        assert_eq!(traffic.first_answer("a"), None);
        let later = Instant::now();
        traffic.answered(answer(later, 1, "b"));
        assert_eq!(traffic.first_answer("a"), None);
        traffic.answered(answer(later, 2, "a"));
        traffic.answered(answer(later, 9, "a"));
        let first = later + Duration::from_millis(2);
        assert_eq!(traffic.first_answer("a"), Some(first));
    }

    #[test]
    fn the_share_of_an_instance_is_among_its_own_version() {
        let start = Instant::now();
        let traffic = Traffic::new(start, [1, 1]);
        for instance in ["a", "a", "b", "c"] {
            traffic.answered(answer(start, 1, instance));
        }
        traffic.answered(Answer {
            what: opinion(Version::V2),
            ..answer(start, 1, "x")
        });
        assert!((traffic.share("a", Version::V1, start) - 0.5).abs() < 1e-9);
        assert!((traffic.share("x", Version::V1, start)).abs() < 1e-9);
    }

    #[test]
    fn only_an_answer_over_a_newer_connection_ends_the_gap_after_a_kill() {
        let start = Instant::now();
        let traffic = Traffic::new(start, [1, 1]);
        traffic.await_kill(1);
        traffic.answered(answer(start, 5, "a"));
        assert_eq!(traffic.first_after_kill(), None);
        traffic.answered(Answer {
            kills: 1,
            ..answer(start, 9, "a")
        });
        let first = start + Duration::from_millis(9);
        assert_eq!(traffic.first_after_kill(), Some(first));
    }

    #[test]
    fn the_classifiers_latency_is_not_that_of_a_model_that_computes_for_long() {
        let start = Instant::now();
        let traffic = Traffic::new(start, [1, 1]);
        traffic.answered(answer(start, 2, "a"));
        for what in [What::Hosted, What::Chat { streamed: true }] {
            traffic.answered(Answer {
                what,
                ..answer(start, 900, "b")
            });
        }
        let totals = traffic.totals();
        assert_eq!(
            [
                totals.answered,
                totals.hosted,
                totals.chats,
                totals.streamed
            ],
            [3, 1, 1, 1]
        );
        assert_eq!(traffic.latency().longest(), Duration::from_millis(2));
        assert_eq!(traffic.latest().map(|a| a.instance), Some("a".into()));
    }

    #[test]
    fn failures_are_counted_all_and_told_a_few() {
        let traffic = Traffic::new(Instant::now(), [1, 1]);
        for _ in 0..50 {
            traffic.failed("connection refused".into());
        }
        assert_eq!(traffic.totals().failed, 50);
        assert_eq!(traffic.failures().len(), KEPT_FAILURES);
    }
}
