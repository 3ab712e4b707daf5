//! Frames of the worker protocol (`docs/src/worker-protocol.md`): bytes in, bytes out, nothing else.
//!
//! A worker may be of another language or broken, so that what it sends is hostile input: lengths are checked before
//! anything is kept, and what is kept is bounded.

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 20;
/// Most bytes behind the header of one frame.
pub(crate) const LONGEST: usize = 16 << 20;
/// Data of a frame that is one of many: other calls' frames get between them.
pub(crate) const PIECE: usize = 1 << 20;
/// Another frame of the same message follows.
const MORE: u8 = 1;
/// Messages of one connection that may come in pieces at a time.
const OPEN: usize = 1_024;

/// Types of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Ready = 2,
    Failed = 3,
    Loaded = 4,
    Released = 5,
    Result = 6,
    Item = 7,
    Done = 8,
    Error = 9,
    Progress = 10,
    Log = 11,
    Pong = 12,
    Want = 13,
    Welcome = 33,
    Load = 34,
    Release = 35,
    Call = 36,
    Data = 37,
    Cancel = 38,
    Credit = 39,
    Drain = 40,
    Ping = 41,
    Batch = 43,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Hello,
            2 => Self::Ready,
            3 => Self::Failed,
            4 => Self::Loaded,
            5 => Self::Released,
            6 => Self::Result,
            7 => Self::Item,
            8 => Self::Done,
            9 => Self::Error,
            10 => Self::Progress,
            11 => Self::Log,
            12 => Self::Pong,
            13 => Self::Want,
            33 => Self::Welcome,
            34 => Self::Load,
            35 => Self::Release,
            36 => Self::Call,
            37 => Self::Data,
            38 => Self::Cancel,
            39 => Self::Credit,
            40 => Self::Drain,
            41 => Self::Ping,
            43 => Self::Batch,
            _ => return None,
        })
    }
}

/// What a peer must not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {0} bytes is longer than {LONGEST}")]
    TooLong(u32),
    #[error("a frame's meta of {meta} bytes is longer than the frame's {length}")]
    Meta { meta: u32, length: u32 },
    #[error("frames of type {0} are unknown")]
    Unknown(u8),
    #[error("more than {OPEN} messages come in pieces at a time")]
    TooManyOpen,
}

/// One frame, or a message put together from many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) more: bool,
    pub(crate) call: u64,
    pub(crate) meta: Bytes,
    pub(crate) data: Bytes,
}

/// Writes a header.
pub(crate) fn put_head(
    out: &mut impl BufMut,
    kind: Kind,
    more: bool,
    call: u64,
    meta: usize,
    data: usize,
) {
    debug_assert!(meta + data <= LONGEST, "the caller cuts what is longer");
    out.put_u32_le((meta + data) as u32);
    out.put_u8(kind as u8);
    out.put_u8(if more { MORE } else { 0 });
    out.put_u16_le(0);
    out.put_u32_le(meta as u32);
    out.put_u64_le(call);
}

/// Takes the first frame out of what was read; `None`: it is not whole yet.
///
/// # Errors
/// The peer does not keep the protocol.
pub(crate) fn take(read: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(head) = read.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let mut fields = &head[..];
    let length = fields.get_u32_le();
    let (kind, flags) = (fields.get_u8(), fields.get_u8());
    fields.advance(2);
    let (meta, call) = (fields.get_u32_le(), fields.get_u64_le());
    if length as usize > LONGEST {
        return Err(FrameError::TooLong(length));
    }
    if meta > length {
        return Err(FrameError::Meta { meta, length });
    }
    let kind = Kind::of(kind).ok_or(FrameError::Unknown(kind))?;
    if read.len() < HEADER + length as usize {
        return Ok(None);
    }
    read.advance(HEADER);
    let (meta, data) = (meta as usize, (length - meta) as usize);
    Ok(Some(Frame {
        kind,
        more: flags & MORE != 0,
        call,
        meta: part(read, meta),
        data: part(read, data),
    }))
}

/// What is short is copied: it would keep the whole of what was read in memory.
fn part(read: &mut BytesMut, length: usize) -> Bytes {
    const SHORT: usize = 4_096;
    match length {
        0 => Bytes::new(),
        1..=SHORT => {
            let copy = Bytes::copy_from_slice(&read[..length]);
            read.advance(length);
            copy
        }
        _ => read.split_to(length).freeze(),
    }
}

/// How many bytes are missing until the first frame is whole, for the buffer's size.
pub(crate) fn missing(read: &BytesMut) -> usize {
    let length = read
        .first_chunk::<4>()
        .map_or(0, |length| u32::from_le_bytes(*length) as usize);
    (HEADER + length.min(LONGEST)).saturating_sub(read.len())
}

/// Puts messages together that come as several frames.
#[derive(Debug)]
pub(crate) struct Gather {
    open: HashMap<(Kind, u64), Pieces>,
    /// Most bytes of one message.
    longest: u64,
}

#[derive(Debug)]
enum Pieces {
    Kept(Bytes, BytesMut),
    TooLong,
}

/// A message, or none.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gathered {
    /// It is whole.
    Whole(Frame),
    /// More of it is to come.
    Partly,
    /// It was longer than is taken; nothing of it is kept.
    TooLong(Kind, u64),
}

impl Gather {
    pub(crate) fn new(longest: u64) -> Self {
        Self {
            open: HashMap::new(),
            longest,
        }
    }

