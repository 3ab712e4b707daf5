//! A gateway in this process, a provider that fails as it is told, and a caller that sees every byte.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "a support module of several test files"
)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tidegate_gateway::{Handle, ListenSocket, Options, StoreOpener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What a provider sees of a request.
pub struct Asked {
    pub key: String,
    pub path: String,
    pub head: String,
    pub body: Value,
    /// Requests with this key before.
    pub before: usize,
}

/// What it does.
pub enum Do {
    /// Status, headers and body.
    Answer(u16, &'static str, String),
    /// An event stream: frames, then what follows them.
    Stream(Vec<String>, Then),
    /// A head that promises more than the body that follows, then the connection closes.
    Short(String),
    /// Nothing, for ever.
    Hang,
    /// The connection closes without a byte.
    Close,
}

/// After the frames of a stream.
#[derive(Clone, Copy)]
pub enum Then {
    End,
    /// The connection breaks off.
    Cut,
    /// Nothing more, for ever.
    Stall,
}

type Behave = dyn Fn(&Asked) -> Do + Send + Sync;

/// A provider.
pub struct Provider {
    pub address: SocketAddr,
    pub seen: Arc<Mutex<Vec<(String, String)>>>,
    counts: Arc<Mutex<HashMap<String, usize>>>,
    /// Requests that ended because the other side left.
    pub left: watch::Receiver<usize>,
}

impl Provider {
    pub async fn start(behave: impl Fn(&Asked) -> Do + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (leave, left) = watch::channel(0);
        let this = Self {
            address,
            seen: Arc::default(),
            counts: Arc::default(),
            left,
        };
        let behave: Arc<Behave> = Arc::new(behave);
        let (seen, counts, leave) = (this.seen.clone(), this.counts.clone(), Arc::new(leave));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(
                    socket,
                    behave.clone(),
                    seen.clone(),
                    counts.clone(),
                    leave.clone(),
                ));
            }
        });
        this
    }

    /// Requests by key.
    pub fn asked(&self) -> HashMap<String, usize> {
        self.counts.lock().expect("counts").clone()
    }

    pub fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

async fn serve(
    mut socket: TcpStream,
    behave: Arc<Behave>,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    counts: Arc<Mutex<HashMap<String, usize>>>,
    leave: Arc<watch::Sender<usize>>,
) {
    let mut buffer = Vec::new();
    loop {
        let Some((head, body)) = read_message(&mut socket, &mut buffer).await else {
            return;
        };
        let line = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let key = line("authorization")
            .map(|value| value.trim_start_matches("Bearer ").to_owned())
            .or_else(|| line("x-api-key"))
            .unwrap_or_default();
        let before = {
            let mut counts = counts.lock().expect("counts");
            let count = counts.entry(key.clone()).or_default();
            *count += 1;
            *count - 1
        };
        let text = String::from_utf8_lossy(&body).into_owned();
        seen.lock().expect("seen").push((head.clone(), text));
        let asked = Asked {
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            key,
            head,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            before,
        };
        let wrote = match behave(&asked) {
            Do::Answer(status, headers, body) => {
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
                    body.len()
                );
                socket.write_all(answer.as_bytes()).await
            }
            Do::Short(body) => {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len() + 10
                );
                let _ = socket.write_all(answer.as_bytes()).await;
                return;
            }
            Do::Stream(frames, then) => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = socket.write_all(head.as_bytes()).await;
                for frame in frames {
                    let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
                    let _ = socket.write_all(chunk.as_bytes()).await;
                    let _ = socket.flush().await;
                }
                match then {
                    Then::End => socket.write_all(b"0\r\n\r\n").await,
                    Then::Cut => return,
                    Then::Stall => return gone(socket, &leave).await,
                }
            }
            Do::Hang => return gone(socket, &leave).await,
            Do::Close => return,
        };
        if wrote.is_err() {
            return;
        }
    }
}

/// Waits for the other side to leave.
async fn gone(mut socket: TcpStream, leave: &watch::Sender<usize>) {
    let mut rest = [0; 1024];
    while let Ok(n) = socket.read(&mut rest).await {
        if n == 0 {
            break;
        }
    }
    leave.send_modify(|n| *n += 1);
}

async fn read_message(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..at]).into_owned();
            let length = head
                .lines()
                .find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length")
                        .then(|| value.trim().parse::<usize>().ok())?
                })
                .unwrap_or(0);
            if buffer.len() >= at + 4 + length {
                let body = buffer[at + 4..at + 4 + length].to_vec();
                buffer.drain(..at + 4 + length);
                return Some((head, body));
            }
        }
        let mut piece = [0; 16 * 1024];
        match socket.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&piece[..n]),
        }
    }
}

// --- answers -----------------------------------------------------------------------------------------

pub fn answer(text: &str) -> Do {
    Do::Answer(
        200,
        "",
        json!({
            "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        })
        .to_string(),
    )
}

pub fn error(status: u16, headers: &'static str, code: &str) -> Do {
    let body = json!({"error": {"message": format!("told {code}"), "type": code, "code": code}});
    Do::Answer(status, headers, body.to_string())
}

pub fn delta(text: &str) -> String {
    let chunk = json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]});
    format!("data: {chunk}\n\n")
}

