//! Who probes, when, and what a probe brings about. Virtual time; the provider is played.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use common::*;
use tidegate_core::{SmallRng, Time};
use tidegate_keys::probe::{Probe, probe};
use tidegate_keys::share::{Sharing, identity, share};
use tidegate_keys::*;
use tidegate_llm::classify::{Class, Evidence};
use tidegate_state::*;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

/// A provider as probes see it: what it answers by key, and what it was asked by whom.
#[derive(Default)]
struct Played {
    answers: Mutex<BTreeMap<String, Evidence>>,
    asked: Mutex<Vec<(Instant, String, String, String)>>,
    takes: Mutex<Duration>,
    panics: AtomicBool,
}

impl Played {
    fn answer(&self, key: usize, evidence: Evidence) {
        self.answers.lock().unwrap().insert(token(key), evidence);
    }

    fn asked(&self, key: usize) -> Vec<Instant> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|(_, of, ..)| *of == token(key))
            .map(|(at, ..)| *at)
            .collect()
    }

    fn askers(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .asked
            .lock()
            .unwrap()
            .iter()
            .map(|a| a.2.clone())
            .collect();
        names.dedup();
        names
    }
}

struct Prober {
    who: String,
    played: Arc<Played>,
}

#[async_trait]
impl Probe for Prober {
    async fn probe(&self, _: &Arc<Provider>, key: &ApiKey, model: &str) -> Evidence {
        let token = key.token.expose().to_owned();
        let asked = (
            Instant::now(),
            token.clone(),
            self.who.clone(),
            model.to_owned(),
        );
        self.played.asked.lock().unwrap().push(asked);
        assert!(
            !self.played.panics.swap(false, Relaxed),
            "as the test wants"
        );
        let takes = *self.played.takes.lock().unwrap();
        sleep(takes).await;
        self.played
            .answers
            .lock()
            .unwrap()
            .get(&token)
            .cloned()
            .unwrap_or_else(good)
    }
}

