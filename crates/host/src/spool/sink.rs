//! Where decompressed bytes go: memory while they are few, then one file.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use bytes::Bytes;

use super::file::CallFile;
use super::kept::Claim;
use super::{Spool, disk};
use crate::{Content, Fault};

/// Up to here an input stays in memory.
const SMALL: usize = 256 << 10;

/// One input as it is written.
#[derive(Debug)]
pub(super) enum Sink {
    Memory { spool: Arc<Spool>, bytes: Vec<u8> },
    Call { file: File, call: CallFile },
    Kept { file: File, claim: Claim },
}

impl Sink {
    /// For one call.
    pub(super) fn call(spool: Arc<Spool>) -> Self {
        Self::Memory {
            spool,
            bytes: Vec::new(),
        }
    }

    /// For one call, in a file from the beginning.
    pub(super) fn file(spool: &Arc<Spool>) -> Result<Self, Fault> {
        let (call, file) = CallFile::create(spool).map_err(|error| disk(&error))?;
        Ok(Self::Call { file, call })
    }

    /// For an upload that may be resumed, behind the bytes that it has.
    pub(super) fn kept(claim: Claim) -> Result<Self, Fault> {
        let mut file = File::options()
            .write(true)
            .open(claim.path())
            .map_err(|error| disk(&error))?;
        file.seek(SeekFrom::Start(claim.offset()))
            .map_err(|error| disk(&error))?;
        Ok(Self::Kept { file, claim })
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), Fault> {
        match self {
            Self::Memory { spool, bytes } => {
                if bytes.len() + piece.len() <= SMALL {
                    bytes.extend_from_slice(piece);
                    return Ok(());
                }
                let (call, file) = CallFile::create(spool).map_err(|error| disk(&error))?;
                let first = std::mem::take(bytes);
                *self = Self::Call { file, call };
                self.write(&first)?;
                self.write(piece)
            }
            Self::Call { file, call } => {
                call.grow(piece.len() as u64)?;
                file.write_all(piece).map_err(|error| disk(&error))
            }
            Self::Kept { file, claim } => {
                claim.grow(piece.len() as u64)?;
                file.write_all(piece).map_err(|error| disk(&error))?;
                claim.advance(piece.len() as u64);
                Ok(())
            }
        }
    }

    /// What a call takes. The claim of a resumable upload comes with it: it decides what becomes of the file.
    pub(super) fn finish(self) -> (Content, Option<Claim>) {
        match self {
            Self::Memory { bytes, .. } => (Content::Inline(Bytes::from(bytes)), None),
            Self::Call { call, .. } => (Content::File(Arc::new(call)), None),
            Self::Kept { claim, .. } => (Content::File(claim.handle()), Some(claim)),
        }
    }

    /// The input is of no use: nothing of it stays.
    pub(super) fn discard(self) {
        match self {
            Self::Memory { .. } => {}
            Self::Call { call, .. } => call.discard(),
            Self::Kept { claim, .. } => claim.done(),
        }
    }
}
