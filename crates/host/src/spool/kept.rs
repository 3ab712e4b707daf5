//! Uploads that their owner may go on with after the connection broke: a file of the bytes before compression and a note beside it.
//!
//! Only whole, decompressed bytes are kept, so nothing of a decoder's state need outlive a connection, nor the process. During an upgrade two
//! processes have the same folder: whoever has an upload holds its file's lock, and who makes one the folder's; what is in memory of an upload that
//! nobody here has is only what was true when it was last looked at.

mod claim;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ring::digest;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, watch};

use super::file::remove;
use super::{Spool, disk};
use crate::blocking::in_place;
use crate::{Code, Fault};

pub(crate) use claim::Claim;

/// Uploads that one spool keeps at most: each costs an entry and two files even when it is empty.
const MOST: usize = 1000;

/// How long a call that lost its upload to another one may take to let go.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Between two tries to get an upload that another process has.
const LOOK: Duration = Duration::from_millis(50);

/// What is written beside an upload.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// SHA-256 of the owner's token.
    token: Vec<u8>,
    size: u64,
}

/// An upload that may be resumed.
#[derive(Debug)]
pub(crate) struct Kept {
    spool: Weak<Spool>,
    id: String,
    token: Vec<u8>,
    size: u64,
    path: PathBuf,
    /// Bytes that are there.
    len: AtomicU64,
    /// Bytes of the quota that it has.
    taken: AtomicU64,
    touched: Mutex<Instant>,
    /// One call at a time has it.
    gate: Arc<Semaphore>,
    /// Number of the claim that has it last.
    claims: watch::Sender<u64>,
}

/// How far an upload is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) id: String,
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) expires_in: Duration,
}

