//! A stream in another dialect: the provider's frames become events, the events the caller's frames.

use bytes::Bytes;

use super::relay::{HOLD_LIMIT, LONGEST_PING, broken, empty};
use super::unfinished::{Repeated, Said, Unfinished};
use super::{Seen, Sink, Step};
use crate::Dialect;
use crate::aws;
use crate::classify::{self, Class};
use crate::ir::Event;
use crate::prepare::Plan;
use crate::registry::ProviderKind;
use crate::sse::{FRAME_LIMIT, Scanner};
use crate::translation::{Decoder, Encoder};
use crate::usage::Usage;

pub(super) struct Translate {
    framing: Framing,
    state: Both,
}

/// How the provider parts its frames.
enum Framing {
    Sse(Scanner),
    Aws(aws::Decoder),
}

struct Both {
    kind: ProviderKind,
    dialect: Dialect,
    decoder: Decoder,
    encoder: Encoder,
    usage: Usage,
    /// The caller's frames as items of an array: their number.
    array: Option<usize>,
    over: bool,
    /// What was said, where that is remembered.
    said: Option<Said>,
    /// It goes on where another broke off: what that said may come again.
    goes_on: Option<Repeated>,
    /// Tokens of what another said.
    before: u64,
}

impl Translate {
    pub(super) fn new(plan: &Plan, dialect: Dialect) -> Self {
        Self {
            framing: match dialect {
                Dialect::Bedrock => Framing::Aws(aws::Decoder::new(aws::MESSAGE_LIMIT)),
                _ => Framing::Sse(Scanner::new(FRAME_LIMIT)),
            },
            state: Both {
                kind: plan.kind,
                dialect,
                decoder: Decoder::new(dialect),
                encoder: Encoder::new(plan.endpoint, &plan.told()),
                usage: Usage::default(),
                array: plan.array_stream.then_some(0),
                over: false,
                said: plan.remember.then(Said::nothing),
                goes_on: None,
                before: 0,
            },
        }
    }

    /// For an answer that goes on where another broke off.
    pub(super) fn going_on(plan: &Plan, dialect: Dialect, before: &Unfinished) -> Self {
        let mut translate = Self::new(plan, dialect);
        let repeated = if plan.repeats { before.text() } else { "" };
        let state = &mut translate.state;
        state.encoder = before.encoder();
        state.array = before.array;
        state.said = plan.remember.then(|| Said::before(before));
        state.goes_on = Some(Repeated::new(repeated));
        state.before = Usage::estimate(0, before.text().len() as u64).output;
        translate
    }

    /// What another can go on from.
    pub(super) fn unfinished(self) -> Option<Unfinished> {
        let Both {
            said,
            encoder,
            array,
            ..
        } = self.state;
        Unfinished::new(said?, encoder, array)
    }

    pub(super) fn data(&mut self, chunk: &Bytes, sink: &mut Sink<'_>) -> Seen {
        let state = &mut self.state;
        let mut out = Vec::new();
        let mut step = Step::Ping;
        let fault = match &mut self.framing {
            Framing::Sse(scanner) => {
                let mut frames = scanner.feed(chunk);
                loop {
                    match frames.next() {
                        None => break None,
                        Some(Err(fault)) => {
                            break Some(broken("frame-too-long", &fault.to_string()));
                        }
                        Some(Ok(frame)) if !frame.has_data() => {}
                        Some(Ok(frame)) => {
                            match state.frame(frame.event(), &frame.data(), &mut out, sink) {
                                Ok(ping) if ping => {}
                                Ok(_) => step = Step::Progress,
                                Err(fault) => break Some(fault),
                            }
                        }
                    }
                    if state.over {
                        break None;
                    }
                }
            }
            Framing::Aws(decoder) => {
                decoder.push(chunk);
                loop {
                    match decoder.next() {
                        Ok(None) => break None,
                        Err(fault) => break Some(broken("frame-malformed", &fault.to_string())),
                        Ok(Some(message)) => {
                            let name = message.name.as_bytes();
                            let seen = if message.is_error {
                                Err(state.error(name, &message.payload, sink))
                            } else {
                                state.frame(name, &message.payload, &mut out, sink)
                            };
                            match seen {
                                Ok(_) => step = Step::Progress,
                                Err(fault) => break Some(fault),
                            }
                        }
                    }
                    if state.over {
                        break None;
                    }
                }
            }
        };
        let more = match &self.framing {
            Framing::Sse(scanner) => scanner.open_len() > LONGEST_PING,
            // It has no pings.
            Framing::Aws(_) => true,
        };
        if more {
            step = Step::Progress;
        }
        state.give(out, sink);
        if let Some(fault) = fault {
            return Seen::Fault(fault);
        }
        if state.over {
            return match *sink.begun {
                true => Seen::Step(Step::Done),
                false => Seen::Fault(empty()),
            };
        }
        if sink.held.len() > HOLD_LIMIT {
            *sink.begun = true;
        }
        Seen::Step(step)
    }

