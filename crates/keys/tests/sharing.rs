//! Replicas share what they find out, through a store in memory and through a real Redis.

mod common;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use tidegate_core::{MemberState, SmallRng, Time};
use tidegate_keys::share::{Sharing, identity, share};
use tidegate_keys::*;
use tidegate_state::*;
use tokio::task::JoinHandle;

struct Replica {
    keys: Arc<Keys>,
    clock: Arc<MonotonicClock>,
    rng: SmallRng,
    task: JoinHandle<()>,
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Replica {
    async fn start(name: &str, store: &Arc<dyn Store>, settings: Vec<Settings>) -> Replica {
        let identity = identity(&**store)
            .await
            .unwrap_or_else(|_| Identity::random());
        Replica::with(name, store, settings, identity, Sharing::default())
    }

    fn with(
        name: &str,
        store: &Arc<dyn Store>,
        settings: Vec<Settings>,
        identity: Identity,
        sharing: Sharing,
    ) -> Replica {
        let clock = Arc::new(MonotonicClock::since(tokio::time::Instant::now()));
        let keys = Arc::new(Keys::new(name, identity));
        keys.apply(settings, clock.now());
        let task = tokio::spawn(share(keys.clone(), store.clone(), clock.clone(), sharing));
        Replica {
            keys,
            clock,
            rng: SmallRng::new(3),
            task,
        }
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn fit(&self, model: &str) -> Vec<usize> {
        fit(&self.keys.provider("p").unwrap(), model, self.now())
    }

    fn attempt(&mut self, key: usize, model: &str, outcome: Outcome<'_>) {
        let provider = self.keys.provider("p").unwrap();
        for _ in 0..1_000 {
            let pick = provider
                .rotation(model, None, 0)
                .next(self.now(), &mut self.rng)
                .unwrap();
            if number(&pick) == key {
                pick.finish(outcome, None, self.now());
                return;
            }
        }
        panic!("key {key} is never chosen");
    }
}

async fn eventually(what: &str, within: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = tokio::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    start.elapsed()
}

const SOON: Duration = Duration::from_millis(250);

async fn three(store: &Arc<dyn Store>, keys: &[usize], more: &str) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for name in ["one", "two", "three"] {
        replicas.push(Replica::start(name, store, vec![settings(keys, more)]).await);
    }
    replicas
}

async fn health_entries(store: &Arc<dyn Store>) -> usize {
    store
        .list(&Prefix::of(&["keys", "health"]).unwrap())
        .await
        .unwrap()
        .entries
        .len()
}

#[tokio::test(start_paused = true)]
async fn what_was_found_out_last_is_in_the_store_once_it_is_told() {
    let store = memory();
    let mut replica = Replica::start("one", &store, vec![settings(&[0, 1], "")]).await;
    // Before the task has run at all.
    replica.attempt(0, "m", Outcome::Answer(&dead()));
    replica.attempt(1, "m", Outcome::Answer(&limited(600)));
    replica.keys.told().await;
    assert_eq!(health_entries(&store).await, 2);
    // With nothing to tell there is nothing to wait for.
    tokio::time::timeout(Duration::from_millis(1), replica.keys.told())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_told_waits_for_a_store_that_is_away() {
    let flaky = Arc::new(Fickle::new(memory()));
    let store: Arc<dyn Store> = flaky.clone();
    let mut replica = Replica::start("one", &store, vec![settings(&[0, 1], "")]).await;
    replica.keys.told().await;
    flaky.set_away(true);
    replica.attempt(0, "m", Outcome::Answer(&dead()));
    let waited = tokio::time::timeout(Duration::from_secs(2), replica.keys.told()).await;
    assert!(waited.is_err());
    flaky.set_away(false);
    replica.keys.told().await;
    assert_eq!(health_entries(&store).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_write_that_panicked_was_to_tell_is_told_again() {
    let flaky = Arc::new(Fickle::new(memory()));
    let store: Arc<dyn Store> = flaky.clone();
    let mut replica = Replica::start("one", &store, vec![settings(&[0, 1], "")]).await;
    replica.keys.told().await;
    flaky.panic_once();
    replica.attempt(0, "m", Outcome::Answer(&dead()));
    tokio::time::timeout(Duration::from_secs(2), replica.keys.told())
        .await
        .unwrap();
    assert_eq!(health_entries(&store).await, 1);
}

#[tokio::test(start_paused = true)]
async fn trap_8_replicas_agree_within_a_quarter_of_a_second() {
    let store = memory();
    let mut all = three(&store, &[0, 1, 2, 3], "").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Evidence, of a key and of a key for a model, and an ejection that failures alone brought about.
    all[0].attempt(0, "m", Outcome::Answer(&dead()));
    all[1].attempt(1, "m", Outcome::Answer(&limited(30)));
    for _ in 0..3 {
        all[2].attempt(2, "m", Outcome::NoAnswer(NoAnswer::Timeout));
    }
    for replica in &all {
        eventually("agreement", SOON, || replica.fit("m") == [3]).await;
        assert_eq!(replica.fit("other"), [1, 2, 3]);
    }
    let until = |replica: &Replica| {
        let provider = replica.keys.provider("p").unwrap();
        let at = health(&provider, 1, "m", replica.now())
            .unwrap()
            .returns_at
            .unwrap();
        replica.now().until(at)
    };
    assert!(until(&all[0]).abs_diff(until(&all[1])) < SOON);
    // Who saw it is told, and what the provider said.
    let provider = all[2].keys.provider("p").unwrap();
    let id = all[2].keys.identity().of("http://127.0.0.1:1", &token(0));
    let note = provider.note(&id, &scope("")).unwrap();
    assert_eq!(
        (note.class.as_str(), note.status, note.seen_by.as_deref()),
        ("key_dead", 401, Some("one"))
    );
    // And back.
    provider.restore(&id, all[2].now());
    for replica in &all {
        eventually("agreement", SOON, || replica.fit("m") == [0, 3]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_replica_tells_the_cause_with_status_and_code_and_who_saw_it() {
    let store = memory();
    let mut all = three(&store, &[0, 1], "").await;
    tokio::time::sleep(SOON).await;
    let told = |replica: &Replica| {
        let events = replica.keys.drain_events().into_iter();
        events.map(|e| e.cause).collect::<Vec<_>>()
    };
    all.iter().for_each(|replica| drop(told(replica)));
    all[0].attempt(0, "m", Outcome::Answer(&dead()));
    tokio::time::sleep(SOON).await;
    let id = all[2].keys.identity().of("http://127.0.0.1:1", &token(0));
    let provider = all[2].keys.provider("p").unwrap();
    provider.restore(&id, all[2].now());
    tokio::time::sleep(SOON).await;
    let causes: Vec<_> = all.iter().map(told).collect();
    assert_eq!(
        causes[0],
        [
            "key dead (401 test_code)",
            "restored by an operator (seen by three)"
        ]
    );
    assert_eq!(
        causes[1],
        [
            "key dead (401 test_code, seen by one)",
            "restored by an operator (seen by three)"
        ]
    );
    assert_eq!(
        causes[2],
        [
            "key dead (401 test_code, seen by one)",
            "restored by an operator"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_what_is_known_of_keys() {
    let store = memory();
    let mut first = Replica::start("one", &store, vec![settings(&[0, 1, 2], "")]).await;
    first.attempt(0, "m", Outcome::Answer(&dead()));
    first.attempt(1, "m", Outcome::Answer(&limited(60)));
    tokio::time::sleep(SOON).await;
    drop(first);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let again = Replica::start("one", &store, vec![settings(&[2, 1, 0], "")]).await;
    eventually("the past is known", SOON, || again.fit("m") == [2]).await;
    let provider = again.keys.provider("p").unwrap();
    let back = health(&provider, 1, "m", again.now())
        .unwrap()
        .returns_at
        .unwrap();
    let left = again.now().until(back);
    assert!(
        left.abs_diff(Duration::from_secs(40)) < Duration::from_secs(1),
        "{left:?}"
    );
    // A key that comes later is known too.
    drop(again);
    let other = Replica::start("one", &store, vec![settings(&[2], "")]).await;
    tokio::time::sleep(SOON).await;
    other.keys.apply(vec![settings(&[2, 0], "")], other.now());
    eventually("a late key's past is known", SOON, || other.fit("m") == [2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_removed_key_leaves_nothing_in_the_store() {
    let store = memory();
    let mut replica = Replica::start("one", &store, vec![settings(&[0, 1, 2], "")]).await;
    replica.attempt(0, "m", Outcome::Answer(&dead()));
    replica.attempt(1, "m", Outcome::Answer(&limited(600)));
    tokio::time::sleep(SOON).await;
    assert_eq!(health_entries(&store).await, 2);
    replica
        .keys
        .apply(vec![settings(&[1, 2], "")], replica.now());
    tokio::time::sleep(SOON).await;
    assert_eq!(health_entries(&store).await, 1);
    // One that is removed while nobody runs, in a store that is this process' alone.
    drop(replica);
    let identity = identity(&*store).await.unwrap();
    let _again = Replica::with(
        "one",
        &store,
        vec![settings(&[2], "")],
        identity,
        Sharing { sole: true },
    );
    tokio::time::sleep(SOON).await;
    assert_eq!(health_entries(&store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_ends_in_the_store_by_itself() {
    let store = memory();
    let mut replica = Replica::start("one", &store, vec![settings(&[0, 1], "")]).await;
    replica.attempt(0, "m", Outcome::Answer(&limited(30)));
    tokio::time::sleep(SOON).await;
    drop(replica);
    assert_eq!(health_entries(&store).await, 1);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(health_entries(&store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_each_goes_on_and_tells_later() {
    let inner = memory();
    let fickle = Arc::new(Fickle::new(inner.clone()));
    let store: Arc<dyn Store> = fickle.clone();
    let mut cut = Replica::start("one", &store, vec![settings(&[0, 1, 2], "")]).await;
    let other = Replica::start("two", &inner, vec![settings(&[0, 1, 2], "")]).await;
    tokio::time::sleep(SOON).await;
    fickle.set_away(true);
    cut.attempt(0, "m", Outcome::Answer(&dead()));
    cut.attempt(1, "m", Outcome::Answer(&limited(60)));
    assert_eq!(cut.fit("m"), [2]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(other.fit("m"), [0, 1, 2]);
    fickle.set_away(false);
    eventually("it is told", SOON, || other.fit("m") == [2]).await;
    let provider = other.keys.provider("p").unwrap();
    let back = health(&provider, 1, "m", other.now())
        .unwrap()
        .returns_at
        .unwrap();
    assert!(other.now().until(back).abs_diff(Duration::from_secs(50)) < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn who_began_without_the_store_takes_over_its_names_and_keeps_what_it_knows() {
    let inner = memory();
    let theirs = identity(&*inner).await.unwrap();
    let other = Replica::start("two", &inner, vec![settings(&[0, 1], "")]).await;
    let fickle = Arc::new(Fickle::new(inner.clone()));
    fickle.set_away(true);
    let store: Arc<dyn Store> = fickle.clone();
    let mut late = Replica::start("one", &store, vec![settings(&[0, 1], "")]).await;
    late.attempt(0, "m", Outcome::Answer(&dead()));
    tokio::time::sleep(Duration::from_secs(5)).await;
    fickle.set_away(false);
    eventually("it is told", Duration::from_secs(2), || {
        other.fit("m") == [1]
    })
    .await;
    assert_eq!(late.fit("m"), [1]);
    assert_eq!(*late.keys.identity(), theirs);
}

struct Redis {
    process: Child,
    port: u16,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Redis {
    fn start() -> Redis {
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let mut process = Command::new("redis-server")
                .args([
                    "--port",
                    &port.to_string(),
                    "--bind",
                    "127.0.0.1",
                    "--save",
                    "",
                ])
                .stdout(Stdio::null())
                .spawn()
                .unwrap_or_else(|e| {
                    panic!("redis-server: {e}; scripts/install-test-deps installs it")
                });
            for _ in 0..500 {
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Redis { process, port };
                }
                if process.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("redis-server does not start");
    }

    fn store(&self) -> Arc<dyn Store> {
        tidegate_state::redis(&format!("redis://127.0.0.1:{}", self.port), "keys-test").unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sharers_agree_through_a_real_redis() {
    let redis = Redis::start();
    let long = Duration::from_secs(20);
    let mut all = Vec::new();
    for name in ["one", "two", "three"] {
        // Each with a connection of its own, as in three processes.
        all.push(Replica::start(name, &redis.store(), vec![settings(&[0, 1, 2], "")]).await);
    }
    all[0].attempt(0, "m", Outcome::Answer(&dead()));
    all[1].attempt(1, "m", Outcome::Answer(&limited(300)));
    for replica in &all {
        eventually("agreement", long, || replica.fit("m") == [2]).await;
    }
    let ids: Vec<_> = all.iter().map(|r| r.keys.identity().of("o", "k")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    let id = all[0].keys.identity().of("http://127.0.0.1:1", &token(0));
    all[2]
        .keys
        .provider("p")
        .unwrap()
        .restore(&id, all[2].now());
    for replica in &all {
        eventually("it is back", long, || replica.fit("m") == [0, 2]).await;
    }
    // How fast, as a figure for people; the machine decides, so nothing is asserted but the order of magnitude.
    let mut worst = Duration::ZERO;
    for round in 0..20 {
        let (teller, hearer) = (round % 3, (round + 1) % 3);
        all[teller].attempt(2, "x", Outcome::Answer(&limited(300)));
        let heard = || all[hearer].fit("x") == [0, 1];
        worst = worst.max(eventually("agreement", long, heard).await);
        let id = all[teller]
            .keys
            .identity()
            .of("http://127.0.0.1:1", &token(2));
        all[teller]
            .keys
            .provider("p")
            .unwrap()
            .restore(&id, all[teller].now());
        for replica in &all {
            eventually("it is back", long, || replica.fit("x") == [0, 1, 2]).await;
        }
    }
    println!("slowest of 20 verdicts to another replica over Redis: {worst:?}");
    assert_eq!(
        health(&all[1].keys.provider("p").unwrap(), 1, "m", all[1].now())
            .unwrap()
            .state,
        MemberState::Ejected
    );
    // A key that goes leaves nothing.
    let store = redis.store();
    for replica in &all {
        replica.keys.apply(vec![settings(&[0], "")], replica.now());
    }
    let start = tokio::time::Instant::now();
    while health_entries(&store).await > 1 {
        assert!(start.elapsed() < long);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
