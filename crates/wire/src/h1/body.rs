//! Bodies: yields what the framing promised, as slices of the read buffer, and not a byte more.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use super::error::{BodyError, FieldError};
use super::fields::{self, Keep, TOKEN};
use super::scan::ScanError;
use super::trailers::is_forbidden_trailer;
use super::{BodyLength, HeadReader, Limits};

/// Digits of a chunk size: all that 64 bits can need.
const SIZE_DIGITS: usize = 16;
/// Bytes of extensions on one chunk. Nobody uses them; what does come is signatures of object
/// stores (about 100 bytes).
const EXTENSION_BYTES: usize = 256;
/// Bytes of extensions in one body: one-byte chunks with long extensions make a proxy read hundreds
/// of bytes for each one that counts (CVE-2023-39326).
const EXTENSION_BYTES_TOTAL: u32 = 16 * 1024;
/// The longest chunk size line with its CRLF.
const SIZE_LINE: usize = SIZE_DIGITS + EXTENSION_BYTES + 2;
/// Bounds of a trailer section.
const TRAILER_LIMITS: Limits = Limits {
    head_bytes: 16 * 1024,
    headers: 64,
};

/// Decodes one message body from a connection's read buffer.
///
/// ```
/// use bytes::BytesMut;
/// use tidegate_wire::h1::{BodyDecoder, BodyLength, Decoded};
///
/// let mut buf = BytesMut::from("5\r\nhello\r\n0\r\n\r\nGET");
/// let mut body = BodyDecoder::new(BodyLength::Chunked);
/// assert!(matches!(body.decode(&mut buf), Ok(Decoded::Data(data)) if data == "hello"));
/// assert!(matches!(body.decode(&mut buf), Ok(Decoded::End)));
/// assert_eq!(buf, "GET");
/// ```
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    extension_bytes: u32,
    trailers: HeadReader,
}

/// One step of a body.
#[derive(Debug)]
pub enum Decoded {
    /// Bytes of content, never empty.
    Data(Bytes),
    /// The trailer section, never empty; [`Decoded::End`] follows.
    Trailers(HeaderMap),
    /// The body is complete; what remains in the buffer belongs to the next message.
    End,
    /// More bytes are needed.
    NeedMore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    /// Bytes left.
    Exact(u64),
    UntilClose,
    /// At a chunk size line.
    Size,
    /// Bytes left in a chunk.
    Data(u64),
    /// At the CRLF after a chunk's data.
    DataEnd,
    Trailers,
}

