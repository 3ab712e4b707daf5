//! Finds the end of a head, remembering how far it has looked.
//!
//! One pass over line feeds (SIMD) does three jobs: it finds the empty line, it sees every bare LF
//! as soon as it arrives (a peer that sends LF alone would otherwise wait for its time-out), and it
//! counts lines, so that a head with a million headers is refused at the first one too many.

use super::Limits;

/// Reads heads from one connection. Keeps, between calls, how much of the buffer was searched, so
/// that bytes that trickle in are looked at once. Reset by itself after each head; copy-free and 16
/// bytes, so a parked connection may keep it or make a new one.
#[derive(Debug, Clone, Default)]
pub struct HeadReader {
    /// Bytes of the buffer that were searched for line feeds.
    checked: usize,
    /// Where the line that is being received begins.
    line_start: usize,
    /// Whole lines seen (the start line included).
    lines: usize,
    /// Empty lines skipped before this head.
    skipped: u8,
}

/// Why the search ended without a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanError {
    BareLf,
    /// Over the byte limit; `first_line` if not even the start line fitted.
    TooLarge {
        first_line: bool,
    },
    TooManyLines,
}

/// The extent of a whole head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Bytes of the head, the empty line included.
    pub(super) len: usize,
    /// Non-empty lines.
    pub(super) lines: usize,
}

impl HeadReader {
    /// A reader at the beginning of a message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether some bytes of a head were seen but not all of it: what separates an idle connection
    /// (close quietly) from a slow request (answer 408).
    #[must_use]
    pub fn is_mid_head(&self) -> bool {
        self.checked > 0
    }

    /// Looks for the end of the head that begins at `buf[0]`; `Ok(None)`: not here yet.
    /// `max_lines` counts all non-empty lines.
    #[inline]
    pub(super) fn find_end(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        max_lines: usize,
    ) -> Result<Option<Extent>, ScanError> {
        // A caller that swapped the buffer without a reset must not make us index out of bounds.
        if self.checked > buf.len() {
            self.reset();
        }
        let window = &buf[..buf.len().min(limits.head_bytes)];
        let from = self.checked.min(window.len());
        for at in memchr::memchr_iter(b'\n', &window[from..]) {
            let at = from + at;
            if at == 0 || window[at - 1] != b'\r' {
                return Err(ScanError::BareLf);
            }
            if at - 1 == self.line_start {
                let found = Extent {
                    len: at + 1,
                    lines: self.lines,
                };
                self.reset();
                return Ok(Some(found));
            }
            self.lines += 1;
            if self.lines > max_lines {
                return Err(ScanError::TooManyLines);
            }
            self.line_start = at + 1;
        }
        self.checked = window.len();
        if buf.len() >= limits.head_bytes {
            return Err(ScanError::TooLarge {
                first_line: self.lines == 0,
            });
        }
        Ok(None)
    }

    /// Empty lines skipped before the head that is being read.
    pub(super) fn skipped_mut(&mut self) -> &mut u8 {
        &mut self.skipped
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}
