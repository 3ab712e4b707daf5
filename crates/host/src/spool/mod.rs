//! Where uploads lie while a call needs them: files of bounded total size, each removed with its last handle.
//!
//! A file is there for one call. Only an upload that its owner may go on with (`kept`) outlives the call, for a bounded time.

mod file;
mod inflate;
mod kept;
mod sink;
mod writer;

pub(crate) use inflate::{Inflate, InflateBounds, inflate_whole};
pub(crate) use kept::Claim;
use kept::Kept;
pub(crate) use writer::{Form, Stored, Target, store};

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::{Code, Fault};

/// Bounds of a spool.
#[derive(Debug, Clone, Copy)]
pub struct SpoolLimits {
    /// Bytes that all its files may take together.
    pub quota: u64,
    /// How long an upload that may be resumed is kept after its connection broke.
    pub resume: Duration,
}

/// A folder of uploads. The doors of a service share one.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    /// For files of one call.
    calls: PathBuf,
    limits: ArcSwap<SpoolLimits>,
    used: AtomicU64,
    next: AtomicU64,
    kept: Mutex<HashMap<String, Arc<Kept>>>,
}

impl Spool {
    /// Uses a folder, makes it if needed, removes what an earlier process left there, and finds uploads that may be resumed.
    ///
    /// # Errors
    /// The folder can't be made, read or cleaned.
    pub fn open(folder: &Path, limits: SpoolLimits) -> io::Result<Arc<Self>> {
        Self::open_beside(folder, folder, limits)
    }

    /// As [`Self::open`], in a folder that another process may use, too: uploads that may be resumed are those of both, and what serves one
    /// call lies in `calls`, which is this process's alone.
    ///
    /// # Errors
    /// One of the folders can't be made, read or cleaned.
    pub fn open_beside(folder: &Path, calls: &Path, limits: SpoolLimits) -> io::Result<Arc<Self>> {
        fs::create_dir_all(folder)?;
        fs::create_dir_all(calls)?;
        let spool = Arc::new(Self {
            folder: folder.to_owned(),
            calls: calls.to_owned(),
            limits: ArcSwap::from_pointee(limits),
            used: AtomicU64::new(0),
            next: AtomicU64::new(0),
            kept: Mutex::new(HashMap::new()),
        });
        for entry in fs::read_dir(calls)? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "call") {
                fs::remove_file(&path)?;
            }
        }
        kept::find(&spool)?;
        Ok(spool)
    }

    /// Other bounds hold from now on; what is there already stays.
    pub fn set_limits(&self, limits: SpoolLimits) {
        self.limits.store(Arc::new(limits));
    }

    fn limits(&self) -> SpoolLimits {
        **self.limits.load()
    }

    /// Bytes that are in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Removes uploads whose time is over, and forgets those that another process has ended; returns how many. Done by the doors' clock.
    pub fn sweep(&self) -> usize {
        self.retain(|upload| !upload.gone() && !upload.expired())
    }

    /// Removes uploads whose time is over: at each look at one.
    fn expire(&self) {
        self.retain(|upload| !upload.expired());
    }

    fn retain(&self, stays: impl Fn(&Kept) -> bool) -> usize {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.len();
        kept.retain(|_, upload| stays(upload));
        before - kept.len()
    }

    /// Refuses an input that can't fit before a byte of it was sent.
    pub(crate) fn fits(&self, bytes: u64) -> Result<(), Fault> {
        if bytes > self.limits().quota.saturating_sub(self.used()) {
            return Err(self.full());
        }
        Ok(())
    }

    /// Takes bytes of the quota.
    fn take(&self, bytes: u64) -> Result<(), Fault> {
        let quota = self.limits().quota;
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= quota)
            })
            .map(|_| ())
            .map_err(|_| self.full())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn full(&self) -> Fault {
        Fault::new(
            Code::ResourceExhausted,
            "upload_quota",
            format!(
                "uploads under way may take {} bytes together (limits.upload)",
                self.limits().quota
            ),
        )
    }

    /// A name that no other file of this process has.
    fn fresh(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.calls
            .join(format!("{}-{number}.call", std::process::id()))
    }
}

/// What the system said of a file of ours, as the caller is told.
pub(crate) fn disk(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Fault::new(
                Code::ResourceExhausted,
                "disk_full",
                "the host has no room for the upload",
            )
        }
        _ => {
            tracing::error!(%error, "spool file");
            Fault::new(
                Code::Internal,
                "spool",
                "the host could not store the upload",
            )
        }
    }
}

#[cfg(test)]
mod tests;
