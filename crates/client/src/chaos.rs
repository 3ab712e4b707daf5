//! Streamed calls: an input of any size up, heartbeats and results down, going on where a connection broke.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::uri::PathAndQuery;
use ring::rand::SecureRandom;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;
use tonic_prost::ProstCodec;

use crate::answer::{Output, PONG, Reader};
use crate::balance::Picked;
use crate::call::{Attempts, unary};
use crate::error::Failed;
use crate::message::{Raw, UploadRequest, UploadStatus};
use crate::upload::pump;
use crate::{Call, Error};

/// Uploads from this size on go on where they broke: the host keeps what it has of them, which smaller ones are not worth.
const RESUME_FROM: u64 = 16 << 20;
/// Messages that wait for the connection.
const AHEAD: usize = 8;

impl Call {
    /// Makes the call over `ai.AI/chaos` and gives its one result: any public method, an input of any size, any length of time.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Answer`] if the method gives items: use [`Call::stream`].
    pub async fn send(self) -> Result<Output, Error> {
        let mut items = self.stream();
        let first = items
            .next()
            .await
            .unwrap_or_else(|| Err(Error::Answer("no result, and no error".to_owned())))?;
        match items.next().await {
            None => Ok(first),
            Some(Err(error)) => Err(error),
            Some(Ok(_)) => Err(Error::Answer(
                "more than one result: the method is a generator".to_owned(),
            )),
        }
    }

    /// Makes the call over `ai.AI/chaos` and gives the items of a generator as they come. Dropping it cancels the call.
    ///
    /// Must be called inside a tokio runtime.
    pub fn stream(self) -> Items {
        let (sender, receiver) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            if let Err(error) = run(self, &sender).await {
                // The caller may have left.
                let _ = sender.send(Err(error)).await;
            }
        });
        Items {
            receiver,
            _task: Ends(task),
        }
    }
}

/// Results of a streamed call, in their order.
#[derive(Debug)]
pub struct Items {
    receiver: mpsc::Receiver<Result<Output, Error>>,
    _task: Ends,
}

impl Items {
    /// The next one; `None` after the last, and after an error.
    pub async fn next(&mut self) -> Option<Result<Output, Error>> {
        self.receiver.recv().await
    }
}

impl Stream for Items {
    type Item = Result<Output, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Ends(JoinHandle<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The name under which an upload can be gone on with.
struct Named {
    id: String,
    token: String,
    /// Where it lives.
    address: Arc<str>,
    /// How far it was when the last attempt began.
    offset: u64,
}

/// Where an attempt begins.
#[derive(Default)]
struct Resumed {
    offset: u64,
    /// The attempt before it got further than those before: the attempts count anew.
    further: bool,
}

/// All that the attempts of a call share.
struct Chaos<'a> {
    call: Call,
    first: Bytes,
    size: Option<u64>,
    named: Option<Named>,
    items: &'a mpsc::Sender<Result<Output, Error>>,
    /// A result has been given: no other attempt can follow.
    given: bool,
}

async fn run(mut call: Call, items: &mpsc::Sender<Result<Output, Error>>) -> Result<(), Error> {
    let mut kwargs = std::mem::replace(&mut call.kwargs, Ok(serde_json::Map::new()))?;
    let size = match &mut call.input {
        Some(input) => input.size().await.map_err(Error::Input)?,
        None => None,
    };
    if !call.version.is_empty() {
        kwargs.insert("version".to_owned(), Value::from(call.version.as_str()));
    }
    if call.input.is_none() {
        kwargs.insert("_aipod_binary_size".to_owned(), Value::Null);
    } else if let Some(size) = size {
        kwargs.insert("_aipod_binary_size".to_owned(), Value::from(size));
    }
    let json = serde_json::to_vec(&kwargs).map_err(|error| Error::Arguments(error.to_string()))?;
    let first = zstd::bulk::compress(&json, 3)
        .map_err(|error| Error::Arguments(error.to_string()))?
        .into();
    let repeats = call
        .input
        .as_ref()
        .is_none_or(super::upload::Input::repeats);
    if !repeats {
        call.retry = crate::Retry::never();
    }
    let named = if call.resume
        && repeats
        && call.retry.attempts > 1
        && size.is_some_and(|size| size >= RESUME_FROM)
    {
        Some(Named {
            id: secret()?,
            token: secret()?,
            address: "".into(),
            offset: 0,
        })
    } else {
        None
    };
    let client = call.client.clone();
    let mut attempts = Attempts::new(&client, call.retry.clone(), call.deadline, call.repeatable);
    let mut chaos = Chaos {
        call,
        first,
        size,
        named,
        items,
        given: false,
    };
    loop {
        let wanted = chaos.named.as_ref().map(|named| Arc::clone(&named.address));
        let picked = attempts.pick(wanted.as_deref()).await?;
        let uploaded = Uploaded::default();
        let resumed = attempts.within(chaos.resumed(&picked)).await?;
        let ended = match resumed {
            Ok(Resumed { offset, further }) => {
                if further {
                    attempts.made = 1;
                }
                attempts
                    .within(chaos.attempt(&picked, &attempts, offset, &uploaded))
                    .await?
            }
            Err(failed) => Err(failed),
        };
        match ended {
            Ok(()) => {
                attempts.succeeded();
                return Ok(());
            }
            Err(failed) if chaos.given => return Err(failed.error),
            // The method runs when the whole input is there, not before.
            Err(failed) => {
                let unfinished = chaos.size.is_some_and(|size| uploaded.get() < size);
                attempts.failed(&picked, failed, unfinished).await?;
            }
        }
    }
}

/// Bytes of the input that an attempt has sent, those that the host had before included.
#[derive(Clone, Default)]
struct Uploaded(Arc<AtomicU64>);

impl Uploaded {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, more: u64) -> u64 {
        self.0.fetch_add(more, Ordering::Relaxed) + more
    }
}

