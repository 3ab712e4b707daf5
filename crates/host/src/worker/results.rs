//! A worker's folder for results that travel as files.

use std::io;
use std::path::{Path, PathBuf};

/// The folder. It goes with the worker: what is in it then, nobody was told of.
#[derive(Debug)]
pub(crate) struct Results(PathBuf);

impl Results {
    /// Makes it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn make(path: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it; its files may be large. Returns when it is gone.
    pub(crate) async fn remove(mut self) {
        let path = std::mem::take(&mut self.0);
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(path)).await;
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.0);
        if path.as_os_str().is_empty() {
            return;
        }
        let remove = move || {
            let _ = std::fs::remove_dir_all(path);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}
