//! What spans are made of, in few words.

use std::time::Duration;

use crate::proto::common::v1::any_value::Value;
use crate::proto::common::v1::{AnyValue, ArrayValue};
use crate::proto::trace::v1::Status;
use crate::proto::trace::v1::status::StatusCode;

pub use crate::proto::common::v1::KeyValue;
pub use crate::proto::trace::v1::Span;
pub use crate::proto::trace::v1::span::SpanKind;

/// Bits of a span's flags above those of W3C: that bit 9 says something, and that the parent is in another process.
const HAS_IS_REMOTE: u32 = 1 << 8;
const IS_REMOTE: u32 = 1 << 9;

/// Where a span stands.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The trace.
    pub trace_id: u128,
    /// The span.
    pub span_id: u64,
    /// Its parent; none begins the trace.
    pub parent: Option<u64>,
    /// The parent is in another process.
    pub remote: bool,
    /// W3C's flags.
    pub flags: u8,
}

/// A span without attributes. `start` counts from the Unix epoch.
#[must_use]
pub fn span(place: Place, kind: SpanKind, name: String, start: Duration, took: Duration) -> Span {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let remote = if place.remote { IS_REMOTE } else { 0 };
    Span {
        trace_id: place.trace_id.to_be_bytes().to_vec(),
        span_id: place.span_id.to_be_bytes().to_vec(),
        parent_span_id: place
            .parent
            .map_or_else(Vec::new, |id| id.to_be_bytes().to_vec()),
        flags: u32::from(place.flags) | HAS_IS_REMOTE | remote,
        name,
        kind: kind.into(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(start + took),
        ..Span::default()
    }
}

/// Marks a span as failed.
pub fn fail(span: &mut Span, message: &str) {
    span.status = Some(Status {
        message: message.to_owned(),
        code: StatusCode::Error.into(),
    });
}

/// Adds attributes to a span or resource.
#[derive(Debug)]
pub struct Attributes<'a>(pub &'a mut Vec<KeyValue>);

impl Attributes<'_> {
    /// A text.
    pub fn text(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.put(key, Value::StringValue(value.into()))
    }

    /// A text, if there is one.
    pub fn text_of(&mut self, key: &str, value: Option<impl Into<String>>) -> &mut Self {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// A number.
    pub fn int(&mut self, key: &str, value: impl TryInto<i64>) -> &mut Self {
        self.put(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)))
    }

    /// A time in seconds.
    pub fn seconds(&mut self, key: &str, value: Option<Duration>) -> &mut Self {
        match value {
            Some(value) => self.put(key, Value::DoubleValue(value.as_secs_f64())),
            None => self,
        }
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.put(key, Value::BoolValue(value))
    }

    /// Several texts; nothing if there are none.
    pub fn texts(&mut self, key: &str, values: &[impl AsRef<str>]) -> &mut Self {
        if values.is_empty() {
            return self;
        }
        let texts = values.iter().map(|text| AnyValue {
            value: Some(Value::StringValue(text.as_ref().to_owned())),
        });
        let values = texts.collect();
        self.put(key, Value::ArrayValue(ArrayValue { values }))
    }

    fn put(&mut self, key: &str, value: Value) -> &mut Self {
        self.0.push(KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
        self
    }
}
