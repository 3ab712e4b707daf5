//! Which worker runs a call, and when.

use super::*;

#[tokio::test]
async fn a_call_runs_on_the_worker_of_its_door_and_else_on_a_free_one_and_else_waits_in_order() {
    let group = group(settings());
    let mut other = Fake::join(&group, 1, 1, 1, 1);
    let mut own = Fake::join(&group, 2, 0, 1, 1);
    let first = submit(&group, "a", "", ONCE);
    let second = submit(&group, "b", "", ONCE);
    let third = submit(&group, "c", "", ONCE);
    let fourth = submit(&group, "d", "", ONCE);
    let a = own.call("a").await;
    let b = other.call("b").await;
    assert_eq!(group.counts().waiting, 2);
    other.result(b, "2").await;
    assert_eq!(value(second).await, "2");
    let c = other.call("c").await;
    own.result(a, "1").await;
    let d = own.call("d").await;
    other.result(c, "3").await;
    own.result(d, "4").await;
    assert_eq!(
        (value(first).await, value(third).await, value(fourth).await),
        ("1".into(), "3".into(), "4".into())
    );
    assert!(group.is_quiet());
}

#[tokio::test]
async fn beyond_the_queue_calls_are_refused() {
    let group = group(Settings {
        queue: 1,
        ..settings()
    });
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let _running = submit(&group, "a", "", ONCE);
    let _waiting = submit(&group, "b", "", ONCE);
    let refused = group.submit(0, 1, call("c", ""), ONCE).unwrap_err();
    assert_eq!(
        (refused.code, refused.reason),
        (Code::ResourceExhausted, "queue_full")
    );
    worker.call("a").await;
}

#[tokio::test]
async fn a_cancelled_call_leaves_the_queue_or_is_told_to_the_worker() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let (running, _outcome) = group.submit(0, 1, call("running", ""), ONCE).unwrap();
    let (waiting, _outcome) = group.submit(0, 1, call("waiting", ""), ONCE).unwrap();
    let last = submit(&group, "last", "", ONCE);
    assert_eq!(worker.call("running").await, running);
    group.cancel(waiting);
    group.cancel(running);
    let frame = worker.next().await;
    assert_eq!((frame.kind, frame.call), (Kind::Cancel, running));
    // Its place is free only when the worker says so.
    worker.expect_nothing().await;
    worker
        .send(Kind::Error, running, r#"{"code":"CANCELLED"}"#, b"")
        .await;
    let call = worker.call("last").await;
    worker.result(call, "1").await;
    assert_eq!(value(last).await, "1");
}

#[tokio::test]
async fn an_error_of_the_model_is_told_with_code_and_exception() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let outcome = submit(&group, "a", "", RETRY);
    let call = worker.call("a").await;
    let meta =
        r#"{"code":"INVALID_ARGUMENT","reason":"bad_arguments","kind":"TypeError","message":"no"}"#;
    worker.send(Kind::Error, call, meta, b"").await;
    let fault = outcome.await.unwrap().unwrap_err();
    assert_eq!(
        (fault.code, fault.reason, fault.exception.as_deref()),
        (Code::InvalidArgument, "bad_arguments", Some("TypeError"))
    );
    assert_eq!(group.counts().faults["bad_arguments"], 1);
}

#[tokio::test]
async fn calls_are_gathered_until_a_batch_is_full_or_its_time_is_over() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let facts = |delay| Facts {
        batch: Some(Batch {
            max_size: 3,
            max_delay_us: delay,
        }),
        ..RETRY
    };
    let outcomes: Vec<_> = (0..3)
        .map(|_| submit(&group, "embed", "", facts(3_600_000_000)))
        .collect();
    let batch = worker.next().await;
    assert_eq!(batch.kind, Kind::Batch);
    let meta: serde_json::Value = serde_json::from_slice(&batch.meta).unwrap();
    let calls: Vec<u64> = meta["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| call["call"].as_u64().unwrap())
        .collect();
    assert_eq!((calls.len(), &batch.data[..]), (3, b"{}{}{}".as_slice()));
    worker.result(calls[0], "0").await;
    worker
        .send(Kind::Error, calls[1], r#"{"code":"INVALID_ARGUMENT"}"#, b"")
        .await;
    worker.result(calls[2], "2").await;
    let mut outcomes = outcomes.into_iter();
    assert_eq!(value(outcomes.next().unwrap()).await, "0");
    assert_eq!(
        fault(outcomes.next().unwrap()).await.0,
        Code::InvalidArgument
    );
    assert_eq!(value(outcomes.next().unwrap()).await, "2");
    // One alone goes when its time is over.
    let alone = submit(&group, "embed", "", facts(1_000));
    let batch = worker.next().await;
    assert_eq!(
        (batch.kind, &batch.data[..]),
        (Kind::Batch, b"{}".as_slice())
    );
    drop(worker);
    let mut next = Fake::join(&group, 2, 0, 1, 1);
    let batch = next.next().await;
    let meta: serde_json::Value = serde_json::from_slice(&batch.meta).unwrap();
    next.result(meta["calls"][0]["call"].as_u64().unwrap(), "9")
        .await;
    assert_eq!(value(alone).await, "9");
    assert_eq!((group.counts().batches, group.counts().batched), (3, 5));
}

#[tokio::test]
async fn a_call_beyond_its_time_is_told_and_cancelled_and_a_worker_that_does_not_stop_is_killed() {
    let group = group(Settings {
        call_time: Some(Duration::from_millis(20)),
        ..settings()
    });
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let late = submit(&group, "late", "", RETRY);
    let innocent = submit(&group, "innocent", "", RETRY);
    let call = worker.call("late").await;
    assert_eq!(fault(late).await, (Code::DeadlineExceeded, "call_time"));
    let cancel = worker.next().await;
    assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, call));
    assert!(worker.kills.recv().await.unwrap().contains("call_time"));
    drop(worker);
    let mut next = Fake::join(&group, 2, 0, 1, 1);
    let call = next.call("innocent").await;
    next.result(call, "1").await;
    assert_eq!(value(innocent).await, "1");
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_worker_as_long_as_one_may_start_and_not_at_all_where_none_will() {
    let group = group(settings());
    let began = Instant::now();
    assert_eq!(
        fault(submit(&group, "a", "", RETRY)).await,
        (Code::Unavailable, "no_worker")
    );
    assert!(began.elapsed() >= Duration::from_secs(60));
    let waiting = submit(&group, "b", "", RETRY);
    group.give_up("it ended with status 1: no such module");
    assert_eq!(fault(waiting).await.1, "no_worker");
    assert_eq!(
        group.submit(0, 1, call("c", ""), RETRY).unwrap_err().reason,
        "no_worker"
    );
}

