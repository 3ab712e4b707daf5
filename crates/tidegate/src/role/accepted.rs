//! The accepted configuration, kept where it outlives this process.
//!
//! A reload of a bad file is refused and the running configuration stays. If the gateway then dies, the next one would
//! find only the bad file, and a mistake that was harmless for hours would become an outage. So the texts of what was
//! accepted are handed to the supervisor, as an open file without a name: it holds what the configuration's files
//! held, nobody else can open it, and it is gone with the processes. The variables that the texts name are in it, too: a host
//! that outlived its supervisor has another environment than the gateway that accepted them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tidegate_config::{Diagnostics, Loaded};

use super::watch::{self, Stamps};
use crate::rundir::RunDir;

/// How often files that change under the reader's eyes are read again.
const TRIES: u32 = 3;

/// What the files of a configuration hold.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Texts {
    files: Vec<(PathBuf, String)>,
    /// What was asked of the environment, and what it said.
    variables: BTreeMap<String, Option<String>>,
}

/// The files as they were read.
#[derive(Debug)]
pub(super) struct Reading {
    /// What they looked like before.
    pub(super) stamps: Stamps,
    /// The configuration, with its texts unless the files changed meanwhile.
    pub(super) content: Result<(Loaded, Option<Texts>), Diagnostics>,
}

/// Reads a configuration together with its texts.
pub(super) fn read(paths: &[PathBuf]) -> Reading {
    let mut tries = 1..TRIES;
    loop {
        let stamps = watch::stamps(paths);
        let variables = RefCell::new(BTreeMap::new());
        let env = |name: &str| {
            let value = std::env::var(name).ok();
            let mut variables = variables.borrow_mut();
            variables.insert(name.to_owned(), value.clone());
            value
        };
        let content = tidegate_config::load_with(paths, &env).map(|loaded| {
            let texts = Texts::of(&loaded, variables.take()).ok();
            (loaded, texts)
        });
        if watch::stamps(paths) == stamps {
            return Reading { stamps, content };
        }
        if tries.next().is_none() {
            // Whatever comes of it, the watch over the files will bring another look.
            return Reading {
                stamps,
                content: content.map(|(loaded, _)| (loaded, None)),
            };
        }
    }
}

impl Texts {
    fn of(loaded: &Loaded, variables: BTreeMap<String, Option<String>>) -> io::Result<Self> {
        let read = |file: &PathBuf| Ok((file.clone(), std::fs::read_to_string(file)?));
        let files = loaded.files.iter().map(read).collect::<io::Result<_>>()?;
        Ok(Self { files, variables })
    }

    /// Writes them down in a file without a name.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write_down(&self, run: &RunDir) -> io::Result<OwnedFd> {
        let mut file = run.nameless_file()?;
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(file.into())
    }
}

/// Loads what was written down.
///
/// # Errors
/// The system's, or the problems: a secret's file may be gone, a variable unset.
pub(super) fn recall(file: OwnedFd) -> io::Result<Result<Loaded, Diagnostics>> {
    let file = File::from(file);
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut bytes = vec![0; length];
    // By position: several processes share the descriptor, and with it the place where the next read would begin.
    file.read_exact_at(&mut bytes, 0)?;
    let texts: Texts = serde_json::from_slice(&bytes)?;
    let env = |name: &str| match texts.variables.get(name) {
        Some(value) => value.clone(),
        // Where a text names a secret's file, say, and that names a variable.
        None => std::env::var(name).ok(),
    };
    Ok(tidegate_config::load_texts(&texts.files, &env))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_accepted_has_the_variables_of_whoever_accepted_it() {
        let run = tempfile::tempdir().unwrap();
        let run = RunDir::open(run.path()).unwrap();
        let text = "node: { region: \"${PATH}\", zone: \"${TIDEGATE_NO_SUCH_VARIABLE:-none}\" }\n";
        let variable =
            |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        let texts = Texts {
            files: vec![("/a.yaml".into(), text.into())],
            variables: [
                variable("PATH", Some("of another")),
                variable("TIDEGATE_NO_SUCH_VARIABLE", Some("set")),
            ]
            .into(),
        };
        let node = |texts: &Texts| {
            let kept = texts.write_down(&run).unwrap();
            recall(kept).unwrap().unwrap().config.node
        };
        let seen = node(&texts);
        assert_eq!(seen.region, "of another");
        assert_eq!(seen.zone, "set");
        let unset = Texts {
            variables: [variable("PATH", None)].into(),
            files: vec![("/a.yaml".into(), text.replace("PATH}", "PATH:-unset}"))],
        };
        // Although it is set here.
        assert_eq!(node(&unset).region, "unset");
    }

    #[test]
    fn what_was_accepted_is_recalled_as_often_as_needed_whatever_the_file_holds_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::open(&folder.path().join("run")).unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "node: { region: eu }\n").unwrap();
        let (loaded, texts) = read(std::slice::from_ref(&path)).content.unwrap();
        std::fs::write(&path, "bad: [").unwrap();
        let kept = texts.unwrap().write_down(&run).unwrap();
        for _ in 0..2 {
            let again = recall(kept.try_clone().unwrap()).unwrap().unwrap();
            assert_eq!(again.hash, loaded.hash);
        }
        assert_eq!(
            std::fs::read_dir(folder.path().join("run"))
                .unwrap()
                .count(),
            0
        );
        assert!(read(&[path]).content.is_err());
    }
}
