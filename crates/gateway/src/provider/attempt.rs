//! One attempt at a provider: a key, the request made for it, and the answer as far as it has come.
//!
//! Beyond what an attempt at an endpoint goes through it has a further stage: the answer's body is read until there is something for
//! the caller. Until then nothing of it is seen, so that another key can take over.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use tidegate_config::model::ProviderTimeouts;
use tidegate_keys::KeyPick;
use tidegate_llm::{Answer, Broke, Call, FactReader, Step};
use tidegate_wire::h1::BodyLength;

use super::Provider;
use super::accounts::Ledger;
use super::bodies::Kept;
use super::said::Said;
use crate::clock;
use crate::down::{Down, Part};
use crate::exchange::relay::{self, Fault};
use crate::exchange::source::{Cursor, Source};
use crate::io::spare;
use crate::up::{OutRequest, Up, UpResponse};

/// Time for the body of a refusal: its head says most.
const REFUSAL: Duration = Duration::from_secs(5);

/// See the module.
pub(crate) struct Asking {
    pub(crate) provider: Arc<Provider>,
    /// The model, by the provider's name.
    pub(crate) model: String,
    pub(crate) key: KeyPick,
    pub(crate) request: OutRequest,
    source: Source,
    /// The body's share of the memory, where it is not the caller's own.
    kept: Option<Kept>,
    pub(crate) answer: Answer,
    /// For the caller, in order.
    pub(crate) out: Vec<Bytes>,
    /// What of it is kept for the log.
    pub(crate) said: Option<Box<Said>>,
    /// What it says of itself, for its span.
    pub(crate) facts: Option<Box<FactReader>>,
    headed: bool,
    /// The answer is whole.
    pub(crate) whole: bool,
    /// Bytes of the caller's request.
    pub(crate) asked_bytes: usize,
    /// The caller gets a stream.
    pub(crate) stream: bool,
    pub(crate) ledger: Option<Rc<Ledger>>,
    /// The ledger knows that the provider has the request.
    charged: bool,
    first_content: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    /// When there must be content.
    pub(crate) due: Option<Instant>,
    started: Instant,
    /// From the start to the first byte of the answer, and to the first content.
    pub(crate) first_byte: Option<Duration>,
    pub(crate) first_token: Option<Duration>,
}

/// A request made for a key, and what its answer is read with.
pub(crate) struct Made<'a> {
    pub(crate) provider: &'a Arc<Provider>,
    pub(crate) key: KeyPick,
    /// The model, by the provider's name.
    pub(crate) model: &'a str,
    pub(crate) request: OutRequest,
    pub(crate) body: Bytes,
    /// The body's share of the memory, where it is not the caller's own.
    pub(crate) kept: Kept,
    pub(crate) answer: Answer,
    /// What the caller asked.
    pub(crate) call: &'a Call,
    pub(crate) ledger: Option<Rc<Ledger>>,
    pub(crate) timeouts: &'a ProviderTimeouts,
}

impl Asking {
    /// Inlined, so that nothing of it is moved but once.
    #[inline]
    pub(crate) fn new(made: Made<'_>) -> Box<Self> {
        Box::new(Self {
            provider: made.provider.clone(),
            model: made.model.to_owned(),
            key: made.key,
            request: made.request,
            kept: Some(made.kept),
            source: Source::of_whole(made.body, None),
            answer: made.answer,
            out: Vec::new(),
            said: None,
            facts: None,
            headed: false,
            whole: false,
            asked_bytes: made.call.body().len(),
            stream: made.call.stream(),
            ledger: made.ledger,
            charged: false,
            first_content: made.timeouts.first_content,
            idle: made.timeouts.idle,
            due: None,
            started: clock::now(),
            first_byte: None,
            first_token: None,
        })
    }

    /// The answer goes to the caller: the request is not needed any more.
    pub(crate) fn committed(&mut self) {
        self.source = Source::of_whole(Bytes::new(), None);
        self.kept = None;
        spare::put_map(std::mem::take(&mut self.request.headers));
    }

