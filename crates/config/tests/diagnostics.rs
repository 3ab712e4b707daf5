//! What is said about bad configurations: each file in `bad/` with the text beside it.

mod support;

use support::{assert_golden, env, load_files, yaml_files};
use tidegate_config::{Diagnostics, Severity, load_str_with, load_with};

fn all_diagnostics(text: &str) -> Diagnostics {
    match load_str_with("t.yaml", text, &env) {
        Ok(loaded) => Diagnostics(loaded.warnings),
        Err(diagnostics) => diagnostics,
    }
}

#[test]
fn every_bad_file_is_answered_with_all_its_problems() {
    for file in yaml_files("tests/bad") {
        let diagnostics = match load_with(std::slice::from_ref(&file), &env) {
            Ok(loaded) => Diagnostics(loaded.warnings),
            Err(diagnostics) => diagnostics,
        };
        assert!(!diagnostics.0.is_empty(), "{} is not bad", file.display());
        let text = diagnostics.to_string();
        assert!(
            !text.contains("hunter2") && !text.contains("sk-live"),
            "{} shows a secret",
            file.display()
        );
        assert_golden(&file.with_extension("txt"), &text);
    }
}

#[test]
fn sections_of_later_builds_are_named_and_not_called_unknown() {
    let diagnostics =
        load_files(&["tests/design/whole.yaml"]).expect_err("later sections are refused");
    let text = diagnostics.to_string();
    for key in ["rollout", "autoscale", "alerts", "notifiers", "keeper"] {
        assert!(
            text.contains(&format!("`{key}` is not in this build")),
            "{key}: {text}"
        );
    }
    assert!(!text.contains("unknown key"), "{text}");
}

#[test]
fn a_service_has_no_name_of_an_upstream_or_a_provider() {
    for other in [
        "upstreams: [ { name: a, endpoints: [ { address: \"127.0.0.1:1\" } ] } ]",
        "providers: [ { name: a, type: ollama } ]",
    ] {
        let text = format!("services: [ {{ name: a, command: [ s, $PORT ] }} ]\n{other}\n");
        let diagnostics = all_diagnostics(&text).to_string();
        assert!(diagnostics.contains("of the same name"), "{diagnostics}");
    }
}

#[test]
fn diagnostics_serialise_with_place_and_path() {
    let diagnostics = all_diagnostics("routes: []\nnode: { zoen: x }\n");
    let json = serde_json::to_value(&diagnostics).expect("plain data");
    let first = json
        .as_array()
        .and_then(|list| list.iter().find(|d| d["severity"] == "error"))
        .expect("an error");
    assert_eq!(first["path"], "node");
    assert_eq!(first["place"]["file"], "t.yaml");
    assert_eq!(first["place"]["line"], 2);
    assert_eq!(first["place"]["column"], 9);
    assert_eq!(first["place"]["length"], 4);
    assert_eq!(first["help"], "did you mean `zone`?");
}

#[test]
fn colours_are_an_option_and_change_nothing_else() {
    let diagnostics = all_diagnostics("node: { zoen: x }");
    let coloured = diagnostics.render(true);
    assert!(coloured.contains("\u{1b}[1;31m"));
    assert!(!diagnostics.to_string().contains('\u{1b}'));
    let mut plain = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    assert_eq!(plain, diagnostics.to_string());
}

#[test]
fn control_characters_of_a_file_never_reach_the_terminal() {
    let diagnostics =
        all_diagnostics("\"\\e[31mred\": 1\nnode: { region: \"a\u{7}\", \"z\\noen\": 1 }\n");
    assert!(diagnostics.errors() >= 2);
    assert!(
        diagnostics
            .to_string()
            .chars()
            .all(|c| c == '\n' || !c.is_control()),
        "{diagnostics}"
    );
}

#[test]
fn a_mistake_behind_an_alias_is_said_once() {
    let text = "upstreams:\n  - { name: a, endpoints: &e [ { address: bad } ] }\n  - { name: b, endpoints: *e }\n";
    let diagnostics = all_diagnostics(text);
    assert_eq!(
        diagnostics
            .iter()
            .filter(|d| d.message == "an address without a port")
            .count(),
        1,
        "{diagnostics}"
    );
}

#[test]
fn nothing_is_said_about_references_into_a_part_that_could_not_be_read() {
    let text = "routes:\n  - { name: a, to: [ { upstream: lost } ] }\nupstreams:\n  - { name: lost, endpoints: [ { address: \n";
    let diagnostics = all_diagnostics(text);
    assert_eq!(diagnostics.0.len(), 1, "{diagnostics}");
    assert!(
        diagnostics.0[0].message.starts_with("not YAML"),
        "{diagnostics}"
    );
}

#[test]
fn a_tab_as_indentation_is_named() {
    let diagnostics = all_diagnostics("node:\n\tregion: eu\n");
    assert!(
        diagnostics.to_string().contains("replace the tab"),
        "{diagnostics}"
    );
}

#[test]
fn istios_zero_attempts_is_explained() {
    let text = "routes: [ { name: a, to: [ { upstream: u } ], retry: { attempts: 0 } } ]\n\
                upstreams: [ { name: u, endpoints: [ { address: \"127.0.0.1:1\" } ] } ]\n";
    let diagnostics = all_diagnostics(text);
    let problem = diagnostics
        .iter()
        .find(|d| d.path == "routes[0].retry.attempts")
        .expect("the problem");
    assert_eq!(problem.severity, Severity::Error);
    assert!(problem.help.contains("Istio"), "{}", problem.help);
}
