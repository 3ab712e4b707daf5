//! Items of generators.

use super::*;

#[tokio::test]
async fn items_come_one_by_one_and_credit_follows_what_was_taken() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let outcome = submit(
        &group,
        "tokens",
        "",
        Facts {
            stream: true,
            ..RETRY
        },
    );
    let frame = worker.next().await;
    let meta: serde_json::Value = serde_json::from_slice(&frame.meta).unwrap();
    let credit = meta["credit"].as_u64().unwrap();
    for item in 0..credit {
        worker
            .send(Kind::Item, frame.call, "", item.to_string().as_bytes())
            .await;
    }
    let Answer::Items(mut items) = outcome.await.unwrap().unwrap() else {
        panic!()
    };
    for item in 0..credit {
        assert_eq!(
            items.receiver.recv().await.unwrap().unwrap().json,
            item.to_string()
        );
    }
    let more = worker.next().await;
    assert_eq!(more.kind, Kind::Credit);
    worker.send(Kind::Item, frame.call, "", b"last").await;
    worker.send(Kind::Done, frame.call, "", b"").await;
    assert_eq!(items.receiver.recv().await.unwrap().unwrap().json, "last");
    assert!(items.receiver.recv().await.is_none());
    assert!(group.is_quiet());
}

#[tokio::test]
async fn a_stream_that_has_begun_is_not_run_again_and_one_that_has_not_is() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 2, 1);
    let stream = Facts {
        stream: true,
        ..RETRY
    };
    let begun = submit(&group, "begun", "", stream);
    let fresh = submit(&group, "fresh", "", stream);
    let call = worker.call("begun").await;
    worker.call("fresh").await;
    worker.send(Kind::Item, call, "", b"1").await;
    let Answer::Items(mut items) = begun.await.unwrap().unwrap() else {
        panic!()
    };
    drop(worker);
    assert_eq!(items.receiver.recv().await.unwrap().unwrap().json, "1");
    let fault = items.receiver.recv().await.unwrap().unwrap_err();
    assert_eq!(
        (fault.code, fault.reason),
        (Code::Unavailable, "worker_crashed")
    );
    let mut next = Fake::join(&group, 2, 0, 1, 1);
    let call = next.call("fresh").await;
    next.send(Kind::Done, call, "", b"").await;
    let Answer::Items(mut items) = fresh.await.unwrap().unwrap() else {
        panic!()
    };
    assert!(items.receiver.recv().await.is_none());
}

#[tokio::test]
async fn a_dropped_stream_is_cancelled_and_a_deadline_ends_one() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 2, 1);
    let outcome = submit(
        &group,
        "dropped",
        "",
        Facts {
            stream: true,
            ..RETRY
        },
    );
    let call = worker.call("dropped").await;
    worker.send(Kind::Item, call, "", b"1").await;
    drop(outcome.await.unwrap().unwrap());
    assert_eq!(worker.cancelled().await, call);

    let late = Call {
        deadline: Some(Instant::now() + Duration::from_millis(20)),
        ..self::call("late", "")
    };
    let outcome = group
        .submit(
            0,
            1,
            late,
            Facts {
                stream: true,
                ..RETRY
            },
        )
        .unwrap()
        .1;
    let call = worker.call("late").await;
    worker.send(Kind::Item, call, "", b"1").await;
    let Answer::Items(mut items) = outcome.await.unwrap().unwrap() else {
        panic!()
    };
    assert!(items.receiver.recv().await.unwrap().is_ok());
    assert_eq!(
        items.receiver.recv().await.unwrap().unwrap_err().code,
        Code::DeadlineExceeded
    );
    assert_eq!(worker.cancelled().await, call);
}

#[tokio::test]
async fn a_worker_that_sends_more_than_its_credit_is_ended() {
    let group = group(settings());
    let mut worker = Fake::join(&group, 1, 0, 1, 1);
    let _outcome = submit(
        &group,
        "tokens",
        "",
        Facts {
            stream: true,
            ..RETRY
        },
    );
    let call = worker.call("tokens").await;
    for _ in 0..200 {
        worker.send(Kind::Item, call, "", b"1").await;
    }
    assert!(worker.kills.recv().await.unwrap().contains("credit"));
}
