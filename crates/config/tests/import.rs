//! Importers: each file of another system with what becomes of it.

mod support;

use std::path::Path;
use support::{assert_golden, yaml_files};
use tidegate_config::import::{Imported, Secrets, higress};
use tidegate_config::load_str_with;

fn import(path: &Path, secrets: Secrets) -> Imported {
    let text = std::fs::read_to_string(path).expect("the test's file");
    let name = path.file_name().expect("a name").to_string_lossy();
    higress(&[(name.into_owned(), text)], secrets).expect("an ai-proxy configuration")
}

fn one(text: &str) -> Imported {
    higress(&[("h.yaml".into(), text.into())], Secrets::References).expect("a configuration")
}

#[test]
fn every_file_becomes_a_configuration_that_loads_with_notes_on_what_differs() {
    for path in yaml_files("tests/import/higress") {
        let imported = import(&path, Secrets::References);
        let notes: String = imported
            .notes
            .iter()
            .map(|note| format!("{note}\n"))
            .collect();
        assert_golden(&path.with_extension("out"), &imported.yaml);
        assert_golden(&path.with_extension("notes"), &notes);
        assert_eq!(
            imported.problems.errors(),
            0,
            "{}: {}",
            path.display(),
            imported.problems
        );
    }
}

#[test]
fn no_secret_is_printed_unless_it_is_asked_for() {
    for path in yaml_files("tests/import/higress") {
        let source = std::fs::read_to_string(&path).expect("the test's file");
        let imported = import(&path, Secrets::References);
        let notes: String = imported
            .notes
            .iter()
            .map(|note| format!("{note}\n"))
            .collect();
        assert!(!imported.yaml.contains("sk-live"), "{}", imported.yaml);
        assert!(!notes.contains("sk-live"), "{notes}");
        let kept = import(&path, Secrets::Kept);
        assert_eq!(
            kept.problems.errors(),
            0,
            "{}: {}",
            path.display(),
            kept.problems
        );
        assert_eq!(kept.yaml.contains("sk-live"), source.contains("sk-live"));
    }
}

#[test]
fn what_is_loaded_means_what_higress_does() {
    let imported = import(Path::new("tests/import/higress/single.yaml"), Secrets::Kept);
    let env = |_: &str| Some("from-the-environment".to_owned());
    let config = load_str_with("t", &imported.yaml, &env)
        .expect("it loads")
        .config;
    let provider = &config.providers[0];
    let keys: Vec<_> = provider
        .api_tokens
        .iter()
        .map(|key| (key.token.expose(), key.weight))
        .collect();
    assert_eq!(keys[1], ("sk-live-bbbbbbbbbbbbbbbbbbbb2222", 2));
    assert_eq!(keys[2], ("from-the-environment", 1));
    let targets: Vec<_> = provider
        .model_mapping
        .0
        .iter()
        .map(|(_, to)| to.as_str())
        .collect();
    assert_eq!(
        targets,
        [
            "qwen-turbo",
            "qwen-max",
            "qwen-plus",
            "qwen-$1-${2}",
            "qwen-turbo"
        ]
    );
    let statuses: Vec<_> = provider
        .failover
        .on_status
        .iter()
        .map(|p| p.as_str())
        .collect();
    assert_eq!(statuses, ["4..", ".*(?:50).*", "^5..$"]);
    assert_eq!(config.routes[0].retry.attempts, 3);
}

#[test]
fn json_is_read_and_one_provider_twice_is_one() {
    let imported = one(
        r#"{"provider": {"type": "openai", "apiTokens": ["a"]}, "_rules_": [
            {"_match_domain_": ["a.local"], "provider": {"type": "openai", "apiTokens": ["a"]}},
            {"_match_domain_": ["b.local"], "provider": {"type": "openai", "apiTokens": ["b"]}}]}"#,
    );
    assert_eq!(
        imported.yaml.matches("type: openai").count(),
        2,
        "{}",
        imported.yaml
    );
    assert!(
        imported.yaml.contains("provider: openai-2"),
        "{}",
        imported.yaml
    );
    assert_eq!(imported.problems.errors(), 0);
}

#[test]
fn what_is_no_ai_proxy_configuration_is_refused_and_shows_no_secret() {
    let refused = |text: &str| {
        higress(&[("h.yaml".into(), text.into())], Secrets::References)
            .expect_err("it is none")
            .to_string()
    };
    assert!(refused("a: 1\n").contains("no configuration of ai-proxy"));
    assert!(refused("").contains("no configuration of ai-proxy"));
    let broken = refused("provider:\n  apiTokens: [ 'sk-live-1\n  type: x\n");
    assert!(
        broken.contains("h.yaml") && !broken.contains("sk-live"),
        "{broken}"
    );
}
