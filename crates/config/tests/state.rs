//! Where state lies when the configuration does not say.

use std::path::Path;

use tidegate_config::load_str_with;

fn folder(text: &str, variable: Option<&str>) -> std::path::PathBuf {
    let env = |name: &str| {
        (name == "STATE_DIRECTORY")
            .then(|| variable.map(str::to_owned))
            .flatten()
    };
    let loaded = load_str_with("t.yaml", text, &env).expect("it is valid");
    loaded.config.state.folder.expect("it has a folder")
}

#[test]
fn it_lies_beside_the_configuration() {
    assert_eq!(folder("{}", None), Path::new("./tidegate-data"));
}

#[test]
fn a_service_manager_may_name_another_folder() {
    assert_eq!(folder("{}", Some("/var/lib/a")), Path::new("/var/lib/a"));
    let two = folder("{}", Some("/var/lib/a:/var/lib/b"));
    assert_eq!(two, Path::new("/var/lib/a"));
    let redis = "state: { url: \"redis://127.0.0.1:6379\" }";
    assert_eq!(folder(redis, Some("/var/lib/a")), Path::new("/var/lib/a"));
}

#[test]
fn what_the_configuration_says_counts_more() {
    let text = "state: { url: \"file:/srv/state\" }";
    assert_eq!(folder(text, Some("/var/lib/a")), Path::new("/srv/state"));
}

#[test]
fn a_variable_without_an_absolute_path_is_none() {
    for odd in ["", "here"] {
        assert_eq!(folder("{}", Some(odd)), Path::new("./tidegate-data"));
    }
}
