//! Texts that were read before mean what the files meant.

use std::fs;

use tidegate_config::{load, load_texts};

#[test]
fn texts_mean_what_their_files_meant_also_when_those_are_changed_or_gone() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // A path relative to the file shows that the texts keep their place.
    fs::write(at("token"), "s3cret").unwrap();
    fs::write(at("a.yaml"), "admin: { token: \"file:token\" }\n").unwrap();
    fs::write(at("b.yaml"), "node: { region: eu }\n").unwrap();
    let read = load(&[at("a.yaml"), at("b.yaml")]).unwrap();
    let texts: Vec<_> = read
        .files
        .iter()
        .map(|file| (file.clone(), fs::read_to_string(file).unwrap()))
        .collect();
    fs::write(at("a.yaml"), "bad: [").unwrap();
    fs::remove_file(at("b.yaml")).unwrap();
    let again = load_texts(&texts, &|_| None).unwrap();
    assert_eq!(
        (again.hash, again.files, again.secret_files),
        (read.hash, read.files, read.secret_files)
    );
    assert_eq!(again.config.node.region, "eu");
}

#[test]
fn bad_texts_are_told_with_their_files() {
    let problems = load_texts(&[("conf/a.yaml".into(), "listeners: 5\n".into())], &|_| {
        None
    })
    .unwrap_err();
    assert_eq!(problems.0[0].place.as_ref().unwrap().file, "conf/a.yaml");
    assert!(load_texts(&[], &|_| None).is_err());
}
