//! Active checks of real servers: HTTP, gRPC and TCP, in clear text, over TLS and over Unix sockets.

mod support;

use std::time::{Duration, Instant};

use support::grpc::{Answer, HealthServer};
use support::http::Server;
use support::tls::Authority;
use support::{resolver, soon, upstream};
use tidegate_discovery::{Endpoint, Health, Prober};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;

struct Probes {
    prober: Prober,
    results: mpsc::UnboundedReceiver<(String, Health)>,
}

/// Starts the checks of an upstream given by its YAML, often unless it gives an interval; `endpoints` as addresses.
fn probe(keys: &str, endpoints: &[&str]) -> Probes {
    let mut upstream = upstream(&format!(
        "endpoints: [ {{ address: \"127.0.0.1:9\" }} ]\n{keys}"
    ));
    if let Some(health) = upstream
        .health_check
        .as_mut()
        .filter(|_| !keys.contains("interval"))
    {
        // The configuration wants more time between two checks than one may take: too long for a test.
        health.interval = Duration::from_millis(20);
    }
    let (sender, results) = mpsc::unbounded_channel();
    let health = upstream.health_check.as_ref().expect("a check");
    let prober = Prober::start(&upstream, health, &resolver(), move |id, health| {
        let _ = sender.send((id.to_string(), health.clone()));
    });
    let probes = Probes {
        prober: prober.expect("a prober"),
        results,
    };
    probes.set(endpoints);
    probes
}

impl Probes {
    fn set(&self, endpoints: &[&str]) {
        let endpoints: Vec<Endpoint> = endpoints
            .iter()
            .map(|at| Endpoint::new(at.parse().expect("an address")))
            .collect();
        self.prober.set(&endpoints);
    }

    async fn next(&mut self) -> Health {
        soon("a result", self.results.recv())
            .await
            .expect("the prober runs")
            .1
    }

    async fn until(&mut self, wanted: impl Fn(&Health) -> bool) -> Health {
        loop {
            let health = self.next().await;
            if wanted(&health) {
                return health;
            }
        }
    }
}

