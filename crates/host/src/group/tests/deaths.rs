//! Workers that die.

use super::*;

#[tokio::test]
async fn a_call_lost_to_a_crash_runs_on_another_worker_and_one_that_must_not_is_told() {
    let group = group(settings());
    let mut one = Fake::join(&group, 1, 0, 2, 1);
    let again = submit(&group, "again", "", RETRY);
    let once = submit(&group, "once", "", ONCE);
    one.call("again").await;
    one.call("once").await;
    drop(one);
    assert_eq!(fault(once).await, (Code::Unavailable, "worker_crashed"));
    let mut two = Fake::join(&group, 2, 0, 1, 1);
    let call = two.call("again").await;
    two.result(call, "7").await;
    assert_eq!(value(again).await, "7");
    assert_eq!((group.counts().retries, group.counts().deaths), (1, 1));
}

#[tokio::test]
async fn a_call_that_kills_three_workers_is_given_up() {
    let group = group(settings());
    let poison = submit(&group, "poison", "", RETRY);
    for id in 1..=3 {
        let mut worker = Fake::join(&group, id, 0, 1, 1);
        worker.call("poison").await;
    }
    assert_eq!(fault(poison).await, (Code::Unavailable, "worker_crashed"));
}

#[tokio::test]
async fn calls_sent_ahead_to_a_worker_that_dies_were_never_there() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    // Short calls let others be sent ahead.
    for _ in 0..20 {
        let outcome = submit(&group, "short", "", RETRY);
        let call = worker.call("short").await;
        worker.result(call, "1").await;
        value(outcome).await;
    }
    let running = submit(&group, "running", "", RETRY);
    let ahead = submit(&group, "ahead", "", RETRY);
    worker.call("running").await;
    // Whether it is ahead by now depends on the machine's speed; what is told here does not.
    drop(worker);
    let mut next = Fake::join(&group, 2, 0, 2, 1);
    let first = next.call("running").await;
    let second = next.call("ahead").await;
    next.result(first, "1").await;
    next.result(second, "2").await;
    assert_eq!(
        (value(running).await, value(ahead).await),
        ("1".into(), "2".into())
    );
}

#[tokio::test]
async fn a_version_whose_load_kills_three_workers_is_given_up() {
    let group = group(settings());
    let outcome = submit(&group, "a", "v2", ONCE);
    for id in 1..=3 {
        let mut worker = Fake::join(&group, id, 0, 1, 2);
        assert_eq!(worker.next().await.kind, Kind::Load);
    }
    assert_eq!(fault(outcome).await, (Code::Unavailable, "worker_crashed"));
}

#[tokio::test]
async fn a_worker_that_dies_of_its_first_call_had_started_well() {
    let group = group(settings());
    let poison = submit(&group, "poison", "", ONCE);
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    worker.call("poison").await;
    assert!(group.leave(1, "it was killed", false));
    assert_eq!(fault(poison).await, (Code::Unavailable, "worker_crashed"));
    let _idle = Fake::join(&group, 2, 0, 1, 1);
    assert!(!group.leave(2, "it was killed", false));
}
