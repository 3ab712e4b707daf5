//! A stream in the caller's own dialect: whole frames pass as they came, looked at in place.

use bytes::Bytes;

use super::frames::{Look, look};
use super::unfinished::{Listener, Unfinished};
use super::{Seen, Sink, Step};
use crate::classify::{self, Class, Evidence};
use crate::prepare::Plan;
use crate::registry::ProviderKind;
use crate::sse::{FRAME_LIMIT, Frame, Scanner};
use crate::{Dialect, Endpoint};

/// No provider's ping is as long. A shorter piece of a frame may be of one, and does not yet show that the answer goes on.
pub(super) const LONGEST_PING: usize = 512;

/// Frames that open an answer never come to this; beyond it they are given out.
pub(super) const HOLD_LIMIT: usize = 256 * 1024;

pub(super) struct Relay {
    kind: ProviderKind,
    dialect: Dialect,
    endpoint: Endpoint,
    hide_usage: bool,
    scanner: Scanner,
    /// Pieces of earlier chunks that belong to the frame that is not yet whole.
    open: Vec<Bytes>,
    finished: bool,
    /// Frames as items of an array: the number of items so far.
    array: Option<usize>,
    /// Remembers what is said.
    listener: Option<Box<Listener>>,
}

/// What is done with a frame.
enum Fate {
    Pass,
    Leave,
    End(Seen),
}

impl Relay {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            kind: plan.kind,
            dialect: plan.front,
            endpoint: plan.endpoint,
            hide_usage: plan.hide_usage,
            scanner: Scanner::new(FRAME_LIMIT),
            open: Vec::new(),
            finished: false,
            array: plan.array_stream.then_some(0),
            listener: plan.remember.then(|| Box::new(Listener::new(plan))),
        }
    }

    /// What another can go on from.
    pub(super) fn unfinished(self, plan: &Plan) -> Option<Unfinished> {
        self.listener?.unfinished(plan, self.array)
    }

    pub(super) fn data(&mut self, chunk: Bytes, sink: &mut Sink<'_>) -> Seen {
        let Self {
            kind,
            dialect,
            endpoint,
            hide_usage,
            scanner,
            open,
            finished,
            array,
            listener,
        } = self;
        let mut judge = Judge {
            kind: *kind,
            dialect: *dialect,
            endpoint: *endpoint,
            hide_usage: *hide_usage,
            finished,
        };
        let mut step = Step::Ping;
        let mut end = None;
        // Where the bytes begin that are neither passed nor left out.
        let mut from = 0;
        let mut frames = scanner.feed(&chunk);
        loop {
            let before = frames.consumed();
            let Some(frame) = frames.next() else { break };
            let frame = match frame {
                Ok(frame) => frame,
                Err(fault) => {
                    end = Some(Seen::Fault(broken("frame-too-long", &fault.to_string())));
                    break;
                }
            };
            let mut ping = false;
            let fate = judge.frame(&frame, &mut ping, sink);
            if !ping {
                step = Step::Progress;
            }
            if let (Fate::Pass, Some(listener)) = (&fate, &mut *listener) {
                listener.frame(&frame, sink.usage.as_ref());
            }
            let whole = frame.end();
            match (&fate, &mut *array) {
                // Items of an array are written anew, each for itself.
                (Fate::Pass | Fate::End(Seen::Step(_)), Some(items)) => {
                    item(items, &frame, sink);
                    open.clear();
                    from = whole;
                }
                (_, Some(_)) | (Fate::Leave, None) => {
                    if from < before {
                        pass(open, chunk.slice(from..before), sink);
                    }
                    open.clear();
                    from = whole;
                }
                (Fate::Pass | Fate::End(Seen::Step(_)), None) => {}
                (Fate::End(Seen::Fault(_)), None) => {
                    // What stood before it in the chunk is good.
                    if from < before {
                        pass(open, chunk.slice(from..before), sink);
                    }
                    open.clear();
                    from = whole;
                }
            }
            if let Fate::End(seen) = fate {
                if array.is_none() && from < whole {
                    pass(open, chunk.slice(from..whole), sink);
                }
                from = whole;
                end = Some(seen);
                break;
            }
        }
        let consumed = frames.consumed();
        if let Some(seen) = end {
            if let (Seen::Step(Step::Done), Some(items)) = (&seen, array) {
                close(items, sink);
            }
            return seen;
        }
        if from < consumed {
            if array.is_none() {
                pass(open, chunk.slice(from..consumed), sink);
            }
            from = consumed;
        }
        if from < chunk.len() {
            // A piece of a frame: something is coming, unless it is a comment, or too short to tell from a ping.
            let first = open.first().map_or(&chunk[from..], |piece| &piece[..]);
            if !first.starts_with(b":") && scanner.open_len() > LONGEST_PING {
                step = Step::Progress;
            }
            open.push(chunk.slice(from..));
        }
        if sink.held.len() > HOLD_LIMIT {
            *sink.begun = true;
        }
        Seen::Step(step)
    }

    pub(super) fn end(&mut self, sink: &mut Sink<'_>) -> Seen {
        let mut judge = Judge {
            kind: self.kind,
            dialect: self.dialect,
            endpoint: self.endpoint,
            hide_usage: self.hide_usage,
            finished: &mut self.finished,
        };
        // Some leave out the line end behind the last frame.
        if let Some(frame) = self.scanner.finish()
            && frame.has_data()
        {
            match judge.frame(&frame, &mut false, sink) {
                Fate::End(Seen::Fault(fault)) => return Seen::Fault(fault),
                Fate::Leave => {}
                Fate::Pass | Fate::End(_) => match &mut self.array {
                    Some(items) => item(items, &frame, sink),
                    None => {
                        for piece in self.open.drain(..) {
                            sink.held.push(piece);
                        }
                    }
                },
            }
        }
        if !self.finished {
            return Seen::Fault(broken(
                "stream-cut",
                "the stream ended before the answer was whole",
            ));
        }
        *sink.begun = true;
        if let Some(items) = &mut self.array {
            close(items, sink);
        }
        Seen::Step(Step::Done)
    }
}