#[tokio::test]
async fn a_new_revision_takes_the_calls_of_its_door_and_those_that_wait() {
    let group = group(settings());
    let mut old = Fake::join_as(&group, 1, 0, 1, 1, 1);
    let running = submit(&group, "running", "", ONCE);
    let waiting = submit(&group, "waiting", "", ONCE);
    let call = old.call("running").await;
    let mut new = Fake::join_as(&group, 2, 0, 1, 1, 2);
    let taken = new.call("waiting").await;
    group.close_member(1);
    let of_new = group.submit(0, 2, self::call("new", ""), ONCE).unwrap().1;
    let idle = tokio::spawn({
        let group = Arc::clone(&group);
        async move { group.idle(1).await }
    });
    old.result(call, "1").await;
    idle.await.unwrap();
    value(running).await;
    old.expect_nothing().await;
    new.result(taken, "2").await;
    value(waiting).await;
    let call = new.call("new").await;
    new.result(call, "3").await;
    value(of_new).await;
}

#[tokio::test]
async fn a_worker_with_nothing_to_do_gets_what_waits_in_the_socket_of_a_slow_one() {
    let group = group(settings());
    let mut slow = Fake::join(&group, 1, 0, 1, 1);
    // It seems fast at first.
    let mut ahead = None;
    while ahead.is_none() {
        let outcome = submit(&group, "short", "", RETRY);
        let call = slow.call("short").await;
        slow.result(call, "1").await;
        value(outcome).await;
        let first = submit(&group, "slow", "", RETRY);
        let second = submit(&group, "ahead", "", RETRY);
        let call = slow.call("slow").await;
        if group.counts().waiting == 0 {
            ahead = Some((first, second, call));
            break;
        }
        slow.result(call, "1").await;
        let call = slow.call("ahead").await;
        slow.result(call, "1").await;
        value(first).await;
        value(second).await;
    }
    let (first, second, call) = ahead.unwrap();
    let waiting = slow.call("ahead").await;
    let mut free = Fake::join(&group, 2, 1, 1, 1);
    let cancel = slow.next().await;
    assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, waiting));
    slow.send(Kind::Error, waiting, r#"{"code":"CANCELLED"}"#, b"")
        .await;
    let taken = free.call("ahead").await;
    free.result(taken, "2").await;
    assert_eq!(value(second).await, "2");
    slow.result(call, "1").await;
    assert_eq!(value(first).await, "1");
}

#[tokio::test]
async fn all_callers_of_a_batch_hear_what_it_tells_and_a_call_hears_only_its_own() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 2, 1);
    let hears = || {
        let progress = crate::Progress::default();
        let mut call = call("b", "");
        call.progress = Some(progress.clone());
        (call, progress)
    };
    let batched = Facts {
        batch: Some(Batch {
            max_size: 2,
            max_delay_us: 1_000_000,
        }),
        ..RETRY
    };
    let (one, heard_by_one) = hears();
    let (two, heard_by_two) = hears();
    let (other, heard_by_other) = hears();
    let _first = group.submit(0, 1, one, batched).unwrap();
    let (_, second) = group.submit(0, 1, two, batched).unwrap();
    let batch = worker.next().await;
    assert_eq!(batch.kind, Kind::Batch);
    let meta: serde_json::Value = serde_json::from_slice(&batch.meta).unwrap();
    let (_, third) = group.submit(0, 1, other, ONCE).unwrap();
    let alone = worker.call("b").await;
    let call = |index: usize| meta["calls"][index]["call"].as_u64().unwrap();
    worker
        .send(Kind::Progress, call(0), r#"{"progress":0.5}"#, b"")
        .await;
    worker
        .send(Kind::Progress, alone, r#"{"progress":0.7}"#, b"")
        .await;
    worker.result(call(1), "2").await;
    worker.result(alone, "3").await;
    value(second).await;
    value(third).await;
    for (heard, told) in [
        (heard_by_one, "0.5"),
        (heard_by_two, "0.5"),
        (heard_by_other, "0.7"),
    ] {
        let text = format!(r#"{{"progress":{told}}}"#);
        assert_eq!(heard.take().unwrap(), text);
        assert_eq!(heard.take(), None);
    }
}