    pub(super) fn end(&mut self, sink: &mut Sink<'_>) -> Seen {
        let state = &mut self.state;
        let mut out = Vec::new();
        // Some leave out the line end behind the last frame.
        if let Framing::Sse(scanner) = &mut self.framing
            && let Some(frame) = scanner.finish()
            && frame.has_data()
            && let Err(fault) = state.frame(frame.event(), &frame.data(), &mut out, sink)
        {
            return Seen::Fault(fault);
        }
        if !state.over {
            if !state.decoder.may_end() {
                state.give(out, sink);
                return Seen::Fault(broken(
                    "stream-cut",
                    "the stream ended before the answer was whole",
                ));
            }
            state.encoder.event(&Event::End, &mut out);
            state.over = true;
            *sink.begun = true;
        }
        state.give(out, sink);
        if !*sink.begun {
            return Seen::Fault(empty());
        }
        Seen::Step(Step::Done)
    }
}

impl Both {
    /// One frame; true if it was the provider's ping.
    fn frame(
        &mut self,
        name: &[u8],
        data: &[u8],
        out: &mut Vec<u8>,
        sink: &mut Sink<'_>,
    ) -> Result<bool, Box<classify::Evidence>> {
        let found = classify::classify_event(self.kind, name, data, sink.now_unix, sink.secret);
        if let Some(evidence) = found
            && evidence.class != Class::Ok
        {
            return Err(sink.fault(evidence, data));
        }
        if name == b"ping" {
            return Ok(true);
        }
        let Self {
            dialect,
            decoder,
            encoder,
            usage,
            over,
            said,
            goes_on,
            before,
            ..
        } = self;
        if let Some(seen) = Usage::read(*dialect, data) {
            usage.merge(&seen);
            sink.count(&seen);
            let all = Usage {
                output: usage.output + *before,
                ..*usage
            };
            encoder.event(&Event::Usage(all), out);
        }
        let mut content = false;
        let read = decoder.frame(name, data, &mut |event| {
            let event = match (event, goes_on.as_mut()) {
                // The caller's stream has begun.
                (Event::Start { .. }, Some(_)) => return,
                (Event::Text { choice: 0, text }, Some(repeated)) => Event::Text {
                    choice: 0,
                    text: repeated.without(text),
                },
                (event, _) => event,
            };
            if matches!(&event, Event::Text { text, .. } if text.is_empty()) {
                return;
            }
            content |= event.is_content();
            *over |= matches!(event, Event::End);
            if let Some(said) = said {
                said.event(&event);
            }
            encoder.event(&event, out);
        });
        *sink.begun |= content;
        if encoder.kept() > FRAME_LIMIT {
            return Err(broken(
                "frame-too-long",
                "what has to be kept of the stream to translate it is too long",
            ));
        }
        match read {
            Ok(()) => Ok(false),
            Err(_) => Err(broken(
                "frame-malformed",
                "a frame of the stream is not what the provider's dialect says",
            )),
        }
    }

    /// An exception of AWS.
    fn error(&self, name: &[u8], data: &[u8], sink: &Sink<'_>) -> Box<classify::Evidence> {
        let found = classify::classify_event(self.kind, name, data, sink.now_unix, sink.secret);
        Box::new(found.unwrap_or_else(|| {
            classify::Evidence::local(
                Class::ProviderDown,
                502,
                "stream-error",
                "the provider reported an error within the stream",
            )
        }))
    }

    /// Hands on what was written: frames, or items of an array.
    fn give(&mut self, out: Vec<u8>, sink: &mut Sink<'_>) {
        let Some(items) = &mut self.array else {
            sink.held.push(out.into());
            return;
        };
        let mut written = Vec::with_capacity(out.len());
        for frame in out.split(|byte| *byte == b'\n') {
            if let Some(data) = frame.strip_prefix(b"data: ") {
                written.extend_from_slice(if *items == 0 { b"[" } else { b",\n" });
                written.extend_from_slice(data);
                *items += 1;
            }
        }
        if self.over {
            written.extend_from_slice(if *items == 0 { b"[]" } else { b"]" });
        }
        sink.held.push(written.into());
    }
}
