//! The real binary in a folder of its own, and clients that see what it does. Nothing sleeps for a fixed time: every
//! wait is for a condition, with a deadline that fails the test.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// Far above what anything here takes, also on a machine that compiles at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition gives a value.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command of the binary, with nothing of this process's environment that it reads.
pub(crate) fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .env_remove("TIDEGATE_LOG")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Runs a command of the binary to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    tidegate().args(arguments).output().unwrap()
}

/// What a finished command wrote to stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a finished command wrote to stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A port that nothing listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A folder with a configuration; the state lies in it as well.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
    pub(crate) admin: u16,
}

impl Site {
    /// One listener `main` and the admin port; every request is answered 200 by Tidegate itself.
    pub(crate) fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
            admin: free_port(),
        };
        site.write(&site.answering("one"));
        site
    }

    /// A configuration that answers with this body.
    pub(crate) fn answering(&self, body: &str) -> String {
        self.config(
            &format!("routes: [ {{ name: all, respond: {{ body: {body} }} }} ]\n"),
            "",
        )
    }

    /// A configuration that sends everything to this upstream.
    pub(crate) fn relaying(&self, upstream: SocketAddr) -> String {
        let routes = format!(
            "routes: [ {{ name: all, to: [ {{ upstream: up }} ] }} ]\n\
             upstreams: [ {{ name: up, endpoints: [ {{ address: {upstream} }} ] }} ]\n"
        );
        self.config(&routes, "")
    }

    /// A configuration with these routes, and lines for more listeners.
    pub(crate) fn config(&self, routes: &str, listeners: &str) -> String {
        format!(
            "admin: {{ address: 127.0.0.1:{} }}\n\
             state: {{ url: \"file:{}\" }}\n\
             shutdown: {{ grace: 20s }}\n\
             listeners:\n  - {{ name: main, address: 127.0.0.1:{} }}\n{listeners}{routes}",
            self.admin,
            self.folder.path().join("state").display(),
            self.port,
        )
    }

    /// Where the configuration is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("tidegate.yaml")
    }

    /// Replaces the configuration in one step.
    pub(crate) fn write(&self, text: &str) {
        let part = self.folder.path().join("tidegate.part");
        fs::write(&part, text).unwrap();
        fs::rename(part, self.path()).unwrap();
    }

    /// The folder for runtime files.
    pub(crate) fn run_folder(&self) -> PathBuf {
        self.folder.path().join("state/run")
    }

    /// `tidegate up` with these options, without waiting for anything.
    pub(crate) fn start(&self, options: &[&str]) -> Running {
        self.start_binary(Path::new(env!("CARGO_BIN_EXE_tidegate")), options, &[])
    }

    /// The same with another executable and environment.
    pub(crate) fn start_binary(
        &self,
        binary: &Path,
        options: &[&str],
        environment: &[(&str, &str)],
    ) -> Running {
        let mut command = Command::new(binary);
        command.arg("up").arg(self.path()).args(options);
        if !options.contains(&"--workers") {
            command.args(["--workers", "1"]);
        }
        command
            .env_remove("TIDEGATE_LOG")
            .env_remove("NOTIFY_SOCKET")
            .envs(environment.iter().copied());
        Running::spawn(command)
    }

    /// `tidegate up`, waited for until it serves.
    pub(crate) fn up(&self) -> Running {
        let running = self.start(&[]);
        running.wait_for("gateway ready");
        self.get();
        running
    }

    /// The body of the answer to one request, on a connection of its own.
    pub(crate) fn get(&self) -> String {
        self.try_get().unwrap()
    }

    /// The same; the error when the connection was refused, cut or not answered.
    pub(crate) fn try_get(&self) -> std::io::Result<String> {
        request(self.port, "/")
    }
}

/// `GET` on a connection of its own: the body of the answer, which must be a 200.
pub(crate) fn request(port: u16, target: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    // In one piece: an answer may come, and the connection be closed, as soon as the head is complete.
    let head = format!("GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    connection.write_all(head.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let refusal = || std::io::Error::other(format!("not a 200: {answer:?}"));
    if !answer.starts_with("HTTP/1.1 200 ") {
        return Err(refusal());
    }
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(refusal)?;
    let length = head
        .to_ascii_lowercase()
        .split("content-length: ")
        .nth(1)
        .and_then(|rest| {
            rest.split("\r\n")
                .next()
                .and_then(|number| number.parse::<usize>().ok())
        });
    if length.is_some_and(|length| length != body.len()) {
        return Err(std::io::Error::other(format!("cut: {answer:?}")));
    }
    Ok(body.to_owned())
}

#[derive(Debug, Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

/// A running `tidegate up`; killed with all that outlives it when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    log: Arc<Lines>,
}

