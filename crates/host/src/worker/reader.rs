//! The reading half of a worker's connection: one system call reads many answers.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::call::{Code, Fault};
use crate::frame::{self, Frame, Gather, Gathered, Kind};
use crate::message::{Broken, Incoming};

/// Free room for a read; a longer frame gets what it needs.
const ROOM: usize = 64 << 10;

/// The reading half.
pub(crate) struct Reader {
    half: Box<dyn AsyncRead + Send + Unpin>,
    read: BytesMut,
    gather: Gather,
    longest: u64,
    files: bool,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("read", &self.read.len())
            .finish_non_exhaustive()
    }
}

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    #[error("it closed its connection")]
    Closed,
    #[error("its connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("it broke the worker protocol: {0}")]
    Broken(#[from] Broken),
}

impl From<frame::FrameError> for Lost {
    fn from(error: frame::FrameError) -> Self {
        Self::Broken(error.into())
    }
}

impl Reader {
    /// Messages may have `longest` bytes.
    pub(crate) fn new(half: Box<dyn AsyncRead + Send + Unpin>, longest: u64) -> Self {
        Self {
            half,
            read: BytesMut::new(),
            gather: Gather::new(longest),
            longest,
            files: false,
        }
    }

    /// Whether the worker sees the same files, so that a result may be one; at first not.
    pub(crate) fn set_files(&mut self, files: bool) {
        self.files = files;
    }

    /// The bound on messages from now on.
    pub(crate) fn set_longest(&mut self, longest: u64) {
        self.longest = longest;
        self.gather = Gather::new(longest);
    }

    /// The next message as it is: for the time before the worker is ready. Cancelling loses nothing.
    ///
    /// # Errors
    /// Nothing more comes.
    pub(crate) async fn frame(&mut self) -> Result<Frame, Lost> {
        loop {
            while let Some(frame) = frame::take(&mut self.read)? {
                match self.gather.add(frame)? {
                    Gathered::Whole(frame) => return Ok(frame),
                    Gathered::Partly => {}
                    Gathered::TooLong(kind, _) => {
                        return Err(Broken::Meta {
                            kind,
                            why: "it is too long".to_owned(),
                        }
                        .into());
                    }
                }
            }
            self.fill().await?;
        }
    }

    /// Waits for messages and adds all that one read gives. Cancelling loses nothing.
    ///
    /// # Errors
    /// Nothing more comes; what was added before is good.
    pub(crate) async fn messages(&mut self, into: &mut Vec<Incoming>) -> Result<(), Lost> {
        loop {
            while let Some(frame) = frame::take(&mut self.read)? {
                match self.gather.add(frame)? {
                    Gathered::Whole(frame) => into.push(Incoming::read(frame, self.files)?),
                    Gathered::Partly => {}
                    Gathered::TooLong(kind, call) => into.push(self.too_long(kind, call)?),
                }
            }
            if !into.is_empty() {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    fn too_long(&self, kind: Kind, call: u64) -> Result<Incoming, Lost> {
        let fault = Fault::new(
            Code::ResourceExhausted,
            "result_too_large",
            format!(
                "the result is longer than `limits.message` ({} bytes)",
                self.longest
            ),
        );
        match kind {
            Kind::Result => Ok(Incoming::Result {
                call,
                value: Err(fault),
            }),
            Kind::Item => Ok(Incoming::Item {
                call,
                value: Err(fault),
            }),
            other => Err(Broken::Unexpected(other).into()),
        }
    }

    async fn fill(&mut self) -> Result<(), Lost> {
        let missing = frame::missing(&self.read);
        // A frame that is begun gets its room as its bytes come, not as its length says.
        let room = if missing > ROOM {
            missing.min(self.read.len().max(ROOM))
        } else {
            ROOM
        };
        if self.read.capacity() - self.read.len() < room.min(missing.max(4_096)) {
            self.read.reserve(room);
        }
        match self.half.read_buf(&mut self.read).await? {
            0 => Err(Lost::Closed),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BufMut;
    use proptest::prelude::*;

    fn wire(frames: &[(Kind, bool, u64, Vec<u8>)]) -> BytesMut {
        let mut out = BytesMut::new();
        for (kind, more, call, data) in frames {
            frame::put_head(&mut out, *kind, *more, *call, 0, data.len());
            out.put_slice(data);
        }
        out
    }

    #[tokio::test]
    async fn one_read_gives_all_answers_that_are_there() {
        let bytes = wire(&[
            (Kind::Result, false, 1, b"1".to_vec()),
            (Kind::Done, false, 2, vec![]),
            (Kind::Result, false, 3, vec![0; 200_000]),
        ]);
        let mut reader = Reader::new(Box::new(std::io::Cursor::new(bytes.to_vec())), 1 << 20);
        let mut into = Vec::new();
        reader.messages(&mut into).await.unwrap();
        assert!(matches!(
            into[..],
            [Incoming::Result { call: 1, .. }, Incoming::Done { call: 2 }]
        ));
        into.clear();
        reader.messages(&mut into).await.unwrap();
        assert!(
            matches!(&into[..], [Incoming::Result { call: 3, value: Ok(value) }] if value.json.len() == 200_000)
        );
        into.clear();
        assert!(matches!(
            reader.messages(&mut into).await,
            Err(Lost::Closed)
        ));
    }

    #[tokio::test]
    async fn a_result_beyond_the_bound_fails_its_call_and_the_connection_goes_on() {
        let bytes = wire(&[
            (Kind::Result, true, 1, vec![0; 600]),
            (Kind::Result, true, 1, vec![0; 600]),
            (Kind::Result, false, 1, vec![0; 600]),
            (Kind::Result, false, 2, b"2".to_vec()),
        ]);
        let mut reader = Reader::new(Box::new(std::io::Cursor::new(bytes.to_vec())), 1_000);
        let mut into = Vec::new();
        reader.messages(&mut into).await.unwrap();
        assert!(matches!(&into[..], [
            Incoming::Result { call: 1, value: Err(fault) },
            Incoming::Result { call: 2, value: Ok(_) },
        ] if fault.reason == "result_too_large"));
    }

    proptest! {
        #[test]
        fn hostile_bytes_end_the_connection_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut reader = Reader::new(Box::new(std::io::Cursor::new(bytes)), 1_000);
                let mut into = Vec::new();
                while reader.messages(&mut into).await.is_ok() {
                    into.clear();
                }
            });
        }
    }
}
