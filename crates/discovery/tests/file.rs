//! Files as a source of endpoints: every way in which they are replaced, and every way in which they are wrong.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use support::{ids, until};
use tidegate_discovery::Watch;

fn discover(path: &Path) -> Watch {
    support::watch(&format!("discover: {{ file: \"{}\" }}", path.display()))
}

fn list(ports: &[u16]) -> String {
    let entries: Vec<String> = ports
        .iter()
        .map(|port| format!("{{ \"address\": \"10.0.0.1:{port}\", \"weight\": {port} }}"))
        .collect();
    format!("{{ \"endpoints\": [{}] }}", entries.join(", "))
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_yaml_with_all_that_an_endpoint_can_say() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        (
            "e.json",
            r#"{ "endpoints": [ { "address": "a.test:1", "weight": 2, "region": "eu", "zone": "b", "priority": 1 }, { "address": "unix:/run/x" } ] }"#,
        ),
        (
            "e.yaml",
            "endpoints:\n  - { address: \"a.test:1\", weight: 2, region: eu, zone: b, priority: 1 }\n  - address: unix:/run/x\n",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        let source = discover(&path);
        assert_eq!(source.kind(), "file");
        let update = until(&mut source.updates(), |update| update.known).await;
        assert_eq!(ids(&update), ["a.test:1", "unix:/run/x"]);
        let first = &update.endpoints[0];
        assert_eq!(
            (first.weight, &*first.region, &*first.zone, first.priority),
            (2, "eu", "b", 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_renamed_into_place_is_taken_up_within_a_second() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("endpoints.json");
    std::fs::write(&path, list(&[1])).expect("written");
    let source = discover(&path);
    let mut updates = source.updates();
    until(&mut updates, |update| update.known).await;
    for ports in [&[1, 2][..], &[2], &[1, 2, 3]] {
        std::fs::write(folder.path().join("new"), list(ports)).expect("written");
        std::fs::rename(folder.path().join("new"), &path).expect("renamed");
        let renamed = Instant::now();
        until(&mut updates, |update| update.endpoints.len() == ports.len()).await;
        assert!(
            renamed.elapsed() < Duration::from_secs(1),
            "{:?}",
            renamed.elapsed()
        );
    }
    std::fs::write(&path, list(&[])).expect("written");
    let update = until(&mut updates, |update| update.endpoints.is_empty()).await;
    assert_eq!(
        update.error, None,
        "an empty list in a good file is the truth"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kubernetes_swap_of_its_data_link_is_seen() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for (name, ports) in [("..one", &[1][..]), ("..two", &[1, 2])] {
        std::fs::create_dir(at(name)).expect("a folder");
        std::fs::write(at(name).join("endpoints.yaml"), list(ports)).expect("written");
    }
    symlink("..one", at("..data")).expect("a link");
    symlink("..data/endpoints.yaml", at("endpoints.yaml")).expect("a link");
    let source = discover(&at("endpoints.yaml"));
    let mut updates = source.updates();
    until(&mut updates, |update| update.endpoints.len() == 1).await;
    symlink("..two", at("..data_tmp")).expect("a link");
    std::fs::rename(at("..data_tmp"), at("..data")).expect("swapped");
    std::fs::remove_dir_all(at("..one")).expect("removed");
    let swapped = Instant::now();
    until(&mut updates, |update| update.endpoints.len() == 2).await;
    assert!(
        swapped.elapsed() < Duration::from_secs(1),
        "{:?}",
        swapped.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_behind_a_link_to_an_unwatched_folder_is_found_by_looking() {
    let (here, elsewhere) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let real = elsewhere.path().join("endpoints.json");
    std::fs::write(&real, list(&[1])).expect("written");
    let link = here.path().join("endpoints.json");
    symlink(&real, &link).expect("a link");
    let source = discover(&link);
    let mut updates = source.updates();
    until(&mut updates, |update| update.endpoints.len() == 1).await;
    std::fs::write(&real, list(&[1, 2])).expect("written");
    until(&mut updates, |update| update.endpoints.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_file_is_told_and_keeps_the_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("endpoints.json");
    std::fs::write(&path, list(&[1])).expect("written");
    let source = discover(&path);
    let mut updates = source.updates();
    until(&mut updates, |update| update.known).await;
    let half = list(&[1, 2]);
    let wrong = [
        &half[..half.len() / 2],
        "",
        "endpoints: [ { adress: \"a:1\" } ]",
        "[]",
        "\u{0}",
    ];
    for text in wrong {
        std::fs::write(&path, text).expect("written");
        let update = until(&mut updates, |update| update.error.is_some()).await;
        assert_eq!(ids(&update), ["10.0.0.1:1"], "{text:?}");
        assert!(
            update.error.expect("told").contains("endpoints.json"),
            "{text:?}"
        );
        std::fs::write(&path, list(&[1])).expect("written");
        until(&mut updates, |update| update.error.is_none()).await;
    }
    std::fs::remove_file(&path).expect("removed");
    let update = until(&mut updates, |update| update.error.is_some()).await;
    assert_eq!(ids(&update), ["10.0.0.1:1"]);
    std::fs::write(&path, list(&[3])).expect("written");
    until(&mut updates, |update| ids(update) == ["10.0.0.1:3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_its_folder_may_come_later() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("later");
    let path = folder.join("endpoints.json");
    let source = discover(&path);
    let mut updates = source.updates();
    let update = until(&mut updates, |update| update.error.is_some()).await;
    assert!(!update.known);
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(&path, list(&[1])).expect("written");
    let update = until(&mut updates, |update| update.known).await;
    assert_eq!(
        (ids(&update), update.error),
        (vec!["10.0.0.1:1".to_owned()], None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_in_the_configuration_is_known_at_once() {
    let source = support::watch(
        "endpoints:\n  - { address: \"10.0.0.1:1\", weight: 3, zone: a }\n  - address: unix:/run/x",
    );
    let update = source.current();
    assert!(update.known && update.error.is_none());
    assert_eq!(
        (ids(&update), update.endpoints[0].weight),
        (vec!["10.0.0.1:1".to_owned(), "unix:/run/x".to_owned()], 3)
    );
    assert_eq!(source.kind(), "static");
}
