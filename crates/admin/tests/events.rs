//! Events over real connections: lists, long polls, streams; and that those who wait are bounded.

use std::time::{Duration, Instant};

use tidegate_admin::{AdminOptions, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod support;
use support::Served;
use support::http::{Answer, get, read_until};

fn seqs(answer: &Answer) -> Vec<u64> {
    answer.json()["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect()
}

fn with_events(n: usize) -> Served {
    let served = Served::new();
    (0..n).for_each(|i| {
        served
            .world
            .state()
            .event("member_added", "ranker-v1", &format!("m{i}"), "")
    });
    served
}

#[tokio::test]
async fn events_come_from_a_number_on_or_the_newest_without_one() {
    let served = with_events(10);
    let some = get(served.address, "/api/v1/events?after=3&limit=4").await;
    assert_eq!(
        (seqs(&some), some.json()["last"].as_u64()),
        (vec![4, 5, 6, 7], Some(7))
    );
    assert_eq!(
        seqs(&get(served.address, "/api/v1/events?limit=2").await),
        [9, 10]
    );
    let none = get(served.address, "/api/v1/events?after=10").await;
    assert_eq!(
        (seqs(&none), none.json()["last"].as_u64()),
        (vec![], Some(10))
    );
    let overview = get(served.address, "/api/v1/overview?after=8").await.json();
    assert_eq!(
        (
            overview["events"].as_array().unwrap().len(),
            overview["last_event"].as_u64()
        ),
        (2, Some(10))
    );
}

#[tokio::test]
async fn a_long_poll_answers_when_something_happens() {
    let served = with_events(1);
    let address = served.address;
    let poll = tokio::spawn(async move { get(address, "/api/v1/events?after=1&wait=30").await });
    served
        .world
        .state()
        .event("member_ejected", "ranker-v1", "m0", "5 consecutive 5xx");
    let answer = poll.await.unwrap();
    assert_eq!(answer.json()["events"][0]["cause"], "5 consecutive 5xx");
}

#[tokio::test]
async fn a_long_poll_answers_empty_when_its_time_is_over() {
    let served = with_events(1);
    let begun = Instant::now();
    let answer = get(served.address, "/api/v1/events?after=1&wait=0.25").await;
    assert!(seqs(&answer).is_empty() && begun.elapsed() >= Duration::from_millis(250));
}

async fn stream(served: &Served, path: &str, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_stream_tells_what_was_and_what_comes_and_resumes_where_it_was() {
    let served = with_events(3);
    let mut first = stream(&served, "/api/v1/events?limit=2", "").await;
    let seen = read_until(&mut first, "\"m2\"").await;
    assert!(seen.contains("content-type: text/event-stream"), "{seen}");
    assert!(
        !seen.contains("\"m0\"") && seen.contains("\"m1\""),
        "the newest two: {seen}"
    );
    served
        .world
        .state()
        .event("member_removed", "ranker-v1", "m3", "a\nb");
    let seen = read_until(&mut first, "member_removed").await;
    let id = seen
        .split("id: ")
        .last()
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned();
    assert!(id.ends_with("-4"), "{id}");
    drop(first);
    served
        .world
        .state()
        .event("member_added", "ranker-v1", "m4", "");
    let mut second = stream(
        &served,
        "/api/v1/events",
        &format!("last-event-id: {id}\r\n"),
    )
    .await;
    let seen = read_until(&mut second, "\"m4\"").await;
    assert!(!seen.contains("\"m3\""), "told already: {seen}");
    let mut third = stream(&served, "/api/v1/events", "last-event-id: anotherrun-4\r\n").await;
    let seen = read_until(&mut third, "\"m4\"").await;
    assert!(
        seen.contains("\"m0\""),
        "all of this run is new to it: {seen}"
    );
}

#[tokio::test]
async fn those_who_wait_are_bounded_and_a_slot_comes_back() {
    let limits = Limits {
        waiting: 1,
        ..Limits::default()
    };
    let served = Served::with(AdminOptions {
        limits,
        ..AdminOptions::default()
    });
    let mut holder = stream(&served, "/api/v1/events", "").await;
    read_until(&mut holder, "tidegate events").await;
    let refused = get(served.address, "/api/v1/events?after=0&wait=5").await;
    assert_eq!(
        (refused.status, refused.header("x-tidegate-error")),
        (503, "too_many_waiting")
    );
    drop(holder);
    let freed = async {
        while get(served.address, "/api/v1/events?after=0&wait=0.01")
            .await
            .status
            != 200
        {}
    };
    tokio::time::timeout(Duration::from_secs(10), freed)
        .await
        .expect("the slot comes back");
}

#[tokio::test]
async fn the_end_of_the_server_ends_streams_and_long_polls() {
    let served = with_events(1);
    let mut open = stream(&served, "/api/v1/events", "").await;
    read_until(&mut open, "\"m0\"").await;
    let address = served.address;
    let poll = tokio::spawn(async move { get(address, "/api/v1/events?after=1&wait=60").await });
    // The poll has its connection once the server counts it as waiting: a second stream behind it proves that.
    let mut behind = stream(&served, "/api/v1/events", "").await;
    read_until(&mut behind, "\"m0\"").await;
    tokio::time::timeout(Duration::from_secs(10), served.handle.shutdown())
        .await
        .expect("ends in time");
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest).await;
    if let Ok(answer) = poll.await {
        assert_eq!(answer.status, 200);
    }
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nothing listens any more"
    );
}
