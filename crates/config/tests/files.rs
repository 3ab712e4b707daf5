//! Several files and folders as one configuration.

mod support;

use std::fs;
use std::path::PathBuf;
use support::env;
use tempfile::TempDir;
use tidegate_config::model::Discover;
use tidegate_config::values::{ListenAddress, StateUrl};
use tidegate_config::{Diagnostics, Loaded, load_endpoints, load_with};

/// A folder with these files; loads it or some of them.
struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(TempDir::new().expect("a folder"));
        for (name, text) in files {
            let path = folder.path(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, text).expect("a file");
        }
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load(&self, names: &[&str]) -> Result<Loaded, Diagnostics> {
        load_with(
            &names.iter().map(|name| self.path(name)).collect::<Vec<_>>(),
            &env,
        )
    }
}

const LISTENER: &str = "listeners: [ { name: NAME, address: \"127.0.0.1:PORT\" } ]\n";

fn listener(name: &str, port: u16) -> String {
    LISTENER
        .replace("NAME", name)
        .replace("PORT", &port.to_string())
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded
        .config
        .listeners
        .iter()
        .map(|l| l.name.as_str())
        .collect()
}

#[test]
fn files_come_in_the_order_given_and_a_folders_by_name() {
    let (a, b, c) = (listener("a", 1), listener("b", 2), listener("c", 3));
    let folder = Folder::new(&[
        ("d/2.yaml", &b),
        ("d/10.yml", &a),
        ("z.yaml", &c),
        ("d/.hidden.yaml", "broken: ["),
        ("d/notes.txt", "x"),
    ]);
    let loaded = folder
        .load(&["z.yaml", "d"])
        .unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(names(&loaded), ["c", "a", "b"]);
    assert_eq!(
        loaded.files,
        [
            folder.path("z.yaml"),
            folder.path("d/10.yml"),
            folder.path("d/2.yaml")
        ]
    );
}

#[test]
fn mappings_are_united_and_a_value_given_twice_names_both_places() {
    let folder = Folder::new(&[
        ("a.yaml", "node: { region: eu }\n"),
        ("b.yaml", "node: { zone: a }\n"),
        ("c.yaml", "node: { zone: b }\n"),
    ]);
    let loaded = folder
        .load(&["a.yaml", "b.yaml"])
        .unwrap_or_else(|d| panic!("{d}"));
    assert_eq!(
        (
            loaded.config.node.region.as_str(),
            loaded.config.node.zone.as_str()
        ),
        ("eu", "a")
    );

    let diagnostics = folder
        .load(&["a.yaml", "b.yaml", "c.yaml"])
        .expect_err("zone twice");
    let problem = diagnostics
        .iter()
        .find(|d| d.message == "`node.zone` is given in two files")
        .expect("the problem");
    assert!(
        problem
            .place
            .as_ref()
            .expect("a place")
            .file
            .ends_with("c.yaml")
    );
    assert!(
        problem
            .related
            .as_ref()
            .expect("the other")
            .1
            .file
            .ends_with("b.yaml")
    );
}

#[test]
fn names_are_unique_and_references_hold_across_files() {
    let routes = "routes: [ { name: r, to: [ { upstream: u } ] } ]\n";
    let upstreams = "upstreams: [ { name: u, endpoints: [ { address: \"127.0.0.1:1\" } ] } ]\n";
    let folder = Folder::new(&[
        ("r.yaml", routes),
        ("u.yaml", upstreams),
        ("twice.yaml", upstreams),
    ]);
    assert!(folder.load(&["r.yaml", "u.yaml"]).is_ok());
    assert!(
        folder
            .load(&["r.yaml"])
            .expect_err("no upstream")
            .to_string()
            .contains("no upstream is named `u`")
    );
    let twice = folder
        .load(&["r.yaml", "u.yaml", "twice.yaml"])
        .expect_err("two of a name");
    assert!(
        twice.to_string().contains("a second upstream named `u`"),
        "{twice}"
    );
}

#[test]
fn one_broken_file_hides_nothing_of_the_others() {
    let folder = Folder::new(&[
        ("a.yaml", "node: [\n"),
        ("b.yaml", "shutdown: { graze: 1s }\n"),
    ]);
    let text = folder
        .load(&["a.yaml", "missing.yaml", "b.yaml"])
        .expect_err("bad")
        .to_string();
    assert!(
        text.contains("not YAML")
            && text.contains("did you mean `grace`?")
            && text.contains("missing.yaml: "),
        "{text}"
    );
}

