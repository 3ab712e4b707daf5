//! Versions that come and go.

use super::*;

#[tokio::test]
async fn a_version_is_loaded_once_however_many_ask_for_it_at_once() {
    let group = group(settings());
    let mut one = Fake::join(&group, 1, 0, 1, 2);
    let mut two = Fake::join(&group, 2, 1, 1, 2);
    let outcomes: Vec<_> = (0..5).map(|_| submit(&group, "a", "v2", ONCE)).collect();
    let load = one.next().await;
    assert_eq!(
        (load.kind, &load.meta[..]),
        (Kind::Load, br#"{"version":"v2"}"#.as_slice())
    );
    two.expect_nothing().await;
    one.send(Kind::Loaded, load.call, r#"{"version":"v2"}"#, b"")
        .await;
    // From here on the other worker may take a copy, since the calls have waited; only this one answers.
    let mut answered = 0;
    for outcome in outcomes {
        let call = one.call("a").await;
        one.result(call, "1").await;
        value(outcome).await;
        answered += 1;
    }
    assert_eq!(answered, 5);
}

#[tokio::test]
async fn those_who_asked_at_once_get_the_same_error_of_the_load() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 2);
    let outcomes: Vec<_> = (0..3).map(|_| submit(&group, "a", "nope", ONCE)).collect();
    let load = worker.next().await;
    assert_eq!(load.kind, Kind::Load);
    worker
        .send(
            Kind::Error,
            load.call,
            r#"{"code":"NOT_FOUND","reason":"unknown_version","message":"no nope"}"#,
            b"",
        )
        .await;
    for outcome in outcomes {
        assert_eq!(fault(outcome).await, (Code::NotFound, "unknown_version"));
    }
    // The worker goes on with what it has.
    let next = submit(&group, "b", "", ONCE);
    let call = worker.call("b").await;
    worker.result(call, "1").await;
    value(next).await;
}

