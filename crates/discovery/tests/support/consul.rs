//! A real Consul agent of this test's own.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::process::{Child, Command};

/// The binary, or how to get it.
pub fn binary() -> PathBuf {
    let root = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::var_os("TIDEGATE_CONSUL")
        .map(PathBuf::from)
        .into_iter()
        .chain(
            std::env::var_os("TIDEGATE_CACHE")
                .map(|cache| PathBuf::from(cache).join("consul/usr/bin/consul")),
        )
        .chain(std::env::split_paths(&path).map(|folder| folder.join("consul")))
        .chain([
            "/var/cache/tidegate/consul/usr/bin/consul".into(),
            root.join(".cache/tidegate/consul/usr/bin/consul"),
        ]);
    candidates.into_iter().find(|path| path.is_file()).expect(
        "these tests need a real Consul: run scripts/install-consul (Debian), or set TIDEGATE_CONSUL to the path of the binary",
    )
}

/// A single-node cluster. Killed when dropped.
pub struct Consul {
    child: Child,
    pub http: SocketAddr,
    ports: [u16; 4],
    data: tempfile::TempDir,
}

impl Consul {
    /// Starts an agent and waits until it has a leader. It keeps what it knows in a folder, as a real one does.
    pub async fn start() -> Self {
        // Another process may take a port between our look and Consul's start.
        for _ in 0..5 {
            let ports = free_ports::<5>();
            let data = tempfile::tempdir().expect("a folder");
            let http = SocketAddr::from(([127, 0, 0, 1], ports[0]));
            let ports = [ports[1], ports[2], ports[3], ports[4]];
            let mut consul = Self {
                child: spawn(http, ports, &data),
                http,
                ports,
                data,
            };
            if consul.ready().await {
                return consul;
            }
        }
        panic!("consul does not start");
    }

    /// Ends it as a crash would.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it ran");
    }

    /// Starts it again after [`Self::kill`]; `forget` loses what it knew.
    pub async fn restart(&mut self, forget: bool) {
        if forget {
            self.data = tempfile::tempdir().expect("a folder");
        }
        self.child = spawn(self.http, self.ports, &self.data);
        assert!(self.ready().await, "consul does not start again");
    }

    async fn ready(&mut self) -> bool {
        let ready = async {
            loop {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    return false;
                }
                // A leader that can write: the catalogue holds the node itself.
                if let Some((StatusCode::OK, body)) =
                    self.try_call(Method::GET, "/v1/catalog/nodes", "").await
                    && body != "[]"
                    && body != "null"
                {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        super::soon("consul's leader", ready).await
    }

    /// One call of its API that must succeed.
    pub async fn call(&self, method: Method, path: &str, body: serde_json::Value) -> String {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, text) = self
            .try_call(method, path, &body)
            .await
            .expect("consul answers");
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    }

    pub async fn register(&self, service: serde_json::Value) {
        self.call(Method::PUT, "/v1/agent/service/register", service)
            .await;
    }

    pub async fn deregister(&self, id: &str) {
        self.call(
            Method::PUT,
            &format!("/v1/agent/service/deregister/{id}"),
            serde_json::Value::Null,
        )
        .await;
    }

    async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: &str,
    ) -> Option<(StatusCode, String)> {
        let stream = tokio::net::TcpStream::connect(self.http).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.http.to_string());
        let answer = sender
            .send_request(
                request
                    .body(Full::new(body.to_owned().into()))
                    .expect("a request") as Request<Full<bytes::Bytes>>,
            )
            .await
            .ok()?;
        let status = answer.status();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        connection.abort();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    // Held together, so that they differ.
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    held.each_ref()
        .map(|listener| listener.local_addr().expect("bound").port())
}

fn spawn(http: SocketAddr, [server, lan, wan, dns]: [u16; 4], data: &tempfile::TempDir) -> Child {
    // Raft timings of the development mode: an election in tens of milliseconds.
    let fast = r#"performance { raft_multiplier = 1 } leave_on_terminate = false disable_update_check = true check_update_interval = "0s" log_level = "err""#;
    Command::new(binary())
        .args([
            "agent",
            "-server",
            "-bootstrap-expect=1",
            "-node=n1",
            "-bind=127.0.0.1",
            "-client=127.0.0.1",
        ])
        .arg(format!("-data-dir={}", data.path().display()))
        .args([
            format!("-http-port={}", http.port()),
            format!("-server-port={server}"),
            "-grpc-port=-1".to_owned(),
        ])
        .args([
            format!("-serf-lan-port={lan}"),
            format!("-serf-wan-port={wan}"),
            format!("-dns-port={dns}"),
        ])
        .args(["-hcl", fast])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("consul starts")
}