/// Passes what was kept of earlier chunks, then a piece of this one.
fn pass(open: &mut Vec<Bytes>, piece: Bytes, sink: &mut Sink<'_>) {
    for piece in open.drain(..) {
        sink.held.push(piece);
    }
    sink.held.push(piece);
}

/// Writes a frame's data as an item of an array.
fn item(items: &mut usize, frame: &Frame<'_>, sink: &mut Sink<'_>) {
    if !frame.has_data() {
        return;
    }
    let data = frame.data();
    let mut out = Vec::with_capacity(data.len() + 2);
    out.extend_from_slice(if *items == 0 { b"[" } else { b",\n" });
    out.extend_from_slice(&data);
    *items += 1;
    sink.held.push(out.into());
}

fn close(items: &usize, sink: &mut Sink<'_>) {
    sink.held
        .push(Bytes::from_static(if *items == 0 { b"[]" } else { b"]" }));
}

pub(super) fn broken(rule: &'static str, words: &str) -> Box<Evidence> {
    Box::new(Evidence::local(Class::Broken, 502, rule, words))
}

/// An end without an answer before it.
pub(super) fn empty() -> Box<Evidence> {
    broken("stream-empty", "the stream ended without an answer")
}

/// Looks at one frame.
struct Judge<'j> {
    kind: ProviderKind,
    dialect: Dialect,
    endpoint: Endpoint,
    hide_usage: bool,
    finished: &'j mut bool,
}

impl Judge<'_> {
    fn frame(&mut self, frame: &Frame<'_>, ping: &mut bool, sink: &mut Sink<'_>) -> Fate {
        if !frame.has_data() {
            *ping = true;
            // Google's own SDK takes a comment for a broken answer.
            return match self.dialect {
                Dialect::Gemini => Fate::Leave,
                _ => Fate::Pass,
            };
        }
        let data = frame.data();
        let Look {
            content,
            finished,
            done,
            ping: is_ping,
            error,
            usage,
            usage_alone,
        } = match look(self.dialect, self.endpoint, &data) {
            Ok(look) => look,
            Err(_) => {
                return Fate::End(Seen::Fault(broken(
                    "frame-malformed",
                    "a frame of the stream is no JSON",
                )));
            }
        };
        *ping = is_ping;
        if !done || error {
            let found = classify::classify_event(
                self.kind,
                frame.event(),
                &data,
                sink.now_unix,
                sink.secret,
            );
            match found {
                Some(evidence) if evidence.class != Class::Ok => {
                    return Fate::End(Seen::Fault(sink.fault(evidence, &data)));
                }
                _ if error => {
                    return Fate::End(Seen::Fault(Box::new(Evidence::local(
                        Class::ProviderDown,
                        502,
                        "stream-error",
                        "the provider reported an error within the stream",
                    ))));
                }
                _ => {}
            }
        }
        if let Some(usage) = usage {
            sink.count(&usage);
        }
        *self.finished |= finished || done;
        *sink.begun |= content;
        if done && !*sink.begun {
            return Fate::End(Seen::Fault(empty()));
        }
        if done {
            return Fate::End(Seen::Step(Step::Done));
        }
        if usage_alone && self.hide_usage {
            return Fate::Leave;
        }
        Fate::Pass
    }
}
