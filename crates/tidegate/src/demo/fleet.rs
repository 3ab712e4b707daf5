//! The instances of the model: real child processes, listed for the gateway in the files that it watches.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::DemoError;
use super::instance::{Conduct, READY};
use super::model::Version;

/// Time that an instance has to say that it is ready: it trains its model meanwhile.
const START_TIME: Duration = Duration::from_secs(30);
/// Time that a draining instance has to end.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// One instance.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its name in answers: `v1-a`.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: Version,
    /// Its port, kept over restarts.
    pub(crate) port: u16,
    /// Whether the gateway is told of it.
    listed: bool,
    process: Option<(Child, ChildStdin)>,
}

impl Member {
    /// Its identity at the gateway.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// All instances.
#[derive(Debug)]
pub(crate) struct Fleet {
    folder: PathBuf,
    members: BTreeMap<String, Member>,
    ports: Ports,
}

/// Ports below those that the system gives to outgoing connections: a restarted instance gets its own back.
#[derive(Debug)]
pub(crate) struct Ports(u16);

impl Ports {
    /// Two demos at once begin at different places.
    pub(crate) fn new() -> Self {
        let spread = u16::try_from(std::process::id() % 500).unwrap_or(0);
        Self(18_000 + spread * 20)
    }

    /// The next port that nothing listens on.
    pub(crate) fn next(&mut self) -> Result<u16, DemoError> {
        for _ in 0..5_000 {
            let port = self.0;
            self.0 = if port >= 32_000 { 18_000 } else { port + 1 };
            if is_free(port) {
                return Ok(port);
            }
        }
        Err(DemoError::Ports)
    }
}

/// Whether nothing listens on this loopback port.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The file that lists a version's instances.
pub(crate) fn endpoints_file(folder: &Path, version: Version) -> PathBuf {
    folder.join(format!("sentiment-{}.json", version.name()))
}

impl Fleet {
    /// No instances yet.
    pub(crate) fn new(folder: &Path, ports: Ports) -> Self {
        Self {
            folder: folder.to_owned(),
            members: BTreeMap::new(),
            ports,
        }
    }

    /// Starts a new instance; the gateway is not told of it.
    pub(crate) async fn start(&mut self, name: &str, version: Version) -> Result<(), DemoError> {
        // Another program may take the port between the look and the start.
        let mut tries = 0;
        loop {
            let port = self.ports.next()?;
            match spawn(name, version, port).await {
                Ok(process) => {
                    let member = Member {
                        name: name.to_owned(),
                        version,
                        port,
                        listed: false,
                        process: Some(process),
                    };
                    self.members.insert(name.to_owned(), member);
                    return Ok(());
                }
                Err(error) if tries == 3 => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    /// Starts an instance again, on its own port.
    pub(crate) async fn restart(&mut self, name: &str) -> Result<(), DemoError> {
        let member = self.member_mut(name)?;
        member.process = Some(spawn(&member.name, member.version, member.port).await?);
        Ok(())
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<(), DemoError> {
        if let Some((mut child, _)) = self.member_mut(name)?.process.take() {
            child.kill().await.map_err(DemoError::Process)?;
        }
        Ok(())
    }

    /// Has an instance behave like this from now on.
    pub(crate) async fn tell(&mut self, name: &str, conduct: Conduct) -> Result<(), DemoError> {
        if let Some((_, stdin)) = &mut self.member_mut(name)?.process {
            let line = format!("{}\n", conduct.line());
            let told = stdin.write_all(line.as_bytes()).await;
            told.map_err(DemoError::Process)?;
        }
        Ok(())
    }

    /// Has an instance finish what is under way and end; waits for its end.
    pub(crate) async fn drain(&mut self, name: &str) -> Result<(), DemoError> {
        self.tell(name, Conduct::Draining).await?;
        if let Some((mut child, stdin)) = self.member_mut(name)?.process.take() {
            let ended = tokio::time::timeout(DRAIN_TIME, child.wait()).await;
            // Closed only now: the end of stdin ends an instance at once.
            drop(stdin);
            if ended.is_err() {
                child.kill().await.map_err(DemoError::Process)?;
            }
        }
        Ok(())
    }

    /// Tells the gateway of an instance, or that it is gone.
    pub(crate) fn list(&mut self, name: &str, listed: bool) -> Result<(), DemoError> {
        let member = self.member_mut(name)?;
        member.listed = listed;
        let version = member.version;
        self.publish(version)
    }

    /// Forgets an instance that has ended.
    pub(crate) fn forget(&mut self, name: &str) {
        self.members.remove(name);
    }

    /// Writes the file of a version's instances, in one step.
    pub(crate) fn publish(&self, version: Version) -> Result<(), DemoError> {
        let endpoints: Vec<_> = self
            .members
            .values()
            .filter(|member| member.version == version && member.listed)
            .map(|member| serde_json::json!({ "address": member.address() }))
            .collect();
        let text = serde_json::json!({ "endpoints": endpoints }).to_string();
        replace(&endpoints_file(&self.folder, version), &text)
    }

    /// An instance.
    pub(crate) fn member(&self, name: &str) -> Result<&Member, DemoError> {
        self.members
            .get(name)
            .ok_or_else(|| DemoError::Member(name.to_owned()))
    }

    fn member_mut(&mut self, name: &str) -> Result<&mut Member, DemoError> {
        self.members
            .get_mut(name)
            .ok_or_else(|| DemoError::Member(name.to_owned()))
    }

    /// All of them, by name.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Ends all of them.
    pub(crate) async fn stop(&mut self) {
        for (mut child, stdin) in self.members.values_mut().filter_map(|m| m.process.take()) {
            drop(stdin);
            if tokio::time::timeout(DRAIN_TIME, child.wait())
                .await
                .is_err()
            {
                let _ = child.kill().await;
            }
        }
    }
}

/// Replaces a file in one step: whoever watches it never reads half of it.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), DemoError> {
    let part = path.with_extension("part");
    std::fs::write(&part, text)
        .and_then(|()| std::fs::rename(&part, path))
        .map_err(DemoError::Folder)
}

async fn spawn(name: &str, version: Version, port: u16) -> Result<(Child, ChildStdin), DemoError> {
    let mut command = Command::from(crate::exe::command());
    let mut child = command
        .args(["demo-instance", "--version", version.name()])
        .args(["--name", name, "--port", &port.to_string()])
        // Its own group: Ctrl-C in the terminal is the demo's to handle.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(DemoError::Process)?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(DemoError::Instance(name.to_owned()));
    };
    let mut line = String::new();
    let mut stdout = BufReader::new(stdout);
    let ready = tokio::time::timeout(START_TIME, stdout.read_line(&mut line)).await;
    match ready {
        Ok(Ok(_)) if line.starts_with(READY) => Ok((child, stdin)),
        _ => {
            let _ = child.kill().await;
            Err(DemoError::Instance(name.to_owned()))
        }
    }
}
