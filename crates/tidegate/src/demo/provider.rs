//! A stand-in for a provider of language models: OpenAI's dialect on a loopback port, for whoever shows one of three keys.
//! The demo revokes keys and limits them, as a provider does.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::DemoError;

/// Name of the provider in the configuration.
pub(crate) const NAME: &str = "llm";
/// The keys that open it.
pub(crate) const KEYS: [&str; 3] = [
    "sk-demo-first-0001",
    "sk-demo-second-0002",
    "sk-demo-third-0003",
];
/// Path of a chat completion.
pub(crate) const CHAT: &str = "/v1/chat/completions";
/// What callers ask.
pub(crate) const PROMPTS: [&str; 4] = [
    "tell the harbour master that high water is at noon",
    "which of the boats has left without its crew",
    "write two lines on the tide for a schoolbook",
    "name the wind that turned at four this morning",
];
/// Far above any prompt.
const MAX_BODY: usize = 64 << 10;

/// What people may see of a key; the gateway calls it so, too.
pub(crate) fn fingerprint(key: &str) -> String {
    let end = key.len().saturating_sub(4);
    format!("sk-…{}", key.get(end..).unwrap_or(key))
}

/// The answer to a prompt: its words backwards, so that every prompt has an answer of its own.
pub(crate) fn completion(prompt: &str) -> String {
    let words: Vec<&str> = prompt.split(' ').rev().collect();
    words.join(" ")
}

#[derive(Clone, Copy, Debug)]
enum Key {
    Good,
    Revoked,
    Limited(Instant),
}

type Keys = Arc<Mutex<[Key; KEYS.len()]>>;

/// The running stand-in; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Provider {
    port: u16,
    keys: Keys,
    task: AbortHandle,
}

impl Provider {
    /// Starts it on a free port.
    pub(crate) async fn start() -> Result<Self, DemoError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(DemoError::Provider)?;
        let port = listener.local_addr().map_err(DemoError::Provider)?.port();
        let keys = Arc::new(Mutex::new([Key::Good; KEYS.len()]));
        let task = tokio::spawn(serve(listener, Arc::clone(&keys))).abort_handle();
        Ok(Self { port, keys, task })
    }

    /// Its port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// 401 to whoever shows this key from now on.
    pub(crate) fn revoke(&self, number: usize) {
        self.set(number, Key::Revoked);
    }

    /// 429 to whoever shows this key for so long.
    pub(crate) fn limit(&self, number: usize, time: Duration) {
        self.set(number, Key::Limited(Instant::now() + time));
    }

    /// The key works again.
    pub(crate) fn restore(&self, number: usize) {
        self.set(number, Key::Good);
    }

    fn set(&self, number: usize, state: Key) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get_mut(number) {
            *key = state;
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, keys: Keys) {
    // Ends its connections with itself.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&keys)));
                }
                // Out of descriptors: the next moment may have some.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, keys: Keys) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let keys = Arc::clone(&keys);
        async move { Ok::<_, Infallible>(answer(request, &keys).await) }
    });
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Reply = Response<Full<Bytes>>;

async fn answer(request: Request<Incoming>, keys: &Keys) -> Reply {
    if request.method() != Method::POST || request.uri().path() != CHAT {
        return refusal(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            "not_found",
            "POST /v1/chat/completions",
        );
    }
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let number = KEYS.iter().position(|key| Some(*key) == shown);
    let state = number.map(|number| keys.lock().unwrap_or_else(PoisonError::into_inner)[number]);
    match (number, state) {
        (Some(_), Some(Key::Limited(until))) if Instant::now() < until => limited(until),
        (Some(number), Some(Key::Good | Key::Limited(_))) => {
            let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
            let asked = body
                .ok()
                .and_then(|body| serde_json::from_slice::<Value>(&body.to_bytes()).ok());
            asked
                .and_then(|asked| chat(&asked, &fingerprint(KEYS[number])))
                .unwrap_or_else(|| {
                    let what = "expected a model and messages";
                    refusal(
                        StatusCode::BAD_REQUEST,
                        "invalid_request_error",
                        "bad_body",
                        what,
                    )
                })
        }
        _ => refusal(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            "invalid_api_key",
            "Incorrect API key provided",
        ),
    }
}

fn limited(until: Instant) -> Reply {
    let left = until.saturating_duration_since(Instant::now());
    let seconds = left.as_millis().div_ceil(1000).max(1);
    let mut reply = refusal(
        StatusCode::TOO_MANY_REQUESTS,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for requests",
    );
    if let Ok(seconds) = HeaderValue::from_str(&seconds.to_string()) {
        reply.headers_mut().insert(header::RETRY_AFTER, seconds);
    }
    reply
}

fn chat(asked: &Value, key: &str) -> Option<Reply> {
    let model = asked["model"].as_str()?;
    let prompt = asked["messages"].as_array()?.last()?["content"].as_str()?;
    let text = completion(prompt);
    let count = |text: &str| text.split(' ').count();
    let (input, output) = (count(prompt), count(&text));
    let usage = json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output });
    let head = |object: &str| json!({ "id": "chatcmpl-demo", "object": object, "created": 1, "model": model, "system_fingerprint": key });
    if asked["stream"] != true {
        let mut whole = head("chat.completion");
        whole["choices"] = json!([{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": "stop" }]);
        whole["usage"] = usage;
        return Some(reply(StatusCode::OK, "application/json", whole.to_string()));
    }
    let mut events = String::new();
    let mut event = |choices: Value, usage: Option<&Value>| {
        let mut chunk = head("chat.completion.chunk");
        chunk["choices"] = choices;
        if let Some(usage) = usage {
            chunk["usage"] = usage.clone();
        }
        events.push_str(&format!("data: {chunk}\n\n"));
    };
    for word in text.split_inclusive(' ') {
        let delta = json!({ "role": "assistant", "content": word });
        event(
            json!([{ "index": 0, "delta": delta, "finish_reason": null }]),
            None,
        );
    }
    event(
        json!([{ "index": 0, "delta": {}, "finish_reason": "stop" }]),
        None,
    );
    if asked["stream_options"]["include_usage"] == true {
        event(json!([]), Some(&usage));
    }
    events.push_str("data: [DONE]\n\n");
    Some(reply(StatusCode::OK, "text/event-stream", events))
}

fn refusal(status: StatusCode, kind: &str, code: &str, message: &str) -> Reply {
    let error =
        json!({ "error": { "message": message, "type": kind, "code": code, "param": null } });
    reply(status, "application/json", error.to_string())
}

fn reply(status: StatusCode, kind: &'static str, text: String) -> Reply {
    let mut reply = Response::new(Full::from(text));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_called_by_its_end() {
        assert_eq!(fingerprint(KEYS[1]), "sk-…0002");
        assert_eq!(fingerprint("abc"), "sk-…abc");
    }

    #[test]
    fn every_prompt_has_an_answer_of_its_own() {
        let answers: std::collections::BTreeSet<String> =
            PROMPTS.iter().map(|prompt| completion(prompt)).collect();
        assert_eq!(answers.len(), PROMPTS.len());
        assert_eq!(completion("one two"), "two one");
    }
}
