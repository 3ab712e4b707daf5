//! Paths → texts, within bounds.

use crate::problem::Problem;
use crate::source::Source;
use crate::yaml::MAX_BYTES;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Texts of all files, and those that could not be read.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) sources: Vec<Source>,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) problems: Vec<Problem>,
}

/// Reads files in the order given; a folder stands for its `*.yaml` and `*.yml` by name.
pub(crate) fn read(paths: &[PathBuf]) -> Found {
    let mut found = Found::default();
    if paths.is_empty() {
        found.problems.push(Problem::without_place(
            "no configuration is given",
            "name a file or a folder",
        ));
    }
    for path in paths {
        if path.is_dir() {
            match folder(path) {
                Ok(files) if files.is_empty() => {
                    let message = format!("no *.yaml in the folder {}", path.display());
                    found.problems.push(Problem::without_place(
                        message,
                        "name a file, or a folder with files whose names end in .yaml",
                    ));
                }
                Ok(files) => files.into_iter().for_each(|file| found.add(file)),
                Err(error) => found.fail(path, &error.to_string()),
            }
        } else {
            found.add(path.clone());
        }
    }
    found
}

/// Hidden files are an editor's or a mounted ConfigMap's own business.
fn folder(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let yaml = file.extension().is_some_and(|e| e == "yaml" || e == "yml");
        let hidden = file
            .file_name()
            .is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if yaml && !hidden && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

impl Found {
    fn add(&mut self, file: PathBuf) {
        match text_of(&file) {
            Ok(text) => {
                let base = file.parent().map(Path::to_owned).unwrap_or_default();
                let text = text
                    .strip_prefix('\u{feff}')
                    .map(str::to_owned)
                    .unwrap_or(text);
                self.sources
                    .push(Source::new(file.display().to_string(), text, base));
                self.files.push(file);
            }
            Err(Unreadable::Large) => self.problems.push(too_large(&file.display().to_string())),
            Err(Unreadable::Other(reason)) => self.fail(&file, &reason),
        }
    }

    fn fail(&mut self, path: &Path, reason: &str) {
        let message = format!("cannot read {}: {reason}", path.display());
        self.problems.push(Problem::without_place(
            message,
            "check the path and its permissions",
        ));
    }
}

enum Unreadable {
    Large,
    Other(String),
}

fn text_of(file: &Path) -> Result<String, Unreadable> {
    let other = |error: std::io::Error| Unreadable::Other(error.to_string());
    let open = std::fs::File::open(file).map_err(other)?;
    let mut bytes = Vec::new();
    open.take(MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(other)?;
    if bytes.len() > MAX_BYTES {
        return Err(Unreadable::Large);
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        Unreadable::Other(format!("not UTF-8 at line {line}"))
    })
}

pub(crate) fn too_large(name: &str) -> Problem {
    let message = format!("{name} is larger than {} MiB", MAX_BYTES >> 20);
    Problem::without_place(
        message,
        "split it; endpoints that come and go belong into discovery",
    )
}
