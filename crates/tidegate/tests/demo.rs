//! `tidegate demo` through the real binary: what it promises is what it does, and nothing of it is left.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use support::{free_port, signal_to, tidegate, until};
use tempfile::TempDir;

/// One of a round, in order.
const EVENTS: [&str; 14] = [
    "kill",
    "slow",
    "hang",
    "break",
    "reset",
    "add",
    "drain",
    "key_revoked",
    "key_limited",
    "worker_kill",
    "gateway_kill",
    "reload",
    "rolling_restart",
    "upgrade",
];
/// The demo, its guard, supervisor, gateway, control, host, five instances and two workers.
const ALL_PROCESSES: usize = 13;

/// A demo with a folder for temporary files of its own, whose path also finds its processes.
struct Show {
    folder: TempDir,
}

impl Show {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tidegate();
        command
            .arg("demo")
            .args(arguments)
            .args(["--port", &free_port().to_string()])
            .args(["--admin-port", &free_port().to_string()])
            .env("TMPDIR", self.folder.path());
        command
    }

    fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Processes with this demo's folder in their environment: all that it started, and what they started.
    fn processes(&self) -> BTreeSet<u32> {
        let mark = format!("TMPDIR={}", self.folder.path().display());
        let of = |entry: fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let environment = fs::read(entry.path().join("environ")).ok()?;
            let is_ours = environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == mark.as_bytes());
            (is_ours && is_alive(&entry.path())).then_some(pid)
        };
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(of).collect()
    }

    fn is_clean(&self) -> bool {
        self.processes().is_empty() && fs::read_dir(self.folder.path()).unwrap().next().is_none()
    }

    /// Waits until instances, supervisor, gateway and guard run.
    fn wait_until_it_plays(&self) {
        until("the demo plays", || {
            let gateway = |pid: &u32| support::is_gateway(*pid);
            self.processes().iter().any(gateway).then_some(())
        });
    }
}

fn is_alive(process: &Path) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some(None | Some('Z' | 'X')))
}

fn names(report: &Value) -> Vec<&str> {
    let events = report["events"].as_array().unwrap().iter();
    events.map(|e| e["event"].as_str().unwrap()).collect()
}

fn cause(event: &Value) -> &str {
    event["cause"].as_str().unwrap_or_default()
}

fn output(mut child: Child) -> (Option<i32>, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    (child.wait().unwrap().code(), out, err)
}

#[test]
fn everything_is_broken_once_and_no_caller_notices() {
    let show = Show::new();
    let (code, out, err) = output(show.start(&["--duration", "20s", "--json", "--rate", "150"]));
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}\n{err}"));
    assert_eq!(report["failures"], 0, "{report:#}\n{err}");
    assert_eq!(code, Some(0), "{report:#}\n{err}");
    assert!(report["requests"].as_u64().unwrap() > 1000, "{report:#}");
    assert!(
        report["grpc_requests"].as_u64().unwrap() > 200,
        "{report:#}"
    );
    for count in [
        "retries_absorbed",
        "chats_streamed",
        "key_failovers",
        "model_calls",
    ] {
        assert!(report[count].as_u64().unwrap() > 0, "{count}: {report:#}");
    }

    let events = report["events"].as_array().unwrap();
    assert_eq!(names(&report), EVENTS);
    for event in events {
        let is = |name: &str| event[name].is_u64();
        let shown = match event["event"].as_str().unwrap() {
            "kill" | "hang" | "break" | "reset" => is("ejected_after_ms") && is("used_after_ms"),
            "key_revoked" => is("used_after_ms") && cause(event).contains("401"),
            "key_limited" => is("used_after_ms") && cause(event).contains("429"),
            "worker_kill" => is("used_after_ms") && is("reruns"),
            "slow" => event["ejected_after_ms"].is_null() && event["share"].is_array(),
            "add" => is("used_after_ms"),
            "gateway_kill" => is("gap_ms"),
            _ => is("took_ms"),
        };
        assert!(shown, "{event:#}\n{err}");
    }
    for split in report["split"].as_array().unwrap() {
        let weight = split["weights"][0].as_f64().unwrap();
        let seen = split["seen_percent"][0].as_f64().unwrap();
        // Four times the standard deviation of so many draws.
        let requests = split["requests"].as_f64().unwrap();
        let slack = 400.0 * (weight / 100.0 * (1.0 - weight / 100.0) / requests).sqrt();
        assert!((seen - weight).abs() < slack, "{split:#}");
    }
    until("nothing is left", || show.is_clean().then_some(()));
}

#[test]
fn without_a_python_the_hosted_model_is_left_out_and_told_so() {
    let show = Show::new();
    let empty = tempfile::tempdir().unwrap();
    let mut command = show.command(&["--duration", "20s", "--json"]);
    let child = command
        .env("PATH", empty.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (code, out, err) = output(child);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}\n{err}"));
    assert_eq!(code, Some(0), "{report:#}\n{err}");
    assert_eq!(report["failures"], 0, "{report:#}\n{err}");
    assert_eq!(report["python"], Value::Null);
    assert_eq!(report["model_calls"], 0);
    assert!(
        err.contains("left out: there is no python3 of 3.9 or newer on the PATH"),
        "{err}"
    );
    let without: Vec<&str> = EVENTS.into_iter().filter(|e| *e != "worker_kill").collect();
    assert_eq!(names(&report), without);
    until("nothing is left", || show.is_clean().then_some(()));
}

#[test]
fn an_interrupt_ends_it_with_the_report_and_nothing_is_left() {
    for signal in [Signal::INT, Signal::TERM] {
        let show = Show::new();
        let child = show.start(&[]);
        show.wait_until_it_plays();
        signal_to(child.id(), signal);
        let (code, out, err) = output(child);
        assert_eq!(code, Some(0), "{out}\n{err}");
        assert!(out.contains("0 failures seen by callers"), "{out}\n{err}");
        assert!(show.is_clean(), "{:?}", show.processes());
    }
}

#[test]
fn nothing_outlives_a_demo_that_is_killed() {
    let show = Show::new();
    let mut child = show.start(&["--quiet"]);
    until("everything runs", || {
        (show.processes().len() >= ALL_PROCESSES).then_some(())
    });
    signal_to(child.id(), Signal::KILL);
    child.wait().unwrap();
    until("nothing is left", || show.is_clean().then_some(()));
}

#[test]
fn a_port_in_use_is_told_before_anything_is_started() {
    let show = Show::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = tidegate()
        .args(["demo", "--port", &port])
        .env("TMPDIR", show.folder.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = support::stderr(&output);
    assert!(told.contains(&format!("port {port} is in use")), "{told}");
    assert!(show.is_clean());
}
