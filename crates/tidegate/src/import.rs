//! `tidegate import`: another system's configuration → ours on stdout, notes on stderr. The importers are the config room's.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use tidegate_config::import::{Secrets, higress};

use crate::check::{BAD, print, tell};
use crate::cli::{Import, ImportSystem};

/// Runs the command.
pub(crate) fn run(options: &Import) -> ExitCode {
    let mut files = Vec::new();
    for path in &options.files {
        match read(path) {
            Ok(text) => files.push((path.display().to_string(), text)),
            Err(error) => {
                eprintln!("error: {} cannot be read: {error}", path.display());
                return ExitCode::from(BAD);
            }
        }
    }
    let secrets = match options.keep_secrets {
        true => Secrets::Kept,
        false => Secrets::References,
    };
    let imported = match options.system {
        ImportSystem::Higress => higress(&files, secrets),
    };
    match imported {
        Ok(imported) => {
            for note in &imported.notes {
                eprintln!("note: {note}");
            }
            print(&imported.yaml);
            if imported.problems.errors() > 0 {
                eprintln!("what was printed does not load yet:");
                tell(&imported.problems);
                return ExitCode::FAILURE;
            }
            ExitCode::SUCCESS
        }
        Err(problems) => {
            tell(&problems);
            ExitCode::from(BAD)
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path)
}
