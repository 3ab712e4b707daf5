//! Reloads, other configurations, ends.

use std::time::Duration;

use serde_json::json;
use tidegate_host::{Address, State, What};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::hosted::{Hosted, call, python, runs, service, until, value};

#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_a_worker_is_replaced_lets_its_calls_finish() {
    let hosted = std::sync::Arc::new(Hosted::start(service()).await);
    let pid = hosted.ready(1).await[0].pid.unwrap();
    let go = hosted.path("go");
    let waits = call("wait_for", json!({"path": go}));
    let model = hosted.model();
    let running = tokio::spawn(async move { model.call(waits).await });
    until("the call runs", || {
        (hosted.host.counts()[0].running == 1).then_some(())
    })
    .await;
    // The next worker does not become ready.
    std::fs::write(hosted.path("model.py"), "import time\ntime.sleep(1000)\n").unwrap();
    let reloading = {
        let hosted = hosted.clone();
        tokio::spawn(async move { hosted.host.reload(None).await })
    };
    hosted
        .events
        .wait(|what| matches!(what, What::Started { revision: 2 }).then_some(()))
        .await;
    let ending = {
        let hosted = hosted.clone();
        tokio::spawn(async move { hosted.host.drain(Duration::from_secs(60)).await })
    };
    hosted
        .events
        .wait(|what| matches!(what, What::Draining).then_some(()))
        .await;
    assert!(!running.is_finished());
    std::fs::write(&go, "").unwrap();
    let answer = value(running.await.unwrap().unwrap()).unwrap();
    assert_eq!(answer, json!(pid));
    ending.await.unwrap();
    assert!(reloading.await.unwrap().is_err());
    assert!(!runs(u64::from(pid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_and_comes_back_has_its_socket_although_the_former_one_still_drains() {
    let hosted = Hosted::start(service()).await;
    let before = hosted.ready(1).await[0].clone();
    let go = hosted.path("go");
    let Some(Address::Unix(socket)) = before.address else {
        panic!()
    };
    // A call through the door, which stays open for it.
    let mut caller = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let body = json!({"path": go}).to_string();
    let request = format!(
        "POST /test/wait_for HTTP/1.1\r\nhost: door\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    caller.write_all(request.as_bytes()).await.unwrap();
    until("the call runs", || {
        (hosted.host.counts()[0].running == 1).then_some(())
    })
    .await;
    hosted.host.apply(Vec::new());
    hosted
        .events
        .wait(|what| matches!(what, What::Draining).then_some(()))
        .await;
    hosted.host.apply(vec![service()]);
    // Long enough for the one that comes to begin, if it does not wait for the other.
    let begun = until("another worker", || {
        let states = hosted.host.instances().borrow().clone();
        states
            .iter()
            .any(|state| state.pid != before.pid)
            .then_some(())
    });
    let _ = tokio::time::timeout(Duration::from_millis(500), begun).await;
    std::fs::write(&go, "").unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    hosted
        .events
        .wait(|what| matches!(what, What::Stopped).then_some(()))
        .await;
    let after = hosted
        .wait(|all| all.len() == 1 && all[0].state == State::Ready && all[0].pid != before.pid)
        .await;
    assert_eq!(after[0].address, Some(Address::Unix(socket.clone())));
    tokio::net::UnixStream::connect(&socket).await.unwrap();
    assert_eq!(
        hosted.call("predict", json!({"x": 1})).await.unwrap()["x"],
        1
    );
    hosted.host.drain(Duration::from_secs(20)).await;
    assert!(hosted.host.instances().borrow().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_is_mended_makes_calls_wait_again() {
    let broken = tidegate_config::model::Service {
        run: python("model:Broken"),
        ..service()
    };
    let hosted = Hosted::start(broken).await;
    hosted.wait(|all| all[0].state == State::CrashLoop).await;
    let fault = hosted.call("predict", json!({"x": 1})).await.unwrap_err();
    assert_eq!(fault.reason, "no_worker");
    hosted.host.apply(vec![service()]);
    hosted
        .events
        .wait(|what| matches!(what, What::Started { revision: 2 }).then_some(()))
        .await;
    assert_eq!(
        hosted.call("predict", json!({"x": 1})).await.unwrap()["x"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_replaces_workers_without_a_lost_call() {
    let hosted = Hosted::start(tidegate_config::model::Service {
        replicas: 2,
        ..service()
    })
    .await;
    let before: Vec<_> = hosted
        .ready(2)
        .await
        .iter()
        .map(|instance| instance.pid)
        .collect();
    let (model, stop) = (
        hosted.model(),
        std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)),
    );
    let caller = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut pids = std::collections::BTreeSet::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Not one that runs again.
                let mut once = call("predict", json!({"x": 1}));
                once.retry = Some(false);
                pids.insert(
                    value(model.call(once).await.unwrap()).unwrap()["pid"]
                        .as_u64()
                        .unwrap(),
                );
            }
            pids
        }
    });
    for _ in 0..3 {
        hosted.host.reload(Some("test")).await.unwrap();
    }
    let after = hosted.ready(2).await;
    assert!(
        after
            .iter()
            .all(|instance| !before.contains(&instance.pid) && instance.revision == 4)
    );
    until("a call on a new worker", || {
        (hosted.host.counts()[0].calls > 0).then_some(())
    })
    .await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(!caller.await.unwrap().is_empty());
    for pid in before.into_iter().flatten() {
        until("the end of the old ones", || {
            (!runs(u64::from(pid))).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_fails_leaves_the_old_worker() {
    let hosted = Hosted::start(service()).await;
    let before = hosted.ready(1).await[0].pid;
    let source = std::fs::read_to_string(hosted.path("model.py")).unwrap();
    std::fs::write(hosted.path("model.py"), "syntax error").unwrap();
    let error = hosted.host.reload(None).await.unwrap_err();
    assert!(error.to_string().contains("SyntaxError"), "{error}");
    assert_eq!(
        hosted.call("predict", json!({"x": 1})).await.unwrap()["pid"].as_u64(),
        before.map(u64::from)
    );
    std::fs::write(hosted.path("model.py"), source).unwrap();
    hosted.host.reload(None).await.unwrap();
    assert_ne!(hosted.ready(1).await[0].pid, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_come_and_go_as_they_are_wanted() {
    let hosted = Hosted::start(service()).await;
    let first = hosted.ready(1).await[0].pid;
    hosted.host.apply(vec![tidegate_config::model::Service {
        replicas: 3,
        ..service()
    }]);
    let three = hosted.ready(3).await;
    assert_eq!(three[0].pid, first);
    hosted.host.apply(vec![tidegate_config::model::Service {
        replicas: 1,
        ..service()
    }]);
    assert_eq!(hosted.ready(1).await[0].pid, first);
    for instance in &three[1..] {
        assert!(!runs(u64::from(instance.pid.unwrap())));
        let Some(Address::Unix(path)) = &instance.address else {
            panic!()
        };
        assert!(!path.exists());
    }
    hosted.host.apply(Vec::new());
    hosted.wait(<[_]>::is_empty).await;
    assert!(!runs(u64::from(first.unwrap())));
}
