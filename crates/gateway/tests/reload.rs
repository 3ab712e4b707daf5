//! What a reload leaves behind: counters, registrations, and who waits for whom.

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Do, Provider};
use tidegate_config::Loaded;
use tidegate_gateway::view::{Family, Value as Number};
use tidegate_gateway::{Handle, ListenSocket, Options, StoreOpener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

fn loaded(config: &Value) -> Loaded {
    // JSON is YAML.
    tidegate_config::load_str("t.yaml", &config.to_string())
        .unwrap_or_else(|problems| panic!("{problems}"))
}

async fn start(config: &Value) -> (Handle, SocketAddr) {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.set_nonblocking(true).expect("a socket");
    let address = socket.local_addr().expect("bound");
    let options = Options {
        config: loaded(config),
        sockets: vec![("main".to_owned(), ListenSocket::Tcp(socket))],
        workers: 2,
        store: StoreOpener::in_memory(),
    };
    let handle = tidegate_gateway::start(options).await.expect("started");
    (handle, address)
}

/// Waits until the condition holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let patience = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), patience)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

/// The sum over the samples that carry all these labels; `None` if there is none.
fn metric(families: &[Family], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let family = families.iter().find(|f| f.name == name).expect("a family");
    let carries = |have: &[(&'static str, String)]| {
        labels
            .iter()
            .all(|(k, v)| have.iter().any(|(name, value)| name == k && value == v))
    };
    let found = family.samples.iter().filter(|s| carries(&s.labels));
    found
        .map(|sample| match &sample.value {
            Number::Number(number) => *number,
            Number::Histogram { count, .. } => *count as f64,
        })
        .reduce(|a, b| a + b)
}

async fn send(address: SocketAddr, path: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.expect("connected");
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.expect("sent");
    socket
}

async fn answer(mut socket: TcpStream) -> String {
    let mut text = String::new();
    socket.read_to_string(&mut text).await.expect("an answer");
    text
}

async fn get(address: SocketAddr, path: &str) -> String {
    answer(send(address, path).await).await
}

/// Reads a head; `None` at the end of the connection.
async fn head(socket: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte).await {
            Ok(1) => bytes.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A server whose answers all have this status; those to `/slow` come once the gate is open.
async fn server(status: u16) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (gate, open) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut open = open.clone();
            tokio::spawn(async move {
                while let Some(head) = head(&mut socket).await {
                    if head.starts_with("GET /slow") {
                        let _ = open.wait_for(|open| *open).await;
                    }
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok");
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, gate)
}

fn relaying(route: &str, servers: &[SocketAddr]) -> Value {
    let endpoints: Vec<_> = servers
        .iter()
        .map(|at| json!({"address": at.to_string()}))
        .collect();
    json!({
        "listeners": [{"name": "main", "address": "127.0.0.1:1"}],
        "routes": [{"name": route, "to": [{"upstream": "up"}], "retry": {"attempts": 1}}],
        "upstreams": [{
            "name": "up", "endpoints": endpoints, "balance": "round_robin",
            "outlier_detection": {"consecutive_5xx": 1, "max_ejection_percent": 100},
        }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_of_a_route_that_is_gone_go_with_its_last_request() {
    let (server, gate) = server(200).await;
    let (handle, address) = start(&relaying("old", &[server])).await;
    let count = |name: &str, route: &str| metric(&handle.metrics(), name, &[("route", route)]);
    assert!(get(address, "/").await.starts_with("HTTP/1.1 200"));
    let slow = send(address, "/slow").await;
    until("the slow request is under way", || {
        count("tidegate_inflight", "old") == Some(1.0)
    })
    .await;
    let renamed = loaded(&relaying("new", &[server]));
    handle.reload(Ok(renamed)).await.expect("accepted");
    assert_eq!(count("tidegate_inflight", "old"), Some(1.0));
    assert_eq!(count("tidegate_requests_total", "old"), Some(1.0));
    gate.send(true).expect("a server");
    assert!(answer(slow).await.starts_with("HTTP/1.1 200"));
    until("nothing tells of the old route", || {
        let told = |family: &Family| {
            let of_old =
                |(name, value): &(&'static str, String)| *name == "route" && value == "old";
            family.samples.iter().any(|s| s.labels.iter().any(of_old))
        };
        !handle.metrics().iter().any(told)
    })
    .await;
    assert!(get(address, "/").await.starts_with("HTTP/1.1 200"));
    assert_eq!(count("tidegate_requests_total", "new"), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ejections_of_a_pool_do_not_fall_when_the_member_leaves() {
    let ((good, _gate), (bad, _other)) = (server(200).await, server(500).await);
    let (handle, address) = start(&relaying("r", &[good, bad])).await;
    let ejections = || {
        let pool = [("pool", "up")];
        metric(&handle.metrics(), "tidegate_ejections_total", &pool)
    };
    for _ in 0..4 {
        get(address, "/").await;
    }
    assert_eq!(ejections(), Some(1.0));
    let without = loaded(&relaying("r", &[good]));
    handle.reload(Ok(without)).await.expect("accepted");
    until("the bad member is gone", || {
        assert_eq!(ejections(), Some(1.0), "at no time less");
        handle.upstreams()[0].members.len() == 1
    })
    .await;
    assert_eq!(ejections(), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_evidence_counts_as_such() {
    let provider = Provider::start(|asked| match asked.key.as_str() {
        "dead" => Do::Answer(
            401,
            "",
            json!({"error": {"code": "invalid_api_key", "message": "no"}}).to_string(),
        ),
        _ => Do::Answer(500, "", "{}".to_owned()),
    })
    .await;
    let gateway = support::Gateway::start(&json!({"providers": [{
        "name": "p", "type": "generic", "base_url": provider.base(), "api_tokens": ["dead", "down"],
        "choose": "round_robin", "failover": {"health_check_interval": "1h"},
    }]}))
    .await;
    for _ in 0..2 {
        gateway.chat(json!({})).await;
    }
    let asked = provider.asked();
    let verdict = |verdict| {
        let labels = [("pool", "p"), ("verdict", verdict)];
        metric(
            &gateway.handle.metrics(),
            "tidegate_attempts_total",
            &labels,
        )
    };
    assert_eq!(verdict("evidence"), Some(asked["dead"] as f64));
    assert_eq!(verdict("failure"), Some(asked["down"] as f64));
}

/// A Consul agent that takes registrations, and answers removals once the gate is open.
struct Agent {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<String>>>,
    /// Callers who left before they were answered.
    left: Arc<Mutex<usize>>,
    gate: watch::Sender<bool>,
}

impl Agent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (gate, open) = watch::channel(false);
        let agent = Self {
            address: listener.local_addr().expect("bound"),
            calls: Arc::default(),
            left: Arc::default(),
            gate,
        };
        let (calls, left) = (agent.calls.clone(), agent.left.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (calls, left) = (calls.clone(), left.clone());
                tokio::spawn(Self::serve(socket, calls, left, open.clone()));
            }
        });
        agent
    }

    async fn serve(
        mut socket: TcpStream,
        calls: Arc<Mutex<Vec<String>>>,
        left: Arc<Mutex<usize>>,
        mut open: watch::Receiver<bool>,
    ) {
        let Some(head) = head(&mut socket).await else {
            return;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if socket.read_exact(&mut body).await.is_err() {
            return;
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        let text = String::from_utf8_lossy(&body).into_owned();
        let mut status = 200;
        let mut answer = String::new();
        if line.contains("/deregister/") {
            calls.lock().expect("calls").push(line);
            let mut more = [0];
            tokio::select! {
                _ = open.wait_for(|open| *open) => {}
                _ = socket.read(&mut more) => {
                    *left.lock().expect("left") += 1;
                    return;
                }
            }
        } else if line.contains("/register") {
            calls.lock().expect("calls").push(format!("{line} {text}"));
        } else if line.contains("/v1/agent/service/") {
            // What was registered last is what is there.
            let calls = calls.lock().expect("calls");
            let last = calls.iter().rfind(|call| call.contains("/register?"));
            let held =
                last.and_then(|call| serde_json::from_str::<Value>(&call[call.find('{')?..]).ok());
            match held {
                Some(held) => answer = held.to_string(),
                None => status = 404,
            }
        }
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
            answer.len()
        );
        let _ = socket.write_all(answer.as_bytes()).await;
    }

    fn called(&self, what: &str) -> bool {
        let calls = self.calls.lock().expect("calls");
        calls.iter().any(|call| call.contains(what))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_does_not_wait_for_a_catalogue_that_does_not_answer() {
    let agent = Agent::start().await;
    let config = |service: &str| {
        let consul = json!({"address": format!("http://{}", agent.address), "service": service});
        json!({
            "listeners": [{"name": "main", "address": "127.0.0.1:1", "register": {"consul": consul}}],
            "routes": [{"name": "r", "respond": {"body": service}}],
        })
    };
    let (handle, address) = start(&config("first")).await;
    until("registered", || agent.called("\"first\"")).await;
    let second = loaded(&config("second"));
    handle.reload(Ok(second)).await.expect("accepted");
    assert_eq!(*agent.left.lock().expect("left"), 0, "nobody gave up yet");
    assert!(get(address, "/").await.ends_with("second"));
    until("the old registration is taken back", || {
        agent.called("/deregister/")
    })
    .await;
    // The new one comes after the old one is gone: both may have the same id.
    assert!(!agent.called("\"second\""));
    agent.gate.send(true).expect("an agent");
    until("registered anew", || agent.called("\"second\"")).await;
    // Another reload leaves it in peace.
    let same = loaded(&config("second"));
    handle.reload(Ok(same)).await.expect("accepted");
    let removed = |call: &&String| call.contains("/deregister/");
    let calls = agent.calls.lock().expect("calls").clone();
    assert_eq!(calls.iter().filter(removed).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_read_is_told_as_refused() {
    let (server, _gate) = server(200).await;
    let (handle, address) = start(&relaying("r", &[server])).await;
    let error = handle.reload(Err("no such file".to_owned())).await;
    assert_eq!(error.expect_err("refused"), "no such file");
    assert_eq!(handle.config().refused.as_deref(), Some("no such file"));
    let refused = metric(&handle.metrics(), "tidegate_config_refused_total", &[]);
    assert_eq!(refused, Some(1.0));
    assert!(get(address, "/").await.starts_with("HTTP/1.1 200"));
}
