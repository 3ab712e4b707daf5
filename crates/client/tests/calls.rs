//! The client against a server that does as it is told.

mod common;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Cutter, Fake, until};
use serde_json::{Value, json};
use tidegate_client::{Balance, Client, Code, Error, Input, Retry};
use tonic::Status;

/// Retries without long waits.
fn fast() -> Retry {
    Retry {
        initial: Duration::from_millis(5),
        max: Duration::from_millis(50),
        ..Retry::default()
    }
}

fn client(fake: &Fake) -> Client {
    Client::builder([fake.name()])
        .retry(fast())
        .build()
        .unwrap()
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(3);
    (0..length).map(|_| random.u8(..)).collect()
}

fn digest(data: &[u8]) -> Value {
    let sum: u64 = data.iter().map(|byte| u64::from(*byte)).sum();
    json!({"size": data.len(), "sum": sum})
}

#[tokio::test]
async fn a_unary_call_carries_arguments_version_input_and_metadata() {
    let fake = Fake::start();
    let call = client(&fake)
        .call("predict")
        .kwargs(&json!({"text": "ä"}))
        .version("v2")
        .input(Input::bytes(vec![7; 10]));
    let answer = call
        .metadata("x-request-id", "r1")
        .unwrap()
        .unary()
        .await
        .unwrap();
    assert_eq!(answer, json!({"kwargs": {"text": "ä"}}));
    let seen = &fake.seen()[0];
    assert_eq!(
        (seen.method.as_str(), seen.version.as_str(), seen.binary),
        ("predict", "v2", 10)
    );
    assert_eq!(seen.header("x-request-id"), Some("r1"));
    assert_eq!(seen.header("grpc-previous-rpc-attempts"), None);
}

#[tokio::test]
async fn an_unavailable_service_is_asked_again_and_told_how_often() {
    let fake = Fake::start();
    fake.fail(Status::unavailable("later"))
        .fail(Status::unavailable("later"));
    client(&fake).predict(&json!({})).await.unwrap();
    let told: Vec<_> = fake
        .seen()
        .iter()
        .map(|seen| seen.header("grpc-previous-rpc-attempts").map(str::to_owned))
        .collect();
    assert_eq!(told, [None, Some("1".to_owned()), Some("2".to_owned())]);
}

#[tokio::test]
async fn after_five_attempts_the_failure_is_told() {
    let fake = Fake::start();
    for _ in 0..9 {
        fake.fail(Status::unavailable("down"));
    }
    let error = client(&fake).predict(&json!({})).await.unwrap_err();
    assert_eq!((error.code(), fake.seen().len()), (Code::Unavailable, 5));
}

