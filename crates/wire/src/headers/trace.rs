//! W3C Trace Context (`traceparent`, `tracestate`; recommendation of 2021-11, level 1, read so that
//! later versions still work).

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries the ids.
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header that carries what tracing vendors add.
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-<32 hex>-<16 hex>-<2 hex>`.
const LEN: usize = 55;
/// The flag "this trace is recorded".
const SAMPLED: u8 = 1;
/// What a `tracestate` may hold in all (§3.3.1.5: at least 512 have to be passed on).
const STATE_BYTES: usize = 2048;
/// List members of a `tracestate` (§3.3.1.1).
const STATE_MEMBERS: usize = 32;

/// One place in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, never 0.
    pub trace_id: u128,
    /// The span, never 0.
    pub span_id: u64,
    /// Flags; bit 0: the trace is recorded.
    pub flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` if it is not valid.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let head = text.get(..LEN)?;
        if head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let version = hex(&head[..2])?;
        match version {
            0 if text.len() == LEN => {}
            0 | 0xff => return None,
            // A later version may say more behind another dash.
            _ if text.len() == LEN || text[LEN] == b'-' => {}
            _ => return None,
        }
        let trace_id = hex(&head[3..35])?;
        let span_id = u64::try_from(hex(&head[36..52])?).ok()?;
        let flags = u8::try_from(hex(&head[53..])?).ok()?;
        if trace_id == 0 || span_id == 0 {
            return None;
        }
        // Of a later version only the flag that we know is carried over.
        let flags = if version == 0 { flags } else { flags & SAMPLED };
        Some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// The same trace, one span further.
    #[must_use]
    pub fn child(self, span_id: u64) -> Self {
        Self {
            span_id: span_id.max(1),
            ..self
        }
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The same place, recorded or not.
    #[must_use]
    pub fn sampled(self, sampled: bool) -> Self {
        let flags = if sampled {
            self.flags | SAMPLED
        } else {
            self.flags & !SAMPLED
        };
        Self { flags, ..self }
    }

    /// As a `traceparent` of version 00.
    #[must_use]
    pub fn to_value(self) -> HeaderValue {
        let mut text = [b'-'; LEN];
        put_hex(&mut text[..2], 0);
        put_hex(&mut text[3..35], self.trace_id);
        put_hex(&mut text[36..52], u128::from(self.span_id));
        put_hex(&mut text[53..], u128::from(self.flags));
        HeaderValue::from_maybe_shared(BytesMut::from(&text[..]).freeze())
            .unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

/// How a request comes within a span of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracePolicy {
    /// Random bits for a new trace.
    pub trace_id: u128,
    /// Random bits for our span.
    pub span_id: u64,
    /// Whether the trace is recorded, whatever the caller says of it.
    pub sampled: bool,
}

/// Where a request stands after it has passed us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceStep {
    /// The caller's span, if the request came within a trace.
    pub parent: Option<TraceContext>,
    /// Ours, which the upstream sees as its parent.
    pub own: TraceContext,
}

/// Puts our span between the caller's and the upstream's: a valid `traceparent` is continued, a
/// missing, repeated or malformed one begins a new trace. `tracestate` belongs to the `traceparent`
/// and goes when that was not valid, or when it is beyond bounds itself.
pub fn propagate_trace(headers: &mut HeaderMap, policy: TracePolicy) -> TraceStep {
    let parent = trace_parent(headers);
    let begun = TraceContext {
        trace_id: policy.trace_id.max(1),
        span_id: 1,
        flags: 0,
    };
    let own = parent
        .unwrap_or(begun)
        .child(policy.span_id)
        .sampled(policy.sampled);
    headers.insert(&TRACEPARENT, own.to_value());
    clean_state(headers, parent.is_some());
    TraceStep { parent, own }
}

/// Leaves a trace that we record nothing of as it came: what is behind us belongs to the caller's span, for there is none of ours. What
/// is not valid goes.
pub fn pass_trace(headers: &mut HeaderMap) {
    let valid = trace_parent(headers).is_some();
    if !valid {
        headers.remove(&TRACEPARENT);
    }
    clean_state(headers, valid);
}

/// Where the caller stands; `None` if it says nothing, or nothing valid.
#[must_use]
pub fn trace_parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut given = headers.get_all(&TRACEPARENT).iter();
    given
        .next()
        .filter(|_| given.next().is_none())
        .and_then(|value| TraceContext::parse(value.as_bytes()))
}

