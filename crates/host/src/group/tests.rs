//! Dispatch with workers that do what the test says, over real sockets.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::job::Outcome;
use super::*;
use crate::call::{Answer, Batch, Value};
use crate::events::{Event, Events};
use crate::frame::{self, Frame};
use crate::versions::Pool;
use crate::worker::link::{Link, Writer};
use crate::worker::reader::Reader;

#[derive(Debug)]
struct Silent;

impl Events for Silent {
    fn event(&self, _: Event) {}
}

/// A worker in the hands of the test.
struct Fake {
    stream: UnixStream,
    read: BytesMut,
    kills: mpsc::UnboundedReceiver<String>,
}

impl Fake {
    fn join(group: &Arc<Group>, id: u64, slot: usize, concurrency: u32, most: u32) -> Self {
        Self::join_as(group, id, slot, concurrency, most, 1)
    }

    fn join_as(
        group: &Arc<Group>,
        id: u64,
        slot: usize,
        concurrency: u32,
        most: u32,
        revision: u64,
    ) -> Self {
        let (ours, stream) = UnixStream::pair().unwrap();
        let (read, write) = ours.into_split();
        let mut pool = Pool::new(most);
        pool.begin("");
        pool.finish("");
        let (kill, kills) = mpsc::unbounded_channel();
        let link = Link::new(Writer::Unix(write));
        let instance = format!("test-{slot}").into();
        group.join(Member::new(
            id,
            slot,
            revision,
            instance,
            None,
            link,
            true,
            concurrency,
            pool,
            kill,
        ));
        let group = Arc::clone(group);
        tokio::spawn(async move {
            let mut reader = Reader::new(Box::new(read), 1 << 20);
            let mut messages = Vec::new();
            loop {
                let lost = reader.messages(&mut messages).await.is_err();
                group.heard(id, &mut messages);
                if lost {
                    group.leave(id, "it was killed", false);
                    return;
                }
            }
        });
        Self {
            stream,
            read: BytesMut::new(),
            kills,
        }
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = frame::take(&mut self.read).unwrap() {
                return frame;
            }
            assert!(
                self.stream.read_buf(&mut self.read).await.unwrap() > 0,
                "the host closed the connection"
            );
        }
    }

    /// The next frame, which is a call of `method`.
    async fn call(&mut self, method: &str) -> u64 {
        let frame = self.next().await;
        let meta: serde_json::Value = serde_json::from_slice(&frame.meta).unwrap();
        assert_eq!(
            (frame.kind, &meta["method"]),
            (Kind::Call, &serde_json::json!(method))
        );
        frame.call
    }

    /// Nothing was sent to it before this.
    async fn expect_nothing(&mut self) {
        let read = tokio::time::timeout(Duration::from_millis(30), self.next()).await;
        assert!(read.is_err(), "unexpected: {:?}", read.unwrap());
    }

    async fn send(&mut self, kind: Kind, call: u64, meta: &str, data: &[u8]) {
        let mut out = BytesMut::new();
        frame::put_head(&mut out, kind, false, call, meta.len(), data.len());
        out.extend_from_slice(meta.as_bytes());
        out.extend_from_slice(data);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn result(&mut self, call: u64, json: &str) {
        self.send(Kind::Result, call, "", json.as_bytes()).await;
    }
}

fn settings() -> Settings {
    Settings {
        queue: 1_000,
        call_time: None,
        memory: None,
        versions_memory: None,
        start_timeout: Duration::from_secs(60),
    }
}

fn group(settings: Settings) -> Arc<Group> {
    Group::new("test".into(), settings, Arc::new(Silent))
}

const RETRY: Facts = Facts {
    retry: true,
    stream: false,
    reload: false,
    batch: None,
};
const ONCE: Facts = Facts {
    retry: false,
    ..RETRY
};

fn call(method: &str, version: &str) -> Call {
    Call {
        method: method.into(),
        version: version.into(),
        kwargs: Bytes::from_static(b"{}"),
        parts: Vec::new(),
        deadline: None,
        retry: None,
        id: String::new(),
    }
}

fn submit(group: &Group, method: &str, version: &str, facts: Facts) -> oneshot::Receiver<Outcome> {
    group.submit(0, 1, call(method, version), facts).unwrap().1
}

async fn value(outcome: oneshot::Receiver<Outcome>) -> String {
    match outcome.await.unwrap().unwrap() {
        Answer::Value(Value { json, .. }) => String::from_utf8(json.to_vec()).unwrap(),
        Answer::Items(_) => panic!("a stream"),
    }
}

async fn fault(outcome: oneshot::Receiver<Outcome>) -> (Code, &'static str) {
    let fault = outcome.await.unwrap().unwrap_err();
    (fault.code, fault.reason)
}

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
    let cancel = worker.next().await;
    assert_eq!((cancel.kind, cancel.call), (Kind::Cancel, call));

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
    assert_eq!(worker.next().await.kind, Kind::Cancel);
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
