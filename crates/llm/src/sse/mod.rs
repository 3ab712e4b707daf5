//! Server-sent events: finds the frames of a stream in chunks that were cut anywhere.
//!
//! Every byte of a streamed answer passes here, so nothing is allocated for a chunk: a frame that lies within a chunk is
//! borrowed from it, and one that crosses chunks is put together in a buffer that is used again. A frame has a bound; a
//! provider that never ends one can't fill the memory.
//!
//! Why no crate: those for Rust (`eventsource-stream`, `sse-stream`, `reqwest-eventsource`) hand out owned strings, an
//! allocation or more a frame, have no bound, and hide where in the chunk a frame ended, which a proxy has to know to
//! relay whole frames only.
//!
//! The format: <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>. Lines end with
//! LF, CR or CRLF, an empty line ends a frame, a byte order mark at the start is skipped.

use std::borrow::Cow;

/// The bound of a frame if nothing else is said: images come as base64 in one frame.
pub const FRAME_LIMIT: usize = 16 * 1024 * 1024;

/// U+FEFF as UTF-8, which may stand at the start of a stream.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A buffer larger than this is given back after its frame.
const KEEP: usize = 64 * 1024;

/// Why a stream can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A frame did not end within the bound.
    #[error("a frame of the event stream is longer than {limit} bytes")]
    FrameTooLong {
        /// The bound, bytes.
        limit: usize,
    },
}

/// Reads one stream. See the [module](self).
///
/// ```
/// use tidegate_llm::sse::Scanner;
///
/// let mut scanner = Scanner::new(1024);
/// let mut seen = Vec::new();
/// for chunk in [b"data: {\"a\"".as_slice(), b":1}\r\n\r", b"\n: ping\n\ndata: [DONE]\n\n"] {
///     let mut frames = scanner.feed(chunk);
///     while let Some(frame) = frames.next() {
///         seen.push(frame?.data().into_owned());
///     }
/// }
/// assert_eq!(seen, [b"{\"a\":1}".to_vec(), b"".to_vec(), b"[DONE]".to_vec()]);
/// # Ok::<(), tidegate_llm::sse::Fault>(())
/// ```
#[derive(Debug)]
pub struct Scanner {
    /// The unfinished frame's part from earlier chunks.
    carry: Vec<u8>,
    /// The line at the end of what was read has a byte.
    line_open: bool,
    /// The last byte read was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// How much of a byte order mark at the stream's start was seen; its length when that is settled.
    mark: usize,
    limit: usize,
    fault: Option<Fault>,
}

impl Scanner {
    /// A scanner that bears frames of up to `limit` bytes, their ends included.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            carry: Vec::new(),
            line_open: false,
            after_cr: false,
            mark: 0,
            limit,
            fault: None,
        }
    }

    /// Reads the next chunk. Call [`Frames::next`] until it says `None`, or the rest of the chunk is lost.
    pub fn feed<'a>(&'a mut self, chunk: &'a [u8]) -> Frames<'a> {
        let start = self.skip_mark(chunk);
        Frames {
            scanner: self,
            chunk,
            start,
            scan: start,
            carry_used: false,
        }
    }

    /// Steps over the byte order mark at the stream's start, which may come in pieces; gives where the rest begins.
    fn skip_mark(&mut self, chunk: &[u8]) -> usize {
        let mut at = 0;
        while self.mark < MARK.len() && at < chunk.len() {
            if chunk[at] == MARK[self.mark] {
                at += 1;
                self.mark += 1;
                continue;
            }
            // It only began like one: what was stepped over belongs to the first line.
            let earlier = self.mark - at;
            self.line_open = earlier > 0;
            self.carry.extend_from_slice(&MARK[..earlier]);
            self.mark = MARK.len();
            return 0;
        }
        at
    }

    /// The stream has ended: what stands there without the empty line that ends a frame, if there is anything.
    ///
    /// The standard discards it. Some providers leave out the last line end of `data: [DONE]`, though, so it is shown,
    /// and the reader decides whether it is whole.
    pub fn finish(&mut self) -> Option<Frame<'_>> {
        if self.fault.is_some() || self.carry.is_empty() {
            return None;
        }
        Some(Frame::parse(&self.carry, 0))
    }

    /// Bytes of the unfinished frame; 0: there is none.
    #[must_use]
    pub fn open_len(&self) -> usize {
        self.carry.len()
    }
}

/// The frames of one chunk. Not an `Iterator`: a frame may borrow from the scanner's buffer.
#[derive(Debug)]
pub struct Frames<'a> {
    scanner: &'a mut Scanner,
    chunk: &'a [u8],
    /// Where the frame begins, in the chunk.
    start: usize,
    /// Where to look on.
    scan: usize,
    /// The frame given out last lies in the buffer.
    carry_used: bool,
}

