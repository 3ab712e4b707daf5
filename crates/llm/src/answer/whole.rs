//! An answer in one piece.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::held::Held;
use super::relay::broken;
use super::{Seen, Sink, Step, counts};
use crate::Dialect;
use crate::classify::{self, Class};
use crate::json::Cursor;
use crate::prepare::{Back, Plan};
use crate::usage::Usage;

/// A JSON answer up to here is kept until it is whole: a cut one can then be had from another key. Longer ones (images in
/// base64) are passed on as they come.
const HOLD_LIMIT: usize = 1024 * 1024;

pub(super) struct Whole {
    json: bool,
}

impl Whole {
    pub(super) fn new(content_type: &str) -> Self {
        Self {
            json: content_type.contains("json") || content_type.is_empty(),
        }
    }

    pub(super) fn data(&mut self, chunk: Bytes, held: &mut Held, begun: &mut bool) -> Step {
        held.push(chunk);
        if !self.json || held.len() > HOLD_LIMIT {
            *begun = true;
        }
        Step::Progress
    }

    pub(super) fn end(
        self,
        plan: &Plan,
        status: StatusCode,
        headers: &HeaderMap,
        sink: &mut Sink<'_>,
    ) -> Seen {
        if *sink.begun {
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
            return Seen::Fault(Box::new(evidence));
        }
        // An empty answer has nothing to be wrong (204).
        if self.json && !body.is_empty() {
            let Some(usage) = look(plan.front, &body) else {
                return Seen::Fault(broken("answer-malformed", "the answer is no JSON"));
            };
            if let Some(usage) = usage {
                sink.count(usage);
            }
        }
        let _ = Back::Same;
        *sink.begun = true;
        Seen::Step(Step::Done)
    }
}

/// The usage of a whole answer; `None` if it is no JSON.
fn look(dialect: Dialect, body: &[u8]) -> Option<Option<Usage>> {
    let mut usage = None;
    let mut cursor = Cursor::new(body);
    let read = cursor.object(|key, cursor| {
        match (dialect, key) {
            (Dialect::Gemini, b"usageMetadata") if cursor.is_object() => {
                usage = Some(counts::gemini(cursor)?);
            }
            (Dialect::Anthropic, b"usage") if cursor.is_object() => {
                usage = Some(counts::anthropic(cursor)?);
            }
            (_, b"usage") if cursor.is_object() => usage = Some(counts::openai(cursor)?),
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    });
    (read.is_ok() && cursor.end().is_ok()).then_some(usage)
}