    /// # Errors
    /// The peer has too many under way.
    pub(crate) fn add(&mut self, mut frame: Frame) -> Result<Gathered, FrameError> {
        if !frame.more && self.open.is_empty() {
            return Ok(Gathered::Whole(frame));
        }
        let key = (frame.kind, frame.call);
        let pieces = match self.open.remove(&key) {
            Some(pieces) => pieces,
            None if !frame.more => return Ok(Gathered::Whole(frame)),
            None if self.open.len() >= OPEN => return Err(FrameError::TooManyOpen),
            None => Pieces::Kept(std::mem::take(&mut frame.meta), BytesMut::new()),
        };
        let pieces = match pieces {
            Pieces::Kept(meta, mut data)
                if (data.len() + frame.data.len()) as u64 <= self.longest =>
            {
                data.extend_from_slice(&frame.data);
                if !frame.more {
                    frame.meta = meta;
                    frame.data = data.freeze();
                    return Ok(Gathered::Whole(frame));
                }
                Pieces::Kept(meta, data)
            }
            _ if frame.more => Pieces::TooLong,
            _ => return Ok(Gathered::TooLong(key.0, key.1)),
        };
        self.open.insert(key, pieces);
        Ok(Gathered::Partly)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let kinds = prop_oneof![
            Just(Kind::Result),
            Just(Kind::Item),
            Just(Kind::Call),
            Just(Kind::Batch)
        ];
        let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        (
            kinds,
            any::<bool>(),
            any::<u64>(),
            bytes(300_usize),
            bytes(9_000),
        )
            .prop_map(|(kind, more, call, meta, data)| Frame {
                kind,
                more,
                call,
                meta,
                data,
            })
    }

    fn write(frame: &Frame, out: &mut BytesMut) {
        put_head(
            out,
            frame.kind,
            frame.more,
            frame.call,
            frame.meta.len(),
            frame.data.len(),
        );
        out.extend_from_slice(&frame.meta);
        out.extend_from_slice(&frame.data);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            frames in proptest::collection::vec(frame(), 1..6), cut in 1_usize..5_000,
        ) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                write(frame, &mut wire);
            }
            let (mut read, mut seen) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                read.extend_from_slice(piece);
                while let Some(frame) = take(&mut read).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(read.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut read = BytesMut::from(&bytes[..]);
            let mut gather = Gather::new(1_000);
            while let Ok(Some(frame)) = take(&mut read) {
                if gather.add(frame).is_err() {
                    break;
                }
            }
            prop_assert!(missing(&read) <= HEADER + LONGEST);
        }

        #[test]
        fn pieces_become_one_message_and_what_is_too_long_none(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8), longest in 0_u64..1_000,
        ) {
            let mut gather = Gather::new(longest);
            let whole: Vec<u8> = pieces.concat();
            let last = pieces.len() - 1;
            for (index, piece) in pieces.iter().enumerate() {
                let meta = if index == 0 { Bytes::from_static(b"{}") } else { Bytes::new() };
                let gathered = gather.add(Frame {
                    kind: Kind::Result, more: index < last, call: 7, meta, data: Bytes::copy_from_slice(piece),
                }).unwrap();
                // Others come between.
                let other = Frame { kind: Kind::Log, more: false, call: 0, meta: Bytes::new(), data: Bytes::new() };
                prop_assert_eq!(gather.add(other.clone()).unwrap(), Gathered::Whole(other));
                if index < last {
                    prop_assert_eq!(gathered, Gathered::Partly);
                } else if last > 0 && whole.len() as u64 > longest {
                    prop_assert_eq!(gathered, Gathered::TooLong(Kind::Result, 7));
                } else {
                    let Gathered::Whole(frame) = gathered else { panic!("{gathered:?}") };
                    prop_assert_eq!(&frame.data[..], &whole[..]);
                    prop_assert_eq!(&frame.meta[..], b"{}");
                }
            }
            prop_assert!(gather.open.is_empty());
        }
    }

    #[test]
    fn lengths_that_lie_are_refused_before_anything_is_waited_for() {
        let mut long = BytesMut::new();
        long.put_u32_le(LONGEST as u32 + 1);
        long.put_bytes(0, HEADER);
        assert_eq!(
            take(&mut long),
            Err(FrameError::TooLong(LONGEST as u32 + 1))
        );
        let mut meta = BytesMut::new();
        meta.put_u32_le(3);
        meta.put_slice(&[Kind::Log as u8, 0, 0, 0]);
        meta.put_u32_le(4);
        meta.put_bytes(0, HEADER);
        assert_eq!(
            take(&mut meta),
            Err(FrameError::Meta { meta: 4, length: 3 })
        );
        let mut unknown = BytesMut::new();
        unknown.put_u32_le(0);
        unknown.put_slice(&[99, 0, 0, 0]);
        unknown.put_bytes(0, HEADER);
        assert_eq!(take(&mut unknown), Err(FrameError::Unknown(99)));
    }

    #[test]
    fn messages_in_pieces_without_an_end_are_bounded() {
        let mut gather = Gather::new(1 << 20);
        let begun = |call| Frame {
            kind: Kind::Item,
            more: true,
            call,
            meta: Bytes::new(),
            data: Bytes::new(),
        };
        for call in 0..OPEN as u64 {
            assert_eq!(gather.add(begun(call)), Ok(Gathered::Partly));
        }
        assert_eq!(gather.add(begun(OPEN as u64)), Err(FrameError::TooManyOpen));
    }
}
