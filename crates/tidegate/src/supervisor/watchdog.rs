//! The watchdog: a gateway that lives and does nothing is worse than a dead one, whose place is taken at once.
//!
//! A gateway says every few seconds that its control runtime and all its workers go round ([`crate::control::beat`]). One that has not said
//! so for the deadline is killed; what follows is what follows any death. Not while somebody holds it: a process that is stopped or
//! traced is looked at by a person, who would be surprised. And not when it was this process that did not run: then nobody did.

use std::time::Instant;

use super::Supervisor;
use crate::control::beat;

impl Supervisor {
    /// Kills gateways that hang.
    pub(super) fn on_silence(&mut self, now: Instant) {
        // What was said meanwhile has been read by now; but a frozen machine, or a frozen container, said nothing.
        let overslept = self
            .waited_for
            .is_some_and(|until| now.saturating_duration_since(until) > beat::interval());
        for gateway in self.current.iter_mut().chain(&mut self.outgoing) {
            if gateway.beat_due().is_none_or(|due| now < due) {
                continue;
            }
            let pid = gateway.pid();
            if overslept || is_held(pid) {
                tracing::warn!(
                    pid,
                    overslept,
                    "the gateway gives no sign of life: stopped or traced, left alone"
                );
                gateway.beats(now);
            } else {
                tracing::error!(pid, "the gateway gives no sign of life: killed");
                gateway.no_beat_due();
                gateway.kill();
            }
        }
    }
}

/// Whether any thread of a process is stopped by a signal or under a debugger's or tracer's hand.
fn is_held(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok())
        .any(|status| holds(&status))
}

/// The same from one thread's `status` (proc_pid_status(5)).
fn holds(status: &str) -> bool {
    status.lines().any(|line| match line.split_once(":\t") {
        // Stopped, or stopped by a tracer.
        Some(("State", state)) => state.starts_with(['T', 't']),
        Some(("TracerPid", tracer)) => tracer != "0",
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_held_when_it_is_stopped_or_has_a_tracer() {
        let status = |state: &str, tracer: u32| {
            format!("Name:\tworker-0\nState:\t{state}\nTracerPid:\t{tracer}\n")
        };
        assert!(!holds(&status("S (sleeping)", 0)));
        assert!(!holds(&status("R (running)", 0)));
        assert!(!holds(&status("D (disk sleep)", 0)));
        assert!(holds(&status("T (stopped)", 0)));
        assert!(holds(&status("t (tracing stop)", 7)));
        assert!(holds(&status("S (sleeping)", 7)));
        assert!(!is_held(std::process::id()));
    }
}
