//! `ai.AI/chaos`: input of any size, calls of any length, a sign of life each second.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use prost::Message;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::body::{Body, BodyFrame};
use super::fault::{bad_arguments, bad_request, grpc_response};
use super::grpc::{self, CallHead, Encoding, Messages};
use super::kwargs::{self, Announced, Opening};
use super::{Door, heavy, value};
use crate::blocking::in_place;
use crate::progress::{Progress, Step, step};
use crate::proto::ai::Raw;
use crate::spool::{Claim, Form, Inflate, InflateBounds, Stored, Target, inflate_whole, store};
use crate::{Answer, Call, Code, Content, Fault, Method, Part, Value};

/// A heartbeat, framed: the four bytes are the first field of `Raw`.
const PONG: &[u8] = b"\0\0\0\0\x06\x0a\x04PONG";

/// The largest message of the caller's, compressed: what is large comes in many.
const MESSAGE: u64 = 16 << 20;

/// Content of one message of a result's parts.
const PART: usize = 1 << 20;

/// zstd's level for answers.
const LEVEL: i32 = 3;

/// An upload that the caller named.
#[derive(Debug)]
struct Named {
    id: String,
    token: String,
    offset: u64,
}

/// A call as its head says it.
struct Conversation {
    door: Arc<Door>,
    head: CallHead,
    name: String,
    method: Method,
    upload: Option<Named>,
    parts: bool,
    /// Takes what the caller wants to know of how far the call is.
    progress: Option<Progress>,
    answers: mpsc::Sender<BodyFrame>,
}

/// Answers a call: the head at once, or a refusal.
pub(super) async fn chaos(door: Arc<Door>, request: Request<Incoming>) -> Response<Body> {
    match begin(&door, request) {
        Ok(response) => response,
        Err(fault) => grpc_response(&fault),
    }
}

