//! The accepted configuration, kept where it outlives this process.
//!
//! A reload of a bad file is refused and the running configuration stays. If the gateway then dies, the next one would
//! find only the bad file, and a mistake that was harmless for hours would become an outage. So the texts of what was
//! accepted are handed to the supervisor, as an open file without a name: it holds what the configuration's files
//! held, nobody else can open it, and it is gone with the processes.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tidegate_config::{Diagnostics, Loaded};

use super::watch::{self, Stamps};
use crate::rundir::RunDir;

/// Writes down what `loaded` was read from. `None` if the files (looked at before as `before`) changed meanwhile: the
/// change is about to be loaded itself.
///
/// # Errors
/// The system's.
pub(super) fn remember(
    run: &RunDir,
    paths: &[PathBuf],
    before: &Stamps,
    loaded: &Loaded,
) -> io::Result<Option<OwnedFd>> {
    let read = |file: &PathBuf| Ok((file.clone(), std::fs::read_to_string(file)?));
    let texts = loaded
        .files
        .iter()
        .map(read)
        .collect::<io::Result<Vec<(PathBuf, String)>>>()?;
    if watch::stamps(paths) != *before {
        return Ok(None);
    }
    let mut file = run.nameless_file()?;
    file.write_all(&serde_json::to_vec(&texts)?)?;
    Ok(Some(file.into()))
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
    let texts: Vec<(PathBuf, String)> = serde_json::from_slice(&bytes)?;
    Ok(tidegate_config::load_texts(&texts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_accepted_is_recalled_as_often_as_needed_whatever_the_file_holds_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::open(&folder.path().join("run")).unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "node: { region: eu }\n").unwrap();
        let paths = vec![path.clone()];
        let before = watch::stamps(&paths);
        let loaded = tidegate_config::load(&paths).unwrap();
        let kept = remember(&run, &paths, &before, &loaded).unwrap().unwrap();
        std::fs::write(&path, "bad: [").unwrap();
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
    }

    #[test]
    fn files_that_changed_while_they_were_read_are_not_taken_for_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::open(&folder.path().join("run")).unwrap();
        let path = folder.path().join("a.yaml");
        std::fs::write(&path, "node: { region: eu }\n").unwrap();
        let paths = vec![path.clone()];
        let before = watch::stamps(&paths);
        let loaded = tidegate_config::load(&paths).unwrap();
        std::fs::write(&path, "node: { region: changed }\n").unwrap();
        assert!(remember(&run, &paths, &before, &loaded).unwrap().is_none());
    }
}