impl BodyDecoder {
    /// A decoder at the first byte after the head.
    #[must_use]
    pub fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::None | BodyLength::Exact(0) => State::Done,
            BodyLength::Exact(left) => State::Exact(left),
            BodyLength::Chunked => State::Size,
            BodyLength::UntilClose => State::UntilClose,
        };
        Self {
            state,
            extension_bytes: 0,
            trailers: HeadReader::new(),
        }
    }

    /// Takes the next piece off the front of `buf`. After [`Decoded::End`] it stays there.
    ///
    /// # Errors
    /// The chunk framing or a trailer is malformed; the connection can't be used further.
    #[inline]
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        loop {
            match self.state {
                State::Done => return Ok(Decoded::End),
                State::Exact(left) | State::Data(left) => {
                    let Some(data) = take(buf, left) else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.consumed(data.len() as u64);
                    return Ok(Decoded::Data(data));
                }
                State::UntilClose => {
                    return Ok(take(buf, u64::MAX).map_or(Decoded::NeedMore, Decoded::Data));
                }
                State::DataEnd => match &buf[..] {
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Decoded::NeedMore),
                    _ => return Err(BodyError::ChunkEnd),
                },
                State::Size => match self.size_line(buf)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Trailers => return self.trailer_section(buf),
            }
        }
    }

    /// The peer has closed its side. Bytes still in the buffer are to be decoded first.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if the framing promised more; only a body that ends with the
    /// connection is complete.
    pub fn eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::UntilClose | State::Done => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that are known to follow as content without any framing between them: the rest of a
    /// `content-length` body, or of the current chunk. `None` where that is not known (between
    /// chunks, until close). They may be read straight into another buffer if
    /// [`consumed`](Self::consumed) is told.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Exact(left) | State::Data(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Notes that `count` bytes of content (at most [`remaining`](Self::remaining)) were read past
    /// this decoder.
    pub fn consumed(&mut self, count: u64) {
        self.state = match self.state {
            State::Exact(left) if left > count => State::Exact(left - count),
            State::Exact(_) => State::Done,
            State::Data(left) if left > count => State::Data(left - count),
            State::Data(_) => State::DataEnd,
            other => other,
        };
    }

    fn size_line(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, BodyError> {
        let window = &buf[..buf.len().min(SIZE_LINE)];
        let Some(lf) = memchr::memchr(b'\n', window) else {
            // What can't become a size is refused before its line is whole.
            return match window.first() {
                Some(byte) if !byte.is_ascii_hexdigit() => Err(BodyError::ChunkSize),
                _ if window.len() == SIZE_LINE => Err(BodyError::ChunkExtensionTooLong),
                _ => Ok(None),
            };
        };
        let line = window[..lf]
            .strip_suffix(b"\r")
            .ok_or(BodyError::ChunkEnd)?;
        let (size, digits) = parse_size(line)?;
        let extension = &line[digits..];
        if !extension.is_empty() {
            if extension.len() > EXTENSION_BYTES {
                return Err(BodyError::ChunkExtensionTooLong);
            }
            // At most 256 bytes a line, and refused above 16 KiB: no overflow.
            self.extension_bytes += extension.len() as u32;
            if self.extension_bytes > EXTENSION_BYTES_TOTAL {
                return Err(BodyError::ChunkExtensionTooLong);
            }
            if !is_extension(extension) {
                return Err(BodyError::ChunkExtension);
            }
        }
        buf.advance(lf + 1);
        Ok(Some(size))
    }

    fn trailer_section(&mut self, buf: &mut BytesMut) -> Result<Decoded, BodyError> {
        let extent = match self
            .trailers
            .find_end(buf, &TRAILER_LIMITS, TRAILER_LIMITS.headers)
        {
            Ok(Some(extent)) => extent,
            Ok(None) => return Ok(Decoded::NeedMore),
            Err(ScanError::BareLf) => return Err(FieldError::BareLf.into()),
            Err(_) => return Err(BodyError::TrailersTooLarge),
        };
        let mut map = HeaderMap::new();
        if extent.lines == 0 {
            buf.advance(extent.len);
        } else {
            let section = buf.split_to(extent.len).freeze();
            fields::parse(&section, &extent, 0, 0, &mut map, |name, _| {
                Ok::<_, BodyError>(if is_forbidden_trailer(name) {
                    Keep::No
                } else {
                    Keep::Yes
                })
            })?;
        }
        self.state = State::Done;
        Ok(if map.is_empty() {
            Decoded::End
        } else {
            Decoded::Trailers(map)
        })
    }
}

/// Up to `limit` bytes off the front; `None` when there are none.
#[inline]
fn take(buf: &mut BytesMut, limit: u64) -> Option<Bytes> {
    let count = usize::try_from(limit).unwrap_or(usize::MAX).min(buf.len());
    (count > 0).then(|| buf.split_to(count).freeze())
}

/// The size at the beginning of a chunk line and the number of its digits.
#[inline]
fn parse_size(line: &[u8]) -> Result<(u64, usize), BodyError> {
    let mut size = 0u64;
    let mut digits = 0;
    for byte in line {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b';' => break,
            _ => return Err(BodyError::ChunkSize),
        };
        digits += 1;
        if digits > SIZE_DIGITS {
            return Err(BodyError::ChunkSize);
        }
        size = size << 4 | u64::from(digit);
    }
    if digits == 0 {
        return Err(BodyError::ChunkSize);
    }
    Ok((size, digits))
}

/// `*( ";" token [ "=" ( token / quoted-string ) ] )`: RFC 9112 §7.1.1 without the white space that
/// it calls bad. Checked, then dropped: extensions are hop by hop.
fn is_extension(mut rest: &[u8]) -> bool {
    while let [b';', after @ ..] = rest {
        let name = token_len(after);
        if name == 0 {
            return false;
        }
        rest = &after[name..];
        if let [b'=', after @ ..] = rest {
            let value = if after.first() == Some(&b'"') {
                quoted_len(after)
            } else {
                token_len(after)
            };
            if value == 0 {
                return false;
            }
            rest = &after[value..];
        }
    }
    rest.is_empty()
}

fn token_len(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| TOKEN[usize::from(**b)]).count()
}

/// The length of a quoted string with its quotes; 0 if it is not one.
fn quoted_len(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => match bytes.get(at + 1) {
                Some(b'\t' | 0x20..=0x7e | 0x80..) => at += 2,
                _ => return 0,
            },
            b'\t' | 0x20..=0x7e | 0x80.. => at += 1,
            _ => return 0,
        }
    }
    0
}
