//! What an LLM provider answers, in OpenAI's and in Anthropic's shape, and keys that die.
//!
//! POST /control/dead?key=K     from now on K is answered 401; requests are written down
//! POST /control/reset          all keys live again; nothing is written down
//! GET  /control/report         what was written down, and the streams that are open

use crate::{answer, Opts};
use peerbench::mono_ns;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::io;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const TEXT_TIMES: usize = 60;

#[derive(Clone, Copy)]
pub(crate) enum Dialect {
    Openai,
    Anthropic,
}

/// The answers that are the same each time.
pub(crate) struct Ready {
    openai: Vec<u8>,
    anthropic: Vec<u8>,
}

impl Ready {
    pub(crate) fn new() -> Ready {
        let text = "lorem ipsum ".repeat(TEXT_TIMES);
        let openai = format!(
            concat!(
                r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"mock","#,
                r#""choices":[{{"index":0,"message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"#,
                r#""usage":{{"prompt_tokens":12,"completion_tokens":120,"total_tokens":132}}}}"#
            ),
            text
        );
        let anthropic = format!(
            concat!(
                r#"{{"id":"msg_1","type":"message","role":"assistant","model":"mock","content":[{{"type":"text","text":"{}"}}],"#,
                r#""stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":12,"output_tokens":120}}}}"#
            ),
            text
        );
        Ready { openai: answer(200, openai.as_bytes()), anthropic: answer(200, anthropic.as_bytes()) }
    }

    pub(crate) fn whole(&self, dialect: Dialect) -> &[u8] {
        match dialect {
            Dialect::Openai => &self.openai,
            Dialect::Anthropic => &self.anthropic,
        }
    }
}

/// Dead keys and what was seen since the first of them died; shared by all connections.
#[derive(Default)]
pub(crate) struct Control {
    dead: RefCell<HashSet<String>>,
    seen: RefCell<Seen>,
    pub(crate) streams: Cell<u64>,
}

#[derive(Default)]
struct Seen {
    refused: u64,
    first_refused: Option<u64>,
    last_refused: u64,
    /// The first good answer to anybody after the first refusal.
    first_good: Option<u64>,
    /// Requests refused and not yet answered well: id → when they were refused first.
    open: HashMap<u64, u64>,
    /// Nanoseconds from a request's first refusal to its good answer, in the order of the answers.
    rescued: Vec<u64>,
    by_key: BTreeMap<String, u64>,
}

impl Control {
    /// Something is written down, so that the head and the body have to be looked at.
    pub(crate) fn on(&self) -> bool {
        !self.dead.borrow().is_empty()
    }

    /// Whether the request is refused.
    pub(crate) fn refuses(&self, key: &str, body: &[u8]) -> bool {
        let now = mono_ns();
        let seen = &mut *self.seen.borrow_mut();
        *seen.by_key.entry(key.to_string()).or_default() += 1;
        let id = id_of(body);
        if self.dead.borrow().contains(key) {
            seen.refused += 1;
            seen.first_refused.get_or_insert(now);
            seen.last_refused = now;
            if let Some(id) = id {
                seen.open.entry(id).or_insert(now);
            }
            return true;
        }
        if seen.first_refused.is_some() {
            seen.first_good.get_or_insert(now);
        }
        if let Some(since) = id.and_then(|id| seen.open.remove(&id)) {
            seen.rescued.push(now - since);
        }
        false
    }

    pub(crate) fn command(&self, path: &str) -> Vec<u8> {
        if let Some(key) = path.strip_prefix("/control/dead?key=") {
            self.dead.borrow_mut().insert(key.to_string());
        } else if path == "/control/reset" {
            self.dead.borrow_mut().clear();
            self.seen.take();
        }
        let seen = self.seen.borrow();
        let us = |ns: u64| ns as f64 / 1000.0;
        let since_first = |at: Option<u64>| match (seen.first_refused, at) {
            (Some(first), Some(at)) => us(at - first).to_string(),
            _ => "null".into(),
        };
        let mut sorted = seen.rescued.clone();
        sorted.sort_unstable();
        let at = |n: Option<&u64>| n.map_or("null".into(), |ns| us(*ns).to_string());
        let mut out = format!(
            r#"{{"streams":{},"refused":{},"refusing_us":{},"first_good_us":{},"rescued":{},"not_rescued":{},"first_rescue_us":{},"rescue_p50_us":{},"rescue_max_us":{},"by_key":{{"#,
            self.streams.get(),
            seen.refused,
            since_first((seen.refused > 0).then_some(seen.last_refused)),
            since_first(seen.first_good),
            seen.rescued.len(),
            seen.open.len(),
            at(seen.rescued.first()),
            at(sorted.get(sorted.len() / 2)),
            at(sorted.last()),
        );
        for (n, (key, count)) in seen.by_key.iter().enumerate() {
            let _ = write!(out, "{}{key:?}:{count}", if n > 0 { "," } else { "" });
        }
        out.push_str("}}");
        answer(200, out.as_bytes())
    }
}