impl Frames<'_> {
    /// The next whole frame, or the fault that ends the stream (and is said again by every further call).
    #[allow(
        clippy::should_implement_trait,
        reason = "a lending iterator, which `Iterator` can't express"
    )]
    pub fn next(&mut self) -> Option<Result<Frame<'_>, Fault>> {
        if let Some(fault) = self.scanner.fault {
            return Some(Err(fault));
        }
        if std::mem::take(&mut self.carry_used) {
            self.scanner.clear_carry();
        }
        loop {
            if self.scanner.after_cr && self.scan < self.chunk.len() {
                self.scanner.after_cr = false;
                if self.chunk[self.scan] == b'\n' {
                    if self.start == self.scan && self.scanner.carry.is_empty() {
                        self.start += 1;
                    }
                    self.scan += 1;
                }
            }
            let rest = &self.chunk[self.scan..];
            let Some(length) = memchr::memchr2(b'\n', b'\r', rest) else {
                self.scanner.line_open |= !rest.is_empty();
                self.scan = self.chunk.len();
                return self.stash();
            };
            let blank = length == 0 && !self.scanner.line_open;
            self.scanner.line_open = false;
            let line_end = self.scan + length;
            let mut end = line_end + 1;
            if self.chunk[line_end] == b'\r' {
                match self.chunk.get(end) {
                    Some(b'\n') => end += 1,
                    Some(_) => {}
                    None => self.scanner.after_cr = true,
                }
            }
            self.scan = end;
            if !blank {
                continue;
            }
            if self.start == line_end && self.scanner.carry.is_empty() {
                self.start = end;
                continue;
            }
            return Some(self.emit(end));
        }
    }

    /// Where in the chunk the last whole frame (and the empty lines after it) ended: what lies before may be relayed as
    /// whole frames, what lies behind belongs to a frame that is not complete.
    #[must_use]
    pub fn consumed(&self) -> usize {
        self.start
    }

    /// The frame that ends at `end`.
    fn emit(&mut self, end: usize) -> Result<Frame<'_>, Fault> {
        let part = &self.chunk[self.start..end];
        self.scanner.check(part.len())?;
        self.start = end;
        if self.scanner.carry.is_empty() {
            return Ok(Frame::parse(part, end));
        }
        self.scanner.carry.extend_from_slice(part);
        self.carry_used = true;
        Ok(Frame::parse(&self.scanner.carry, end))
    }

    /// Keeps the unfinished frame for the next chunk.
    fn stash(&mut self) -> Option<Result<Frame<'_>, Fault>> {
        let part = &self.chunk[self.start..];
        if let Err(fault) = self.scanner.check(part.len()) {
            return Some(Err(fault));
        }
        self.scanner.carry.extend_from_slice(part);
        // What is kept is no longer the chunk's: a further call finds nothing.
        self.chunk = &self.chunk[..self.start];
        self.scan = self.start;
        None
    }
}

impl Scanner {
    fn check(&mut self, more: usize) -> Result<(), Fault> {
        if self.carry.len().saturating_add(more) > self.limit {
            let fault = Fault::FrameTooLong { limit: self.limit };
            self.fault = Some(fault);
            self.carry = Vec::new();
            return Err(fault);
        }
        Ok(())
    }

    fn clear_carry(&mut self) {
        if self.carry.capacity() > KEEP {
            self.carry = Vec::new();
        } else {
            self.carry.clear();
        }
    }
}

/// One frame: an event, or comments alone.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    block: &'a [u8],
    event: &'a [u8],
    /// The value of the first `data` line.
    first: &'a [u8],
    data_lines: usize,
    end: usize,
}

impl<'a> Frame<'a> {
    fn parse(block: &'a [u8], end: usize) -> Self {
        let mut frame = Self {
            block,
            event: b"",
            first: b"",
            data_lines: 0,
            end,
        };
        for (name, value) in fields(block) {
            match name {
                b"data" => {
                    if frame.data_lines == 0 {
                        frame.first = value;
                    }
                    frame.data_lines += 1;
                }
                b"event" => frame.event = value,
                _ => {}
            }
        }
        frame
    }

    /// The event's name; empty when none is given, which means `message`.
    #[must_use]
    pub fn event(&self) -> &'a [u8] {
        self.event
    }

    /// There is data. A frame without it is no event: a comment (a provider's ping) or a lone field.
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.data_lines > 0
    }

    /// The data, its lines joined by LF. Borrowed unless there are several lines, which model providers don't send.
    #[must_use]
    pub fn data(&self) -> Cow<'a, [u8]> {
        if self.data_lines <= 1 {
            return Cow::Borrowed(self.first);
        }
        let mut joined = Vec::with_capacity(self.block.len());
        for (at, (_, value)) in fields(self.block)
            .filter(|(name, _)| *name == b"data")
            .enumerate()
        {
            if at > 0 {
                joined.push(b'\n');
            }
            joined.extend_from_slice(value);
        }
        Cow::Owned(joined)
    }

    /// It is `data: [DONE]`, with which OpenAI's streams end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.data_lines == 1 && self.first.trim_ascii() == b"[DONE]"
    }

    /// The bytes of the frame as they came, with the line ends.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.block
    }

    /// Where in the chunk just fed the frame ended.
    #[must_use]
    pub fn end(&self) -> usize {
        self.end
    }
}

/// The fields of a block: name and value, comments left out.
fn fields(block: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = block;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let length = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            let line = &rest[..length];
            // A CRLF leaves an empty line behind, which is skipped.
            rest = rest.get(length + 1..).unwrap_or_default();
            if line.is_empty() || line[0] == b':' {
                continue;
            }
            return Some(match memchr::memchr(b':', line) {
                None => (line, &line[..0]),
                Some(colon) => {
                    let value = &line[colon + 1..];
                    (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
                }
            });
        }
        None
    })
}