impl Running {
    fn spawn(mut command: Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Lines::default());
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let writer = Arc::clone(&log);
        // Ends when the last process that writes there has ended.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                writer.lines.lock().unwrap().push(line);
                writer.more.notify_all();
            }
        });
        Self { child, log }
    }

    /// The supervisor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap().join("\n")
    }

    /// All events with this message so far.
    pub(crate) fn events(&self, message: &str) -> Vec<Value> {
        let lines = self.log.lines.lock().unwrap();
        let events = lines
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events.filter(|event| event["message"] == message).collect()
    }

    /// Waits for the first event with this message.
    pub(crate) fn wait_for(&self, message: &str) -> Value {
        self.wait_for_nth(message, 1)
    }

    /// Waits until there are this many events with this message; the last of them.
    pub(crate) fn wait_for_nth(&self, message: &str, count: usize) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.events(message).into_iter().nth(count - 1) {
                return event;
            }
            assert!(
                Instant::now() < deadline,
                "no {count} events {message:?} in\n{}",
                self.log()
            );
            let lines = self.log.lines.lock().unwrap();
            drop(
                self.log
                    .more
                    .wait_timeout(lines, Duration::from_millis(20))
                    .unwrap(),
            );
        }
    }

    /// The process id of the gateway that became ready last.
    pub(crate) fn gateway(&self) -> u32 {
        let events = self.events("gateway ready");
        pid_in(events.last().unwrap()).unwrap()
    }

    /// Sends a signal to the supervisor.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_to(self.pid(), signal);
    }

    /// Waits until the supervisor has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("the supervisor ends", || child.try_wait().unwrap())
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for role in ["gateway", "control", "host"] {
            for event in self.events(&format!("{role} started")) {
                if let Some(pid) = pid_in(&event)
                    && is_role(role, pid)
                {
                    signal_to(pid, Signal::KILL);
                }
            }
        }
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.child.id(), self.log());
        }
    }
}

/// Sends a signal to a process.
pub(crate) fn signal_to(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// The process that an event is about.
pub(crate) fn pid_in(event: &Value) -> Option<u32> {
    u32::try_from(event["pid"].as_u64()?).ok()
}

/// Whether this process is a gateway that runs.
pub(crate) fn is_gateway(pid: u32) -> bool {
    is_role("gateway", pid)
}

/// Whether this process runs this role.
pub(crate) fn is_role(role: &str, pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.contains(&format!("role\0{role}")))
}

/// Clients that ask all the time, each request on a connection of its own, until stopped.
#[derive(Debug)]
pub(crate) struct Load {
    stop: Arc<std::sync::atomic::AtomicBool>,
    clients: Vec<std::thread::JoinHandle<Seen>>,
}

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) answered: usize,
    pub(crate) failures: Vec<String>,
    /// The longest time from the connection's start to the end of the answer.
    pub(crate) slowest: Duration,
}

impl Load {
    /// Starts this many clients of a listener.
    pub(crate) fn start(port: u16, clients: usize) -> Self {
        Self::asking(port, "/", clients)
    }

    /// Starts this many clients that ask for this.
    pub(crate) fn asking(port: u16, target: &'static str, clients: usize) -> Self {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let client = || {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut seen = Seen::default();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let start = Instant::now();
                    match request(port, target) {
                        Ok(_) => seen.answered += 1,
                        Err(error) => seen.failures.push(error.to_string()),
                    }
                    seen.slowest = seen.slowest.max(start.elapsed());
                }
                seen
            })
        };
        Self {
            clients: (0..clients).map(|_| client()).collect(),
            stop,
        }
    }

    /// Stops the clients; what they saw together.
    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().unwrap();
            all.answered += seen.answered;
            all.failures.extend(seen.failures);
            all.slowest = all.slowest.max(seen.slowest);
        }
        all
    }
}

/// Fails unless the text holds all of these.
pub(crate) fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// Stops a process and waits until all its threads have stopped.
pub(crate) fn freeze(pid: u32) {
    signal_to(pid, Signal::STOP);
    until("all threads stop", || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let stopped = |thread: fs::DirEntry| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        threads.flatten().all(stopped).then_some(())
    });
}