pub fn role() -> String {
    let chunk = json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]});
    format!("data: {chunk}\n\n")
}

pub fn stop() -> String {
    let chunk = json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    format!("data: {chunk}\n\ndata: [DONE]\n\n")
}

pub fn stream(text: &str) -> Do {
    Do::Stream(vec![role(), delta(text), stop()], Then::End)
}

// --- the gateway and its callers -----------------------------------------------------------------------

pub struct Gateway {
    pub handle: Handle,
    pub address: SocketAddr,
}

impl Gateway {
    /// Starts with a config of routes and providers.
    pub async fn start(config: &Value) -> Self {
        let mut config = config.clone();
        config["listeners"] = json!([{"name": "main", "address": "127.0.0.1:1"}]);
        if config.get("routes").is_none() {
            config["routes"] = json!([{"name": "r", "to": [{"provider": "p"}]}]);
        }
        // JSON is YAML.
        let loaded = tidegate_config::load_str("t.yaml", &config.to_string())
            .unwrap_or_else(|problems| panic!("{problems}"));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.set_nonblocking(true).expect("a socket");
        let address = socket.local_addr().expect("bound");
        let options = Options {
            config: loaded,
            sockets: vec![("main".to_owned(), ListenSocket::Tcp(socket))],
            workers: 2,
            store: StoreOpener::in_memory(),
        };
        let handle = tidegate_gateway::start(options).await.expect("started");
        Self { handle, address }
    }

    /// The worst that each key is in, for any model.
    pub fn worst(&self, provider: &str) -> Vec<String> {
        let providers = self.handle.providers();
        let found = providers
            .iter()
            .find(|p| p.name == provider)
            .expect("known");
        let worst = |key: &tidegate_gateway::view::KeyView| {
            let models = key.models.iter().map(|m| &m.health.state);
            let all = models.chain([&key.health.state]);
            let mut bad = all.filter(|state| *state != "healthy");
            bad.next().cloned().unwrap_or_else(|| "healthy".to_owned())
        };
        found.keys.iter().map(worst).collect()
    }

    pub async fn chat(&self, more: Value) -> Reply {
        let mut body = json!({"model": "gpt-4", "messages": [{"role": "user", "content": "hi"}]});
        for (key, value) in more.as_object().expect("an object") {
            body[key] = value.clone();
        }
        self.post("/v1/chat/completions", &[], &body.to_string())
            .await
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.send("POST", path, headers, body).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut socket = TcpStream::connect(self.address).await.expect("connected");
        let request = request(method, path, headers, body);
        // A gateway that answers early may have closed by then.
        let _ = socket.write_all(request.as_bytes()).await;
        let mut raw = Vec::new();
        tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut raw))
            .await
            .expect("an end of the answer")
            .ok();
        Reply::parse(&raw)
    }

    /// A key's state, by the last letters of its fingerprint.
    pub fn states(&self, provider: &str) -> HashMap<String, String> {
        let providers = self.handle.providers();
        let found = providers
            .iter()
            .find(|p| p.name == provider)
            .expect("known");
        found
            .keys
            .iter()
            .map(|key| (key.fingerprint.clone(), key.health.state.clone()))
            .collect()
    }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    format!(
        "{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
    /// The framing says that it is all of it.
    pub whole: bool,
}

impl Reply {
    fn parse(raw: &[u8]) -> Self {
        let raw = String::from_utf8_lossy(raw).into_owned();
        let (head, rest) = raw.split_once("\r\n\r\n").unwrap_or((&raw, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        let lower = head.to_lowercase();
        let (body, whole) = if lower.contains("transfer-encoding: chunked") {
            dechunked(rest)
        } else {
            let length = lower
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            (rest.to_owned(), length == Some(rest.len()))
        };
        Self {
            status,
            head: head.to_owned(),
            body,
            whole,
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The text of a whole answer.
    pub fn said(&self) -> String {
        let text = self.json()["choices"][0]["message"]["content"].clone();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// The text of a stream.
    pub fn streamed(&self) -> String {
        let data = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        data.filter_map(|data| serde_json::from_str::<Value>(data).ok())
            .filter_map(|chunk| {
                chunk["choices"][0]["delta"]["content"]
                    .as_str()
                    .map(str::to_owned)
            })
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    }
}

fn dechunked(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    loop {
        let Some((size, after)) = rest.split_once("\r\n") else {
            return (body, false);
        };
        let Ok(size) = usize::from_str_radix(size, 16) else {
            return (body, false);
        };
        if size == 0 {
            return (body, true);
        }
        if after.len() < size {
            body.push_str(after);
            return (body, false);
        }
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
}

/// Waits until something is so.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let looking = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking)
        .await
        .unwrap_or_else(|_| panic!("not so: {what}"));
}