#[tokio::test]
async fn an_error_of_the_model_is_not_asked_for_twice() {
    let fake = Fake::start();
    let mut told = tonic::metadata::MetadataMap::new();
    told.insert("x-tidegate-error", "model_error".parse().unwrap());
    fake.fail(Status::with_metadata(
        Code::Internal,
        "ValueError: cold",
        told,
    ));
    let error = client(&fake).predict(&json!({})).await.unwrap_err();
    assert!(
        matches!(&error, Error::Status(status) if status.message == "ValueError: cold"),
        "{error}"
    );
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn training_is_repeated_only_with_an_idempotency_key() {
    let fake = Fake::start();
    fake.fail(Status::unavailable("died"));
    assert!(client(&fake).train(&json!({})).await.is_err());
    fake.fail(Status::unavailable("died"));
    client(&fake)
        .call("train")
        .idempotency_key("k1")
        .unwrap()
        .unary()
        .await
        .unwrap();
    let keys: Vec<_> = fake
        .seen()
        .iter()
        .map(|seen| seen.header("idempotency-key").map(str::to_owned))
        .collect();
    assert_eq!(keys, [None, Some("k1".to_owned()), Some("k1".to_owned())]);
}

#[tokio::test]
async fn a_server_that_is_away_is_tried_again_whatever_the_method() {
    let address = Fake::start().address;
    let calling = {
        let client = Client::builder([address.to_string()])
            .retry(Retry {
                initial: Duration::from_millis(200),
                ..fast()
            })
            .build()
            .unwrap();
        tokio::spawn(async move { client.train(&json!({})).await })
    };
    tokio::task::yield_now().await;
    let _fake = Fake::at(address);
    calling.await.unwrap().unwrap();
}

#[tokio::test]
async fn several_servers_have_the_calls_in_turn_and_none_fails_when_one_dies() {
    let (one, two) = (Fake::start(), Fake::start());
    for balance in [Balance::RoundRobin, Balance::LeastRequests] {
        let client = Client::builder([one.name(), two.name()])
            .retry(fast())
            .balance(balance)
            .build()
            .unwrap();
        for _ in 0..10 {
            client.predict(&json!({})).await.unwrap();
        }
    }
    assert_eq!((one.seen().len(), two.seen().len()), (10, 10));
    let client = Client::builder([one.name(), two.name()])
        .retry(fast())
        .build()
        .unwrap();
    client.predict(&json!({})).await.unwrap();
    drop(one);
    for _ in 0..10 {
        client.predict(&json!({})).await.unwrap();
    }
    assert!(two.seen().len() >= 20);
}

#[tokio::test]
async fn a_server_that_comes_back_is_used_again() {
    let (one, two) = (Fake::start(), Fake::start());
    let client = Client::builder([one.name(), two.name()])
        .retry(fast())
        .build()
        .unwrap();
    let address = one.address;
    drop(one);
    for _ in 0..4 {
        client.predict(&json!({})).await.unwrap();
    }
    let one = Fake::at(address);
    for _ in 0..1000 {
        client.predict(&json!({})).await.unwrap();
        if !one.seen().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it was not used again");
}

#[tokio::test]
async fn the_deadline_bounds_the_call_and_is_told() {
    let fake = Fake::start();
    let call = client(&fake)
        .call("predict")
        .kwargs(&json!({"hangs": true}))
        .deadline(Duration::from_millis(300));
    assert!(matches!(call.unary().await, Err(Error::Deadline)));
    assert!(fake.seen()[0].header("grpc-timeout").is_some());
    let stays = client(&fake)
        .call("stays")
        .deadline(Duration::from_millis(300));
    assert!(matches!(stays.send().await, Err(Error::Deadline)));
}

#[tokio::test]
async fn an_input_arrives_whole_from_bytes_a_file_and_a_reader() {
    let (fake, data) = (Fake::start(), noise(3_000_000));
    let client = client(&fake);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &data).unwrap();
    let reader = std::io::Cursor::new(data.clone());
    for input in [
        Input::bytes(data.clone()),
        Input::path(file.path()),
        Input::reader(reader.clone(), Some(3_000_000)),
        Input::reader(reader, None),
    ] {
        let output = client
            .call("digest")
            .version("v1")
            .input(input)
            .send()
            .await
            .unwrap();
        assert_eq!(output.value, digest(&data));
    }
    let sizes: Vec<_> = fake
        .seen()
        .iter()
        .map(|seen| seen.kwargs["_aipod_binary_size"].as_u64())
        .collect();
    assert_eq!(
        sizes,
        [Some(3_000_000), Some(3_000_000), Some(3_000_000), None]
    );
    assert!(fake.seen().iter().all(|seen| seen.version == "v1"));
}

#[tokio::test]
async fn heartbeats_and_the_way_of_an_upload_are_told() {
    let fake = Fake::start();
    let (beats, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (beat, upload) = (Arc::clone(&beats), Arc::clone(&sent));
    let call = client(&fake)
        .call("slow")
        .input(Input::bytes(noise(600_000)));
    let call = call.on_heartbeat(move || {
        beat.fetch_add(1, Ordering::SeqCst);
    });
    let call = call.on_upload(move |done, all| {
        assert_eq!(all, Some(600_000));
        upload.store(done, Ordering::SeqCst);
    });
    assert_eq!(call.send().await.unwrap().value, Value::Null);
    assert_eq!(
        (beats.load(Ordering::SeqCst), sent.load(Ordering::SeqCst)),
        (3, 600_000)
    );
}

#[tokio::test]
async fn items_come_one_by_one_and_a_late_error_is_told_once_and_not_retried() {
    let fake = Fake::start();
    let mut items = client(&fake)
        .call("count")
        .kwargs(&json!({"n": 3}))
        .stream();
    let mut got = Vec::new();
    while let Some(item) = items.next().await {
        got.push(item.unwrap().json::<u64>().unwrap());
    }
    assert_eq!(got, [0, 1, 2]);
    let mut items = client(&fake)
        .call("count")
        .kwargs(&json!({"n": 1, "fails": true}))
        .idempotency_key("k")
        .unwrap()
        .stream();
    assert!(items.next().await.unwrap().is_ok());
    assert_eq!(
        items.next().await.unwrap().unwrap_err().code(),
        Code::Unavailable
    );
    assert!(items.next().await.is_none());
    assert_eq!(fake.seen().len(), 2);
}

#[tokio::test]
async fn a_generator_is_no_single_result() {
    let fake = Fake::start();
    let error = client(&fake)
        .call("count")
        .kwargs(&json!({"n": 2}))
        .send()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Answer(_)), "{error}");
}

#[tokio::test]
async fn a_stream_that_is_dropped_cancels_the_call() {
    let fake = Fake::start();
    let beats = Arc::new(AtomicU64::new(0));
    let beat = Arc::clone(&beats);
    let items = client(&fake).call("stays").on_heartbeat(move || {
        beat.fetch_add(1, Ordering::SeqCst);
    });
    let items = items.stream();
    until("a heartbeat", || beats.load(Ordering::SeqCst) > 0).await;
    drop(items);
    until("the call's end", || fake.state().ended == 1).await;
}