fn healthy(changed: bool) -> Health {
    Health {
        healthy: true,
        changed,
        cause: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_checks_count_before_they_change_their_mind() {
    let mut server = Server::start().await;
    let at = server.at.to_string();
    let mut probes = probe(
        "health_check: { http: /healthz?x=1, host: model.test, healthy_after: 2, unhealthy_after: 3 }",
        &[&at],
    );
    let mut answer = async |status: u16| {
        let asked = server.next().await;
        assert_eq!(asked.line, "GET /healthz?x=1");
        assert!(
            asked.head.contains("host: model.test\r\n"),
            "{}",
            asked.head
        );
        asked.reply(status, "", "");
        probes.next().await
    };
    assert_eq!(answer(200).await, healthy(true), "the first success admits");
    let failed = |healthy, changed| Health {
        healthy,
        changed,
        cause: Some("HTTP 503 from /healthz?x=1".into()),
    };
    assert_eq!(answer(503).await, failed(true, false));
    assert_eq!(answer(503).await, failed(true, false));
    assert_eq!(answer(503).await, failed(false, true));
    assert_eq!(
        answer(200).await,
        Health {
            healthy: false,
            changed: false,
            cause: None
        }
    );
    assert_eq!(answer(204).await, healthy(true));
    assert_eq!(
        answer(302).await.cause.as_deref(),
        Some("HTTP 302 from /healthz?x=1"),
        "a redirect is no 2xx"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn expected_statuses_are_the_configured_ones() {
    let mut server = Server::start().await;
    let at = server.at.to_string();
    let mut probes = probe(
        "health_check: { http: /, unhealthy_after: 1, expected_statuses: [401, 300-399] }",
        &[&at],
    );
    for (status, expected) in [
        (401, true),
        (307, true),
        (200, false),
        (399, true),
        (400, false),
    ] {
        server.next().await.reply(status, "", "");
        assert_eq!(probes.next().await.healthy, expected, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_silent_closed_or_speaks_something_else_is_unfit_with_its_cause() {
    let mut server = Server::start().await;
    let at = server.at.to_string();
    let mut probes = probe(
        "health_check: { http: /, timeout: 100ms, unhealthy_after: 1 }",
        &[&at],
    );
    let asked = server.next().await;
    let health = probes.next().await;
    assert_eq!(health.cause.as_deref(), Some("no answer within 100ms"));
    soon("the end of the connection", asked.abandoned()).await;
    server.next().await.raw_and_close("SSH-2.0-x\r\n\r\n");
    assert!(
        probes
            .next()
            .await
            .cause
            .expect("told")
            .contains("no HTTP answer")
    );
    drop(server);
    let health = probes
        .until(|health| {
            health
                .cause
                .as_deref()
                .is_some_and(|cause| cause.contains("refused"))
        })
        .await;
    assert!(!health.healthy);
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_checks_want_a_connection_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound").to_string();
    let mut probes = probe("health_check: { tcp: true, unhealthy_after: 1 }", &[&at]);
    assert_eq!(probes.next().await, healthy(true));
    drop(listener);
    assert!(
        probes
            .until(|health| !health.healthy)
            .await
            .cause
            .expect("told")
            .contains("cannot connect")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_port_can_be_probed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut probes = probe(
        &format!("health_check: {{ tcp: true, port: {port} }}"),
        &["127.0.0.1:9"],
    );
    assert_eq!(probes.next().await, healthy(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_are_probed_like_any_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).expect("bound");
    let mut probes = probe(
        "health_check: { http: /x }",
        &[&format!("unix:{}", path.display())],
    );
    let (mut stream, _) = listener.accept().await.expect("a connection");
    // An answer before its question would break the protocol.
    let mut asked = [0; 1024];
    assert_ne!(stream.read(&mut asked).await.expect("a request"), 0);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await
        .expect("written");
    assert_eq!(probes.next().await, healthy(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_checks_read_the_health_service() {
    let server = HealthServer::start(Answer::Status(1), None).await;
    let at = server.at.to_string();
    let mut probes = probe("health_check: { grpc: a.B, unhealthy_after: 1 }", &[&at]);
    assert_eq!(probes.next().await, healthy(true));
    assert_eq!(
        &server.asked.lock().expect("not poisoned")[0][..],
        [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']
    );
    for (answer, told) in [
        (Answer::Status(2), "NOT_SERVING"),
        (Answer::Status(3), "SERVICE_UNKNOWN"),
        (Answer::Status(0), "UNKNOWN"),
        (Answer::Refused(5), "NOT_FOUND"),
        (
            Answer::Refused(12),
            "no grpc.health.v1.Health service (UNIMPLEMENTED)",
        ),
        (Answer::Refused(14), "status 14"),
        (Answer::NotGrpc, "has no status"),
    ] {
        server.say(answer);
        let health = probes
            .until(|health| {
                health
                    .cause
                    .as_deref()
                    .is_some_and(|cause| cause.contains(told))
            })
            .await;
        assert!(!health.healthy, "{answer:?}");
        server.say(Answer::Status(1));
        probes
            .until(|health| health.healthy && health.changed)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_speak_the_upstreams_tls() {
    let authority = Authority::new();
    let (ca, certificate, key) = (
        authority.path("ca.pem"),
        authority.path("client.pem"),
        authority.path("client.key"),
    );
    let server =
        HealthServer::start(Answer::Status(1), Some(authority.acceptor(&[b"h2"], true))).await;
    let at = server.at.to_string();
    let tls = |more: &str| {
        format!(
            "tls: {{ ca: \"{}\"{more} }}\nhealth_check: {{ grpc: \"\" }}",
            ca.display()
        )
    };
    let mutual = format!(
        ", certificate: \"{}\", key: \"{}\"",
        certificate.display(),
        key.display()
    );
    assert_eq!(probe(&tls(&mutual), &[&at]).next().await, healthy(true));
    assert_eq!(
        probe(&tls(&format!("{mutual}, sni: server.test")), &[&at])
            .next()
            .await,
        healthy(true)
    );
    let wrong_name = probe(&tls(&format!("{mutual}, sni: other.test")), &[&at])
        .next()
        .await;
    assert!(wrong_name.cause.expect("told").contains("TLS with"));
    assert!(
        !probe(&tls(""), &[&at]).next().await.healthy,
        "without a client certificate"
    );
    let unverified = format!(
        "tls: {{ verify: false, sni: other.test{mutual} }}
health_check: {{ grpc: \"\" }}"
    );
    assert_eq!(probe(&unverified, &[&at]).next().await, healthy(true));
    let old = HealthServer::start(Answer::Status(1), Some(authority.acceptor(&[], false))).await;
    let cause = probe(&tls(""), &[&old.at.to_string()])
        .next()
        .await
        .cause
        .expect("told");
    assert!(cause.contains("ALPN"), "{cause}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_checks_speak_the_upstreams_protocol() {
    let authority = Authority::new();
    let clear = HealthServer::start(Answer::NotGrpc, None).await;
    let http2 = "protocol: http2\nhealth_check: { http: /x }";
    assert_eq!(
        probe(http2, &[&clear.at.to_string()]).next().await,
        healthy(true),
        "by prior knowledge"
    );
    let http1 = "protocol: http1\nhealth_check: { http: /x }";
    assert!(!probe(http1, &[&clear.at.to_string()]).next().await.healthy);
    let tls = HealthServer::start(Answer::NotGrpc, Some(authority.acceptor(&[b"h2"], false))).await;
    let auto = format!(
        "tls: {{ ca: \"{}\" }}\nhealth_check: {{ http: /x }}",
        authority.path("ca.pem").display()
    );
    assert_eq!(
        probe(&auto, &[&tls.at.to_string()]).next().await,
        healthy(true),
        "as ALPN says"
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound").to_string();
    let acceptor = authority.acceptor(&[b"http/1.1"], false);
    let mut probes = probe(&auto, &[&at]);
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut stream = acceptor.accept(stream).await.expect("a handshake");
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await
        .expect("written");
    assert_eq!(
        probes.next().await,
        healthy(true),
        "HTTP/1.1 where the server prefers it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_not_up_yet_is_used_soon_after_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound");
    drop(listener);
    let mut probes = probe(
        "health_check: { tcp: true, interval: 1h }",
        &[&at.to_string()],
    );
    assert!(!probes.next().await.healthy);
    let _listener = TcpListener::bind(at).await.expect("the same port");
    let start = Instant::now();
    assert_eq!(probes.until(|health| health.healthy).await, healthy(true));
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "an hour would have been the interval"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_keeps_its_count_and_what_goes_is_left_alone() {
    let (mut stays, mut goes) = (Server::start().await, Server::start().await);
    let (a, b) = (stays.at.to_string(), goes.at.to_string());
    let mut probes = probe("health_check: { http: / }", &[&a, &b]);
    stays.next().await.reply(200, "", "");
    let pending = goes.next().await;
    assert_eq!(probes.next().await, healthy(true));
    probes.set(&[&a]);
    soon("the end of the check", pending.abandoned()).await;
    for _ in 0..5 {
        stays.next().await.reply(200, "", "");
        let (id, health) = soon("a result", probes.results.recv())
            .await
            .expect("at work");
        assert_eq!(
            (id, health),
            (a.clone(), healthy(false)),
            "no first result again"
        );
    }
    let open = stays.next().await;
    drop(probes.prober);
    soon("the end of the check", open.abandoned()).await;
    assert!(
        soon("the end", probes.results.recv()).await.is_none(),
        "the callback is gone with the prober"
    );
}
