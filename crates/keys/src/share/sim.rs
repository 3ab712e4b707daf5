//! Replicas with clocks of their own over one store, cut off, healed and restarted at random.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_core::{MemberState, Scope, Time};
use tidegate_state::{Store, Watch, memory};

use super::exchange::Written;
use super::record;
use super::task::{Sharer, delete, write};
use crate::clock::{Clock, MonotonicClock};
use crate::identity::{Identity, KeyId};
use crate::notes::Note;
use crate::outbox::{Return, Slot, What};
use crate::registry::Keys;
use crate::settings::Settings;

const KEYS: usize = 2;
const SCOPES: [&str; 2] = ["", "m"];

fn settings() -> Settings {
    let text = "providers: [{ name: p, type: openai, api_tokens: [key-number-0, key-number-1] }]\n\
                listeners: [{ name: l, address: 127.0.0.1:1 }]\nroutes: [{ name: r, to: [{ provider: p }] }]\n";
    let loaded = tidegate_config::load_str("sim.yaml", text).unwrap();
    Settings::of(&loaded.config.providers[0]).unwrap()
}

fn key(i: usize) -> KeyId {
    let origin = settings().origin();
    Identity::new([9; 32]).of(&origin, &format!("key-number-{i}"))
}

fn slot(i: usize, scope: usize) -> Slot {
    Slot {
        key: key(i),
        scope: Scope::new(SCOPES[scope]),
    }
}

struct Replica {
    keys: Arc<Keys>,
    sharer: Sharer,
    watch: Watch,
    store: Arc<dyn Store>,
    clock: MonotonicClock,
    offset: Duration,
    cut: bool,
}

impl Replica {
    fn new(number: usize, store: &Arc<dyn Store>, clock: MonotonicClock) -> Replica {
        // No two replicas count from the same moment.
        let offset = Duration::from_secs(1_000_000 * (number as u64 + 1));
        let keys = Arc::new(Keys::new(
            &format!("replica-{number}"),
            Identity::new([9; 32]),
        ));
        keys.apply(vec![settings()], clock.now() + offset);
        Replica {
            sharer: Sharer::new(keys.clone()),
            keys,
            watch: store.watch(&record::prefix().unwrap()),
            store: store.clone(),
            clock,
            offset,
            cut: false,
        }
    }

    fn now(&self) -> Time {
        self.clock.now() + self.offset
    }

    async fn step(&mut self) {
        if !self.cut {
            while let Ok(event) =
                tokio::time::timeout(Duration::from_millis(1), self.watch.next()).await
            {
                self.sharer.event(event, self.now());
            }
        }
        let now = self.now();
        self.sharer.turn(now);
        for pending in self.sharer.exchange().writes(now) {
            let result = match self.cut {
                true => Written::Away,
                false => write(&*self.store, &pending).await,
            };
            let now = self.now();
            self.sharer.exchange().written(&pending, result, now);
        }
        for gone in self.sharer.exchange().deletions(now) {
            let done = !self.cut && delete(&*self.store, &gone).await;
            self.sharer.exchange().deleted(&gone, done, now);
        }
    }

    /// A store that was away is listed anew.
    fn heal(&mut self) {
        if std::mem::take(&mut self.cut) {
            self.watch = self.store.watch(&record::prefix().unwrap());
        }
    }

    fn out(&self, slot: &Slot, hold: Option<u64>) {
        let now = self.now();
        let until = hold.map_or(Time::NEVER, |s| now + Duration::from_secs(s));
        let note = Note {
            class: "limited".into(),
            status: 429,
            code: None,
            excerpt: String::new(),
            model: None,
            at: now,
            until: Some(until),
            seen_by: None,
        };
        let provider = self.keys.provider("p").unwrap();
        provider.hold(slot, until, note.clone(), now);
        provider.tell(slot.clone(), What::Out { until, note }, now);
    }

    fn back(&self, slot: &Slot) {
        let provider = self.keys.provider("p").unwrap();
        provider.release(slot, &Return::default(), self.now());
        provider.tell(slot.clone(), What::Back(Return::default()), self.now());
    }

    /// How long a slot stays out yet: `None`: it is not; `Some(None)`: until a probe.
    fn left(&self, slot: &Slot) -> Left {
        let provider = self.keys.provider("p").unwrap();
        let statuses = provider.pool().status(self.now());
        let status = statuses
            .iter()
            .find(|s| *s.id == *slot.key.as_str())
            .unwrap();
        let health = match slot.scope.is_empty() {
            true => Some(&status.health),
            false => status
                .scopes
                .iter()
                .find(|(s, _)| *s == slot.scope)
                .map(|(_, h)| h),
        };
        let health = health.filter(|h| h.state == MemberState::Ejected)?;
        Some(health.returns_at.map(|at| self.now().until(at)))
    }
}

#[derive(Clone, Debug)]
enum Act {
    Out {
        replica: usize,
        key: usize,
        scope: usize,
        hold: Option<u64>,
    },
    Back {
        replica: usize,
        key: usize,
        scope: usize,
    },
    Cut(usize),
    Heal(usize),
    Restart(usize),
    Wait(u64),
}