#[test]
fn an_empty_folder_and_text_that_is_no_utf8_are_named() {
    let folder = Folder::new(&[("d/readme.md", "x")]);
    fs::write(folder.path("latin.yaml"), b"node: {}\n# gr\xfc\xdfe\n").expect("a file");
    let text = folder
        .load(&["d", "latin.yaml"])
        .expect_err("bad")
        .to_string();
    assert!(
        text.contains("no *.yaml in the folder") && text.contains("not UTF-8 at line 2"),
        "{text}"
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    let folder = Folder::new(&[("a.yaml", &format!("\u{feff}{}", listener("a", 1)))]);
    assert_eq!(
        names(&folder.load(&["a.yaml"]).unwrap_or_else(|d| panic!("{d}"))),
        ["a"]
    );
}

#[test]
fn relative_paths_start_at_the_file_that_names_them() {
    let text = "state: { url: \"file:./data\" }\nlisteners: [ { name: a, address: \"unix:a.sock\" } ]\n\
                upstreams: [ { name: u, discover: { file: sub/endpoints.json } } ]\n";
    let folder = Folder::new(&[("conf/a.yaml", text)]);
    let config = folder
        .load(&["conf/a.yaml"])
        .unwrap_or_else(|d| panic!("{d}"))
        .config;
    assert_eq!(config.state.url, StateUrl::File(folder.path("conf/data")));
    assert_eq!(
        config.listeners[0].address,
        ListenAddress::Unix(folder.path("conf/a.sock"))
    );
    assert_eq!(
        config.upstreams[0].discover,
        Some(Discover::File(folder.path("conf/sub/endpoints.json")))
    );
}

#[test]
fn a_secret_is_read_from_its_file_without_the_last_line_end() {
    let folder = Folder::new(&[
        ("a.yaml", "admin: { token: \"file:secrets/admin\" }\n"),
        ("secrets/admin", "hunter2\n"),
        ("b.yaml", "admin: { token: file:secrets/none }\n"),
        ("c.yaml", "admin: { token: file:secrets }\n"),
    ]);
    let loaded = folder.load(&["a.yaml"]).unwrap_or_else(|d| panic!("{d}"));
    let token = loaded.config.admin.and_then(|a| a.token).expect("a token");
    assert_eq!(token.expose(), "hunter2");
    assert_eq!(loaded.secret_files, [folder.path("secrets/admin")]);
    let text = folder.load(&["b.yaml"]).expect_err("no file").to_string();
    assert!(text.contains("cannot read the secret's file"), "{text}");
    assert!(
        folder
            .load(&["c.yaml"])
            .expect_err("a folder")
            .to_string()
            .contains("not a file")
    );
}

#[test]
fn certificate_files_must_be_there_and_hold_what_they_are_for() {
    let text = |key: &str| {
        format!(
            "listeners: [ {{ name: a, address: \"127.0.0.1:1\", tls: {{ certificate: cert.pem, key: {key} }} }} ]\n"
        )
    };
    let folder = Folder::new(&[
        (
            "cert.pem",
            "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n",
        ),
        (
            "key.pem",
            "-----BEGIN EC PRIVATE KEY-----\nMA==\n-----END EC PRIVATE KEY-----\n",
        ),
        ("good.yaml", &text("key.pem")),
        ("swapped.yaml", &text("cert.pem")),
    ]);
    assert!(folder.load(&["good.yaml"]).is_ok());
    let swapped = folder
        .load(&["swapped.yaml"])
        .expect_err("no key")
        .to_string();
    assert!(swapped.contains("no private key in"), "{swapped}");
}

#[test]
fn a_discovery_file_is_json_or_yaml_and_its_mistakes_have_places() {
    let file = PathBuf::from("/run/endpoints.json");
    let json = r#"{ "endpoints": [ { "address": "10.0.0.1:80", "weight": 3 }, { "address": "unix:a.sock" }, { "address": "10.0.0.1:80" } ] }"#;
    let endpoints = load_endpoints(&file, json).unwrap_or_else(|d| panic!("{d}"));
    let seen: Vec<(String, u32)> = endpoints
        .iter()
        .map(|e| (e.address.to_string(), e.weight))
        .collect();
    assert_eq!(
        seen,
        [
            ("10.0.0.1:80".to_owned(), 3),
            ("unix:/run/a.sock".to_owned(), 1)
        ]
    );
    assert_eq!(
        load_endpoints(&file, "endpoints: []").map(|e| e.len()),
        Ok(0)
    );
    for (text, message) in [
        ("", "`endpoints` is missing"),
        ("endpoint: []", "did you mean `endpoints`?"),
        (
            "endpoints: [ { address: x } ]",
            "/run/endpoints.json:1:25 (endpoints[0].address)",
        ),
        (
            "endpoints: [ { address: \"${HOME}:80\" } ]",
            "HOME is not set",
        ),
        ("{", "not YAML"),
    ] {
        let found = load_endpoints(&file, text).expect_err(text).to_string();
        assert!(found.contains(message), "{text}: {found}");
    }
}
