//! Programs of any kind that listen on `$PORT`.

use std::time::Duration;

use tidegate_config::model::{HealthCheck, Probe, Run};
use tidegate_host::{Address, State, What};

use crate::hosted::{Hosted, runs, service, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_ready_when_it_passes_its_checks() {
    let program = "python3 -m http.server --bind 127.0.0.1 $PORT";
    let wanted = tidegate_config::model::Service {
        run: Run::Command(program.split(' ').map(String::from).collect()),
        restart_after: 0,
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
    // One that fails later is told, until it passes again.
    std::fs::remove_file(hosted.path("healthy")).unwrap();
    let failing = hosted.wait(|all| all[0].unwell.is_some()).await;
    assert_eq!(failing[0].state, State::Ready, "gateways ask by themselves");
    assert_eq!(
        failing[0].unwell.as_ref().unwrap().cause,
        "it is not healthy yet"
    );
    std::fs::write(hosted.path("healthy"), "").unwrap();
    let well = hosted.wait(|all| all[0].unwell.is_none()).await;
    assert_eq!((well[0].pid, well[0].restarts), (pid, 0));
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
async fn a_program_that_goes_on_failing_its_checks_is_started_anew() {
    // It does not end by itself when it is asked to.
    let program = "import http.server, signal, sys\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nhttp.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.BaseHTTPRequestHandler).serve_forever()";
    let wanted = tidegate_config::model::Service {
        run: Run::Command(
            ["python3", "-c", program, "$PORT"]
                .map(String::from)
                .to_vec(),
        ),
        restart_after: 3,
        health_check: Some(HealthCheck {
            interval: Duration::from_millis(20),
            timeout: Duration::from_millis(20),
            healthy_after: 1,
            unhealthy_after: 1,
            port: None,
            host: None,
            expected_statuses: Vec::new(),
            probe: Probe::Http("/".into()),
        }),
        ..service()
    };
    let hosted = Hosted::start(wanted).await;
    std::fs::write(hosted.path("healthy"), "").unwrap();
    let before = hosted.ready(1).await[0].pid;
    std::fs::remove_file(hosted.path("healthy")).unwrap();
    let cause = hosted.events.wait(|what| match what {
        What::Died { cause, .. } => Some(cause.clone()),
        _ => None,
    });
    assert_eq!(
        cause.await,
        "it failed 3 checks in a row: it is not healthy yet"
    );
    until("the end of the old one", || {
        (!runs(u64::from(before.unwrap()))).then_some(())
    })
    .await;
    std::fs::write(hosted.path("healthy"), "").unwrap();
    let after = hosted.ready(1).await[0].clone();
    assert_ne!(after.pid, before);
    assert_eq!((after.restarts, after.unwell), (1, None));
    let cause = after.cause.unwrap();
    assert!(
        cause.contains("failed 3 checks"),
        "why it was started anew: {cause}"
    );
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
