//! The Python SDK that the binary carries: workers find it without an installation.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// Writes the SDK to the run folder and returns what belongs on `PYTHONPATH`. A copy that is there is written anew.
///
/// # Errors
/// The folder can't be written.
pub(crate) fn unpack(run_dir: &Path) -> io::Result<PathBuf> {
    let path = run_dir.join("python");
    let package = path.join("tidegate");
    fs::create_dir_all(&package)?;
    for (name, bytes) in FILES {
        // A worker of before may import just now: a file is the old one or the new one, never half of it.
        let fresh = package.join(format!(".{name}.new"));
        fs::write(&fresh, bytes)?;
        fs::rename(&fresh, package.join(name))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_can_be_imported_and_is_of_no_older_version_after_the_second_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = unpack(folder.path()).unwrap();
        fs::write(
            path.join("tidegate/__init__.py"),
            "raise SystemExit('an old one')",
        )
        .unwrap();
        unpack(folder.path()).unwrap();
        let imports = std::process::Command::new("python3")
            .args(["-B", "-c", "import tidegate.worker"])
            .env("PYTHONPATH", &path)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            imports.status.success(),
            "{}",
            String::from_utf8_lossy(&imports.stderr)
        );
    }
}
