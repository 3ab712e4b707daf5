//! Getting hold of an upload: one call at a time, and the last that asks.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use tokio::sync::OwnedSemaphorePermit;

use super::super::{Spool, disk};
use super::{Kept, TAKE_OVER, busy, check_names, unknown};
use crate::blocking::in_place;
use crate::{Code, Fault, Spooled};

/// The hold that one call has on an upload. Dropped, it leaves the upload for another attempt; see [`Claim::done`].
#[derive(Debug)]
pub(crate) struct Claim {
    kept: Arc<Kept>,
    number: u64,
    /// For other processes. Before the permit: the next call here finds it free.
    lock: fs::File,
    _permit: OwnedSemaphorePermit,
}

impl Claim {
    pub(in crate::spool) fn path(&self) -> &Path {
        &self.kept.path
    }

    /// Bytes that are there.
    pub(crate) fn offset(&self) -> u64 {
        self.kept.len.load(Ordering::Relaxed)
    }

    /// Bytes that are missing.
    pub(crate) fn missing(&self) -> u64 {
        self.kept.size.saturating_sub(self.offset())
    }

    pub(in crate::spool) fn grow(&self, bytes: u64) -> Result<(), Fault> {
        if let Some(spool) = self.kept.spool.upgrade() {
            spool.take(bytes)?;
            self.kept.taken.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(in crate::spool) fn advance(&self, bytes: u64) {
        self.kept.len.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The file, as a call takes it.
    pub(in crate::spool) fn handle(&self) -> Arc<dyn Spooled> {
        Arc::new(KeptFile(self.kept.clone()))
    }

    /// Resolves when another call has claimed the upload.
    pub(crate) fn taken(&self) -> impl Future<Output = ()> + Send + use<> {
        let number = self.number;
        let mut claims = self.kept.claims.subscribe();
        async move {
            // The sender lives as long as the upload, whose end is no take-over.
            if claims.wait_for(|last| *last != number).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The call is over and needs no other attempt: the upload goes.
    pub(crate) fn done(self) {
        self.forget();
    }

    fn forget(&self) {
        if let Some(spool) = self.kept.spool.upgrade() {
            let mut kept = spool.kept.lock().unwrap_or_else(PoisonError::into_inner);
            match kept.get(&self.kept.id) {
                Some(known) if Arc::ptr_eq(known, &self.kept) => {
                    kept.remove(&self.kept.id);
                }
                // The file is another upload's, which has the name now.
                Some(_) => {
                    spool.give_back(self.kept.taken.swap(0, Ordering::Relaxed));
                    return;
                }
                None => {}
            }
        }
        self.kept.unlink();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.kept.touch();
        // The file tells a later process.
        let _ = self.lock.set_modified(SystemTime::now());
        // Nothing came, and nobody else waits for it: nothing to go on with.
        if self.offset() == 0 && *self.kept.claims.borrow() == self.number {
            self.forget();
        }
    }
}

#[derive(Debug)]
struct KeptFile(Arc<Kept>);

impl Spooled for KeptFile {
    fn path(&self) -> &Path {
        &self.0.path
    }

    fn len(&self) -> u64 {
        self.0.len.load(Ordering::Relaxed)
    }
}

impl Spool {
    /// Gets hold of an upload, a new one or one that is there, for bytes from `offset` on. Another call that has it loses it.
    ///
    /// # Errors
    /// `upload_unknown`, `upload_token`, `upload_offset`, `size_mismatch`, `upload_busy`, and those of the quota and the disk.
    pub(crate) async fn claim(
        self: &Arc<Self>,
        id: &str,
        token: &str,
        size: u64,
        offset: u64,
    ) -> Result<Claim, Fault> {
        check_names(id, token)?;
        let kept = in_place(|| {
            self.expire();
            self.find_or_make(id, token, size, offset)
        })?;
        kept.owned_by(token)?;
        if kept.size != size {
            return Err(Fault::new(
                Code::InvalidArgument,
                "size_mismatch",
                format!("the upload was announced with {} bytes", kept.size),
            ));
        }
        let mut number = 0;
        kept.claims.send_modify(|last| {
            *last += 1;
            number = *last;
        });
        let permit = tokio::time::timeout(TAKE_OVER, kept.gate.clone().acquire_owned())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or_else(busy)?;
        let lock = kept.lock().await?;
        let claim = Claim {
            kept,
            number,
            lock,
            _permit: permit,
        };
        // The call that had it may have ended well meanwhile.
        if !self
            .known(id)
            .is_ok_and(|known| Arc::ptr_eq(&known, &claim.kept))
        {
            return Err(unknown());
        }
        if offset > claim.offset() {
            return Err(Fault::new(
                Code::OutOfRange,
                "upload_offset",
                format!("the host has {} bytes of the upload", claim.offset()),
            ));
        }
        in_place(|| claim.kept.cut(offset)).map_err(|error| disk(&error))?;
        Ok(claim)
    }
}