/// What tracing vendors add belongs to a valid parent.
fn clean_state(headers: &mut HeaderMap, valid: bool) {
    if headers.contains_key(&TRACESTATE) && !(valid && state_is_sane(headers)) {
        headers.remove(&TRACESTATE);
    }
}

fn state_is_sane(headers: &HeaderMap) -> bool {
    let (mut bytes, mut members) = (0, 0);
    for value in headers.get_all(&TRACESTATE) {
        bytes += value.len();
        members += crate::h1::list(value.as_bytes()).count();
    }
    bytes <= STATE_BYTES && members <= STATE_MEMBERS
}

/// Lower-case hexadecimal only (§3.2.2): upper case is invalid there.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |sum, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(digit))
    })
}

fn put_hex(out: &mut [u8], mut number: u128) {
    for slot in out.iter_mut().rev() {
        *slot = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn policy() -> TracePolicy {
        TracePolicy {
            trace_id: 0xabc,
            span_id: 0xdef,
            sampled: true,
        }
    }

    #[test]
    fn a_valid_parent_reads_and_writes_the_same() {
        let context = TraceContext::parse(VALID.as_bytes()).expect("valid");
        assert_eq!(context.trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id, 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
        assert_eq!(context.to_value(), VALID);
    }

    #[test]
    fn malformed_parents_are_refused() {
        for bad in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_is_read_for_what_we_know() {
        let context =
            TraceContext::parse(b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what")
                .expect("valid");
        assert_eq!(context.flags, 1);
        assert!(context.to_value().as_bytes().starts_with(b"00-"));
    }

    #[test]
    fn a_trace_is_continued_with_our_span_and_keeps_its_state() {
        let mut headers = HeaderMap::new();
        headers.insert(&TRACEPARENT, HeaderValue::from_static(VALID));
        headers.insert(&TRACESTATE, HeaderValue::from_static("vendor=1"));
        let step = propagate_trace(&mut headers, policy());
        assert_eq!(step.parent.map(|p| p.span_id), Some(0x00f0_67aa_0ba9_02b7));
        assert_eq!(
            headers[&TRACEPARENT],
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000def-01"
        );
        assert_eq!(headers[&TRACESTATE], "vendor=1");
    }

    #[test]
    fn without_a_valid_parent_a_trace_begins_and_the_state_goes() {
        for given in [&[][..], &["nonsense"], &[VALID, VALID]] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(&TRACEPARENT, HeaderValue::from_static(value));
            }
            headers.insert(&TRACESTATE, HeaderValue::from_static("vendor=1"));
            let step = propagate_trace(&mut headers, policy());
            assert_eq!(step.parent, None);
            let all: Vec<_> = headers.get_all(&TRACEPARENT).iter().collect();
            assert_eq!(
                all,
                ["00-00000000000000000000000000000abc-0000000000000def-01"]
            );
            assert!(!headers.contains_key(&TRACESTATE));
        }
    }

    #[test]
    fn a_trace_that_is_not_recorded_here_passes_as_it_came_and_what_is_no_trace_goes() {
        for (given, passes) in [
            (&[VALID][..], true),
            (&["nonsense"], false),
            (&[VALID, VALID], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(&TRACEPARENT, HeaderValue::from_static(value));
            }
            headers.insert(&TRACESTATE, HeaderValue::from_static("vendor=1"));
            pass_trace(&mut headers);
            let left = headers.get(&TRACEPARENT).map(HeaderValue::as_bytes);
            assert_eq!(left, passes.then_some(VALID.as_bytes()));
            assert_eq!(headers.contains_key(&TRACESTATE), passes);
        }
    }

    #[test]
    fn whether_a_trace_is_recorded_is_ours_to_say_where_callers_are_not_trusted() {
        for sampled in [false, true] {
            let mut headers = HeaderMap::new();
            headers.insert(&TRACEPARENT, HeaderValue::from_static(VALID));
            let policy = TracePolicy {
                sampled,
                ..policy()
            };
            let step = propagate_trace(&mut headers, policy);
            assert_eq!(step.own.is_sampled(), sampled);
            assert_eq!(headers[&TRACEPARENT], step.own.to_value());
            assert!(step.parent.is_some_and(TraceContext::is_sampled));
        }
    }

    #[test]
    fn an_endless_state_is_dropped() {
        let mut headers = HeaderMap::new();
        headers.insert(&TRACEPARENT, HeaderValue::from_static(VALID));
        for _ in 0..33 {
            headers.append(&TRACESTATE, HeaderValue::from_static("a=1"));
        }
        propagate_trace(&mut headers, policy());
        assert!(!headers.contains_key(&TRACESTATE));
    }
}