#[tokio::test]
async fn the_oldest_version_without_calls_makes_room() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 2, 1);
    let running = submit(&group, "long", "", ONCE);
    let long = worker.call("long").await;
    let other = submit(&group, "a", "v2", ONCE);
    worker.expect_nothing().await;
    worker.result(long, "1").await;
    value(running).await;
    let release = worker.next().await;
    assert_eq!(
        (release.kind, &release.meta[..]),
        (Kind::Release, br#"{"version":""}"#.as_slice())
    );
    let load = worker.next().await;
    assert_eq!(load.kind, Kind::Load);
    worker
        .send(Kind::Loaded, load.call, r#"{"version":"v2"}"#, b"")
        .await;
    let call = worker.call("a").await;
    worker.result(call, "2").await;
    assert_eq!(value(other).await, "2");
    assert_eq!(
        (group.counts().evictions, group.loaded()),
        (1, vec!["v2".to_owned()])
    );
}

#[tokio::test]
async fn a_method_that_leaves_another_model_has_every_worker_let_it_go() {
    let group = group(settings());
    let mut one = Fake::join(&group, 1, 0, 1, 1);
    let mut two = Fake::join(&group, 2, 1, 1, 1);
    let trained = submit(
        &group,
        "train",
        "",
        Facts {
            reload: true,
            ..ONCE
        },
    );
    let call = one.call("train").await;
    one.result(call, "true").await;
    value(trained).await;
    assert_eq!(two.next().await.kind, Kind::Release);
    assert!(group.loaded().is_empty());
    let next = submit(&group, "predict", "", RETRY);
    let load = one.next().await;
    assert_eq!(load.kind, Kind::Load);
    one.send(Kind::Loaded, load.call, r#"{"version":""}"#, b"")
        .await;
    let call = one.call("predict").await;
    one.result(call, "1").await;
    value(next).await;
}

const MADE_UP: Facts = Facts {
    made_up: true,
    ..ONCE
};

/// The next frame is a load of this version. Returns what names it.
async fn load_of(worker: &mut Fake, version: &str) -> u64 {
    let frame = worker.next().await;
    let meta: serde_json::Value = serde_json::from_slice(&frame.meta).unwrap();
    assert_eq!(
        (frame.kind, &meta["version"]),
        (Kind::Load, &serde_json::json!(version))
    );
    frame.call
}

async fn release_of(worker: &mut Fake, version: &str) {
    let frame = worker.next().await;
    let meta: serde_json::Value = serde_json::from_slice(&frame.meta).unwrap();
    assert_eq!(
        (frame.kind, &meta["version"]),
        (Kind::Release, &serde_json::json!(version))
    );
}

async fn refuse(worker: &mut Fake, load: u64) {
    let meta = r#"{"code":"INTERNAL","reason":"model_error","message":"no weights"}"#;
    worker.send(Kind::Error, load, meta, b"").await;
}

#[tokio::test]
async fn names_that_callers_make_up_cost_no_version_its_place_until_they_load() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 2, 1);
    for name in ["x1", "x2", "x3"] {
        let outcome = submit(&group, "a", name, MADE_UP);
        let load = load_of(&mut worker, name).await;
        refuse(&mut worker, load).await;
        assert_eq!(fault(outcome).await, (Code::Internal, "load_failed"));
    }
    assert_eq!(
        (group.counts().evictions, group.loaded()),
        (0, vec![String::new()])
    );
    // Two at once: one beside what is there is enough.
    let one = submit(&group, "a", "y1", MADE_UP);
    let two = submit(&group, "a", "y2", MADE_UP);
    let load = load_of(&mut worker, "y1").await;
    worker.expect_nothing().await;
    worker
        .send(Kind::Loaded, load, r#"{"version":"y1"}"#, b"")
        .await;
    release_of(&mut worker, "").await;
    let call = worker.call("a").await;
    worker.result(call, "1").await;
    value(one).await;
    let load = load_of(&mut worker, "y2").await;
    refuse(&mut worker, load).await;
    assert_eq!(fault(two).await.1, "load_failed");
    assert_eq!(
        (group.counts().evictions, group.loaded()),
        (1, vec!["y1".to_owned()])
    );
}

#[tokio::test]
async fn a_version_that_does_not_load_costs_another_its_place_at_most_once() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let outcome = submit(&group, "a", "broken", ONCE);
    release_of(&mut worker, "").await;
    let load = load_of(&mut worker, "broken").await;
    refuse(&mut worker, load).await;
    fault(outcome).await;
    let good = submit(&group, "a", "", ONCE);
    let load = load_of(&mut worker, "").await;
    worker
        .send(Kind::Loaded, load, r#"{"version":""}"#, b"")
        .await;
    let call = worker.call("a").await;
    worker.result(call, "1").await;
    value(good).await;
    for _ in 0..2 {
        let outcome = submit(&group, "a", "broken", ONCE);
        let load = load_of(&mut worker, "broken").await;
        refuse(&mut worker, load).await;
        fault(outcome).await;
    }
    assert_eq!(group.loaded(), [""]);
    // It is mended.
    let outcome = submit(&group, "a", "broken", ONCE);
    let load = load_of(&mut worker, "broken").await;
    worker
        .send(Kind::Loaded, load, r#"{"version":"broken"}"#, b"")
        .await;
    release_of(&mut worker, "").await;
    let call = worker.call("a").await;
    worker.result(call, "2").await;
    value(outcome).await;
    assert_eq!(group.counts().evictions, 2);
}

#[tokio::test]
async fn what_is_remembered_of_versions_that_do_not_load_is_bounded() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    for number in 0..UNKNOWN + 5 {
        let outcome = submit(&group, "a", &format!("x{number}"), MADE_UP);
        let load = worker.next().await;
        refuse(&mut worker, load.call).await;
        fault(outcome).await;
    }
    assert_eq!(group.lock().failed.len(), UNKNOWN);
}

#[tokio::test]
async fn names_that_callers_make_up_hold_up_no_call_of_a_version_that_is_there() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 2, 2);
    let other = submit(&group, "a", "b", ONCE);
    let load = load_of(&mut worker, "b").await;
    worker
        .send(Kind::Loaded, load, r#"{"version":"b"}"#, b"")
        .await;
    let call = worker.call("a").await;
    worker.result(call, "1").await;
    value(other).await;
    let running = submit(&group, "long", "", ONCE);
    let long = worker.call("long").await;
    let _one = submit(&group, "a", "x1", MADE_UP);
    load_of(&mut worker, "x1").await;
    let _two = submit(&group, "a", "x2", MADE_UP);
    let next = submit(&group, "next", "", ONCE);
    // Longer than a call waits for others to make room.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    worker.result(long, "1").await;
    value(running).await;
    // The second name waits for the first; the call that came after it does not.
    let call = worker.call("next").await;
    worker.result(call, "2").await;
    value(next).await;
}
