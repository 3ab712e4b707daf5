//! What changes under way: batches, versions, inputs, workers that hang.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_a_batch_leaves_behind_goes_when_its_time_is_over_and_not_with_the_clock() {
    let group = group(settings());
    let mut one = Fake::join(&group, 1, 0, 1, 1);
    let mut two = Fake::join(&group, 2, 1, 1, 1);
    let batch = Facts {
        batch: Some(Batch {
            max_size: 3,
            max_delay_us: 7_000,
        }),
        ..RETRY
    };
    let began = Instant::now();
    let outcomes: Vec<_> = (0..4).map(|_| submit(&group, "embed", "", batch)).collect();
    let full = one.next().await;
    assert_eq!(&full.data[..], b"{}{}{}");
    let rest = two.next().await;
    assert_eq!(&rest.data[..], b"{}");
    assert_eq!(began.elapsed(), Duration::from_millis(7));
    drop(outcomes);
}

#[tokio::test]
async fn a_version_that_was_being_loaded_while_it_was_trained_is_loaded_anew() {
    let group = group(settings());
    let mut one = Fake::join(&group, 1, 0, 1, 2);
    let mut two = Fake::join(&group, 2, 1, 1, 2);
    let train = Facts {
        reload: true,
        ..ONCE
    };
    let loaded = group.load(1, 1, "v2", false).unwrap().1;
    let load = one.next().await;
    assert_eq!(load.kind, Kind::Load);
    // The one that has it trains it; the other begins to load it before that is over.
    one.send(Kind::Loaded, load.call, r#"{"version":"v2"}"#, b"")
        .await;
    assert!(loaded.await.unwrap().is_ok());
    let trained = submit(&group, "train", "v2", train);
    let training = one.call("train").await;
    let predicted = submit(&group, "predict", "v2", ONCE);
    let load = two.next().await;
    assert_eq!(load.kind, Kind::Load);
    one.result(training, "{}").await;
    assert_eq!(value(trained).await, "{}");
    // What the second one loads is of before: the first one loads anew, and takes the call.
    let anew = one.next().await;
    assert_eq!(anew.kind, Kind::Load);
    two.send(Kind::Loaded, load.call, r#"{"version":"v2"}"#, b"")
        .await;
    let release = two.next().await;
    assert_eq!(
        (release.kind, &release.meta[..]),
        (Kind::Release, br#"{"version":"v2"}"#.as_slice())
    );
    one.send(Kind::Loaded, anew.call, r#"{"version":"v2"}"#, b"")
        .await;
    let call = one.call("predict").await;
    one.result(call, "1").await;
    assert_eq!(value(predicted).await, "1");
}

#[tokio::test]
async fn a_worker_that_was_started_before_a_training_ended_loads_anew() {
    let group = group(settings());
    let mut one = Fake::join(&group, 1, 0, 1, 1);
    // One that has begun to load it, and one that comes back with it.
    let (mut early, mut back) = (Pool::new(1), Pool::new(1));
    early.begin("");
    early.finish("");
    back.keep("");
    let train = Facts {
        reload: true,
        ..ONCE
    };
    let trained = submit(&group, "train", "", train);
    let training = one.call("train").await;
    one.result(training, "{}").await;
    value(trained).await;
    drop(one);
    let mut three = Fake::join_with(&group, 3, back);
    assert_eq!(three.next().await.kind, Kind::Release);
    drop(three);
    let mut two = Fake::join_with(&group, 2, early);
    assert_eq!(two.next().await.kind, Kind::Release);
    let outcome = submit(&group, "predict", "", ONCE);
    let load = two.next().await;
    assert_eq!(load.kind, Kind::Load);
    two.send(Kind::Loaded, load.call, r#"{"version":""}"#, b"")
        .await;
    let call = two.call("predict").await;
    two.result(call, "1").await;
    assert_eq!(value(outcome).await, "1");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_there_costs_the_loaded_one_its_place_once_and_not_at_each_call() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let nowhere = r#"{"code":"NOT_FOUND","reason":"unknown_version","message":"no nope"}"#;
    let outcome = submit(&group, "a", "nope", ONCE);
    assert_eq!(worker.next().await.kind, Kind::Release);
    let load = worker.next().await;
    worker.send(Kind::Error, load.call, nowhere, b"").await;
    assert_eq!(fault(outcome).await, (Code::NotFound, "unknown_version"));
    for _ in 0..3 {
        let refused = group.submit(0, 1, call("a", "nope"), ONCE).unwrap_err();
        assert_eq!(refused.reason, "unknown_version");
    }
    assert_eq!(group.counts().evictions, 1);
    assert!(group.is_unknown("nope"));
    // It is looked for again after a while, or when somebody knows better.
    group.look_again("nope");
    let outcome = submit(&group, "a", "nope", ONCE);
    let load = worker.next().await;
    worker.send(Kind::Error, load.call, nowhere, b"").await;
    fault(outcome).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!group.is_unknown("nope"));
    let _outcome = submit(&group, "a", "nope", ONCE);
    assert_eq!(worker.next().await.kind, Kind::Load);
}

#[tokio::test]
async fn an_input_that_the_host_cannot_read_is_its_own_fault() {
    let group = group(settings());
    let mut worker = Fake::join_from(&group, 1, 0, 1, 1, 1, false);
    let mut upload = call("digest", "");
    upload.parts.push(crate::call::Part {
        name: String::new(),
        content: crate::call::Content::File(Arc::new(crate::call::Foreign {
            path: "/no/such/file".into(),
            len: 7,
        })),
        tensor: None,
    });
    let outcome = group.submit(0, 1, upload, ONCE).unwrap().1;
    let call = worker.call("digest").await;
    assert_eq!(fault(outcome).await, (Code::Internal, "spool"));
    let cancel = worker.next().await;
    assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, call));
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_stopped_in_a_call_is_ended_and_one_that_answers_is_not() {
    let group = group(settings());
    let mut process = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let mut worker = Fake::join_of(&group, 1, Some(process.id()));
    let _outcome = submit(&group, "long", "", RETRY);
    worker.call("long").await;
    // It answers for ten minutes, and then no more.
    for _ in 0..57 {
        let ping = worker.next().await;
        assert_eq!(ping.kind, Kind::Ping);
        worker.send(Kind::Pong, 0, "", b"").await;
    }
    let last = Instant::now();
    assert!(worker.kills.try_recv().is_err());
    let cause = worker.kills.recv().await.unwrap();
    assert!(cause.starts_with("it hung"), "{cause}");
    assert!(last.elapsed() >= Duration::from_secs(60));
    process.kill().unwrap();
    process.wait().unwrap();
}
