//! The life of the processes, through the real binary: who dies, who takes over, and that no caller is refused.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Load, Site, assert_holds, is_gateway, request, signal_to, until};

#[test]
fn a_signal_to_end_ends_everything_with_code_0_and_leaves_no_runtime_files() {
    let site = Site::new();
    let mut running = site.up();
    let gateway = running.gateway();
    assert_eq!(running.stop(), Some(0));
    assert!(!is_gateway(gateway));
    assert!(site.try_get().is_err());
    let left: BTreeSet<String> = fs::read_dir(site.run_folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // The next one's epoch is higher.
    assert_eq!(left, ["epoch", "lock"].map(String::from).into());
}

#[test]
fn the_state_folders_run_folder_is_the_owners_alone() {
    let site = Site::new();
    let _running = site.up();
    assert_eq!(
        fs::metadata(site.run_folder())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
}

#[test]
fn a_killed_gateway_is_replaced_at_once_and_no_connection_is_refused() {
    let site = Site::new();
    let running = site.up();
    let first = running.gateway();
    let load = Load::start(site.port, 2);
    signal_to(first, Signal::KILL);
    let killed = Instant::now();
    running.wait_for_nth("gateway ready", 2);
    let gap = killed.elapsed();
    site.get();
    let seen = load.stop();
    assert_ne!(running.gateway(), first);
    assert!(gap < Duration::from_secs(1), "serving again after {gap:?}");
    // A request that the dead gateway had read is lost with it; a connection is never refused.
    let refused: Vec<&String> = seen
        .failures
        .iter()
        .filter(|failure| failure.contains("refused"))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    assert!(
        seen.failures.len() <= 2,
        "more failures than requests that could be under way: {:?}",
        seen.failures
    );
}

#[test]
fn a_gateway_that_dies_again_and_again_is_restarted_ever_more_slowly_and_reported() {
    let site = Site::new();
    let mut running = site.up();
    for death in 1..=4 {
        signal_to(running.gateway(), Signal::KILL);
        running.wait_for_nth("gateway ready", death + 1);
    }
    let waits: Vec<u64> = running
        .events("the gateway dies again and again")
        .iter()
        .map(|event| event["wait_ms"].as_u64().unwrap())
        .collect();
    assert_eq!(waits, [200, 400], "the third and the fourth death in a row");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_second_up_on_the_same_state_folder_is_refused_and_told_what_to_do() {
    let site = Site::new();
    let first = site.up();
    let mut second = site.start(&[]);
    assert_eq!(second.wait().code(), Some(1));
    let reason = second.wait_for("not started")["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_holds(
        &reason,
        &[&format!("(pid {})", first.pid()), "--upgrade", "state.url"],
    );
    site.get();
}

#[test]
fn addresses_in_use_are_all_named_and_nothing_is_started() {
    let site = Site::new();
    let _first = site.up();
    let other = Site::new();
    let text = fs::read_to_string(site.path()).unwrap();
    other.write(&text.replace(
        &site.folder.path().display().to_string(),
        &other.folder.path().display().to_string(),
    ));
    let mut second = other.start(&[]);
    assert_eq!(second.wait().code(), Some(1));
    let reason = second.wait_for("not started")["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_holds(&reason, &["listener main", "admin", "in use"]);
    assert!(second.events("gateway started").is_empty());
}

#[test]
fn a_gateway_serves_on_without_its_supervisor_and_the_next_one_adopts_it() {
    let site = Site::new();
    let mut first = site.up();
    let gateway = first.gateway();
    first.signal(Signal::KILL);
    first.wait();
    first.wait_for("the supervisor is gone: serving on");
    site.get();
    let load = Load::start(site.port, 2);
    let mut second = site.start(&[]);
    let adopted = second.wait_for("gateway adopted");
    assert_eq!(adopted["pid"], gateway);
    assert!(second.events("gateway started").is_empty());
    let seen = load.stop();
    assert_eq!(seen.failures, Vec::<String>::new());
    // The new one is in charge: it restarts the adopted gateway, and ends it.
    signal_to(gateway, Signal::KILL);
    second.wait_for("gateway ready");
    site.get();
    assert_eq!(second.stop(), Some(0));
    assert!(site.try_get().is_err());
}

#[test]
fn an_orphan_that_runs_another_configuration_is_replaced_without_a_failed_request() {
    let site = Site::new();
    let mut first = site.up();
    let gateway = first.gateway();
    first.signal(Signal::KILL);
    first.wait();
    first.wait_for("the supervisor is gone: serving on");
    // The orphan reads the file as well, so it is the number of workers that differs.
    let load = Load::start(site.port, 2);
    let mut second = site.start(&["--workers", "2"]);
    second.wait_for("the outgoing gateway ended");
    assert_ne!(second.gateway(), gateway);
    assert!(!is_gateway(gateway));
    let seen = load.stop();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn an_orphan_ends_in_good_order_by_its_own_signal() {
    let site = Site::new();
    let mut running = site.up();
    let gateway = running.gateway();
    running.signal(Signal::KILL);
    running.wait();
    running.wait_for("the supervisor is gone: serving on");
    signal_to(gateway, Signal::TERM);
    until("the orphan ends", || (!is_gateway(gateway)).then_some(()));
    assert!(site.try_get().is_err());
}

#[test]
fn a_gateway_that_is_told_to_drain_is_replaced_while_it_does() {
    let site = Site::new();
    let mut running = site.up();
    let first = running.gateway();
    let load = Load::start(site.port, 2);
    signal_to(first, Signal::TERM);
    running.wait_for_nth("gateway ready", 2);
    running.wait_for("the outgoing gateway ended");
    let seen = load.stop();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert_ne!(running.gateway(), first);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn an_upgrade_replaces_the_running_one_without_a_failed_request() {
    let site = Site::new();
    let mut first = site.up();
    let load = Load::start(site.port, 2);
    let monitoring = Load::asking(site.admin, "/livez", 1);
    let mut second = site.start(&["--upgrade"]);
    second.wait_for("in charge");
    assert_eq!(first.wait().code(), Some(0));
    site.get();
    let seen = load.stop();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(seen.answered > 0);
    assert_eq!(monitoring.stop().failures, Vec::<String>::new());
    assert_ne!(first.gateway(), second.gateway());
    // The seat went over as well: a third one is refused, and another upgrade works.
    assert_eq!(site.start(&[]).wait().code(), Some(1));
    let mut third = site.start(&["--upgrade"]);
    third.wait_for("in charge");
    assert_eq!(second.wait().code(), Some(0));
    assert_eq!(third.stop(), Some(0));
}

#[test]
fn an_upgrade_that_cannot_serve_leaves_the_running_one_untouched() {
    let site = Site::new();
    let first = site.up();
    let gateway = first.gateway();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let good = fs::read_to_string(site.path()).unwrap();
    let line = format!(
        "  - {{ name: more, address: {} }}\n",
        taken.local_addr().unwrap()
    );
    let bad = site.folder.path().join("bad.yaml");
    fs::write(
        &bad,
        good.replace("listeners:\n", &format!("listeners:\n{line}")),
    )
    .unwrap();
    let output = support::tidegate()
        .arg("up")
        .arg(&bad)
        .arg("--upgrade")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&support::stderr(&output), &["listener more", "in use"]);
    first.wait_for("the upgrade was taken back: going on");
    site.get();
    assert_eq!(first.gateway(), gateway);
    assert!(is_gateway(gateway));
}

/// What no look at the configuration shows: making the file fails in the gateway only, because the link leads nowhere.
fn log_that_cannot_be_made(site: &Site) -> String {
    let link = site.folder.path().join("access.log");
    std::os::unix::fs::symlink("/nowhere/access.log", &link).unwrap();
    format!("access_log: {{ to: {} }}\n", link.display())
}

#[test]
fn an_upgrade_whose_gateway_cannot_start_says_why_and_leaves_the_running_one_untouched() {
    let site = Site::new();
    let first = site.up();
    let gateway = first.gateway();
    let good = fs::read_to_string(site.path()).unwrap();
    let bad = site.folder.path().join("bad.yaml");
    fs::write(&bad, format!("{}{good}", log_that_cannot_be_made(&site))).unwrap();
    let output = support::tidegate()
        .arg("up")
        .arg(&bad)
        .arg("--upgrade")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&support::stderr(&output), &["access_log"]);
    first.wait_for("the upgrade was taken back: going on");
    assert!(is_gateway(gateway));
    site.get();
}

#[test]
fn a_start_whose_gateway_cannot_start_is_code_1_with_the_reason() {
    let site = Site::new();
    let good = fs::read_to_string(site.path()).unwrap();
    site.write(&format!("{}{good}", log_that_cannot_be_made(&site)));
    let output = support::run(&["up", site.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&support::stderr(&output), &["access_log"]);
    assert!(site.try_get().is_err());
}

#[test]
fn an_upgrade_of_nothing_is_a_start() {
    let site = Site::new();
    let mut running = site.start(&["--upgrade"]);
    running.wait_for("gateway ready");
    site.get();
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn sigusr2_upgrades_to_the_executable_that_lies_at_the_same_path() {
    let site = Site::new();
    let binary = site.folder.path().join("tidegate");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &binary).unwrap();
    let mut first = site.start_binary(&binary, &[], &[]);
    first.wait_for("gateway ready");
    // As a package manager does it: the running file is unlinked.
    let new = site.folder.path().join("new");
    fs::copy(env!("CARGO_BIN_EXE_tidegate"), &new).unwrap();
    fs::rename(&new, &binary).unwrap();
    // A gateway that dies meanwhile is restarted as the old version.
    let gateway = first.gateway();
    signal_to(gateway, Signal::KILL);
    first.wait_for_nth("gateway ready", 2);
    let exe = fs::read_link(format!("/proc/{}/exe", first.gateway())).unwrap();
    assert!(exe.display().to_string().ends_with(" (deleted)"), "{exe:?}");

    first.signal(Signal::USR2);
    let second = first.wait_for("in charge")["pid"].as_u64().unwrap();
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(
        fs::read_link(format!("/proc/{second}/exe")).unwrap(),
        binary
    );
    site.get();
    let second = u32::try_from(second).unwrap();
    signal_to(second, Signal::TERM);
    until("the successor ends", || {
        site.try_get().is_err().then_some(())
    });
}

#[test]
fn the_service_manager_is_told_of_every_turn() {
    let site = Site::new();
    let path = site.folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let told = || {
        let mut bytes = [0; 512];
        let count = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..count].to_vec()).unwrap()
    };
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_tidegate"));
    let mut first = site.start_binary(binary, &[], &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    assert_holds(&told(), &["READY=1", &format!("MAINPID={}", first.pid())]);
    site.get();
    first.signal(Signal::HUP);
    assert_holds(&told(), &["RELOADING=1", "MONOTONIC_USEC="]);
    assert_holds(&told(), &["READY=1"]);
    // The new process learns from the old one where the manager listens.
    let mut second = site.start(&["--upgrade"]);
    let main = format!("MAINPID={}", second.pid());
    assert_holds(&told(), &[&main]);
    assert_holds(&told(), &[&main, "READY=1"]);
    assert_eq!(first.wait().code(), Some(0));
    second.signal(Signal::TERM);
    assert_holds(&told(), &["STOPPING=1"]);
    assert_eq!(second.wait().code(), Some(0));
}

#[test]
fn the_limits_are_told_at_the_start_and_raised() {
    let site = Site::new();
    let running = site.up();
    let limits = running.wait_for("limits");
    assert!(
        limits["descriptors"].is_string() && limits["memory_bytes"].is_string(),
        "{limits}"
    );
    let inherited = fs::read_to_string(format!("/proc/{}/limits", running.gateway())).unwrap();
    let line = inherited
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "the soft limit is the hard one");
}

#[test]
fn a_reload_brings_a_listener_and_takes_it_away_and_the_supervisor_holds_its_socket() {
    let site = Site::new();
    let mut running = site.up();
    let more = support::free_port();
    let line = format!("  - {{ name: more, address: 127.0.0.1:{more} }}\n");
    let routes = "routes: [ { name: all, respond: { body: two } } ]\n";
    site.write(&site.config(routes, &line));
    running.wait_for("configuration reloaded");
    request(more, "/").unwrap();
    // Held by the supervisor: the gateway's death refuses nobody.
    signal_to(running.gateway(), Signal::KILL);
    request(more, "/").unwrap();
    running.wait_for_nth("gateway ready", 2);

    site.write(&site.config(routes, ""));
    running.wait_for_nth("configuration reloaded", 2);
    until("the port is closed", || {
        std::net::TcpStream::connect(("127.0.0.1", more))
            .is_err()
            .then_some(())
    });
    site.get();
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_bad_configuration_is_refused_and_the_running_one_stays() {
    let site = Site::new();
    let mut running = site.up();
    let gateway = running.gateway();
    site.write("bad: [");
    running.wait_for("configuration refused: the running one stays");
    site.get();
    assert_eq!(running.gateway(), gateway);
    site.write(&site.answering("two"));
    running.wait_for("configuration reloaded");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_gateway_that_dies_while_the_file_is_bad_comes_back_with_what_was_accepted() {
    let site = Site::new();
    let mut running = site.up();
    site.write(&site.answering("two"));
    running.wait_for("configuration reloaded");
    assert_eq!(site.get(), "two");
    site.write("bad: [");
    running.wait_for("configuration refused: the running one stays");
    signal_to(running.gateway(), Signal::KILL);
    running.wait_for_nth("gateway ready", 2);
    assert_eq!(site.get(), "two");
    // The next one has it from the one before, which had it from the supervisor.
    running.wait_for_nth("configuration refused: the running one stays", 2);
    signal_to(running.gateway(), Signal::KILL);
    running.wait_for_nth("gateway ready", 3);
    assert_eq!(site.get(), "two");
    // The gateway shows what is wrong, and takes the file when it is good again.
    let shown = request(site.admin, "/api/v1/config").unwrap();
    assert_holds(&shown, &["refused", "tidegate.yaml"]);
    site.write(&site.answering("three"));
    running.wait_for_nth("configuration reloaded", 2);
    assert_eq!(site.get(), "three");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn an_adopted_gateways_configuration_survives_it_too() {
    let site = Site::new();
    let mut first = site.up();
    let gateway = first.gateway();
    first.signal(Signal::KILL);
    first.wait();
    first.wait_for("the supervisor is gone: serving on");
    let mut second = site.start(&[]);
    second.wait_for("gateway adopted");
    site.write("bad: [");
    second.wait_for("configuration refused: the running one stays");
    signal_to(gateway, Signal::KILL);
    second.wait_for("gateway ready");
    assert_eq!(site.get(), "one");
    assert_eq!(second.stop(), Some(0));
}

#[test]
fn a_listener_under_a_new_name_keeps_its_socket() {
    let site = Site::new();
    let mut running = site.up();
    let text = fs::read_to_string(site.path()).unwrap();
    let load = Load::start(site.port, 2);
    site.write(&text.replace("name: main", "name: renamed"));
    running.wait_for("configuration reloaded");
    site.get();
    assert_eq!(load.stop().failures, Vec::<String>::new());
    signal_to(running.gateway(), Signal::KILL);
    site.get();
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_reload_that_moves_the_admin_port_where_it_cannot_be_is_refused_as_a_whole() {
    let site = Site::new();
    let running = site.up();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let there = format!("admin: {{ address: 127.0.0.1:{port} }}");
    let here = format!("admin: {{ address: 127.0.0.1:{} }}", site.admin);
    site.write(&site.answering("two").replace(&here, &there));
    let refused = running.wait_for("configuration refused: the running one stays");
    assert_holds(refused["reason"].as_str().unwrap(), &["admin", "in use"]);
    assert_eq!(site.get(), "one");
    let config = request(site.admin, "/api/v1/config").unwrap();
    assert_holds(&config, &["\"refused\":\"admin"]);
    assert!(running.events("configuration reloaded").is_empty());
    drop(taken);
    running.signal(Signal::HUP);
    running.wait_for("configuration reloaded");
    assert_eq!(site.get(), "two");
    request(port, "/livez").unwrap();
}

#[test]
fn the_admin_port_moves_and_its_token_changes_with_a_reload() {
    let site = Site::new();
    let mut running = site.up();
    let text = fs::read_to_string(site.path()).unwrap();
    let moved = support::free_port();
    let line = format!("admin: {{ address: 127.0.0.1:{moved}, token: \"file:token\" }}");
    fs::write(site.folder.path().join("token"), "first").unwrap();
    site.write(&text.replace(text.lines().next().unwrap(), &line));
    running.wait_for("configuration reloaded");
    request(moved, "/livez").unwrap();
    until("the old port is closed", || {
        request(site.admin, "/livez").is_err().then_some(())
    });
    assert!(
        request(moved, "/api/v1/config").is_err(),
        "no token, no answer"
    );
    let status = |token: &str| {
        let address = format!("127.0.0.1:{moved}");
        let mut command = support::tidegate();
        command
            .args(["status", "--json", "--admin", &address])
            .env("TIDEGATE_ADMIN_TOKEN", token);
        command.output().unwrap().status.code()
    };
    assert_eq!(status("first"), Some(0));
    // A secret's file is part of the configuration.
    fs::write(site.folder.path().join("token"), "second").unwrap();
    running.wait_for_nth("configuration reloaded", 2);
    assert_eq!((status("first"), status("second")), (Some(1), Some(0)));
    assert_eq!(running.stop(), Some(0));
}
