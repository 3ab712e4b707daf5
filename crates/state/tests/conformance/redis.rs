//! What the store in Redis promises when Redis comes and goes, and between processes.

use std::time::Duration;

use tidegate_state::{Event, Guard, Prefix, StateUrl};

use crate::backends::{LONG, Redis, eventually};
use crate::suite::{key, next, put, read};

const HOUR: Duration = Duration::from_secs(3600);

fn keys(event: Event) -> Vec<String> {
    match event {
        Event::Resync(entries) => entries.iter().map(|(key, _)| key.to_string()).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_writes_another_sees() {
    let redis = Redis::start();
    let (one, other) = (redis.store(), redis.store());
    let mut watch = other.watch(&Prefix::all());
    assert_eq!(keys(next(&mut watch).await), [""; 0]);
    let version = put(&one, "k", "v").await;
    assert!(
        matches!(next(&mut watch).await, Event::Put(at, entry) if at == key("k") && entry.version == version)
    );
    let lease = one.acquire(&key("l"), "one", HOUR).await.unwrap();
    assert!(other.acquire(&key("l"), "other", HOUR).await.is_err());
    one.release(&lease).await.unwrap();
    assert!(other.acquire(&key("l"), "other", HOUR).await.unwrap().epoch > lease.epoch);
    assert_eq!(one.add(&key("c"), 2, None, None).await.unwrap(), 2);
    assert_eq!(other.add(&key("c"), 2, None, None).await.unwrap(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_dies_is_told_and_one_that_comes_back_is_followed() {
    let mut redis = Redis::start();
    let (store, other) = (redis.store(), redis.store());
    put(&store, "a", "1").await;
    let lease = store.acquire(&key("l"), "me", HOUR).await.unwrap();
    let mut watch = store.watch(&Prefix::all());
    assert_eq!(keys(next(&mut watch).await), ["a"]);
    redis.kill();
    let error = store
        .put(&key("a"), "2".into(), None, &Guard::NONE)
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    eventually("the loss is known", || async { !store.connected() }).await;
    redis.start_again();
    eventually("it can be written again", || async {
        other
            .put(&key("b"), "2".into(), None, &Guard::NONE)
            .await
            .is_ok()
    })
    .await;
    // Everything anew, once or more often: the write may come before or after the listing.
    let mut known = keys(next(&mut watch).await);
    while known != ["a", "b"] {
        known = match next(&mut watch).await {
            Event::Put(at, _) => {
                known.push(at.to_string());
                known
            }
            event => keys(event),
        };
    }
    assert!(store.connected());
    assert_eq!(store.renew(&lease).await.unwrap().epoch, lease.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_hangs_is_noticed_and_followed_when_it_goes_on() {
    let redis = Redis::start();
    let store = redis.store();
    let mut watch = store.watch(&Prefix::all());
    assert_eq!(keys(next(&mut watch).await), [""; 0]);
    redis.signal("STOP");
    eventually("the silence is noticed", || async { !store.connected() }).await;
    redis.signal("CONT");
    assert_eq!(keys(next(&mut watch).await), [""; 0]);
    put(&store, "a", "1").await;
    assert!(matches!(next(&mut watch).await, Event::Put(at, _) if at == key("a")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgot_everything_still_gives_higher_epochs_and_versions() {
    let (first, second) = (Redis::start(), Redis::start());
    let version = put(&first.store(), "a", "1").await;
    let lease = first.store().acquire(&key("l"), "me", HOUR).await.unwrap();
    let store = second.store();
    assert!(put(&store, "a", "1").await > version);
    let fenced = store
        .put(&key("a"), "2".into(), None, &Guard::NONE.fenced(&lease))
        .await;
    assert!(fenced.is_err());
    assert!(store.acquire(&key("l"), "me", HOUR).await.unwrap().epoch > lease.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prefixes_keep_stores_in_one_redis_apart() {
    let redis = Redis::start();
    let url = |prefix: &str| {
        let text = format!("redis://127.0.0.1:{}?prefix={prefix}", redis.port());
        text.parse::<StateUrl>().unwrap()
    };
    let one = tidegate_state::open(&url("one")).unwrap();
    let two = tidegate_state::open(&url("two")).unwrap();
    put(&one, "a", "1").await;
    assert_eq!(read(&two, "a").await, None);
    assert_eq!(read(&one, "a").await.unwrap(), "1");
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_no_error_at_the_start() {
    let url: StateUrl = "redis://127.0.0.1:1".parse().unwrap();
    let store = tidegate_state::open(&url).unwrap();
    let error = store
        .put(&key("a"), "1".into(), None, &Guard::NONE)
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
}

/// Tells the child, which is this same test, where Redis is. Authorities are read once a process, so it needs its own.
const TLS_URL: &str = "TIDEGATE_TEST_REDIS_URL";
const TLS_TEST: &str = "redis::a_redis_behind_tls_is_reached_when_its_authority_is_trusted";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_behind_tls_is_reached_when_its_authority_is_trusted() {
    if let Ok(url) = std::env::var(TLS_URL) {
        let store = tidegate_state::open(&url.parse().unwrap()).unwrap();
        put(&store, "a", "1").await;
        let mut watch = store.watch(&Prefix::all());
        assert_eq!(keys(next(&mut watch).await), ["a"]);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = folder.path().join("cert.pem");
    std::fs::write(&certificate, pair.cert.pem()).unwrap();
    std::fs::write(
        folder.path().join("key.pem"),
        pair.signing_key.serialize_pem(),
    )
    .unwrap();
    let redis = Redis::start_with_tls(folder);
    let url = format!("rediss://localhost:{}", redis.port());
    let child = |trusted: &std::path::Path| {
        let output = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TLS_TEST])
            .env(TLS_URL, &url)
            .env("SSL_CERT_FILE", trusted)
            .output();
        tokio::time::timeout(LONG, output)
    };
    let trusting = child(&certificate).await.unwrap().unwrap();
    assert!(
        trusting.status.success(),
        "{}",
        String::from_utf8_lossy(&trusting.stdout)
    );
    let other = tempfile::NamedTempFile::new().unwrap();
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(other.path(), stranger.cert.pem()).unwrap();
    let refusing = child(other.path()).await.unwrap().unwrap();
    assert!(!refusing.status.success());
}
