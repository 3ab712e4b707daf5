//! Workers that die, and what is left of them.

use std::time::Duration;

use serde_json::json;
use tidegate_config::model::Run;
use tidegate_host::{Answer, Code, Content, State, What};

use crate::hosted::{Hosted, call, python, runs, service, until, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_worker_is_killed_is_answered_by_the_next_one() {
    let hosted = Hosted::start(service()).await;
    let first = hosted.ready(1).await[0].pid.unwrap();
    let mut again = call("die_once", json!({"path": hosted.path("died")}));
    again.retry = Some(true);
    let pid = value(hosted.model().call(again).await.unwrap()).unwrap();
    assert_ne!(pid, u64::from(first));
    assert!(!runs(u64::from(first)));
    let mut poison = call("die", json!({}));
    poison.retry = Some(true);
    let fault = hosted.model().call(poison).await.unwrap_err();
    assert_eq!(
        (fault.code, fault.reason),
        (Code::Unavailable, "worker_crashed")
    );
    assert!(fault.message.contains("signal 9"), "{}", fault.message);
    assert_eq!(
        hosted.call("predict", json!({"x": 1})).await.unwrap()["x"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_workers_of_other_machines_ends_after_three_of_them() {
    let hosted = Hosted::start_over_tcp(service()).await;
    hosted.ready(1).await;
    for (method, kwargs, deaths) in [("die", json!({}), 3), ("cut", json!({"path": ""}), 3)] {
        let mut poison = call(method, kwargs);
        poison.retry = Some(true);
        let fault = hosted.model().call(poison).await.unwrap_err();
        assert_eq!(fault.reason, "worker_crashed", "{method}");
        assert!(fault.message.contains("3 times"), "{}", fault.message);
        // Connections that broke are no deaths.
        assert_eq!(hosted.host.counts()[0].deaths, deaths, "{method}");
        assert_eq!(
            hosted.call("predict", json!({"x": 1})).await.unwrap()["x"],
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_connects_again_is_the_same_one() {
    for concurrency in [1, 2] {
        let hosted = Hosted::start_over_tcp(tidegate_config::model::Service {
            concurrency,
            ..service()
        })
        .await;
        let before = hosted.ready(1).await;
        let pid = u64::from(before[0].pid.unwrap());
        let first = hosted.path("first");
        let fault = hosted.call("cut", json!({"path": first})).await;
        let fault = fault.unwrap_err();
        assert_eq!(
            (fault.code, fault.reason),
            (Code::Unavailable, "worker_crashed")
        );
        assert!(fault.message.contains("connection"), "{}", fault.message);
        // What comes meanwhile waits for it.
        let answer = hosted.call("predict", json!({"x": 2})).await.unwrap();
        assert_eq!((&answer["x"], &answer["pid"]), (&json!(2), &json!(pid)));
        let mut again = call("cut", json!({"path": hosted.path("second")}));
        again.retry = Some(true);
        assert_eq!(
            value(hosted.model().call(again).await.unwrap()).unwrap(),
            pid
        );
        let after = hosted.ready(1).await;
        assert_eq!((after[0].pid, after[0].restarts), (before[0].pid, 0));
        assert_eq!(hosted.host.counts()[0].deaths, 0);
        let loads = |what: &What| matches!(what, What::Loaded { .. });
        let loads = hosted
            .events
            .all()
            .iter()
            .filter(|e| loads(&e.what))
            .count();
        assert_eq!(loads, 1, "what it has in memory stays");
        hosted.host.drain(Duration::from_secs(5)).await;
        assert!(!runs(pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_wrote_and_nobody_was_told_of_goes_with_it() {
    let hosted = Hosted::start(service()).await;
    hosted.ready(1).await;
    let fault = hosted.call("half_a_result", json!({})).await.unwrap_err();
    assert_eq!(fault.reason, "worker_crashed");
    until("nothing is left", || {
        hosted.files().is_empty().then_some(())
    })
    .await;
    // One that was told lives as long as somebody holds it, and its worker need not.
    let answer = hosted
        .model()
        .call(call("big", json!({"size": 8 << 20})))
        .await
        .unwrap();
    let _ = hosted.call("die", json!({})).await.unwrap_err();
    hosted.ready(1).await;
    let Answer::Value(value) = answer else {
        panic!("a stream")
    };
    let Content::File(file) = &value.parts[0].content else {
        panic!("so much is a file")
    };
    assert_eq!(std::fs::read(file.path()).unwrap(), vec![b'x'; 8 << 20]);
    drop(value);
    until("nothing is left", || {
        hosted.files().is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_under_load_cost_no_call() {
    let hosted = Hosted::start(tidegate_config::model::Service {
        replicas: 2,
        ..service()
    })
    .await;
    hosted.ready(2).await;
    let (models, stop) = (
        [
            hosted.host.model("test-0").unwrap(),
            hosted.host.model("test-1").unwrap(),
        ],
        std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)),
    );
    let mut callers = Vec::new();
    for number in 0..8 {
        let (model, stop) = (models[number % 2].clone(), stop.clone());
        callers.push(tokio::spawn(async move {
            let mut answered = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let answer = model
                    .call(call("predict", json!({"x": number})))
                    .await
                    .unwrap();
                assert_eq!(value(answer).unwrap()["x"], number);
                answered += 1;
            }
            answered
        }));
    }
    for _ in 0..4 {
        for number in 0..2 {
            let states = hosted.wait(|all| all[number].state == State::Ready).await;
            // A call may lose three workers, so that each of them answers some before it goes.
            let calls = hosted.host.counts()[0].calls;
            until("calls", || {
                (hosted.host.counts()[0].calls > calls + 50).then_some(())
            })
            .await;
            let pid = states[number].pid.unwrap();
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid as i32).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
            hosted.wait(|all| all[number].pid != Some(pid)).await;
        }
    }
    hosted.ready(2).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    assert!(hosted.host.counts()[0].deaths >= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_worker_outlives_its_drain() {
    let hosted = Hosted::start(service()).await;
    let child = hosted
        .call("child", json!({}))
        .await
        .unwrap()
        .as_u64()
        .unwrap();
    let worker = u64::from(hosted.ready(1).await[0].pid.unwrap());
    assert!(runs(child) && runs(worker));
    let path = hosted.path("go");
    let model = hosted.model();
    let running = tokio::spawn({
        let path = path.clone();
        async move { model.call(call("wait_for", json!({"path": path}))).await }
    });
    until("the call", || {
        (hosted.host.counts()[0].running > 0).then_some(())
    })
    .await;
    let host = hosted.host;
    let mut states = host.instances();
    let drained = tokio::spawn(async move {
        host.drain(Duration::from_secs(30)).await;
        host
    });
    states
        .wait_for(|all| all.iter().all(|instance| instance.state == State::Draining))
        .await
        .unwrap();
    std::fs::write(path, "").unwrap();
    assert_eq!(
        value(running.await.unwrap().unwrap()).unwrap().as_u64(),
        Some(worker)
    );
    drained.await.unwrap();
    assert!(!runs(worker));
    until("the end of the child", || (!runs(child)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_host_leaves_no_process() {
    let hosted = Hosted::start(service()).await;
    let child = hosted
        .call("child", json!({}))
        .await
        .unwrap()
        .as_u64()
        .unwrap();
    let worker = u64::from(hosted.ready(1).await[0].pid.unwrap());
    drop(hosted);
    until("the end of both", || {
        (!runs(child) && !runs(worker)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_that_cannot_be_had_is_a_crash_loop_with_its_cause_and_a_good_one_ends_it() {
    let hosted = Hosted::start(tidegate_config::model::Service {
        run: python("model:Broken"),
        ..service()
    })
    .await;
    let states = hosted.wait(|all| all[0].state == State::CrashLoop).await;
    let cause = states[0].cause.clone().unwrap();
    assert!(
        cause.contains("RuntimeError") && cause.contains("no weights"),
        "{cause}"
    );
    assert_eq!(states[0].restarts, 5);
    let fault = hosted.call("predict", json!({})).await.unwrap_err();
    assert_eq!((fault.code, fault.reason), (Code::Unavailable, "no_worker"));
    hosted.host.apply(vec![service()]);
    hosted.ready(1).await;
    assert_eq!(
        hosted.call("predict", json!({"x": 1})).await.unwrap()["x"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn causes_of_a_start_that_fails_are_told_in_words() {
    for (class, words) in [("nowhere:Test", "nowhere"), ("model:Nobody", "Nobody")] {
        let hosted = Hosted::start(tidegate_config::model::Service {
            run: python(class),
            ..service()
        })
        .await;
        let cause = hosted.events.wait(|what| match what {
            What::Died { cause, .. } => Some(cause.clone()),
            _ => None,
        });
        let cause = cause.await;
        assert!(cause.contains(words), "{cause}");
    }
    let Run::Python(mut python) = python("model:Test") else {
        panic!()
    };
    python.executable = "/no/such/python".into();
    let hosted = Hosted::start(tidegate_config::model::Service {
        run: Run::Python(python),
        ..service()
    })
    .await;
    let cause = hosted.events.wait(|what| match what {
        What::Died { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert!(cause.await.starts_with("cannot start `/no/such/python`"));
}
