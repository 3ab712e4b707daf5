//! What the tests of translation share: fixtures, and the shortest way from a request to an answer.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tidegate_llm::{
    Answer, Call, Fault, Front, PrepareOptions, Prepared, ProviderKind, ProviderSpec, Secret, Step,
};

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares with a file that is kept; `BLESS=1` writes it anew.
pub(crate) fn golden(name: &str, text: &str) {
    let path = path(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{name} differs; now:\n{text}");
}

/// A JSON text with a value a line, so that a change is seen where it is. Order stays.
pub(crate) fn pretty(json: &[u8]) -> String {
    let mut out = String::new();
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for c in std::str::from_utf8(json).unwrap().chars() {
        if quoted {
            out.push(c);
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '{' | '[' => {
                depth += 1;
                out.push(c);
                out.push('\n');
                out.push_str(&" ".repeat(depth));
            }
            '}' | ']' => {
                depth -= 1;
                out.push('\n');
                out.push_str(&" ".repeat(depth));
                out.push(c);
            }
            ',' => {
                out.push_str(",\n");
                out.push_str(&" ".repeat(depth));
            }
            '"' => {
                quoted = true;
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

/// A caller's endpoint: its name in fixtures, and its path for a stream and without one.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) name: &'static str,
    pub(crate) stream: &'static str,
    pub(crate) whole: &'static str,
}

pub(crate) const CALLERS: &[Caller] = &[
    Caller {
        name: "chat",
        stream: "/v1/chat/completions",
        whole: "/v1/chat/completions",
    },
    Caller {
        name: "responses",
        stream: "/v1/responses",
        whole: "/v1/responses",
    },
    Caller {
        name: "completions",
        stream: "/v1/completions",
        whole: "/v1/completions",
    },
    Caller {
        name: "messages",
        stream: "/v1/messages",
        whole: "/v1/messages",
    },
    Caller {
        name: "gemini",
        stream: "/v1beta/models/m:streamGenerateContent",
        whole: "/v1beta/models/m:generateContent",
    },
];

/// Providers, one a dialect; deepseek has no endpoint but chat, so OpenAI's other endpoints are translated for it.
pub(crate) const PROVIDERS: &[(&str, ProviderKind)] = &[
    ("openai", ProviderKind::DeepSeek),
    ("anthropic", ProviderKind::Anthropic),
    ("gemini", ProviderKind::Gemini),
    ("bedrock", ProviderKind::Bedrock),
    ("cohere", ProviderKind::Cohere),
];

/// The shortest request of a caller.
pub(crate) fn short(caller: &str, stream: bool) -> Vec<u8> {
    match caller {
        "chat" => format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"stream":{stream},"stream_options":{{"include_usage":true}}}}"#
        ),
        "responses" => format!(r#"{{"model":"m","input":"hi","stream":{stream}}}"#),
        "completions" => format!(r#"{{"model":"m","prompt":"hi","stream":{stream}}}"#),
        "messages" => format!(
            r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":"hi"}}],"stream":{stream}}}"#
        ),
        _ => r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#.to_owned(),
    }
    .into_bytes()
}

pub(crate) fn call(target: &str, body: impl Into<Bytes>) -> Result<Call, Fault> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let headers = HeaderMap::new();
    let front = Front::recognise(&Method::POST, path, query, &headers).expect("a known path");
    Call::read(&front, &headers, body.into())
}

pub(crate) fn spec(kind: ProviderKind) -> ProviderSpec {
    let base = kind
        .row()
        .base_url
        .is_none()
        .then_some("http://127.0.0.1:1");
    ProviderSpec::new(kind, base, None, Some("p")).unwrap()
}

pub(crate) const OPTIONS: PrepareOptions<'_> = PrepareOptions {
    now_unix: 1_700_000_001,
    count_usage: false,
    seed: 0xabcd,
    continue_from: None,
    remember: false,
};

pub(crate) fn prepare(call: &Call, kind: ProviderKind, model: &str) -> Result<Prepared, Fault> {
    call.prepare(
        &spec(kind),
        Secret::of("sk-canary"),
        model,
        &HeaderMap::new(),
        OPTIONS,
    )
}

/// Starts to read an answer.
pub(crate) fn answer(prepared: &Prepared, content_type: &'static str) -> Answer {
    let mut answer = Answer::new(
        prepared.plan.clone(),
        Some("sk-canary".into()),
        1_700_000_001,
    );
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    answer.head(StatusCode::OK, headers);
    answer
}

/// Feeds an answer in pieces and gives what the caller got, and the last step.
pub(crate) fn feed(answer: &mut Answer, pieces: &[&[u8]]) -> (String, Step) {
    let mut out = Vec::new();
    for piece in pieces {
        let step = answer.data(Bytes::copy_from_slice(piece), &mut out);
        if matches!(step, Step::Done | Step::Failed) {
            return (joined(&out), step);
        }
    }
    let step = answer.end(&mut out);
    (joined(&out), step)
}

pub(crate) fn joined(out: &[Bytes]) -> String {
    String::from_utf8(out.concat()).unwrap()
}

/// A provider's stream: its content type and its bytes.
pub(crate) fn stream(provider: &str) -> (&'static str, Vec<u8>) {
    if provider == "bedrock" {
        let text = String::from_utf8(fixture("streams/bedrock.events")).unwrap();
        let mut out = Vec::new();
        for line in text.lines() {
            let (name, payload) = line.split_once(' ').unwrap();
            aws_event(name, payload, &mut out);
        }
        ("application/vnd.amazon.eventstream", out)
    } else {
        (
            "text/event-stream",
            fixture(&format!("streams/{provider}.sse")),
        )
    }
}

pub(crate) fn aws_event(name: &str, payload: &str, out: &mut Vec<u8>) {
    use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
    let header = |name: &'static str, value: &str| {
        Header::new(name, HeaderValue::String(value.to_owned().into()))
    };
    let kind = if name.ends_with("xception") {
        "exception"
    } else {
        "event"
    };
    let message = Message::new(Bytes::copy_from_slice(payload.as_bytes()))
        .add_header(header(
            if kind == "event" {
                ":event-type"
            } else {
                ":exception-type"
            },
            name,
        ))
        .add_header(header(":content-type", "application/json"))
        .add_header(header(":message-type", kind));
    aws_smithy_eventstream::frame::write_message_to(&message, out).unwrap();
}
