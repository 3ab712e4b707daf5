//! The process that owns the embedded store: it may die or be replaced at any time, and no acknowledged write is lost.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::Signal;
use support::{Load, PATIENCE, Running, Site, is_role, pid_in, signal_to, until};
use tidegate_state::{Error, Event, Guard, Key, Prefix, Store, Version};

/// A provider makes the configuration need a store.
const PROVIDER: &str = "providers: [ { name: p, type: openai, api_tokens: [ one ] } ]\n";

fn needing_a_store() -> Site {
    let site = Site::new();
    site.write(&format!("{}{PROVIDER}", site.answering("one")));
    site
}

fn up(site: &Site) -> Running {
    let running = site.up();
    running.wait_for("control ready");
    running
}

/// The process id of the control that became ready last.
fn control(running: &Running) -> u32 {
    pid_in(running.events("control ready").last().unwrap()).unwrap()
}

fn store(site: &Site) -> Arc<dyn Store> {
    tidegate_state::remote(&site.run_folder().join("state.sock"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// Counts in entries, each by one writer alone, until stopped.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<u64>>,
}

impl Writers {
    fn start(store: &Arc<dyn Store>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task =
            |writer: usize| tokio::spawn(count(Arc::clone(store), writer, Arc::clone(&stop)));
        Self {
            tasks: (0..4).map(task).collect(),
            stop,
        }
    }

    /// Stops the writers; fails unless everything that was acknowledged is there.
    async fn stop(self, store: &Arc<dyn Store>) {
        self.stop.store(true, Ordering::Relaxed);
        for (writer, task) in self.tasks.into_iter().enumerate() {
            let number = task.await.unwrap();
            assert!(number > 0);
            let entry = store
                .get(&key(&format!("w/{writer}")))
                .await
                .unwrap()
                .unwrap();
            assert_eq!(entry.value, number.to_string());
        }
    }
}

async fn count(store: Arc<dyn Store>, writer: usize, stop: Arc<AtomicBool>) -> u64 {
    let at = key(&format!("w/{writer}"));
    let (mut number, mut last) = (0, None::<Version>);
    while !stop.load(Ordering::Relaxed) {
        let value = Bytes::from((number + 1).to_string());
        let guard = last.map_or(Guard::absent(), Guard::version);
        match store.put(&at, value.clone(), None, &guard).await {
            Ok(version) => (number, last) = (number + 1, Some(version)),
            // It was done or not: a look tells.
            Err(error) if error.is_unavailable() => match store.get(&at).await {
                Ok(Some(entry)) if Some(entry.version) != last => {
                    assert_eq!(entry.value, value, "what was acknowledged is lost");
                    (number, last) = (number + 1, Some(entry.version));
                }
                Ok(found) => assert_eq!(found.map(|entry| entry.version), last, "lost"),
                Err(error) => assert!(error.is_unavailable(), "{error}"),
            },
            Err(Error::Conflict { current, .. }) => {
                panic!("what was acknowledged is lost: {last:?} is {current:?}")
            }
            Err(error) => panic!("{error}"),
        }
    }
    number
}

#[test]
fn it_runs_only_when_the_configuration_needs_a_store() {
    let site = Site::new();
    let mut running = site.up();
    site.write(&format!("{}{PROVIDER}", site.answering("two")));
    let ready = running.wait_for("control ready");
    let pid = pid_in(&ready).unwrap();
    assert_eq!(site.get(), "two");
    site.write(&site.answering("three"));
    let ended = running.wait_for("control ended");
    assert_eq!(pid_in(&ended), Some(pid));
    assert_eq!(ended["status"], "exit status: 0");
    assert_eq!(running.stop(), Some(0));
    assert_eq!(running.events("control started").len(), 1);
}

#[test]
fn it_ends_after_the_gateways_and_leaves_the_state_for_the_next_start() {
    let site = needing_a_store();
    let mut running = up(&site);
    let socket = site.run_folder().join("state.sock");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let runtime = runtime();
    runtime.block_on(async {
        let put = store(&site)
            .put(&key("a"), "kept".into(), None, &Guard::NONE)
            .await;
        put.unwrap();
    });
    assert_eq!(running.stop(), Some(0));
    running.wait_for("ended");
    let log = running.log();
    let place = |message: &str| {
        log.find(message)
            .unwrap_or_else(|| panic!("{message} in {log}"))
    };
    assert!(place("gateway ended") < place("control ended"));
    let left: BTreeSet<String> = fs::read_dir(site.run_folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // The next one's epoch is higher.
    assert_eq!(left, ["epoch", "lock"].map(String::from).into());
    let _again = up(&site);
    let entry = runtime.block_on(async { store(&site).get(&key("a")).await });
    assert_eq!(entry.unwrap().unwrap().value, "kept");
}

#[test]
fn killed_under_writes_it_comes_back_with_everything_and_no_caller_notices() {
    let site = needing_a_store();
    let mut running = up(&site);
    let load = Load::start(site.port, 1);
    runtime().block_on(async {
        let store = store(&site);
        let mut watch = store.watch(&Prefix::all());
        assert!(matches!(watch.next().await, Event::Resync(_)));
        let lease = store
            .acquire(&key("l"), "test", Duration::from_secs(3600))
            .await
            .unwrap();
        let writers = Writers::start(&store);
        for death in 1..=3 {
            // It is in the middle of writes when they are seen.
            for _ in 0..20 {
                let _ = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
            }
            signal_to(control(&running), Signal::KILL);
            running.wait_for_nth("control ready", death + 1);
            let anew = async { while !matches!(watch.next().await, Event::Resync(_)) {} };
            tokio::time::timeout(PATIENCE, anew).await.unwrap();
        }
        writers.stop(&store).await;
        assert_eq!(store.renew(&lease).await.unwrap().epoch, lease.epoch);
    });
    assert_eq!(load.stop().failures, Vec::<String>::new());
    assert_eq!(running.events("control died: the store is away").len(), 3);
    assert_eq!(running.events("gateway ready").len(), 1);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn an_upgrade_hands_the_store_over_under_writes() {
    let site = needing_a_store();
    let mut first = up(&site);
    let mut second = None;
    let load = Load::start(site.port, 1);
    runtime().block_on(async {
        let store = store(&site);
        let lease = store
            .acquire(&key("l"), "test", Duration::from_secs(3600))
            .await
            .unwrap();
        let writers = Writers::start(&store);
        let upgraded = site.start(&["--upgrade"]);
        upgraded.wait_for("control ready");
        assert_eq!(first.wait().code(), Some(0));
        writers.stop(&store).await;
        assert_eq!(store.renew(&lease).await.unwrap().epoch, lease.epoch);
        second = Some(upgraded);
    });
    assert_eq!(load.stop().failures, Vec::<String>::new());
    let mut second = second.unwrap();
    assert!(first.events("control died: the store is away").is_empty());
    assert!(!is_role("control", control(&first)));
    assert!(is_role("control", control(&second)));
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn it_serves_on_without_its_supervisor_and_the_next_one_takes_the_store_over() {
    let site = needing_a_store();
    let mut first = up(&site);
    let old = control(&first);
    first.signal(Signal::KILL);
    first.wait();
    first.wait_for("the supervisor is gone: serving the store on");
    runtime().block_on(async {
        let store = store(&site);
        let writers = Writers::start(&store);
        let mut second = site.start(&[]);
        second.wait_for("gateway adopted");
        second.wait_for("control ready");
        writers.stop(&store).await;
        assert_ne!(control(&second), old);
        assert!(!is_role("control", old));
        assert_eq!(second.stop(), Some(0));
    });
}

#[test]
fn one_that_an_earlier_run_left_and_that_nothing_needs_ends() {
    let site = needing_a_store();
    let mut first = up(&site);
    let old = control(&first);
    first.signal(Signal::KILL);
    first.wait();
    site.write(&site.answering("two"));
    let mut second = site.start(&[]);
    until("the old control ends", || {
        (!is_role("control", old)).then_some(())
    });
    // The old gateway reads the new configuration by itself, before or after the new supervisor looks.
    until("a gateway serves", || {
        let served = ["gateway adopted", "gateway ready"];
        served
            .iter()
            .any(|message| !second.events(message).is_empty())
            .then_some(())
    });
    assert!(second.events("control started").is_empty());
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn a_state_file_that_cannot_be_used_is_told_and_stops_no_caller() {
    let site = needing_a_store();
    fs::create_dir_all(site.folder.path().join("state")).unwrap();
    fs::write(
        site.folder.path().join("state/state.redb"),
        "not ours".repeat(2000),
    )
    .unwrap();
    let mut running = site.up();
    let died = running.wait_for_nth("control died: the store is away", 2);
    let reason = died["reason"].as_str().unwrap();
    support::assert_holds(reason, &["state.redb", "cannot be used"]);
    assert_eq!(site.get(), "one");
    assert_eq!(running.stop(), Some(0));
}
