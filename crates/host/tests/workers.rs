//! The host with real Python workers: what callers, workers and the machine see of crashes, limits, reloads and ends.

mod hosted;

use std::time::Duration;

use hosted::{Hosted, call, python, runs, service, until, value};
use serde_json::json;
use tidegate_config::model::{HealthCheck, ModelVersions, Probe, Run, ServiceLimits};
use tidegate_config::values::SizeBound;
use tidegate_host::{Address, Answer, Code, Content, Foreign, Part, State, What};

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
    let mut of_default = call("predict", json!({"x": 1}));
    of_default.version.clear();
    value(model.call(of_default).await.unwrap()).unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_ready_when_it_passes_its_checks() {
    let program = "python3 -m http.server --bind 127.0.0.1 $PORT";
    let wanted = tidegate_config::model::Service {
        run: Run::Command(program.split(' ').map(String::from).collect()),
        health_check: Some(HealthCheck {
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(20),
            healthy_after: 2,
            unhealthy_after: 1,
            port: None,
            host: None,
            expected_statuses: Vec::new(),
            probe: Probe::Http("/".into()),
        }),
        ..service()
    };
    let hosted = Hosted::start(wanted.clone()).await;
    let waiting = hosted.wait(|all| all[0].cause.is_some()).await;
    assert_eq!(waiting[0].state, State::Starting);
    assert_eq!(waiting[0].cause.as_deref(), Some("it is not healthy yet"));
    std::fs::write(hosted.path("healthy"), "").unwrap();
    let pid = hosted.ready(1).await[0].pid;
    // One that never passes takes nobody's place, and its last answer is told.
    std::fs::remove_file(hosted.path("healthy")).unwrap();
    hosted.host.apply(vec![tidegate_config::model::Service {
        start_timeout: Duration::from_millis(1_500),
        protocol: tidegate_config::model::Protocol::Http1,
        ..wanted
    }]);
    let cause = hosted.events.wait(|what| match what {
        What::ReloadFailed { cause } => Some(cause.clone()),
        _ => None,
    });
    let cause = cause.await;
    assert!(cause.ends_with(": it is not healthy yet"), "{cause}");
    assert_eq!(hosted.ready(1).await[0].pid, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_listens_is_hosted_and_replaced() {
    let command = [
        "python3",
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "$PORT",
    ]
    .map(String::from)
    .to_vec();
    let hosted = Hosted::start(tidegate_config::model::Service {
        run: Run::Command(command),
        ..service()
    })
    .await;
    let before = hosted.ready(1).await[0].clone();
    let Some(Address::Port(port)) = before.address else {
        panic!()
    };
    tokio::net::TcpStream::connect(("127.0.0.1", port))
        .await
        .unwrap();
    hosted.host.reload(None).await.unwrap();
    let after = hosted.ready(1).await[0].clone();
    assert_ne!(before.address, after.address);
    until("the end of the old one", || {
        (!runs(u64::from(before.pid.unwrap()))).then_some(())
    })
    .await;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(after.pid.unwrap() as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let again = hosted
        .wait(|all| all[0].state == State::Ready && all[0].pid != after.pid)
        .await;
    assert_eq!(again[0].restarts, 1);
    hosted.host.drain(Duration::from_secs(5)).await;
    assert!(!runs(u64::from(again[0].pid.unwrap())));
}
