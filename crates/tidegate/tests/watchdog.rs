//! Processes that live and do nothing, and a supervisor that cannot have what it needs.

mod support;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use support::{Running, Site, freeze, is_gateway, signal_to};

const KILLED: &str = "the gateway gives no sign of life: killed";

/// A running site whose gateway may be silent for so long; faults are read from the site's file `fault`.
fn watched(site: &Site, deadline_ms: &str) -> Running {
    let fault = site.folder.path().join("fault");
    let running = site.start_binary(
        Path::new(env!("CARGO_BIN_EXE_tidegate")),
        &[],
        &[
            ("TIDEGATE_BEAT_DEADLINE_MS", deadline_ms),
            ("TIDEGATE_FAULT_FILE", fault.to_str().unwrap()),
        ],
    );
    running.wait_for("gateway ready");
    running
}

/// Faults and the shorter deadline are not in builds without debug assertions.
#[cfg(debug_assertions)]
fn a_worker_that(fault: &str) {
    let site = Site::new();
    let running = watched(&site, "9000");
    site.get();
    let first = running.gateway();
    let part = site.folder.path().join("fault.part");
    fs::write(&part, format!("{fault} {first} 0")).unwrap();
    fs::rename(part, site.folder.path().join("fault")).unwrap();
    running.wait_for("a worker does not answer: not ready");
    running.wait_for(KILLED);
    running.wait_for_nth("gateway ready", 2);
    assert!(!is_gateway(first));
    assert_eq!(site.get(), "one");
}

#[cfg(debug_assertions)]
#[test]
fn a_gateway_with_a_worker_that_hangs_is_killed_and_replaced() {
    a_worker_that("hang");
}

#[cfg(debug_assertions)]
#[test]
fn a_gateway_with_a_worker_that_died_is_killed_and_replaced() {
    a_worker_that("die");
}

#[cfg(debug_assertions)]
#[test]
fn a_gateway_that_somebody_stopped_is_left_alone() {
    let site = Site::new();
    let running = watched(&site, "12000");
    let gateway = running.gateway();
    freeze(gateway);
    running.wait_for("the gateway gives no sign of life: stopped or traced, left alone");
    assert!(is_gateway(gateway));
    signal_to(gateway, Signal::CONT);
    assert_eq!(site.get(), "one");
    assert_eq!(running.gateway(), gateway);
    assert_eq!(running.events(KILLED).len(), 0);
}

/// Processor time of a process so far, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = rest.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_supervisor_without_descriptors_says_so_and_tries_again_now_and_then() {
    const REFUSED: &str = "cannot let in who asks to take over";
    let site = Site::new();
    let mut first = site.up();
    let pid = Pid::from_raw(i32::try_from(first.pid()).unwrap());
    let none = Rlimit {
        current: Some(3),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    };
    let before = prlimit(pid, Resource::Nofile, none).unwrap();
    let _knocks = UnixStream::connect(site.run_folder().join("supervisor.sock")).unwrap();
    first.wait_for(REFUSED);
    let began = ticks(first.pid());
    first.wait_for_nth(REFUSED, 3);
    let spent = ticks(first.pid()) - began;
    // Two pauses of a second: without them both would be spent.
    assert!(spent < 50, "{spent} hundredths of a second");
    site.get();
    prlimit(pid, Resource::Nofile, before).unwrap();
    let second = site.start(&["--upgrade"]);
    second.wait_for("in charge");
    assert_eq!(first.wait().code(), Some(0));
}
