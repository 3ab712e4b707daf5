//! A process of our own: started in a group of its own, ended with the whole group, reaped in every case.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, Signal};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::{oneshot, watch};

use super::guard::Guard;
use super::output::{self, LastLine};
use crate::events::Stream;

/// Starts processes on a thread that lives as long as the host: a worker that asks the kernel to die with its parent
/// (`PR_SET_PDEATHSIG`) dies with the thread that started it.
#[derive(Debug)]
pub(crate) struct Spawner {
    orders: std::sync::mpsc::Sender<(Command, oneshot::Sender<io::Result<Child>>)>,
    guard: Arc<Guard>,
}

impl Spawner {
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start() -> io::Result<Self> {
        let (orders, received) =
            std::sync::mpsc::channel::<(Command, oneshot::Sender<io::Result<Child>>)>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                while let Ok((mut command, answer)) = received.recv() {
                    let child = command.spawn();
                    if let Err(Ok(mut unwanted)) = answer.send(child) {
                        let _ = unwanted.kill();
                        let _ = unwanted.wait();
                    }
                }
            })?;
        Ok(Self {
            orders,
            guard: Arc::default(),
        })
    }

    /// Resolves when every process that was started is reaped.
    pub(crate) async fn none_left(&self) {
        while self.guard.watches() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Starts a process in a group of its own. `line` gets what it writes.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) async fn spawn(
        &self,
        mut command: Command,
        line: impl Fn(u32, Stream, String) + Send + Sync + 'static,
    ) -> io::Result<Process> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let (answer, started) = oneshot::channel();
        let gone = || io::Error::other("the host is ending");
        self.orders.send((command, answer)).map_err(|_| gone())?;
        let mut child = started.await.map_err(|_| gone())??;
        let pid = child.id();
        self.guard.add(pid);
        let line = Arc::new(line);
        let last = LastLine::default();
        let mut pipes = Vec::new();
        if let Some(pipe) = child
            .stdout
            .take()
            .and_then(|pipe| ChildStdout::from_std(pipe).ok())
        {
            let line = Arc::clone(&line);
            pipes.push(tokio::spawn(output::lines(pipe, move |text| {
                line(pid, Stream::Stdout, text)
            })));
        }
        if let Some(pipe) = child
            .stderr
            .take()
            .and_then(|pipe| ChildStderr::from_std(pipe).ok())
        {
            let last = last.clone();
            pipes.push(tokio::spawn(output::lines(pipe, move |text| {
                last.keep(&text, Instant::now());
                line(pid, Stream::Stderr, text);
            })));
        }
        let leash = child.stdin.take();
        let group = Arc::new(Group {
            pid,
            reaped: Mutex::new(false),
        });
        let (told, exited) = watch::channel(None);
        let (reaper, guard) = (Arc::clone(&group), Arc::clone(&self.guard));
        tokio::spawn(async move {
            let status = reaper.reap(child, &guard).await;
            let end = Instant::now();
            // What it wrote at last is read before its death is told; what holds its pipes open was killed with it.
            for pipe in pipes {
                let abort = pipe.abort_handle();
                if tokio::time::timeout(std::time::Duration::from_secs(1), pipe)
                    .await
                    .is_err()
                {
                    abort.abort();
                }
            }
            told.send_replace(Some((status, end)));
        });
        Ok(Process {
            group,
            exited,
            last,
            _leash: leash,
        })
    }
}

/// A running process. Dropping it kills its group.
#[derive(Debug)]
pub(crate) struct Process {
    group: Arc<Group>,
    /// The status, and when.
    exited: watch::Receiver<Option<(ExitStatus, Instant)>>,
    last: LastLine,
    /// Its standard input, which closes with the host.
    _leash: Option<ChildStdin>,
}