impl Kept {
    /// Whether its time is over; never while a call has it.
    pub(super) fn expired(&self) -> bool {
        if self.gate.available_permits() == 0 || !self.left().is_zero() {
            return false;
        }
        // Another process may have gone on with it, or have it.
        if self.gone() {
            return true;
        }
        if !self.left().is_zero() {
            return false;
        }
        match lock(&self.path) {
            Ok(Some(_lock)) => {
                self.unlink();
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// Whether another process has ended it. If not, what is known here becomes what is true.
    pub(super) fn gone(&self) -> bool {
        if self.gate.available_permits() == 0 {
            return false;
        }
        match fs::metadata(&self.path) {
            Ok(about) => {
                self.learn(&about);
                false
            }
            Err(error) => {
                let gone = error.kind() == io::ErrorKind::NotFound;
                if gone && let Some(spool) = self.spool.upgrade() {
                    spool.give_back(self.taken.swap(0, Ordering::Relaxed));
                }
                gone
            }
        }
    }

    /// Whether the file is still this upload's: another process may have ended it, and another caller begun one of the same name.
    fn is_noted(&self) -> bool {
        self.gate.available_permits() == 0
            || note(&self.path)
                .is_some_and(|note| note.token == self.token && note.size == self.size)
    }

    /// What its file says.
    fn learn(&self, about: &fs::Metadata) {
        let len = about.len();
        self.len.store(len, Ordering::Relaxed);
        let taken = self.taken.swap(len, Ordering::Relaxed);
        if let Some(spool) = self.spool.upgrade() {
            spool
                .used
                .fetch_add(len.saturating_sub(taken), Ordering::Relaxed);
            spool.give_back(taken.saturating_sub(len));
        }
        let age = about.modified().ok().and_then(|at| at.elapsed().ok());
        if let Some(at) = age.and_then(|age| Instant::now().checked_sub(age)) {
            let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
            *touched = (*touched).max(at);
        }
    }

    /// Its file's lock, once no other process has it.
    async fn lock(&self) -> Result<fs::File, Fault> {
        let late = tokio::time::Instant::now() + TAKE_OVER;
        loop {
            match lock(&self.path) {
                Ok(Some(held)) => {
                    let about = held.metadata().map_err(|error| disk(&error))?;
                    // One that was removed while its lock was awaited is another's no more.
                    match fs::metadata(&self.path) {
                        Ok(named) if named.ino() == about.ino() => {
                            self.learn(&about);
                            return Ok(held);
                        }
                        _ => {}
                    }
                }
                Ok(None) if tokio::time::Instant::now() >= late => return Err(busy()),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
                Err(error) => return Err(disk(&error)),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn left(&self) -> Duration {
        let ttl = self
            .spool
            .upgrade()
            .map_or(Duration::ZERO, |spool| spool.limits().resume);
        let touched = *self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        ttl.saturating_sub(touched.elapsed())
    }

    fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn owned_by(&self, token: &str) -> Result<(), Fault> {
        if bool::from(self.token.ct_eq(&fingerprint(token))) {
            return Ok(());
        }
        Err(Fault::new(
            Code::PermissionDenied,
            "upload_token",
            "the upload belongs to another token",
        ))
    }

    fn unlink(&self) {
        remove(self.path.clone(), self.len.load(Ordering::Relaxed));
        remove(note_of(&self.path), 0);
        if let Some(spool) = self.spool.upgrade() {
            spool.give_back(self.taken.swap(0, Ordering::Relaxed));
        }
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        fs::File::options()
            .write(true)
            .open(&self.path)?
            .set_len(len)?;
        self.len.store(len, Ordering::Relaxed);
        let taken = self.taken.swap(len, Ordering::Relaxed);
        if let Some(spool) = self.spool.upgrade() {
            spool.give_back(taken.saturating_sub(len));
        }
        Ok(())
    }
}

impl Spool {
    fn find_or_make(
        self: &Arc<Self>,
        id: &str,
        token: &str,
        size: u64,
        offset: u64,
    ) -> Result<Arc<Kept>, Fault> {
        if let Ok(kept) = self.known(id) {
            return Ok(kept);
        }
        let _making = making(&self.folder).map_err(|error| disk(&error))?;
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get(id) {
            return Ok(kept.clone());
        }
        if offset > 0 {
            return Err(unknown());
        }
        if all.len() >= MOST {
            return Err(Fault::new(
                Code::ResourceExhausted,
                "upload_quota",
                format!("the host keeps {MOST} uploads at most"),
            ));
        }
        self.fits(size)?;
        let path = self.folder.join(format!("{id}.part"));
        let note = Note {
            token: fingerprint(token),
            size,
        };
        let text = serde_json::to_vec(&note).unwrap_or_default();
        let made = fs::File::create(&path).and_then(|_| fs::write(note_of(&path), text));
        if let Err(error) = made {
            remove(note_of(&path), 0);
            remove(path, 0);
            return Err(disk(&error));
        }
        let kept = Arc::new(self.entry(id, note, path, 0, Instant::now()));
        all.insert(id.to_owned(), kept.clone());
        Ok(kept)
    }

    fn entry(self: &Arc<Self>, id: &str, note: Note, path: PathBuf, len: u64, at: Instant) -> Kept {
        Kept {
            spool: Arc::downgrade(self),
            id: id.to_owned(),
            token: note.token,
            size: note.size,
            path,
            len: AtomicU64::new(len),
            taken: AtomicU64::new(len),
            touched: Mutex::new(at),
            gate: Arc::new(Semaphore::new(1)),
            claims: watch::Sender::new(0),
        }
    }

    /// How far an upload is.
    ///
    /// # Errors
    /// `upload_unknown`, `upload_token`.
    pub(crate) fn status(self: &Arc<Self>, id: &str, token: &str) -> Result<Status, Fault> {
        let kept = in_place(|| {
            self.expire();
            self.known(id)
        })?;
        kept.owned_by(token)?;
        Ok(Status {
            id: kept.id.clone(),
            offset: kept.len.load(Ordering::Relaxed),
            size: kept.size,
            expires_in: kept.left(),
        })
    }

    /// Removes an upload; no error if it is not there.
    ///
    /// # Errors
    /// `upload_token`, `upload_busy`.
    pub(crate) fn remove(self: &Arc<Self>, id: &str, token: &str) -> Result<(), Fault> {
        let Ok(kept) = self.known(id) else {
            return Ok(());
        };
        kept.owned_by(token)?;
        let Ok(_permit) = kept.gate.try_acquire() else {
            return Err(busy());
        };
        let Ok(Some(_lock)) = lock(&kept.path) else {
            return Err(busy());
        };
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        kept.unlink();
        Ok(())
    }

    /// An upload of this process's, or one that another has left or has.
    fn known(self: &Arc<Self>, id: &str) -> Result<Arc<Kept>, Fault> {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get(id) {
            if !kept.gone() && kept.is_noted() {
                return Ok(kept.clone());
            }
            if let Some(other) = all.remove(id) {
                // Its file, if there is one, is another upload's.
                self.give_back(other.taken.swap(0, Ordering::Relaxed));
            }
        }
        let harmless = check_id(id).is_ok();
        let kept = harmless.then(|| read(self, &self.folder.join(format!("{id}.part"))));
        let kept = Arc::new(kept.flatten().ok_or_else(unknown)?);
        self.used
            .fetch_add(kept.taken.load(Ordering::Relaxed), Ordering::Relaxed);
        all.insert(id.to_owned(), kept.clone());
        Ok(kept)
    }
}

/// Finds the uploads that an earlier process kept; what belongs to none goes.
pub(super) fn find(spool: &Arc<Spool>) -> io::Result<()> {
    let _making = making(&spool.folder)?;
    for entry in fs::read_dir(&spool.folder)? {
        let path = entry?.path();
        match path.extension().and_then(|kind| kind.to_str()) {
            Some("part") if !note_of(&path).exists() => remove(path, 0),
            Some("note") => {
                let part = path.with_extension("part");
                if let Some(kept) = read(spool, &part) {
                    spool
                        .used
                        .fetch_add(kept.taken.load(Ordering::Relaxed), Ordering::Relaxed);
                    spool
                        .kept
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(kept.id.clone(), Arc::new(kept));
                } else if !matches!(lock(&part), Ok(None)) {
                    remove(part, 0);
                    remove(path, 0);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn read(spool: &Arc<Spool>, part: &Path) -> Option<Kept> {
    let id = part.file_stem()?.to_str()?;
    let note = note(part)?;
    let about = fs::metadata(part).ok()?;
    let age = about.modified().ok()?.elapsed().unwrap_or_default();
    if age >= spool.limits().resume {
        return None;
    }
    let at = Instant::now().checked_sub(age)?;
    Some(spool.entry(id, note, part.to_owned(), about.len(), at))
}

/// The lock of a file; `None`: another process has it.
fn lock(path: &Path) -> io::Result<Option<fs::File>> {
    let file = fs::File::options().write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Nobody else makes an upload in the folder, or looks for those that are half made, until it is dropped.
fn making(folder: &Path) -> io::Result<fs::File> {
    let folder = fs::File::open(folder)?;
    folder.lock()?;
    Ok(folder)
}

fn note(part: &Path) -> Option<Note> {
    serde_json::from_slice(&fs::read(note_of(part)).ok()?).ok()
}

fn note_of(part: &Path) -> PathBuf {
    part.with_extension("note")
}

fn fingerprint(token: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_bytes())
        .as_ref()
        .to_vec()
}

fn busy() -> Fault {
    Fault::new(
        Code::FailedPrecondition,
        "upload_busy",
        "another call still has the upload",
    )
}

fn unknown() -> Fault {
    Fault::new(
        Code::NotFound,
        "upload_unknown",
        "the host has no such upload: begin anew",
    )
}

fn check_names(id: &str, token: &str) -> Result<(), Fault> {
    check_id(id)?;
    if !(16..=256).contains(&token.len()) || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Fault::new(
            Code::InvalidArgument,
            "bad_request",
            "x-tidegate-upload-token must be 16 to 256 visible ASCII characters",
        ));
    }
    Ok(())
}

/// An id becomes a file's name, so it is held to what is harmless there.
fn check_id(id: &str) -> Result<(), Fault> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !(8..=128).contains(&id.len()) || !id.bytes().all(good) || id.starts_with('.') {
        return Err(Fault::new(
            Code::InvalidArgument,
            "bad_request",
            "x-tidegate-upload-id must be 8 to 128 of A-Z a-z 0-9 . _ - and not begin with a dot",
        ));
    }
    Ok(())
}