fn begin(door: &Arc<Door>, request: Request<Incoming>) -> Result<Response<Body>, Fault> {
    let headers = request.headers();
    let head = CallHead::read(headers)?;
    let name = text(headers, "x-func-name")?
        .ok_or_else(|| bad_request("the metadata x-func-name names the method"))?;
    let method = door.method(&name)?;
    let upload = named(headers)?;
    let says = |name| {
        headers
            .get(name)
            .is_some_and(|value| value.as_bytes() == b"1")
    };
    let parts = says("x-tidegate-parts");
    let progress = says("x-tidegate-progress").then(Progress::default);
    let (answers, receiver) = mpsc::channel(4);
    let mut response = grpc::answer_head(door, Body::Channel(receiver));
    if let Some(upload) = &upload {
        let offset = match door.options.spool.status(&upload.id, &upload.token) {
            Ok(status) => status.offset,
            Err(fault) if fault.code == Code::NotFound => 0,
            Err(fault) => return Err(fault),
        };
        response
            .headers_mut()
            .insert("x-tidegate-upload-offset", HeaderValue::from(offset));
    }
    let conversation = Conversation {
        door: door.clone(),
        head,
        name,
        method,
        upload,
        parts,
        progress,
        answers,
    };
    tokio::spawn(conversation.run(request.into_body()));
    Ok(response)
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Fault> {
    headers
        .get(name)
        .map(|value| {
            value
                .to_str()
                .map(str::to_owned)
                .map_err(|_| bad_request(format!("{name} is no ASCII text")))
        })
        .transpose()
}

fn named(headers: &HeaderMap) -> Result<Option<Named>, Fault> {
    let Some(id) = text(headers, "x-tidegate-upload-id")? else {
        return Ok(None);
    };
    let token = text(headers, "x-tidegate-upload-token")?
        .ok_or_else(|| bad_request("x-tidegate-upload-id needs x-tidegate-upload-token"))?;
    let offset = match text(headers, "x-tidegate-upload-offset")? {
        None => 0,
        Some(number) => number
            .parse()
            .map_err(|_| bad_request("x-tidegate-upload-offset must be a number of bytes"))?,
    };
    Ok(Some(Named { id, token, offset }))
}

impl Conversation {
    /// Talks until the call is over or the caller has left. Whatever happens drops what the call had.
    async fn run(self, body: Incoming) {
        let mut beat = tokio::time::interval(self.door.options.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        beat.reset();
        let answers = self.answers.clone();
        let deadline = self.head.deadline;
        let work = grpc::until(deadline, self.talk(body));
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut work => break result,
                () = answers.closed() => return,
                _ = beat.tick() => {
                    // A full channel has signs of life enough.
                    let _ = answers.try_send(Ok(Frame::data(Bytes::from_static(PONG))));
                }
            }
        };
        let trailers = match result {
            Ok(kind) => {
                let mut trailers = grpc::well();
                trailers.insert("x-tidegate-result", HeaderValue::from_static(kind));
                trailers
            }
            Err(failed) => {
                let mut trailers = grpc::badly(&failed.fault);
                if let Some(offset) = failed.offset {
                    trailers.insert("x-tidegate-upload-offset", HeaderValue::from(offset));
                }
                trailers
            }
        };
        let _ = answers.send(Ok(Frame::trailers(trailers))).await;
    }

    async fn talk(self, body: Incoming) -> Result<&'static str, Failed> {
        let mut chunks = Chunks {
            messages: Messages::new(body, MESSAGE),
            encoding: self.head.encoding,
            came: false,
        };
        let opening = self.opening(&mut chunks).await?;
        chunks.came = false;
        let mut claim = None;
        let mut taken: Taken = Box::pin(std::future::pending());
        let target = match &self.upload {
            None => Target::Call(self.door.options.spool.clone()),
            Some(upload) => {
                let claimed = self.claim(upload, opening.binary).await?;
                taken = Box::pin(claimed.taken());
                Target::Kept(claimed)
            }
        };
        let stored = tokio::select! {
            stored = self.input(&mut chunks, opening.binary, target) => stored?,
            () = &mut taken => return Err(lost().into()),
        };
        let part = stored.map(|stored| {
            claim = stored.claim;
            Part {
                name: String::new(),
                content: stored.content,
                tensor: None,
            }
        });
        let ended = tokio::select! {
            ended = self.call(opening, part) => ended,
            fault = chunks.rest() => Err(fault),
            () = &mut taken => Err(lost()),
        };
        let again = matches!(&ended, Err(fault) if matches!(fault.code, Code::Unavailable | Code::Aborted | Code::Cancelled));
        if let Some(claim) = claim
            && !again
        {
            claim.done();
        }
        Ok(ended?)
    }

    /// The first message.
    async fn opening(&self, chunks: &mut Chunks) -> Result<Opening, Fault> {
        let first = chunks.next().await.ok_or_else(|| {
            bad_arguments("the call has no first message with keyword arguments")
        })??;
        let options = &self.door.options;
        let (most, ratio) = (options.message, self.door.ratio());
        // Its size after decompression is not known before.
        let opening = tokio::task::spawn_blocking(move || {
            let text = inflate_whole(&first, most, ratio)?;
            kwargs::open(&text)
        })
        .await
        .map_err(|error| Fault::new(Code::Internal, "internal", error.to_string()))??;
        let comes = matches!(opening.binary, Announced::Bytes(_));
        if comes && self.method.binary.is_none() && !self.method.any {
            return Err(bad_arguments(format!(
                "`{}` takes no binary input",
                self.name
            )));
        }
        Ok(opening)
    }

    async fn claim(&self, upload: &Named, announced: Announced) -> Result<Claim, Failed> {
        let Announced::Bytes(size) = announced else {
            return Err(bad_arguments(
                "an upload that may be resumed must tell `_aipod_binary_size`",
            )
            .into());
        };
        let spool = &self.door.options.spool;
        spool
            .claim(&upload.id, &upload.token, size, upload.offset)
            .await
            .map_err(|fault| {
                let offset = (fault.reason == "upload_offset")
                    .then(|| spool.status(&upload.id, &upload.token).ok())
                    .flatten()
                    .map(|status| status.offset);
                Failed { fault, offset }
            })
    }

    /// The binary input.
    async fn input(
        &self,
        chunks: &mut Chunks,
        announced: Announced,
        target: Target,
    ) -> Result<Option<Stored>, Fault> {
        let (most, exact) = match (announced, &target) {
            (Announced::None, _) => return Ok(self.method.always_binary().then(empty)),
            (Announced::Empty, _) => return Ok(self.method.names_binary().then(empty)),
            (Announced::Bytes(_), Target::Kept(claim)) => (claim.missing(), true),
            (Announced::Bytes(size), Target::Call(spool) | Target::File(spool)) => {
                spool.fits(size)?;
                (size, true)
            }
            (Announced::Open, _) => (u64::MAX, false),
        };
        let bounds = InflateBounds {
            most,
            exact,
            ratio: self.door.ratio(),
        };
        let stored = store(chunks, Form::Zstd(bounds), target).await?;
        let nothing = matches!(&stored.content, Content::Inline(bytes) if bytes.is_empty());
        let given = exact || !nothing || (chunks.came && self.method.names_binary());
        Ok((given || self.method.always_binary()).then_some(stored))
    }

    /// The call itself, and its answer.
    async fn call(&self, opening: Opening, part: Option<Part>) -> Result<&'static str, Fault> {
        let call = Call {
            method: self.name.clone(),
            version: opening.version,
            kwargs: opening.kwargs,
            parts: part.into_iter().collect(),
            deadline: self.head.deadline,
            retry: self.head.retry,
            id: self.head.id.clone(),
            progress: self.progress.clone(),
        };
        match self.along(pin!(self.door.call(call))).await?? {
            Answer::Value(value) => {
                self.send(value).await?;
                Ok("value")
            }
            Answer::Items(mut items) => {
                while let Some(item) = self.along(pin!(items.receiver.recv())).await? {
                    self.send(item?).await?;
                }
                Ok("items")
            }
        }
    }

    /// Waits for some work of the call, and passes on what the call tells until then.
    async fn along<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Fault> {
        let progress = self.progress.as_ref();
        let done = loop {
            match step(progress, work.as_mut()).await {
                Step::Told(told) => self.tell(told).await?,
                Step::Done(done) => break done,
            }
        };
        while let Some(told) = progress.and_then(Progress::take) {
            self.tell(told).await?;
        }
        Ok(done)
    }

    /// Sends how far the call is.
    async fn tell(&self, told: Bytes) -> Result<(), Fault> {
        let message = Raw {
            progress: told,
            ..Raw::default()
        };
        self.put(grpc::framed(&message)).await
    }

    async fn send(&self, value: Value) -> Result<(), Fault> {
        if !self.parts || value.parts.is_empty() {
            let json = value::whole(value, self.door.options.message).await?;
            return self.message(json).await;
        }
        self.message(Bytes::from(describe(&value)?)).await?;
        for part in value.parts {
            match part.content {
                Content::Inline(mut bytes) => {
                    while !bytes.is_empty() {
                        let piece = bytes.split_to(PART.min(bytes.len()));
                        self.message(piece).await?;
                    }
                }
                Content::File(file) => {
                    let disk = |error: std::io::Error| crate::spool::disk(&error);
                    let mut source = tokio::fs::File::open(file.path()).await.map_err(disk)?;
                    let mut left = file.len();
                    while left > 0 {
                        let len = left.min(PART as u64);
                        let mut piece = vec![0; len as usize];
                        source.read_exact(&mut piece).await.map_err(disk)?;
                        left -= len;
                        self.message(Bytes::from(piece)).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Compresses and sends one message.
    async fn message(&self, content: Bytes) -> Result<(), Fault> {
        let framed = heavy(content.len(), move || {
            let data = zstd::bulk::compress(&content, LEVEL)?;
            std::io::Result::Ok(grpc::framed(&Raw {
                data: Bytes::from(data),
                ..Raw::default()
            }))
        })
        .await?
        .map_err(|error| Fault::new(Code::Internal, "internal", format!("zstd: {error}")))?;
        self.put(framed).await
    }

    async fn put(&self, framed: Bytes) -> Result<(), Fault> {
        self.answers
            .send(Ok(Frame::data(framed)))
            .await
            .map_err(|_| Fault::new(Code::Cancelled, "cancelled", "the caller left"))
    }
}

type Taken = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a call failed, and how far its upload is where that is the reason.
#[derive(Debug)]
struct Failed {
    fault: Fault,
    offset: Option<u64>,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            offset: None,
        }
    }
}

fn lost() -> Fault {
    Fault::new(
        Code::Aborted,
        "upload_taken",
        "another call has gone on with the upload",
    )
}

fn empty() -> Stored {
    Stored {
        content: Content::Inline(Bytes::new()),
        claim: None,
    }
}

/// The first message of a result with parts.
fn describe(value: &Value) -> Result<Vec<u8>, Fault> {
    #[derive(Serialize)]
    struct Described<'a> {
        name: &'a str,
        size: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        datatype: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        shape: Option<&'a [u64]>,
    }
    let parts: Vec<_> = value
        .parts
        .iter()
        .map(|part| Described {
            name: &part.name,
            size: value::len(part),
            datatype: part.tensor.as_ref().map(|of| of.datatype.as_str()),
            shape: part.tensor.as_ref().map(|of| &of.shape[..]),
        })
        .collect();
    let mut text = b"{\"_aipod_value\":".to_vec();
    text.extend_from_slice(if value::is_null(&value.json) {
        b"null"
    } else {
        &value.json
    });
    text.extend_from_slice(b",\"_aipod_parts\":");
    serde_json::to_writer(&mut text, &parts)
        .map_err(|error| Fault::new(Code::Internal, "internal", error.to_string()))?;
    text.push(b'}');
    Ok(text)
}

/// The data of the caller's messages.
struct Chunks {
    messages: Messages,
    encoding: Encoding,
    /// Whether any came behind the opening.
    came: bool,
}

impl Stream for Chunks {
    type Item = Result<Bytes, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = ready!(this.messages.poll_next_unpin(cx));
        this.came |= next.is_some();
        Poll::Ready(next.map(|next| {
            let (compressed, message) = next?;
            let message = if compressed {
                in_place(|| grpc::plain(compressed, message, this.encoding, MESSAGE))?
            } else {
                message
            };
            let raw = Raw::decode(message)
                .map_err(|error| bad_request(format!("a message does not parse: {error}")))?;
            Ok(raw.data)
        }))
    }
}

impl Chunks {
    /// Watches what comes behind the input: nothing should, but frames without content. Resolves only with what is wrong.
    async fn rest(&mut self) -> Fault {
        let nothing = InflateBounds {
            most: 0,
            exact: true,
            ratio: 0,
        };
        let mut inflate = None;
        while let Some(chunk) = self.next().await {
            let fed = chunk.and_then(|chunk| {
                let inflate = match &mut inflate {
                    Some(inflate) => inflate,
                    none => none.insert(Inflate::new(nothing)?),
                };
                inflate.feed(&chunk, |_| Ok(()))
            });
            if let Err(fault) = fed {
                return fault;
            }
        }
        std::future::pending().await
    }
}