#[tokio::test]
async fn who_wants_it_is_told_how_far_the_method_is() {
    let fake = Fake::start();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let call = client(&fake).call("steps");
    let call = call.on_progress(move |progress| told.lock().unwrap().push(progress.clone()));
    assert_eq!(call.send().await.unwrap().value, json!(true));
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len(), 2);
    assert_eq!(
        (seen[0].progress, seen[0].stage.as_deref()),
        (Some(0.5), Some("fit"))
    );
    assert_eq!(
        (&seen[0].message, &seen[0].data),
        (&None, &json!({"loss": 1}))
    );
    let silent = client(&fake).call("steps").send().await.unwrap();
    assert_eq!(silent.value, json!(false));
}

#[tokio::test]
async fn a_host_without_heartbeats_has_lost_the_call() {
    let fake = Fake::start();
    let client = Client::builder([fake.name()])
        .retry(Retry::never())
        .heartbeat_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let error = client.call("silent").send().await.unwrap_err();
    assert!(
        matches!(&error, Error::Connection { message, .. } if message.contains("heartbeat")),
        "{error}"
    );
}

#[tokio::test]
async fn a_call_waits_for_a_service_that_has_not_begun_to_answer() {
    let fake = Fake::start();
    let client = Client::builder([fake.name()])
        .retry(Retry::never())
        .heartbeat_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    let output = client.call("late").send().await.unwrap();
    assert_eq!(output.value, json!("begun"));
}

#[tokio::test]
async fn what_the_host_says_has_not_begun_is_tried_again_whatever_the_method_and_the_code() {
    let fake = Fake::start();
    for (code, word) in [
        (Code::NotFound, "upload_unknown"),
        (Code::OutOfRange, "upload_offset"),
        (Code::Aborted, "upload_taken"),
        (Code::Unavailable, "draining"),
    ] {
        let mut status = Status::new(code, "not begun");
        let metadata = status.metadata_mut();
        metadata.insert("x-tidegate-error", word.parse().unwrap());
        fake.state().failures = vec![status];
        let before = fake.seen().len();
        let output = client(&fake).call("digest").send().await.unwrap();
        assert_eq!((output.value, fake.seen().len() - before), (digest(&[]), 2));
    }
}

#[tokio::test]
async fn an_upload_that_breaks_at_three_quarters_goes_on_where_it_was() {
    const ALL: u64 = 17_000_000;
    let (fake, data) = (Fake::start(), noise(ALL as usize));
    let cutter = Cutter::start(fake.address, ALL / 4 * 3).await;
    let client = Client::builder([cutter.address.to_string()])
        .retry(fast())
        .build()
        .unwrap();
    let output = client
        .call("digest")
        .input(Input::bytes(data.clone()))
        .send()
        .await
        .unwrap();
    assert_eq!(output.value, digest(&data));
    assert!(cutter.connections.load(Ordering::SeqCst) >= 2);
    let received = fake.state().received;
    assert!(
        (ALL..ALL + 1_000_000).contains(&received),
        "{received} bytes came"
    );
    let names: HashSet<_> = fake
        .seen()
        .iter()
        .map(|seen| seen.header("x-tidegate-upload-id").map(str::to_owned))
        .collect();
    assert_eq!(names.len(), 1);
}

#[tokio::test]
async fn a_reader_is_sent_once() {
    let fake = Fake::start();
    let cutter = Cutter::start(fake.address, 1_000_000).await;
    let client = Client::builder([cutter.address.to_string()])
        .retry(fast())
        .build()
        .unwrap();
    let reader = std::io::Cursor::new(noise(3_000_000));
    let error = client
        .call("digest")
        .input(Input::reader(reader, Some(3_000_000)))
        .send()
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Connection { .. }), "{error}");
    assert_eq!(cutter.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_input_that_cannot_be_read_fails_the_call() {
    let fake = Fake::start();
    let error = client(&fake)
        .call("digest")
        .input(Input::path("/no/such/file"))
        .send()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Input(cause) if cause.to_string().contains("/no/such/file")),
        "{error}"
    );
    let broken = tokio_test_reader();
    let error = client(&fake)
        .call("digest")
        .input(Input::reader(broken, None))
        .send()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Input(cause) if cause.to_string() == "the disk is gone"),
        "{error}"
    );
}

/// A reader that fails.
fn tokio_test_reader() -> impl tokio::io::AsyncRead + Send + 'static {
    struct Broken;
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the disk is gone")))
        }
    }
    Broken
}

#[tokio::test]
async fn arguments_must_be_an_object() {
    let fake = Fake::start();
    assert!(matches!(
        client(&fake).predict(&json!([1])).await,
        Err(Error::Arguments(_))
    ));
    assert!(fake.seen().is_empty());
}

#[tokio::test]
async fn without_an_address_a_call_waits_and_then_says_so() {
    let client = Client::builder(Vec::<String>::new())
        .retry(fast())
        .build()
        .unwrap();
    let error = client.predict(&json!({})).await.unwrap_err();
    assert!(error.to_string().contains("no address"), "{error}");
    let fake = Fake::start();
    client.set_addresses([fake.name()]).unwrap();
    client.predict(&json!({})).await.unwrap();
}
