//! An answer in one piece.

use std::collections::VecDeque;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::relay::broken;
use super::{Seen, Sink, Step};
use crate::Dialect;
use crate::classify::{self, Class};
use crate::prepare::{Back, Plan};
use crate::sse::FRAME_LIMIT;
use crate::translation::{self, embeddings};
use crate::usage::Usage;

/// A JSON answer up to here is kept until it is whole: a cut one can then be had from another key. Longer ones (images in
/// base64) are passed on as they come. Their usage is looked for at the end ([`TAIL_LIMIT`]); where it stands before the
/// content it is not seen, and is for the caller to [estimate](Usage::estimate).
const HOLD_LIMIT: usize = 1024 * 1024;

/// So much of the end of an answer that was passed on is looked at for its usage. Providers write it last, with little behind.
const TAIL_LIMIT: usize = 16 * 1024;

/// A longer answer is not translated: as long as a frame of a stream may be.
const TRANSLATE_LIMIT: usize = FRAME_LIMIT;

pub(super) struct Whole {
    json: bool,
    /// A stream was asked for.
    no_stream: bool,
    /// It is translated, or none for the caller, so it has to be whole.
    keep: bool,
    /// The last pieces, shared with what is passed on.
    tail: Tail,
}

/// The end of a body.
#[derive(Default)]
struct Tail {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
        while let Some(first) = self.pieces.front()
            && self.bytes - first.len() >= TAIL_LIMIT
        {
            self.bytes -= first.len();
            self.pieces.pop_front();
        }
    }

    fn usage(&self, dialect: Dialect) -> Option<Usage> {
        let text: Vec<u8> = self.pieces.iter().flatten().copied().collect();
        Usage::read_end(dialect, &text[text.len().saturating_sub(TAIL_LIMIT)..])
    }
}

impl Whole {
    pub(super) fn new(content_type: &str, plan: &Plan) -> Self {
        // What a model says is JSON, whatever it is called: a page of a proxy on the way is no answer.
        let generates = plan.endpoint.generates();
        let no_stream = generates && plan.stream;
        let keep = no_stream || !plan.is_relay();
        Self {
            json: keep || generates || content_type.contains("json") || content_type.is_empty(),
            no_stream,
            keep,
            tail: Tail::default(),
        }
    }

    /// One that can't be looked into, and passes as it comes.
    pub(super) fn packed() -> Self {
        Self {
            json: false,
            no_stream: false,
            keep: false,
            tail: Tail::default(),
        }
    }

    pub(super) fn data(&mut self, chunk: Bytes, sink: &mut Sink<'_>) -> Seen {
        let passes = self.json && !self.keep && *sink.begun;
        if passes {
            self.tail.push(chunk.clone());
        }
        sink.held.push(chunk);
        if self.keep {
            if sink.held.len() > TRANSLATE_LIMIT {
                return Seen::Fault(broken(
                    "answer-too-long",
                    "the answer is too long to be translated",
                ));
            }
        } else if !self.json {
            *sink.begun = true;
        } else if !passes && sink.held.len() > HOLD_LIMIT {
            // From here on it passes.
            for piece in sink.held.pieces() {
                self.tail.push(piece.clone());
            }
            *sink.begun = true;
        }
        Seen::Step(Step::Progress)
    }

    pub(super) fn end(
        &self,
        plan: &Plan,
        status: StatusCode,
        headers: &HeaderMap,
        sink: &mut Sink<'_>,
    ) -> Seen {
        if *sink.begun {
            if let Some(usage) = self.tail.usage(plan.front) {
                sink.count(&usage);
            }
            return Seen::Step(Step::Done);
        }
        let body = sink.held.joined();
        let evidence = classify::classify(
            plan.kind,
            status,
            headers,
            &body,
            sink.now_unix,
            sink.secret,
        );
        if evidence.class != Class::Ok {
            return Seen::Fault(sink.fault(evidence, &body));
        }
        // Whoever asked for a stream would read nothing in it, and take that for the answer.
        if self.no_stream {
            return Seen::Fault(broken(
                "answer-no-stream",
                "a stream was asked for, and the answer is none",
            ));
        }
        let (seen, usage) = match plan.back {
            // An empty answer has nothing to be wrong (204).
            Back::Same if !self.json || body.is_empty() => (true, None),
            Back::Same => match Usage::read_checked(plan.front, &body) {
                Ok(usage) => (true, usage),
                Err(_) => (false, None),
            },
            Back::Other(_, dialect) => {
                let usage = Usage::read(dialect, &body);
                (translate(plan, dialect, &body, usage, sink), usage)
            }
        };
        if !seen {
            return Seen::Fault(broken(
                "answer-malformed",
                "the answer is none of the provider's dialect",
            ));
        }
        if let Some(usage) = usage {
            sink.count(&usage);
        }
        *sink.begun = true;
        Seen::Step(Step::Done)
    }
}

/// Puts the translated answer in the place of the provider's.
fn translate(
    plan: &Plan,
    dialect: Dialect,
    body: &[u8],
    usage: Option<Usage>,
    sink: &mut Sink<'_>,
) -> bool {
    let told = plan.told();
    let written = if plan.endpoint.generates() {
        translation::whole(dialect, plan.endpoint, body, usage, &told)
    } else {
        embeddings::answer(dialect, plan.endpoint, body, usage, plan.base64, &told)
    };
    let Ok(written) = written else {
        return false;
    };
    sink.held.clear();
    sink.held.push(written.into());
    true
}
