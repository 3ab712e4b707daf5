//! Messages of `application/vnd.amazon.eventstream`, in which Bedrock streams.
//!
//! A message is a length, headers, a payload and two checksums. AWS's crate reads a whole message; this decoder puts
//! whole ones together from chunks, and refuses what is longer than its bound or has a damaged length before it waits
//! for bytes that will never come.

use aws_smithy_eventstream::frame::read_message_from;
use bytes::{Buf, Bytes, BytesMut};

/// The bound of a message if nothing else is said; AWS's own for a payload is 16 MiB.
pub const MESSAGE_LIMIT: usize = 16 * 1024 * 1024 + 128 * 1024 + 16;

/// Length, length of the headers and their checksum.
const PRELUDE: usize = 12;
/// The shortest message: a prelude and the checksum of all.
const SHORTEST: usize = PRELUDE + 4;

/// Why a stream can't be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A message is longer than the bound.
    #[error("a message of the event stream has {length} bytes, more than {limit}")]
    TooLong {
        /// What the message says of itself, bytes.
        length: usize,
        /// The bound, bytes.
        limit: usize,
    },
    /// A length, checksum or header is wrong.
    #[error("the event stream is damaged: {0}")]
    Damaged(String),
    /// The stream ended within a message.
    #[error("the event stream ended within a message")]
    Cut,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The name of the event (`contentBlockDelta`), or of the exception or error (`throttlingException`).
    pub name: String,
    /// It is an exception or an error: a failure, although the status was 200.
    pub is_error: bool,
    /// JSON, in Bedrock's streams.
    pub payload: Bytes,
}

/// Puts messages together from chunks.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
    fault: Option<Fault>,
}

impl Decoder {
    /// A decoder that bears messages of up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit,
            fault: None,
        }
    }

    /// Takes the next chunk. Call [`next`](Self::next) until it says that there is no message.
    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    ///
    /// A [`Fault`] ends the stream: every further call repeats it.
    #[allow(
        clippy::should_implement_trait,
        reason = "it does not end when there is nothing more for now"
    )]
    pub fn next(&mut self) -> Result<Option<Message>, Fault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let read = self.read();
        if let Err(fault) = &read {
            self.fault = Some(fault.clone());
            self.buffer = BytesMut::new();
        }
        read
    }

    /// The stream has ended.
    ///
    /// # Errors
    ///
    /// When it ended within a message, or was faulty before.
    pub fn finish(&self) -> Result<(), Fault> {
        match &self.fault {
            Some(fault) => Err(fault.clone()),
            None if self.buffer.is_empty() => Ok(()),
            None => Err(Fault::Cut),
        }
    }

    fn read(&mut self) -> Result<Option<Message>, Fault> {
        let Some(prelude) = self.buffer.first_chunk::<PRELUDE>() else {
            return Ok(None);
        };
        let mut fields = &prelude[..];
        let length = fields.get_u32() as usize;
        let _headers = fields.get_u32();
        if crc32fast::hash(&prelude[..8]) != fields.get_u32() {
            return Err(Fault::Damaged(
                "the checksum of a message's length is wrong".to_owned(),
            ));
        }
        if length < SHORTEST {
            return Err(Fault::Damaged(format!(
                "a message has {length} bytes, fewer than a message needs"
            )));
        }
        if length > self.limit {
            return Err(Fault::TooLong {
                length,
                limit: self.limit,
            });
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let whole = self.buffer.split_to(length).freeze();
        let message =
            read_message_from(whole).map_err(|error| Fault::Damaged(error.to_string()))?;
        let header = |name: &str| {
            let header = message
                .headers()
                .iter()
                .find(|header| header.name().as_str() == name)?;
            header
                .value()
                .as_string()
                .ok()
                .map(|value| value.as_str().to_owned())
        };
        let is_error = header(":message-type").is_some_and(|kind| kind != "event");
        let name = [":exception-type", ":error-code", ":event-type"]
            .into_iter()
            .find_map(header);
        let mut payload = message.payload().clone();
        // An error without a payload says its message in a header.
        if is_error
            && payload.is_empty()
            && let Some(text) = header(":error-message")
        {
            payload = serde_json::json!({ "message": text }).to_string().into();
        }
        Ok(Some(Message {
            name: name.unwrap_or_default(),
            is_error,
            payload,
        }))
    }
}
