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
