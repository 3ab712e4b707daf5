//! What the tests share.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use tidegate_config::{Diagnostics, Loaded, load_with};

/// The variables that the test files use; nothing of the machine's environment shows through.
pub(crate) fn env(name: &str) -> Option<String> {
    match name {
        "TOKEN" => Some("hunter2-from-env".into()),
        "PORT" => Some("8080".into()),
        "NOT_A_PORT" => Some("eighty".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

/// Loads files under `tests/` with [`env`].
pub(crate) fn load_files(paths: &[&str]) -> Result<Loaded, Diagnostics> {
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    load_with(&paths, &env)
}

/// The YAML files of a folder by name.
pub(crate) fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the test's folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no test files in {folder}");
    files
}

/// Compares a text with a file. `BLESS=1` writes the file instead: read the difference before committing it.
pub(crate) fn assert_golden(path: &Path, text: &str) {
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, text).expect("write the expected text");
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; found:\n{text}",
        path.display()
    );
}