/// The number that the load client wrote into the body, with --ids; a gateway may have written the JSON anew.
fn id_of(body: &[u8]) -> Option<u64> {
    body.windows(12).find_map(|w| {
        let digits = w.strip_prefix(b"\"r")?.strip_suffix(b":")?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(digits).ok()?.parse().ok()
    })
}

/// The key of a request, from `authorization` or `x-api-key`.
pub(crate) fn key_of(headers: &[httparse::Header<'_>]) -> String {
    let named = |name: &str| headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
    let value = named("authorization").or_else(|| named("x-api-key")).map_or(&b""[..], |h| h.value);
    let text = String::from_utf8_lossy(value);
    text.strip_prefix("Bearer ").unwrap_or(&text).to_string()
}

pub(crate) fn refusal() -> Vec<u8> {
    answer(
        401,
        br#"{"error":{"message":"Incorrect API key provided.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
    )
}

/// `"name": true` somewhere in the body.
pub(crate) fn asks(body: &[u8], name: &str) -> bool {
    let quoted = format!("\"{name}\"");
    let Some(p) = body.windows(quoted.len()).position(|w| w == quoted.as_bytes()) else {
        return false;
    };
    let rest = body[p + quoted.len()..].iter().filter(|b| !b.is_ascii_whitespace() && **b != b':');
    rest.take(4).eq(b"true".iter())
}

struct Open<'a>(&'a Cell<u64>);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// One chunk per token; each token carries the send time for the client to read.
pub(crate) async fn sse(s: &mut TcpStream, opts: Opts, dialect: Dialect, usage: bool, control: &Control) -> io::Result<()> {
    control.streams.set(control.streams.get() + 1);
    let _open = Open(&control.streams);
    s.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n",
    )
    .await?;
    let every = opts.interval.max(std::time::Duration::from_micros(1));
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut out = Vec::with_capacity(1024);
    let mut event = String::with_capacity(512);
    for n in 0..opts.tokens {
        if n > 0 && !opts.interval.is_zero() {
            tick.tick().await;
        }
        event.clear();
        token(&mut event, dialect, n == 0);
        chunk(&mut out, &event);
        s.write_all(&out).await?;
    }
    event.clear();
    last(&mut event, dialect, usage);
    chunk(&mut out, &event);
    out.extend_from_slice(b"0\r\n\r\n");
    s.write_all(&out).await
}

fn chunk(out: &mut Vec<u8>, event: &str) {
    out.clear();
    out.extend_from_slice(format!("{:x}\r\n", event.len()).as_bytes());
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn token(event: &mut String, dialect: Dialect, first: bool) {
    let now = mono_ns();
    let _ = match dialect {
        Dialect::Openai => write!(
            event,
            concat!(
                r#"data: {{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock","#,
                r#""choices":[{{"index":0,"delta":{{"role":"assistant","content":"tok={} "}},"finish_reason":null}}]}}"#,
                "\n\n"
            ),
            now
        ),
        Dialect::Anthropic => {
            if first {
                event.push_str(concat!(
                    "event: message_start\n",
                    r#"data: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"mock","#,
                    r#""content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":12,"output_tokens":1}}}"#,
                    "\n\nevent: content_block_start\n",
                    r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
                    "\n\n"
                ));
            }
            write!(
                event,
                concat!(
                    "event: content_block_delta\n",
                    r#"data: {{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"tok={} "}}}}"#,
                    "\n\n"
                ),
                now
            )
        }
    };
}

fn last(event: &mut String, dialect: Dialect, usage: bool) {
    match dialect {
        Dialect::Openai => {
            event.push_str(concat!(
                r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock","#,
                r#""choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                "\n\n"
            ));
            if usage {
                event.push_str(concat!(
                    r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"mock","#,
                    r#""choices":[],"usage":{"prompt_tokens":12,"completion_tokens":200,"total_tokens":212}}"#,
                    "\n\n"
                ));
            }
            event.push_str("data: [DONE]\n\n");
        }
        Dialect::Anthropic => event.push_str(concat!(
            "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
            "event: message_delta\n",
            r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":200}}"#,
            "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        )),
    }
}
