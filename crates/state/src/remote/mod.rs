//! A store that another process owns, over a Unix socket: the embedded file has one owner, and everybody else talks
//! to it.
//!
//! A frame is its length (32 bits, big endian) and JSON. The client sends [`Call`]s; the server answers each with its
//! number, in any order, and tells every change in between. Fields and variants are only added: during an upgrade two
//! versions talk.

mod client;
mod server;

use std::io;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use self::client::remote;
pub use self::server::Server;
use crate::error::Error;
use crate::operation::{Answer, Operation};
use crate::watch::Change;

/// Largest frame: a listing of a full store. More is not ours.
const LARGEST_FRAME: usize = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Call {
    id: u64,
    operation: Operation,
}

#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Answer {
        id: u64,
        result: Result<Answer, Error>,
    },
    Change(Change),
}

/// A message as a frame of at most so many bytes behind its length.
fn frame(message: &impl Serialize, most: usize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4)
        .ok()
        .filter(|length| *length as usize <= most)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"))?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

async fn send(to: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message, LARGEST_FRAME)?).await
}

/// The next message; `None` when the other side closed. A message that cannot be understood is an error of kind
/// `InvalidData`, after which the conversation can go on.
async fn receive<M: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let length = match from.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > LARGEST_FRAME {
        return Err(io::Error::other("a frame is too long"));
    }
    // It grows with what really comes, not with what the length promises.
    let mut bytes = Vec::new();
    let mut body = from.take(length as u64);
    if body.read_to_end(&mut bytes).await? < length {
        return Ok(None);
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Values in JSON.
pub(crate) mod bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(D::Error::custom)
    }
}
