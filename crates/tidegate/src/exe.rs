//! The executable that this process runs, also after its file was replaced.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whether the allocator may use transparent huge pages.
const HUGE_PAGES: &str = "MIMALLOC_ALLOW_THP";

/// Says which executable this is: two processes with the same identity run the same code.
pub(crate) fn identity() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match std::fs::metadata(running()) {
        Ok(file) => format!(
            "{version} {}:{}:{}:{}.{}",
            file.dev(),
            file.ino(),
            file.size(),
            file.mtime(),
            file.mtime_nsec()
        ),
        Err(_) => version.to_owned(),
    }
}

/// A command that runs this same executable, even if the file at its path is another one by now: a gateway that is
/// restarted must speak the supervisor's version; a new version comes by `--upgrade` only.
pub(crate) fn command() -> Command {
    let path = path();
    let same =
        |left: &Metadata, right: &Metadata| left.dev() == right.dev() && left.ino() == right.ino();
    let program = match (std::fs::metadata(&path), std::fs::metadata(running())) {
        (Ok(there), Ok(here)) if !same(&there, &here) => running(),
        (Err(_), Ok(_)) => running(),
        // The path itself where it is as good: the process is then listed by its own name.
        _ => path,
    };
    let mut command = Command::new(program);
    command.arg0("tidegate");
    // The allocator asks for huge pages, of which a heap of a few hundred kilobytes fills a tenth: 4 MiB a process
    // for nothing. It reads this when a process starts; who sets it gets what they set.
    if std::env::var_os(HUGE_PAGES).is_none() {
        command.env(HUGE_PAGES, "0");
    }
    command
}

/// Where the executable was started from; after an update of the package the new version lies there.
pub(crate) fn path() -> PathBuf {
    let path = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("tidegate"));
    match path
        .to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"))
    {
        Some(original) => PathBuf::from(original),
        None => path,
    }
}

fn running() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() {
        link.to_owned()
    } else {
        path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_runs_this_executable() {
        let program = PathBuf::from(command().get_program());
        let there = std::fs::metadata(program).unwrap();
        let here = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
        assert_eq!((there.dev(), there.ino()), (here.dev(), here.ino()));
    }
}
