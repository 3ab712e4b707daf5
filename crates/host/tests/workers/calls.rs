//! What callers get.

use std::time::Duration;

use serde_json::json;
use tidegate_config::model::{ModelVersions, ServiceLimits};
use tidegate_config::values::SizeBound;
use tidegate_host::{Answer, Code, Content, Foreign, Part, What};

use crate::hosted::{Hosted, call, runs, service, until, value};

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_and_faults_are_told() {
    let hosted = Hosted::start(service()).await;
    assert_eq!(
        hosted.call("predict", json!({"x": 7})).await.unwrap()["x"],
        7
    );
    let fault = hosted
        .call("fail", json!({"message": "so"}))
        .await
        .unwrap_err();
    assert_eq!(
        (fault.code, fault.reason, fault.exception.as_deref()),
        (Code::Internal, "model_error", Some("ValueError"))
    );
    let traceback = hosted.events.wait(|what| match what {
        What::Raised { traceback, .. } => Some(traceback.clone()),
        _ => None,
    });
    assert!(traceback.await.contains("raise ValueError"));
    let fault = hosted.call("predict", json!({"y": 1})).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason),
        (Code::InvalidArgument, "bad_arguments")
    );
    let fault = hosted.call("_private", json!({})).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason),
        (Code::Unimplemented, "unknown_method")
    );
    hosted
        .call("say", json!({"line": "hear me"}))
        .await
        .unwrap();
    for stream in [tidegate_host::Stream::Stdout, tidegate_host::Stream::Stderr] {
        hosted
            .events
            .wait(|what| match what {
                What::Line { stream: from, text } if *from == stream && text == "hear me" => {
                    Some(())
                }
                _ => None,
            })
            .await;
    }
    hosted.host.drain(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_beyond_its_time_ends_its_worker_where_it_does_not_stop() {
    let limits = ServiceLimits {
        call_time: Some(Duration::from_millis(200)),
        ..ServiceLimits::default()
    };
    let hosted = Hosted::start(tidegate_config::model::Service {
        limits,
        ..service()
    })
    .await;
    let worker = u64::from(hosted.ready(1).await[0].pid.unwrap());
    let fault = hosted.call("busy", json!({})).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason),
        (Code::DeadlineExceeded, "call_time")
    );
    // The next call waits until the worker was replaced.
    let answer = hosted.call("predict", json!({"x": 2})).await.unwrap();
    assert_ne!(answer["pid"], worker);
    assert!(!runs(worker));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_beyond_its_memory_is_ended_and_its_call_told_why() {
    let limits = ServiceLimits {
        memory: "150MiB".parse::<SizeBound>().unwrap(),
        ..ServiceLimits::default()
    };
    let hosted = Hosted::start(tidegate_config::model::Service {
        limits,
        ..service()
    })
    .await;
    let fault = hosted
        .call("take_memory", json!({"mib": 300}))
        .await
        .unwrap_err();
    assert_eq!(
        (fault.code, fault.reason),
        (Code::ResourceExhausted, "memory_limit")
    );
    assert_eq!(
        hosted.call("predict", json!({"x": 3})).await.unwrap()["x"],
        3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_loaded_on_demand_and_the_oldest_makes_room() {
    let versions = ModelVersions {
        max_loaded: 2,
        preload: vec!["v1".into()],
        ..ModelVersions::default()
    };
    let hosted = Hosted::start(tidegate_config::model::Service {
        versions,
        version: "v0".into(),
        ..service()
    })
    .await;
    hosted.ready(1).await;
    let model = hosted.model();
    assert_eq!(
        model
            .versions()
            .iter()
            .filter(|version| version.loaded)
            .count(),
        2
    );
    model.load("v2").await.unwrap();
    let loaded: Vec<_> = model
        .versions()
        .into_iter()
        .filter(|version| version.loaded)
        .map(|version| version.name)
        .collect();
    assert_eq!(loaded, ["v1", "v2"]);
    // Whether none is named or the default one: both mean the one that is configured.
    for name in ["", "default"] {
        let mut of_default = call("predict", json!({"x": 1}));
        of_default.version = name.to_owned();
        value(model.call(of_default).await.unwrap()).unwrap();
    }
    let loaded: Vec<_> = model
        .versions()
        .into_iter()
        .filter(|version| version.loaded)
        .map(|version| version.name)
        .collect();
    assert_eq!(loaded, ["v0", "v2"]);
    model.release("v2").await;
    until("the release", || {
        (model
            .versions()
            .iter()
            .filter(|version| version.loaded)
            .count()
            == 1)
            .then_some(())
    })
    .await;
    let mut wrong = call("predict", json!({}));
    wrong.version = "../etc".into();
    assert_eq!(
        model.call(wrong).await.unwrap_err().code,
        Code::InvalidArgument
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_the_same_time_become_batches() {
    let hosted = Hosted::start(service()).await;
    hosted.ready(1).await;
    let calls: Vec<_> = (0..8)
        .map(|number| {
            let model = hosted.model();
            tokio::spawn(
                async move { value(model.call(call("embed", json!({"text": number}))).await?) },
            )
        })
        .collect();
    for (number, answer) in calls.into_iter().enumerate() {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer[0], number);
    }
    let counts = &hosted.host.counts()[0];
    assert_eq!(counts.batched, 8);
    assert!(counts.batches < 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_generator_come_in_order_and_a_dropped_stream_frees_its_worker() {
    let hosted = Hosted::start(service()).await;
    let Answer::Items(mut items) = hosted
        .model()
        .call(call("tokens", json!({"count": 100})))
        .await
        .unwrap()
    else {
        panic!()
    };
    for number in 0..100 {
        let item = items.receiver.recv().await.unwrap().unwrap();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&item.json).unwrap(),
            json!({"token": number})
        );
    }
    assert!(items.receiver.recv().await.is_none());
    let Answer::Items(mut items) = hosted
        .model()
        .call(call("tokens", json!({"count": 1_000_000_000})))
        .await
        .unwrap()
    else {
        panic!()
    };
    items.receiver.recv().await.unwrap().unwrap();
    drop(items);
    assert_eq!(
        hosted.call("predict", json!({"x": 5})).await.unwrap()["x"],
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_frees_its_worker() {
    let hosted = Hosted::start(service()).await;
    hosted.ready(1).await;
    let model = hosted.model();
    let running =
        tokio::spawn(async move { model.call(call("sleep", json!({"seconds": 1_000}))).await });
    until("the call", || {
        (hosted.host.counts()[0].running > 0).then_some(())
    })
    .await;
    running.abort();
    assert_eq!(
        hosted.call("predict", json!({"x": 5})).await.unwrap()["x"],
        5
    );
    let mut late = call("sleep", json!({"seconds": 1_000}));
    late.deadline = Some(tokio::time::Instant::now() + Duration::from_millis(100));
    assert_eq!(
        hosted.model().call(late).await.unwrap_err().code,
        Code::DeadlineExceeded
    );
    assert_eq!(
        hosted.call("predict", json!({"x": 6})).await.unwrap()["x"],
        6
    );
}

async fn large_arguments_and_results(hosted: Hosted) {
    hosted.ready(1).await;
    for size in [0_usize, 1, 100_000, 40 << 20] {
        let path = hosted.path("input");
        std::fs::write(&path, vec![b'a'; size]).unwrap();
        let file = Content::File(std::sync::Arc::new(Foreign {
            path,
            len: size as u64,
        }));
        for content in [Content::Inline(vec![b'a'; size].into()), file] {
            let mut with_part = call("length", json!({}));
            with_part.parts.push(Part {
                name: "data".into(),
                content,
                tensor: None,
            });
            assert_eq!(
                value(hosted.model().call(with_part).await.unwrap()).unwrap(),
                json!(size)
            );
        }
        let Answer::Value(big) = hosted
            .model()
            .call(call("big", json!({"size": size})))
            .await
            .unwrap()
        else {
            panic!()
        };
        let length = match &big.parts[0].content {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::File(file) => std::fs::metadata(file.path()).unwrap().len(),
        };
        assert_eq!(length, size as u64);
    }
    // Results that were files are gone with their handles.
    assert!(hosted.files().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn large_arguments_and_results_travel_as_files() {
    large_arguments_and_results(Hosted::start(service()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_arguments_and_results_travel_over_tcp() {
    large_arguments_and_results(Hosted::start_over_tcp(service()).await).await;
}