impl Chaos<'_> {
    /// Where the upload goes on at this member: asked after the first attempt.
    async fn resumed(&mut self, picked: &Picked) -> Result<Resumed, Failed> {
        let Some(named) = &mut self.named else {
            return Ok(Resumed::default());
        };
        if named.address.is_empty() {
            named.address = Arc::clone(&picked.0.address);
            return Ok(Resumed::default());
        }
        let request = tonic::Request::new(UploadRequest {
            id: named.id.clone(),
            token: named.token.clone(),
        });
        let path = PathAndQuery::from_static("/tidegate.Uploads/Status");
        let offset = match unary::<_, UploadStatus>(picked, request, path, 1 << 20).await {
            Ok(status) => status.offset,
            // Another host, or one that keeps no uploads.
            Err(failed)
                if matches!(
                    failed.error.code(),
                    tonic::Code::NotFound | tonic::Code::Unimplemented
                ) =>
            {
                0
            }
            Err(failed) => return Err(failed),
        };
        let further = offset > named.offset;
        named.offset = offset;
        named.address = Arc::clone(&picked.0.address);
        Ok(Resumed { offset, further })
    }

    /// One attempt, from a place in the input on.
    async fn attempt(
        &mut self,
        picked: &Picked,
        attempts: &Attempts<'_>,
        offset: u64,
        uploaded: &Uploaded,
    ) -> Result<(), Failed> {
        let member = &picked.0;
        let settings = Arc::clone(&self.call.client.inner.settings);
        let (messages, receiver) = mpsc::channel(AHEAD);
        // There is room for it.
        let _ = messages.try_send(Raw {
            data: self.first.clone(),
            ..Raw::default()
        });
        let mut pumped = self.pump(messages, offset, uploaded).await?;
        let mut request = tonic::Request::new(Messages(receiver));
        *request.metadata_mut() = self.call.metadata.clone();
        attempts.stamp(&mut request);
        self.describe(request.metadata_mut(), offset)?;

        let mut grpc = Grpc::new(member.channel.clone()).max_decoding_message_size(settings.limit);
        let path = PathAndQuery::from_static("/ai.AI/chaos");
        let made = async {
            grpc.ready()
                .await
                .map_err(|error| tonic::Status::from_error(error.into()))?;
            grpc.streaming(request, path, ProstCodec::<Raw, Raw>::default())
                .await
        };
        let silent = || {
            Failed::silent(
                &member.address,
                format!("no heartbeat for {:?}", settings.silence),
            )
        };
        let of = |status: tonic::Status| Failed::of(&member.address, &status);
        // Before the head nobody has promised a heartbeat: the service may be starting.
        let answer = tokio::select! {
            answer = made => answer.map_err(of)?,
            failed = input_failed(&mut pumped) => return Err(failed),
        };
        member.answered();
        let mut stream = answer.into_inner();
        let mut reader = Reader::new(settings.limit as u64);
        loop {
            let message = tokio::select! {
                message = tokio::time::timeout(settings.silence, stream.message()) => message.map_err(|_| silent())?.map_err(of)?,
                failed = input_failed(&mut pumped) => return Err(failed),
            };
            let Some(message) = message else {
                break;
            };
            if message.data == PONG {
                if let Some(told) = &self.call.on_heartbeat {
                    told();
                }
            } else if !message.progress.is_empty() {
                if let Some(told) = &self.call.on_progress {
                    let wrong =
                        |error: serde_json::Error| Failed::last(Error::Answer(error.to_string()));
                    told(&serde_json::from_slice(&message.progress).map_err(wrong)?);
                }
            } else if let Some(output) = reader.take(&message.data).map_err(Failed::last)? {
                self.given = true;
                if self.items.send(Ok(output)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if reader.half() {
            return Err(Failed::last(Error::Answer(
                "the result ended in the middle".to_owned(),
            )));
        }
        Ok(())
    }

    /// Starts to send the input; `None`: there is nothing to send.
    async fn pump(
        &mut self,
        messages: mpsc::Sender<Raw>,
        offset: u64,
        uploaded: &Uploaded,
    ) -> Result<Option<Pump>, Failed> {
        uploaded.add(offset);
        let Some(input) = &mut self.call.input else {
            return Ok(None);
        };
        if self.size.is_some_and(|size| size == offset) {
            return Ok(None);
        }
        let reader = input
            .open(offset)
            .await
            .map_err(|error| Failed::last(Error::Input(error)))?;
        let (told, size, uploaded) = (self.call.on_upload.clone(), self.size, uploaded.clone());
        let sent = move |more| {
            let all = uploaded.add(more);
            if let Some(told) = &told {
                told(all, size);
            }
        };
        Ok(Some(Pump(tokio::spawn(pump(reader, messages, sent)))))
    }

    fn describe(
        &self,
        metadata: &mut tonic::metadata::MetadataMap,
        offset: u64,
    ) -> Result<(), Failed> {
        let value = |text: &str| {
            AsciiMetadataValue::try_from(text)
                .map_err(|_| Failed::last(Error::Arguments(format!("no metadata: {text:?}"))))
        };
        metadata.insert("x-func-name", value(&self.call.method)?);
        metadata.insert("x-tidegate-parts", AsciiMetadataValue::from_static("1"));
        if self.call.on_progress.is_some() {
            metadata.insert("x-tidegate-progress", AsciiMetadataValue::from_static("1"));
        }
        if let Some(named) = &self.named {
            metadata.insert("x-tidegate-upload-id", value(&named.id)?);
            metadata.insert("x-tidegate-upload-token", value(&named.token)?);
            if offset > 0 {
                metadata.insert("x-tidegate-upload-offset", AsciiMetadataValue::from(offset));
            }
        }
        Ok(())
    }
}

/// The task that reads the input; ends with its owner.
struct Pump(JoinHandle<std::io::Result<()>>);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Resolves when the input could not be read, and only then.
async fn input_failed(pump: &mut Option<Pump>) -> Failed {
    if let Some(running) = pump {
        let ended = (&mut running.0).await;
        *pump = None;
        match ended {
            Ok(Err(error)) => return Failed::last(Error::Input(error)),
            Err(error) if error.is_panic() => {
                return Failed::last(Error::Input(std::io::Error::other(
                    "the reader of the input panicked",
                )));
            }
            _ => {}
        }
    }
    std::future::pending().await
}

/// What goes up, as a stream.
struct Messages(mpsc::Receiver<Raw>);

impl Stream for Messages {
    type Item = Raw;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Raw>> {
        self.0.poll_recv(cx)
    }
}

/// 32 letters that nobody guesses.
fn secret() -> Result<String, Error> {
    let mut bytes = [0; 16];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| Error::Input(std::io::Error::other("the system has no randomness")))?;
    Ok(bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|half| char::from_digit(u32::from(half), 16).unwrap_or('0'))
        .collect())
}
