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
    /// Where their line feeds stand, if the head came in one piece and has few enough of them (most
    /// do): what has been found once is not searched again.
    pub(super) line_feeds: Option<[u32; KNOWN_LINES]>,
}

/// Lines whose ends are remembered; heads with more are rare, and this lives on the stack.
const KNOWN_LINES: usize = 32;

impl Extent {
    /// Where the line feed of line `index` stands (0: the first), given where the line begins.
    #[inline]
    pub(super) fn line_feed(&self, head: &[u8], index: usize, begin: usize) -> Option<usize> {
        match &self.line_feeds {
            Some(known) => known
                .get(index)
                .copied()
                .and_then(|at| usize::try_from(at).ok())
                .filter(|at| *at > begin),
            None => memchr::memchr(b'\n', head.get(begin..)?).map(|at| begin + at),
        }
    }
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
        let fresh = from == 0;
        let mut line_feeds = [0; KNOWN_LINES];
        for at in memchr::memchr_iter(b'\n', &window[from..]) {
            let at = from + at;
            if at == 0 || window[at - 1] != b'\r' {
                return Err(ScanError::BareLf);
            }
            if at - 1 == self.line_start {
                let found = Extent {
                    len: at + 1,
                    lines: self.lines,
                    line_feeds: (fresh && self.lines <= KNOWN_LINES).then_some(line_feeds),
                };
                self.reset();
                return Ok(Some(found));
            }
            if let Some(slot) = line_feeds.get_mut(self.lines) {
                // A line beyond 4 GiB (no sane limit allows one) is refused later.
                *slot = u32::try_from(at).unwrap_or(0);
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

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        head_bytes: 4096,
        headers: 100,
    };

    #[test]
    fn bytes_that_trickle_in_are_searched_once() {
        let head = [
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"a: b\r\n".repeat(50),
            b"\r\n".to_vec(),
        ]
        .concat();
        let mut reader = HeadReader::new();
        for end in 1..head.len() {
            let found = reader.find_end(&head[..end], &LIMITS, 101);
            assert!(matches!(found, Ok(None)));
            assert_eq!(
                reader.checked, end,
                "the next search begins where this one ended"
            );
        }
        let found = reader.find_end(&head, &LIMITS, 101);
        assert!(
            matches!(found, Ok(Some(extent)) if extent.len == head.len() && extent.lines == 51)
        );
        assert!(!reader.is_mid_head());
    }

    #[test]
    fn line_ends_are_the_same_whether_remembered_or_searched_again() {
        for lines in [1, 5, KNOWN_LINES - 1, KNOWN_LINES, KNOWN_LINES + 1, 60] {
            let head = [b"x: yz\r\n".repeat(lines), b"\r\n".to_vec()].concat();
            let Ok(Some(whole)) = HeadReader::new().find_end(&head, &LIMITS, 100) else {
                panic!("whole");
            };
            assert_eq!(whole.line_feeds.is_some(), lines <= KNOWN_LINES);
            let mut reader = HeadReader::new();
            assert!(matches!(
                reader.find_end(&head[..6], &LIMITS, 100),
                Ok(None)
            ));
            let Ok(Some(late)) = reader.find_end(&head, &LIMITS, 100) else {
                panic!("whole");
            };
            assert!(late.line_feeds.is_none());
            for index in 0..lines {
                let expected = Some(index * 7 + 6);
                assert_eq!(whole.line_feed(&head, index, index * 7), expected);
                assert_eq!(late.line_feed(&head, index, index * 7), expected);
            }
        }
    }
}
