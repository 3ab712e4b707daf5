//! The command line through the real binary: exit codes, and what is said where.

mod support;

use std::fs;

use serde_json::Value;
use support::{Site, assert_holds, run, stderr, stdout, until};

#[test]
fn a_good_configuration_is_checked_with_code_0_and_says_what_it_holds() {
    let site = Site::new();
    let output = run(&["check", site.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "ok: 1 listener, 1 route, 0 upstreams in 1 file\n"
    );
}

#[test]
fn providers_are_counted_where_there_are_some() {
    let site = Site::new();
    let providers = "providers: [ { name: p, type: openai, api_tokens: [ sk-1 ] } ]\n";
    site.write(&format!(
        "{}{providers}",
        site.config("routes: [ { name: all, to: [ { provider: p } ] } ]\n", "")
    ));
    let output = run(&["check", site.path().to_str().unwrap()]);
    assert_eq!(
        stdout(&output),
        "ok: 1 listener, 1 route, 0 upstreams, 1 provider in 1 file\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_bad_configuration_is_code_2_with_every_problem_on_stderr() {
    let site = Site::new();
    let text = site
        .config("routes: [ { name: all, respnd: { body: x } } ]\n", "")
        .replace("grace: 20s", "grace: soon");
    site.write(&text);
    for command in ["check", "up"] {
        let output = run(&[command, site.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stdout(&output), "");
        assert_holds(
            &stderr(&output),
            &[
                "tidegate.yaml:3:",
                "soon",
                "tidegate.yaml:6:",
                "respnd",
                "respond",
                "errors",
            ],
        );
    }
    assert!(
        !site.run_folder().exists(),
        "nothing is made for a configuration that is not run"
    );
}

#[test]
fn what_a_start_would_refuse_is_refused_by_check_with_every_problem() {
    let site = Site::new();
    let text = site.config(
        "routes: [ { name: all, respond: { body: x } } ]\n",
        "access_log: /nowhere/access.log\nupstreams:\n  - { name: up, endpoints: [ { address: 127.0.0.1:1 } ], tls: { ca: broken.pem } }\n",
    );
    let broken = "-----BEGIN CERTIFICATE-----\nbm8gY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n";
    fs::write(site.path().with_file_name("broken.pem"), broken).unwrap();
    site.write(&text);
    for command in ["check", "up"] {
        let output = run(&[command, site.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
        assert_holds(
            &stderr(&output),
            &[
                "upstream up",
                "broken.pem",
                "access_log",
                "/nowhere/access.log",
            ],
        );
    }
    let output = run(&["check", "--json", site.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["diagnostics"].as_array().unwrap().len(), 2);
}

#[test]
fn check_tells_programs_the_same_as_json() {
    let site = Site::new();
    let output = run(&["check", "--json", site.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["ok"], true);
    assert_eq!(report["holds"]["listeners"], 1);
    assert!(report["hash"].as_str().unwrap().len() > 8);

    site.write("listeners: 5\n");
    let output = run(&["check", "--json", site.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["diagnostics"][0]["place"]["line"], 1);
}

#[test]
fn a_configuration_that_is_not_there_is_code_2_and_named() {
    let output = run(&["check", "/nowhere/tidegate.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_holds(&stderr(&output), &["/nowhere/tidegate.yaml"]);
}

#[test]
fn a_secret_is_in_no_output() {
    let site = Site::new();
    let text = fs::read_to_string(site.path()).unwrap();
    let secret = "hunter2-hunter2";
    site.write(&text.replace(
        "admin: { ",
        &format!("admin: {{ token: \"{secret}\", adress: x, "),
    ));
    let path = site.path().display().to_string();
    for arguments in [
        vec!["check", &path],
        vec!["check", "--json", &path],
        vec!["up", &path],
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(!stdout(&output).contains(secret) && !stderr(&output).contains(secret));
        assert!(stdout(&output).contains("adress") || stderr(&output).contains("adress"));
    }
}

#[test]
fn the_schema_is_json_and_knows_the_sections() {
    let output = run(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let sections = &schema["$defs"]["Config"]["properties"];
    for section in ["listeners", "routes", "upstreams", "admin", "shutdown"] {
        assert!(sections[section].is_object(), "{section}");
    }
}

#[test]
fn bad_usage_is_code_2_and_says_what_would_be_right() {
    let site = Site::new();
    let path = site.path().display().to_string();
    for (arguments, said) in [
        (vec![], "Usage"),
        (vec!["up"], "CONFIG"),
        (vec!["chek"], "check"),
        (vec!["up", &path, "--workers", "0"], "--workers"),
        (vec!["--log", "loud=very", "check", &path], "debug"),
        (vec!["status", "--admin", "http://"], "http://"),
        (vec!["status", "--token-file", "/nowhere"], "/nowhere"),
    ] {
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_holds(&stderr(&output), &[said]);
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn the_version_is_told() {
    let output = run(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        concat!("tidegate ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn a_role_started_by_hand_says_who_starts_it() {
    let output = run(&["role", "gateway"]);
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&stderr(&output), &["tidegate up"]);
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named() {
    let site = Site::new();
    fs::write(site.folder.path().join("state"), "a file").unwrap();
    let output = run(&["up", site.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&stderr(&output), &["state folder", "state/run"]);
}

#[test]
fn status_without_a_running_tidegate_is_code_1_and_says_where_it_looked() {
    let address = format!("127.0.0.1:{}", support::free_port());
    let output = run(&["status", "--admin", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert_holds(&stderr(&output), &[&address]);
}

#[test]
fn status_shows_a_running_one_to_people_and_programs() {
    let site = Site::new();
    let _running = site.up();
    let address = format!("127.0.0.1:{}", site.admin);
    let output = run(&["status", "--admin", &address]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_holds(&stdout(&output), &["all"]);
    let listeners = until("the listener is shown", || {
        let output = run(&["status", "listeners", "--json", "--admin", &address]);
        serde_json::from_str::<Value>(&stdout(&output))
            .ok()
            .filter(|value| value.to_string().contains("main"))
    });
    assert!(
        listeners.to_string().contains(&site.port.to_string()),
        "{listeners}"
    );
}

#[test]
fn the_filter_decides_what_is_logged() {
    let site = Site::new();
    let mut quiet = site.start(&["--log", "warn"]);
    until("it serves", || site.try_get().ok());
    assert_eq!(quiet.stop(), Some(0));
    assert!(quiet.events("gateway ready").is_empty(), "{}", quiet.log());
}
