//! A file of the spool and the room that it takes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Spool;
use crate::{Fault, Spooled};

/// Files from this size on are removed on a thread that may block: the system needs its time for their pages.
const SLOW: u64 = 16 << 20;

/// Room in a spool, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Space {
    spool: Arc<Spool>,
    bytes: u64,
}

impl Space {
    pub(super) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, bytes: 0 }
    }

    /// Takes more of the quota.
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Fault> {
        self.spool.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.spool.give_back(self.bytes);
    }
}

/// A file for one call, removed with its last handle.
#[derive(Debug)]
pub(super) struct CallFile {
    path: PathBuf,
    space: Space,
}

impl CallFile {
    /// A new, empty one.
    pub(super) fn create(spool: &Arc<Spool>) -> io::Result<(Self, fs::File)> {
        let path = spool.fresh();
        let file = fs::File::create_new(&path)?;
        let space = Space::new(spool.clone());
        Ok((Self { path, space }, file))
    }

    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), Fault> {
        self.space.grow(bytes)
    }

    /// Removes it before this returns, on a thread that may block: who is told of a failure finds nothing left.
    pub(super) fn discard(mut self) {
        unlink(&std::mem::take(&mut self.path));
    }
}

impl Spooled for CallFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.space.bytes()
    }
}

impl Drop for CallFile {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if !path.as_os_str().is_empty() {
            remove(path, self.space.bytes());
        }
    }
}

/// Removes a file, off the runtime's threads when that takes long.
pub(super) fn remove(path: PathBuf, len: u64) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) if len >= SLOW => {
            runtime.spawn_blocking(move || unlink(&path));
        }
        _ => unlink(&path),
    }
}

fn unlink(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "spool file stays");
    }
}