    /// Sends the request and reads the answer until there is something for the caller, or it has failed.
    pub(crate) fn poll(
        &mut self,
        up: &mut Up,
        down: &mut Down<'_>,
        cursor: &mut Cursor,
        cx: &mut Context<'_>,
    ) -> Poll<Result<UpResponse, Fault>> {
        if !self.headed {
            let polled = relay::poll_head(up, down, &mut self.source, cursor, false, cx);
            if cursor.done {
                // An answer in one piece has its head at the end of the work: whoever leaves before has made the provider work too.
                self.charge();
                if self.due.is_none() {
                    self.due = self.first_content.map(|t| clock::now() + t);
                }
            }
            match polled {
                Poll::Ready(Ok(response)) => {
                    self.headed = true;
                    self.first_byte = Some(clock::since(self.started));
                    self.answer.head(response.status, response.headers);
                    if !response.status.is_success() {
                        // What it says beside its status is worth little time.
                        let soon = clock::now() + REFUSAL;
                        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
                    } else {
                        self.charge();
                    }
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !cursor.done {
            self.send(up, down, cursor, cx);
        }
        while let Poll::Ready(step) = self.read(up, cx) {
            match step {
                Step::Failed => return Poll::Ready(Err(Fault::Unfit)),
                Step::Done => {
                    self.whole = true;
                    return Poll::Ready(Ok(self.head()));
                }
                Step::Progress | Step::Ping if self.answer.content_begun() => {
                    return Poll::Ready(Ok(self.head()));
                }
                Step::Progress | Step::Ping => {}
            }
        }
        if down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Fault::Gone));
        }
        Poll::Pending
    }

    /// The provider works on it, and will count.
    fn charge(&mut self) {
        if !std::mem::replace(&mut self.charged, true)
            && let Some(ledger) = &self.ledger
        {
            ledger.sent(&self.model);
        }
    }

    /// What the caller is about to be given, is kept where the log is to hold it, and looked at for a span.
    pub(crate) fn note(&mut self) {
        if let Some(facts) = &mut self.facts {
            for piece in &self.out {
                facts.read(piece);
            }
        }
        if let Some(said) = &mut self.said {
            for piece in &self.out {
                said.answered(piece);
            }
        }
    }

    /// Sends what is left of the request. The answer decides what it means if that is not taken.
    pub(crate) fn send(
        &mut self,
        up: &mut Up,
        down: &mut Down<'_>,
        cursor: &mut Cursor,
        cx: &mut Context<'_>,
    ) {
        let sent = relay::poll_request(up, down, &mut self.source, cursor, cx);
        if let Poll::Ready(Err(_)) = sent {
            cursor.done = true;
        }
    }

    /// Time is over. What the provider has said so far is still worth something.
    pub(crate) fn late(&mut self) {
        if self.headed {
            self.answer.broken(Broke::Timeout);
        }
    }

    /// Reads the next piece of the answer. What the caller may have of it is in `out` then.
    pub(crate) fn read(&mut self, up: &mut Up, cx: &mut Context<'_>) -> Poll<Step> {
        if up.body_done() {
            return Poll::Ready(self.answer.end(&mut self.out));
        }
        up.poll_part(cx).map(|part| match part {
            Ok(Part::Data(data)) => self.answer.data(data, &mut self.out),
            Ok(Part::Trailers(_) | Part::End) => self.answer.end(&mut self.out),
            Err(_) => self.answer.broken(Broke::Connection),
        })
    }

    /// The head for the caller.
    fn head(&mut self) -> UpResponse {
        self.first_token = Some(clock::since(self.started));
        let (status, mut headers) = self.answer.take_head().unwrap_or_default();
        let told = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let body = match told {
            _ if self.whole => {
                let length = self.out.iter().map(|piece| piece.len() as u64).sum();
                if told != Some(length) {
                    headers.insert(CONTENT_LENGTH, length.into());
                }
                BodyLength::Exact(length)
            }
            Some(length) => BodyLength::Exact(length),
            None => BodyLength::Chunked,
        };
        UpResponse {
            status,
            headers,
            body,
            reason: None,
        }
    }
}
