//! Nothing of the demo outlives it, however it ends: a small process of its own (`tidegate demo-guard`) holds the other
//! end of a pipe. While the demo lives it says on the pipe which processes there are; when the pipe closes, after a
//! panic or `kill -9` too, the guard ends what is left and removes the folder.
//!
//! The model's instances need no guard: they end when their own stdin closes. The gateway's processes are made to
//! survive their parent, which is right for a gateway and wrong for a demo.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Time that processes have to drain before they are killed.
const GRACE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// The demo's end of the pipe.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    process: Arc<Mutex<Option<(Child, ChildStdin)>>>,
}

impl Guard {
    /// Starts the guard of a folder.
    ///
    /// # Errors
    /// When no process can be started.
    pub(crate) fn start(folder: &Path) -> std::io::Result<Self> {
        let mut child = crate::exe::command()
            .arg("demo-guard")
            .arg(folder)
            // Its own group: Ctrl-C is the demo's to handle.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pipe = child.stdin.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(Self {
            process: Arc::new(Mutex::new(Some((child, pipe)))),
        })
    }

    /// This process is to be ended with the demo.
    pub(crate) fn add(&self, pid: u32) {
        self.say(&format!("add {pid}"));
    }

    /// This process has ended.
    pub(crate) fn remove(&self, pid: u32) {
        self.say(&format!("remove {pid}"));
    }

    fn say(&self, line: &str) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, pipe)) = &mut *process {
            // A guard that is gone can't be told: the demo itself still ends what it started.
            let _ = writeln!(pipe, "{line}");
        }
    }

    /// Has the guard do its work and waits for its end.
    pub(crate) fn finish(&self) {
        let process = self
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some((mut child, pipe)) = process {
            drop(pipe);
            let _ = child.wait();
        }
    }
}

/// The guard itself.
pub(crate) fn run(folder: &Path) -> ExitCode {
    let mut processes = BTreeSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Some((word, pid)) = line.split_once(' ') else {
            continue;
        };
        let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) else {
            continue;
        };
        match word {
            "add" => processes.insert(pid.as_raw_nonzero()),
            _ => processes.remove(&pid.as_raw_nonzero()),
        };
    }
    let mut left: Vec<Pid> = processes
        .into_iter()
        .filter_map(|pid| Pid::from_raw(pid.get()))
        .collect();
    for signal in [Signal::TERM, Signal::KILL] {
        left.retain(|pid| kill_process(*pid, signal).is_ok());
        let deadline = Instant::now() + GRACE;
        while !left.is_empty() && Instant::now() < deadline {
            left.retain(|pid| test_kill_process(*pid).is_ok());
            std::thread::sleep(LOOK);
        }
    }
    // The demo removes it too; whoever comes second finds nothing.
    let _ = std::fs::remove_dir_all(folder);
    ExitCode::SUCCESS
}
