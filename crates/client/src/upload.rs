//! The input of a streamed call: read, compressed and sent as fast as the host takes it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;
use zstd::stream::raw::{CParameter, Encoder, InBuffer, Operation, OutBuffer};

use crate::message::Raw;

/// Bytes of one message.
const CHUNK: usize = 32 << 10;
/// Bytes that are read and compressed at a time: a millisecond's work.
const BLOCK: usize = 256 << 10;
/// zstd's level.
const LEVEL: i32 = 3;

/// A binary input.
pub struct Input(Source);

/// An input that is being read.
pub(crate) type Opened = Pin<Box<dyn AsyncRead + Send>>;

enum Source {
    Bytes(Bytes),
    Path(PathBuf),
    Reader(Opened, Option<u64>),
}

impl Input {
    /// Bytes in memory.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Source::Bytes(bytes.into()))
    }

    /// A file. It must not change until the call is over.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self(Source::Path(path.into()))
    }

    /// What a reader gives, to its end; with its length in bytes where that is known. Such an input can be sent only once: a
    /// call that fails after its first byte is not tried again.
    pub fn reader(reader: impl AsyncRead + Send + 'static, length: Option<u64>) -> Self {
        Self(Source::Reader(Box::pin(reader), length))
    }

    /// The bytes, if they are in memory.
    pub(crate) fn into_bytes(self) -> Option<Bytes> {
        match self.0 {
            Source::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Length in bytes, where it is known.
    ///
    /// # Errors
    /// There is no such file.
    pub(crate) async fn size(&mut self) -> io::Result<Option<u64>> {
        match &self.0 {
            Source::Bytes(bytes) => Ok(Some(bytes.len() as u64)),
            Source::Path(path) => match tokio::fs::metadata(path).await {
                Ok(metadata) => Ok(Some(metadata.len())),
                Err(error) => Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", path.display()),
                )),
            },
            Source::Reader(_, length) => Ok(*length),
        }
    }

    /// Whether it can be sent from any place, more than once.
    pub(crate) fn repeats(&self) -> bool {
        !matches!(self.0, Source::Reader(..))
    }

    /// Opens it at an offset; a reader is given away by the first call, later ones get nothing.
    pub(crate) async fn open(&mut self, offset: u64) -> io::Result<Opened> {
        Ok(match &mut self.0 {
            Source::Bytes(bytes) => {
                let from = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                Box::pin(io::Cursor::new(bytes.slice(from..)))
            }
            Source::Path(path) => {
                let mut file = tokio::fs::File::open(path).await?;
                file.set_max_buf_size(BLOCK);
                if offset > 0 {
                    file.seek(io::SeekFrom::Start(offset)).await?;
                }
                Box::pin(file)
            }
            Source::Reader(reader, _) => {
                let empty: Opened = Box::pin(tokio::io::empty());
                std::mem::replace(reader, empty)
            }
        })
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Bytes(bytes) => write!(f, "Input({} bytes)", bytes.len()),
            Source::Path(path) => write!(f, "Input({})", path.display()),
            Source::Reader(_, length) => write!(f, "Input(reader of {length:?} bytes)"),
        }
    }
}

/// Told how many bytes of the input (before compression) were sent, and how many there are.
pub type OnUpload = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// Compresses a reader into messages until it ends or nobody takes them any more.
pub(crate) async fn pump(
    mut reader: Opened,
    messages: mpsc::Sender<Raw>,
    mut told: impl FnMut(u64),
) -> io::Result<()> {
    let mut encoder = Encoder::new(LEVEL)?;
    encoder.set_parameter(CParameter::ChecksumFlag(true))?;
    let mut block = vec![0; BLOCK];
    let mut out = Chunks::default();
    loop {
        let read = reader.read(&mut block).await?;
        let mut input = InBuffer::around(&block[..read]);
        while input.pos() < read {
            out.step(|buffer| encoder.run(&mut input, buffer).map(drop))?;
            if !out.send(&messages).await {
                return Ok(());
            }
        }
        if read == 0 {
            break;
        }
        told(read as u64);
    }
    loop {
        let mut left = 0;
        out.step(|buffer| encoder.finish(buffer, true).map(|more| left = more))?;
        if left == 0 {
            break;
        }
        if !out.send(&messages).await {
            return Ok(());
        }
    }
    out.send_rest(&messages).await;
    Ok(())
}

/// Compressed bytes that wait for a message to be full.
#[derive(Default)]
struct Chunks(BytesMut);

impl Chunks {
    /// One step of the encoder into a full chunk's room.
    fn step(
        &mut self,
        run: impl FnOnce(&mut OutBuffer<'_, [u8]>) -> io::Result<()>,
    ) -> io::Result<()> {
        let have = self.0.len();
        self.0.resize(have + CHUNK, 0);
        let mut buffer = OutBuffer::around(&mut self.0[have..]);
        let done = run(&mut buffer);
        let wrote = buffer.pos();
        self.0.truncate(have + wrote);
        done
    }

    /// Sends what fills messages; whether somebody takes them.
    async fn send(&mut self, messages: &mpsc::Sender<Raw>) -> bool {
        while self.0.len() >= CHUNK {
            let data = self.0.split_to(CHUNK).freeze();
            if messages
                .send(Raw {
                    data,
                    ..Raw::default()
                })
                .await
                .is_err()
            {
                return false;
            }
        }
        true
    }

    async fn send_rest(&mut self, messages: &mpsc::Sender<Raw>) {
        if self.send(messages).await && !self.0.is_empty() {
            let data = self.0.split().freeze();
            // The host may have heard enough: its answer tells why.
            let _ = messages
                .send(Raw {
                    data,
                    ..Raw::default()
                })
                .await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sent(mut input: Input, offset: u64) -> (Vec<usize>, Vec<u8>, u64) {
        let (sender, mut receiver) = mpsc::channel(2);
        let reader = input.open(offset).await.unwrap();
        let pump = tokio::spawn(async move {
            let mut total = 0;
            pump(reader, sender, |more| total += more)
                .await
                .map(|()| total)
        });
        let (mut sizes, mut all) = (Vec::new(), Vec::new());
        while let Some(message) = receiver.recv().await {
            sizes.push(message.data.len());
            all.extend_from_slice(&message.data);
        }
        let told = pump.await.unwrap().unwrap();
        (sizes, zstd::decode_all(all.as_slice()).unwrap(), told)
    }

    /// Bytes that do not compress, so that there are many messages.
    fn noise(length: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..length).map(|_| random.u8(..)).collect()
    }

    #[tokio::test]
    async fn what_arrives_is_what_was_given_in_messages_of_32_kib() {
        let data = noise(1_000_000);
        let (sizes, got, told) = sent(Input::bytes(data.clone()), 0).await;
        assert!(got == data && told == 1_000_000);
        assert!(
            sizes.len() > 30 && sizes[..sizes.len() - 1].iter().all(|size| *size == CHUNK),
            "{sizes:?}"
        );
    }

    #[tokio::test]
    async fn a_file_goes_on_from_an_offset() {
        let data = noise(700_000);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &data).unwrap();
        let (_, got, _) = sent(Input::path(file.path()), 300_001).await;
        assert!(got == data[300_001..]);
    }

    #[tokio::test]
    async fn an_empty_input_is_an_empty_frame() {
        let (sizes, got, _) = sent(Input::bytes(Bytes::new()), 0).await;
        assert!(got.is_empty() && sizes.len() == 1);
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let error = Input::path("/no/such/file").size().await.unwrap_err();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
    }
}