fn acts(replicas: usize, all: bool) -> impl Strategy<Value = Vec<Act>> {
    let outs = (
        0..replicas,
        0..KEYS,
        0..SCOPES.len(),
        prop::option::weighted(0.7, 5u64..200),
    );
    let out = outs.prop_map(move |(replica, key, scope, hold)| Act::Out {
        replica,
        key,
        scope,
        hold,
    });
    let back =
        (0..replicas, 0..KEYS, 0..SCOPES.len()).prop_map(|(replica, key, scope)| Act::Back {
            replica,
            key,
            scope,
        });
    let wait = (10u64..8_000).prop_map(Act::Wait);
    let cut = (0..replicas).prop_map(Act::Cut);
    let heal = (0..replicas).prop_map(Act::Heal);
    let act = if all {
        let restart = (0..replicas).prop_map(Act::Restart);
        prop_oneof![4 => out, 3 => back, 3 => wait, 1 => cut, 1 => heal, 1 => restart].boxed()
    } else {
        prop_oneof![4 => out, 3 => wait, 1 => cut, 1 => heal].boxed()
    };
    prop::collection::vec(act, 1..40)
}

/// `None`: in. `Some(None)`: out until a probe passes.
type Left = Option<Option<Duration>>;

/// Runs a story to its end, everybody connected again. Returns for each slot how long the longest evidence holds yet, and how
/// long it is out at each replica.
fn run(replicas: usize, story: Vec<Act>) -> Vec<(Slot, Left, Vec<Left>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = memory();
        let clock = MonotonicClock::since(tokio::time::Instant::now());
        let mut all: Vec<Replica> = (0..replicas)
            .map(|i| Replica::new(i, &store, clock))
            .collect();
        let mut longest: Vec<(Slot, Option<Time>)> = (0..KEYS)
            .flat_map(|k| (0..SCOPES.len()).map(move |s| (slot(k, s), None)))
            .collect();
        for act in story {
            match act {
                Act::Out {
                    replica,
                    key,
                    scope,
                    hold,
                } => {
                    all[replica].out(&slot(key, scope), hold);
                    let end = hold.map_or(Time::NEVER, |s| clock.now() + Duration::from_secs(s));
                    let known = longest
                        .iter_mut()
                        .find(|(of, _)| *of == slot(key, scope))
                        .unwrap();
                    known.1 = known.1.max(Some(end));
                }
                Act::Back {
                    replica,
                    key,
                    scope,
                } => all[replica].back(&slot(key, scope)),
                Act::Cut(replica) => all[replica].cut = true,
                Act::Heal(replica) => all[replica].heal(),
                Act::Restart(replica) => {
                    let cut = all[replica].cut;
                    all[replica] = Replica::new(replica, &store, clock);
                    all[replica].cut = cut;
                }
                Act::Wait(ms) => {
                    let end = clock.now() + Duration::from_millis(ms);
                    while clock.now() < end {
                        tokio::time::sleep(Duration::from_millis(40)).await;
                        for replica in &mut all {
                            replica.step().await;
                        }
                    }
                }
            }
            for replica in &mut all {
                replica.step().await;
            }
        }
        for replica in &mut all {
            replica.heal();
        }
        // One round to tell and hear; conflicts are tried again after 100 ms, so: 250 ms after the last cut.
        let healed = clock.now();
        while clock.now().since(healed) < Duration::from_millis(250) {
            for replica in &mut all {
                replica.step().await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for replica in &mut all {
            replica.sharer.turn(replica.now());
        }
        let now = clock.now();
        let wanted = |end: Option<Time>| {
            let end = end.filter(|end| *end > now)?;
            Some((end != Time::NEVER).then(|| end.since(now)))
        };
        longest
            .into_iter()
            .map(|(slot, end)| {
                let told = all.iter().map(|r| r.left(&slot)).collect();
                (slot, wanted(end), told)
            })
            .collect()
    })
}

fn close(a: Left, b: Left) -> bool {
    // The way through the store, and the sweep of the pools' clocks.
    const SOON: Duration = Duration::from_millis(300);
    match (a, b) {
        (Some(Some(a)), Some(Some(b))) => a.abs_diff(b) <= SOON,
        (Some(Some(end)), None) | (None, Some(Some(end))) => end <= SOON,
        (a, b) => a == b,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 8, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_replicas_agree_soon_after_they_see_each_other_again(story in acts(3, true)) {
        for (slot, _, told) in run(3, story) {
            prop_assert!(told.iter().all(|t| close(*t, told[0])), "{slot:?}: {told:?}");
        }
    }

    #[test]
    fn evidence_is_extended_and_never_shortened_whoever_has_it(story in acts(2, false)) {
        for (slot, wanted, told) in run(2, story) {
            prop_assert!(told.iter().all(|t| close(*t, wanted)), "{slot:?}: {told:?}, not {wanted:?}");
        }
    }
}

#[test]
fn a_return_is_told_although_the_key_was_out_and_back_once_more_before_the_store_was_there() {
    let out = |hold| Act::Out {
        replica: 0,
        key: 1,
        scope: 0,
        hold,
    };
    let back = Act::Back {
        replica: 0,
        key: 1,
        scope: 0,
    };
    let story = vec![out(None), Act::Cut(0), back, out(Some(5)), Act::Wait(6_000)];
    for (slot, _, told) in run(3, story) {
        assert_eq!(told, [None; 3], "{slot:?}");
    }
}
