//! What is ready for the caller but kept back until content has begun.

use bytes::Bytes;

/// Pieces in order.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Held {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }

    /// Bytes kept.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
    }

    /// What is kept.
    pub(crate) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// Gives everything out; the list's own memory is used again.
    pub(crate) fn flush(&mut self, out: &mut Vec<Bytes>) {
        if out.is_empty() {
            std::mem::swap(out, &mut self.pieces);
        } else {
            out.append(&mut self.pieces);
        }
        self.bytes = 0;
    }

    /// Everything in one piece; copied only if there are several.
    pub(crate) fn joined(&self) -> Bytes {
        match self.pieces.as_slice() {
            [one] => one.clone(),
            pieces => pieces.concat().into(),
        }
    }
}