struct Replica {
    keys: Arc<Keys>,
    clock: Arc<MonotonicClock>,
    rng: SmallRng,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Replica {
    async fn start(
        name: &str,
        store: &Arc<dyn Store>,
        played: &Arc<Played>,
        more: &str,
    ) -> Replica {
        let identity = identity(&**store)
            .await
            .unwrap_or_else(|_| Identity::random());
        let clock = Arc::new(MonotonicClock::since(Instant::now()));
        let keys = Arc::new(Keys::new(name, identity));
        keys.apply(vec![settings(&[0, 1, 2], more)], clock.now());
        let prober = Arc::new(Prober {
            who: name.to_owned(),
            played: played.clone(),
        });
        let tasks = vec![
            tokio::spawn(share(
                keys.clone(),
                store.clone(),
                clock.clone(),
                Sharing::default(),
            )),
            tokio::spawn(probe(
                keys.clone(),
                store.clone(),
                clock.clone(),
                prober,
                name.to_owned(),
            )),
        ];
        Replica {
            keys,
            clock,
            rng: SmallRng::new(3),
            tasks,
        }
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn provider(&self) -> Arc<Provider> {
        self.keys.provider("p").unwrap()
    }

    fn fit(&self, model: &str) -> Vec<usize> {
        fit(&self.provider(), model, self.now())
    }

    fn attempt(&mut self, key: usize, model: &str, outcome: Outcome<'_>) {
        for _ in 0..1_000 {
            let mut rotation = self.provider().rotation(model, None, 0);
            let pick = rotation.next(self.now(), &mut self.rng).unwrap();
            if number(&pick) == key {
                pick.finish(outcome, None, self.now());
                return;
            }
        }
        panic!("key {key} is never chosen");
    }
}

async fn one(more: &str) -> (Replica, Arc<Played>) {
    let played = Arc::new(Played::default());
    let replica = Replica::start("one", &memory(), &played, more).await;
    sleep(SECOND).await;
    (replica, played)
}

#[tokio::test(start_paused = true)]
async fn a_dead_key_is_probed_with_the_model_that_failed_and_comes_back_when_it_works() {
    let (mut replica, played) = one("").await;
    played.answer(0, dead());
    replica.attempt(0, "gpt-x", Outcome::Answer(&dead()));
    sleep(60 * SECOND).await;
    let asked = played.asked(0);
    // More and more seldom: 5, 10, 20, 40 … s.
    assert!((3..=5).contains(&asked.len()), "{}", asked.len());
    assert!(asked.windows(3).all(|w| w[2] - w[1] > w[1] - w[0]));
    assert!(played.asked.lock().unwrap().iter().all(|a| a.3 == "gpt-x"));
    assert_eq!(replica.fit("m"), [1, 2]);
    played.answer(0, good());
    sleep(60 * SECOND).await;
    assert_eq!(replica.fit("m"), [0, 1, 2]);
    let count = played.asked(0).len();
    sleep(600 * SECOND).await;
    assert_eq!(played.asked(0).len(), count, "who is back is not probed");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_counts_as_failed_and_is_made_again() {
    let (mut replica, played) = one("").await;
    played.panics.store(true, Relaxed);
    replica.attempt(0, "m", Outcome::Answer(&dead()));
    sleep(60 * SECOND).await;
    assert!(!played.panics.load(Relaxed));
    assert_eq!(replica.fit("m"), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_gets_a_capped_half_open_probe_and_a_short_one_none() {
    let (mut replica, played) = one("").await;
    played.answer(0, limited_whole(86_400));
    replica.attempt(0, "m", Outcome::Answer(&limited_whole(86_400)));
    replica.attempt(1, "m", Outcome::Answer(&limited(30)));
    sleep(29 * SECOND).await;
    assert_eq!(played.asked(1).len(), 0, "its time is not over");
    sleep(3600 * SECOND).await;
    // 60, 120, 240, 480, then every 600 s.
    let asked = played.asked(0).len();
    assert!((7..=10).contains(&asked), "{asked}");
    assert_eq!(played.asked(1).len(), 0);
    assert_eq!(replica.fit("other"), [1, 2]);
    played.answer(0, good());
    sleep(700 * SECOND).await;
    assert_eq!(replica.fit("other"), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_told_to_stay_away_longer_extends() {
    let (mut replica, played) = one("").await;
    played.answer(0, limited_whole(1_000));
    replica.attempt(0, "m", Outcome::Answer(&limited_whole(100)));
    sleep(110 * SECOND).await;
    assert!(!played.asked(0).is_empty());
    assert_eq!(replica.fit("m"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn failures_that_count_are_probed_every_interval_whoever_counted_them() {
    let (store, played) = (memory(), Arc::new(Played::default()));
    let more = "failover: { failure_threshold: 2, health_check_interval: 1s }";
    let down = Evidence::local(Class::ProviderDown, 500, "test", "");
    played.answer(0, down.clone());
    let one = Replica::start("one", &store, &played, more).await;
    sleep(SECOND).await;
    let mut two = Replica::start("two", &store, &played, more).await;
    sleep(SECOND).await;
    for _ in 0..2 {
        two.attempt(0, "x", Outcome::Answer(&down));
    }
    sleep(4 * SECOND).await;
    assert!(played.asked(0).len() >= 2, "{}", played.asked(0).len());
    assert_eq!(played.askers(), ["one"]);
    played.answer(0, good());
    sleep(2 * SECOND).await;
    // Before its ten seconds are over.
    assert_eq!(one.fit("x"), [0, 1, 2]);
    assert_eq!(two.fit("x"), [0, 1, 2]);
}

const TWO: &str = "failover: { failure_threshold: 1, success_threshold: 3, health_check_interval: 5s, health_check_timeout: 2s, \
     health_check_model: gpt-3, on_status: [\"4..\", \"5..\"] }\nmodel_mapping: { \"gpt-3\": mapped-3 }";

#[tokio::test(start_paused = true)]
async fn by_status_probes_run_every_interval_and_good_ones_add_up() {
    let (mut replica, played) = one(TWO).await;
    played.answer(0, dead());
    replica.attempt(0, "x", Outcome::Answer(&dead()));
    sleep(52 * SECOND).await;
    let asked = played.asked(0).len();
    assert!((8..=11).contains(&asked), "{asked}");
    assert!(
        played
            .asked
            .lock()
            .unwrap()
            .iter()
            .all(|a| a.3 == "mapped-3"),
        "the model is mapped"
    );
    // Two good ones, a bad one, and the third.
    let next = |played: &Arc<Played>| {
        let (played, before) = (played.clone(), played.asked(0).len());
        async move {
            while played.asked(0).len() == before {
                sleep(Duration::from_millis(50)).await;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    for (answer, fit) in [
        (good(), vec![1, 2]),
        (good(), vec![1, 2]),
        (dead(), vec![1, 2]),
        (good(), vec![0, 1, 2]),
    ] {
        played.answer(0, answer);
        next(&played).await;
        assert_eq!(replica.fit("x"), fit);
    }
}

#[tokio::test(start_paused = true)]
async fn by_status_only_a_200_counts_and_a_probe_that_takes_too_long_does_not() {
    let once = TWO.replace("success_threshold: 3", "success_threshold: 1");
    let (mut replica, played) = one(&once).await;
    played.answer(0, evidence(Class::CallerFault, 404));
    replica.attempt(0, "x", Outcome::Answer(&dead()));
    sleep(30 * SECOND).await;
    assert_eq!(replica.fit("x"), [1, 2]);
    played.answer(0, good());
    *played.takes.lock().unwrap() = 3 * SECOND;
    sleep(30 * SECOND).await;
    assert_eq!(replica.fit("x"), [1, 2], "the timeout is 2 s");
    *played.takes.lock().unwrap() = SECOND;
    sleep(10 * SECOND).await;
    assert_eq!(replica.fit("x"), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn by_status_cooldown_and_probe_whichever_is_first() {
    let both = "failover: { failure_threshold: 1, health_check_interval: 5s, health_check_model: m, cooldown: 60s, on_status: [\"5..\"] }";
    let (mut replica, played) = one(both).await;
    for (answer, longest) in [(good(), 7), (down(), 66)] {
        played.answer(0, answer);
        replica.attempt(0, "x", Outcome::Answer(&down()));
        let start = Instant::now();
        while replica.fit("x").len() < 3 || start.elapsed() < SECOND {
            sleep(Duration::from_millis(100)).await;
        }
        let took = start.elapsed();
        assert!(
            took <= longest * SECOND && took > longest * SECOND / 2,
            "{took:?}"
        );
    }
    // Without a model nothing is probed.
    let (mut replica, played) =
        one("failover: { failure_threshold: 1, cooldown: 10s, on_status: [\"5..\"] }").await;
    replica.attempt(0, "x", Outcome::Answer(&down()));
    sleep(20 * SECOND).await;
    assert_eq!((replica.fit("x").len(), played.asked(0).len()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn one_of_three_probes_and_when_it_dies_another_takes_over_with_at_most_one_probe_twice() {
    let store = memory();
    let played = Arc::new(Played::default());
    let mut all = Vec::new();
    let mut stores = Vec::new();
    for name in ["one", "two", "three"] {
        let own = Arc::new(Fickle::new(store.clone()));
        let used: Arc<dyn Store> = own.clone();
        stores.push(own);
        all.push(Replica::start(name, &used, &played, HIGRESS).await);
    }
    sleep(SECOND).await;
    played.answer(0, dead());
    for _ in 0..3 {
        all[1].attempt(0, "m", Outcome::Answer(&dead()));
    }
    sleep(60 * SECOND).await;
    let first = played.askers();
    assert_eq!(first.len(), 1, "{first:?}");
    let name = Key::of(&["keys", "prober"]).unwrap();
    let epoch = store.lease(&name).await.unwrap().unwrap().epoch;
    let before = played.asked(0).len();
    assert!((9..=13).contains(&before), "{before}");
    // It dies without a word.
    let dead_one = all
        .iter()
        .position(|r| **r.keys.replica() == *first[0])
        .unwrap();
    let killed = Instant::now();
    stores[dead_one].mute();
    drop(all.remove(dead_one));
    sleep(60 * SECOND).await;
    let askers = played.askers();
    assert_eq!(askers.len(), 2, "{askers:?}");
    assert!(store.lease(&name).await.unwrap().unwrap().epoch > epoch);
    let asked = played.asked(0);
    // Within an interval and the lease's time somebody probes again, and never two within the same interval but once.
    let gap = asked
        .iter()
        .find(|at| **at > killed)
        .unwrap()
        .duration_since(killed);
    assert!(gap <= 12 * SECOND, "{gap:?}");
    let close = asked
        .windows(2)
        .filter(|w| w[1] - w[0] < 4 * SECOND)
        .count();
    assert!(close <= 1, "{close}");
    // What the new one finds, all know.
    played.answer(0, good());
    sleep(7 * SECOND).await;
    for replica in &all {
        assert_eq!(replica.fit("m"), [0, 1, 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn seed_scenario_both_keys_return_at_the_right_time() {
    let store = memory();
    let played = Arc::new(Played::default());
    let mut all = Vec::new();
    for name in ["one", "two", "three"] {
        all.push(Replica::start(name, &store, &played, HIGRESS).await);
    }
    sleep(SECOND).await;
    played.answer(0, dead());
    played.answer(1, limited_whole(30));
    // Requests by all replicas: whatever key they get, all are served.
    for i in 0..1_000 {
        let replica = &mut all[i % 3];
        let mut rotation = replica.provider().rotation("m", None, 0);
        loop {
            let pick = rotation
                .next(replica.clock.now(), &mut replica.rng)
                .unwrap();
            let answer = match number(&pick) {
                0 => dead(),
                1 => limited_whole(30),
                _ => good(),
            };
            match rotation.finish(pick, Outcome::Answer(&answer), None, replica.clock.now()) {
                Next::Done => break,
                next => assert_eq!(next, Next::Rotate),
            }
        }
        if i % 50 == 0 {
            sleep(Duration::from_millis(1)).await;
        }
    }
    sleep(Duration::from_millis(250)).await;
    for replica in &all {
        assert_eq!(replica.fit("m"), [2]);
        let provider = replica.provider();
        let of = |i: usize| replica.keys.identity().of("http://127.0.0.1:1", &token(i));
        let causes: Vec<_> = (0..2)
            .map(|i| provider.note(&of(i), &scope("")).unwrap())
            .collect();
        assert_eq!(
            (causes[0].class.as_str(), causes[0].status, causes[0].until),
            ("key_dead", 401, Some(Time::NEVER))
        );
        assert_eq!(
            (causes[1].class.as_str(), causes[1].status),
            ("limited", 429)
        );
        let left = causes[1].until.unwrap().since(replica.now());
        assert!(left > 29 * SECOND && left < 30 * SECOND, "{left:?}");
    }
    sleep(20 * SECOND).await;
    played.answer(0, good());
    sleep(6 * SECOND).await;
    assert!(
        all.iter().all(|r| r.fit("m") == [0, 2]),
        "the probe brings the first one back, the floor of the second holds"
    );
    sleep(4 * SECOND).await;
    assert!(all.iter().all(|r| r.fit("m") == [0, 1, 2]));
    assert_eq!(played.askers().len(), 1);
    assert_eq!(played.asked(1).len(), 0);
}