#[derive(Debug)]
struct Group {
    pid: u32,
    /// From then on the number may be another's.
    reaped: Mutex<bool>,
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.group.pid
    }

    /// Kills the whole group.
    pub(crate) fn kill(&self) {
        self.group.signal(Signal::KILL);
    }

    /// Asks the whole group to end.
    pub(crate) fn terminate(&self) {
        self.group.signal(Signal::TERM);
    }

    /// Resolves when the process has ended and its group was killed; cancelling loses nothing.
    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let status = self
            .exited
            .wait_for(Option::is_some)
            .await
            .map(|exited| (*exited).map(|(status, _)| status));
        match status {
            Ok(status) => status.unwrap_or_default(),
            // The runtime is ending.
            Err(_) => std::future::pending().await,
        }
    }

    /// Why it ended: the status, and what it wrote to standard error when it did.
    pub(crate) fn cause(&self, status: ExitStatus) -> String {
        let mut cause = told(status);
        let end = self.exited.borrow().map_or_else(Instant::now, |(_, at)| at);
        if !status.success()
            && let Some(last) = self.last.at_the_end(end)
        {
            cause.push_str(": ");
            cause.push_str(&last);
        }
        cause
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Group {
    fn signal(&self, signal: Signal) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped && let Some(group) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Waits for the end, kills what is left of the group while its number can't be another's, and reaps.
    async fn reap(&self, mut child: Child, guard: &Guard) -> ExitStatus {
        if let Err(error) = ended(&child).await {
            // A kernel without handles of processes: looking now and then, and the group is killed after the reaping.
            tracing::debug!(pid = self.pid, %error, "no handle on a process");
            while matches!(child.try_wait(), Ok(None)) {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        self.signal(Signal::KILL);
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        *reaped = true;
        let status = child.wait().unwrap_or_default();
        // Between the reaping and this the guard could only kill a group that nobody has yet.
        guard.remove(self.pid);
        status
    }
}

/// Resolves when the process has ended and is not reaped yet.
#[cfg(target_os = "linux")]
async fn ended(child: &Child) -> io::Result<()> {
    use rustix::process::{PidfdFlags, pidfd_open};
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let handle = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe for types whose descriptor may change; an `OwnedFd` has one for its life"
    )]
    let handle = AsyncFd::with_interest(handle, Interest::READABLE)?;
    handle.readable().await.map(|_| ())
}

/// Resolves when the process has ended and is not reaped yet.
#[cfg(not(target_os = "linux"))]
async fn ended(child: &Child) -> io::Result<()> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};

    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let waited = tokio::task::spawn_blocking(move || {
        waitid(
            WaitId::Pid(pid),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
        .map(|_| ())
    });
    Ok(waited.await.map_err(io::Error::other)??)
}

/// A status in words.
fn told(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "it ended by itself".to_owned(),
        (Some(code), _) => format!("it ended with status {code}"),
        (_, Some(signal)) => format!("it was killed by signal {signal}{}", name(signal)),
        _ => "it ended".to_owned(),
    }
}

const fn name(signal: i32) -> &'static str {
    match signal {
        4 => " (illegal instruction)",
        6 => " (abort)",
        7 => " (bus error)",
        8 => " (arithmetic error)",
        9 => " (kill)",
        11 => " (segmentation fault)",
        15 => " (terminate)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn an_end_is_told_with_its_status_and_the_last_line() {
        let spawner = Spawner::start().unwrap();
        let (lines, seen) = std::sync::mpsc::channel();
        let mut process = spawner
            .spawn(
                shell("echo out; echo why >&2; exit 3"),
                move |_, stream, text| {
                    let _ = lines.send((stream, text));
                },
            )
            .await
            .unwrap();
        let status = process.exited().await;
        assert_eq!(process.cause(status), "it ended with status 3: why");
        let mut seen: Vec<_> = seen
            .try_iter()
            .map(|(stream, text)| (stream == Stream::Stderr, text))
            .collect();
        seen.sort();
        assert_eq!(seen, [(false, "out".to_owned()), (true, "why".to_owned())]);
    }

    #[tokio::test]
    async fn the_whole_group_ends_with_its_leader_and_nothing_is_left_to_reap() {
        let spawner = Spawner::start().unwrap();
        let (lines, seen) = std::sync::mpsc::channel();
        let mut process = spawner
            .spawn(shell("sleep 1000 & echo $!; wait"), move |_, _, text| {
                let _ = lines.send(text);
            })
            .await
            .unwrap();
        let grandchild = tokio::task::spawn_blocking(move || seen.recv().unwrap())
            .await
            .unwrap();
        process.kill();
        assert_eq!(process.exited().await.signal(), Some(9));
        // Its parent is dead: whoever inherits it reaps it.
        loop {
            let stat =
                std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z") || stat.contains(") X") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let leader = std::fs::metadata(format!("/proc/{}", process.pid()));
        assert!(leader.is_err(), "the leader was reaped");
    }

    #[tokio::test]
    async fn what_is_not_there_is_an_error() {
        let spawner = Spawner::start().unwrap();
        let error = spawner
            .spawn(Command::new("/no/such/program"), |_, _, _| {})
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_dropped_process_is_killed() {
        let spawner = Spawner::start().unwrap();
        let process = spawner
            .spawn(shell("exec sleep 1000"), |_, _, _| {})
            .await
            .unwrap();
        let mut exited = process.exited.clone();
        drop(process);
        let (status, _) = exited.wait_for(Option::is_some).await.unwrap().unwrap();
        assert_eq!(status.signal(), Some(9));
    }
}
