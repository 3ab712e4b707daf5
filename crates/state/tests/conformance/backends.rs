//! A place for each backend, alone and empty.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate_state::{FILE_NAME, Server, Store};

/// How long a condition may take to come true before a test fails. Nothing waits that long when all is well.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Redis' configuration in its folder.
const CONF: &str = "redis.conf";

/// A store with what keeps it.
pub(crate) struct Place {
    store: Arc<dyn Store>,
    _folder: Option<TempDir>,
    _server: Option<Server>,
    _redis: Option<Redis>,
}

impl Place {
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }
}

pub(crate) async fn memory() -> Place {
    Place {
        store: tidegate_state::memory(),
        _folder: None,
        _server: None,
        _redis: None,
    }
}

pub(crate) async fn file() -> Place {
    let folder = tempfile::tempdir().unwrap();
    Place {
        store: tidegate_state::file(&folder.path().join(FILE_NAME)).unwrap(),
        _folder: Some(folder),
        _server: None,
        _redis: None,
    }
}

/// The embedded file behind a socket.
pub(crate) async fn remote() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("state.sock");
    let server = serve(folder.path(), &socket);
    Place {
        store: tidegate_state::remote(&socket),
        _folder: Some(folder),
        _server: Some(server),
        _redis: None,
    }
}

pub(crate) fn serve(folder: &Path, socket: &Path) -> Server {
    let store = tidegate_state::file(&folder.join(FILE_NAME)).unwrap();
    let _ = std::fs::remove_file(socket);
    Server::start(UnixListener::bind(socket).unwrap(), store).unwrap()
}

pub(crate) async fn redis() -> Place {
    let redis = Redis::start();
    Place {
        store: redis.store(),
        _folder: None,
        _server: None,
        _redis: Some(redis),
    }
}

/// A real Redis with a folder of its own, on a free port.
pub(crate) struct Redis {
    process: Child,
    port: u16,
    folder: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONF), "").unwrap();
        Self::start_in(folder, "--port")
    }

    /// Behind TLS with the certificate `cert.pem` and the key `key.pem` in the folder.
    pub(crate) fn start_with_tls(folder: TempDir) -> Self {
        let conf = ["cert", "key"].map(|part| {
            let file = folder.path().join(part).with_extension("pem");
            format!("tls-{part}-file {}\n", file.display())
        });
        let conf = format!("port 0\ntls-auth-clients no\n{}", conf.concat());
        std::fs::write(folder.path().join(CONF), conf).unwrap();
        Self::start_in(folder, "--tls-port")
    }

    fn start_in(folder: TempDir, port_option: &'static str) -> Self {
        // Another process may take the port in between: then Redis ends, and another port is tried.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|socket| socket.local_addr())
                .unwrap()
                .port();
            if let Some(process) = run(port_option, port, folder.path()) {
                return Self {
                    process,
                    port,
                    folder,
                };
            }
        }
        panic!("redis-server does not start");
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        tidegate_state::redis(&format!("redis://127.0.0.1:{}", self.port), "test").unwrap()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends at once; what it was told to keep stays in its folder.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.process =
            run("--port", self.port, self.folder.path()).expect("redis-server starts again");
    }

    /// `STOP`: it is there and does not answer; `CONT`: it goes on.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.process.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `None`: the port is in use.
fn run(port_option: &str, port: u16, folder: &Path) -> Option<Child> {
    let mut process = Command::new("redis-server")
        .arg(folder.join(CONF))
        .args([port_option, &port.to_string()])
        .args(["--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
        .arg(folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("redis-server: {error}; scripts/install-test-deps installs it (Debian: apt-get install redis-server)")
        });
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let ready = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.contains("Ready to accept"));
    if !ready {
        process.wait().unwrap();
        return None;
    }
    // It must be able to go on writing its log.
    std::thread::spawn(move || lines.for_each(drop));
    Some(process)
}

/// Waits until the condition holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(
    what: &str,
    mut condition: impl FnMut() -> F,
) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(LONG, holds).await.is_err() {
        panic!("not in {LONG:?}: {what}");
    }
}
