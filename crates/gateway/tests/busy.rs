//! A worker with many callers at once, which puts its writes off to the end of its turns: every answer comes whole, in order, and to whom it belongs.

use std::net::SocketAddr;

use serde_json::json;
use tidegate_gateway::{Handle, ListenSocket, Options, StoreOpener};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const CALLERS: usize = 48;
const ROUNDS: usize = 40;

/// Lengths of answers: nothing, little, more than what an exchange leaves to its connection, more than a socket takes at once.
const LENGTHS: [usize; 5] = [0, 100, 5_000, 20_000, 300_000];

async fn start(endpoint: SocketAddr) -> (Handle, SocketAddr) {
    let config = json!({
        "listeners": [{"name": "main", "address": "127.0.0.1:0"}],
        "routes": [{"name": "all", "to": [{"upstream": "up"}]}],
        "upstreams": [{"name": "up", "endpoints": [{"address": endpoint.to_string()}]}],
    });
    let config = tidegate_config::load_str("t.yaml", &config.to_string())
        .unwrap_or_else(|problems| panic!("{problems}"));
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.set_nonblocking(true).expect("a socket");
    let address = socket.local_addr().expect("bound");
    let options = Options {
        config,
        sockets: vec![("main".to_owned(), ListenSocket::Tcp(socket))],
        workers: 1,
        store: StoreOpener::in_memory(),
    };
    let handle = tidegate_gateway::start(options).await.expect("started");
    (handle, address)
}

/// The bytes that `path` stands for: `/ID/LENGTH`.
fn bytes_of(path: &str) -> Vec<u8> {
    let (id, length) = path[1..].split_once('/').expect("two parts");
    let length = length.parse().expect("a length");
    id.bytes().cycle().take(length).collect()
}

/// Answers each request with what its path stands for.
async fn endpoint() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                while let Some((first, length)) = head(&mut socket).await {
                    let mut body = vec![0; length];
                    socket.read_exact(&mut body).await.expect("a body");
                    let path = first.split(' ').nth(1).expect("a path");
                    let answer = [bytes_of(path), body].concat();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                        answer.len()
                    );
                    if socket.write_all(head.as_bytes()).await.is_err()
                        || socket.write_all(&answer).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A head's first line, and the length of the body behind it; `None` at the end.
async fn head(from: &mut BufReader<TcpStream>) -> Option<(String, usize)> {
    let mut first = String::new();
    if from.read_line(&mut first).await.unwrap_or(0) == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut line = String::new();
        from.read_line(&mut line).await.ok()?;
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.trim().is_empty() {
            return Some((first, length));
        }
    }
}

async fn answer(from: &mut BufReader<TcpStream>) -> Vec<u8> {
    let (first, length) = head(from).await.expect("an answer");
    assert_eq!(first.trim(), "HTTP/1.1 200 OK");
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.expect("a whole body");
    body
}

/// One caller: single requests with and without bodies, and several at once without waiting for answers.
async fn call(gateway: SocketAddr, caller: usize) {
    let socket = TcpStream::connect(gateway).await.expect("connected");
    let mut socket = BufReader::new(socket);
    for round in 0..ROUNDS {
        let paths: Vec<String> = (0..1 + round % 3)
            .map(|n| {
                format!(
                    "/c{caller}r{round}n{n}./{}",
                    LENGTHS[(caller + round + n) % LENGTHS.len()]
                )
            })
            .collect();
        let body = match round % 4 {
            3 => vec![b'b'; 7 * round],
            _ => Vec::new(),
        };
        let mut asked = Vec::new();
        for path in &paths {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            asked.extend_from_slice(head.as_bytes());
            asked.extend_from_slice(&body);
        }
        socket.write_all(&asked).await.expect("sent");
        for path in &paths {
            let expected = [bytes_of(path), body.clone()].concat();
            let told = answer(&mut socket).await;
            assert!(
                told == expected,
                "caller {caller}, {path}: {} bytes",
                told.len()
            );
        }
    }
    // The answer comes whole before the connection goes.
    let last = format!("GET /last{caller}/5000 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    socket.write_all(last.as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut socket).await.len(), 5000);
    assert_eq!(socket.read(&mut [0; 1]).await.expect("an end"), 0);
}

#[tokio::test]
async fn many_callers_of_one_worker_get_what_they_asked_for() {
    let (handle, gateway) = start(endpoint().await).await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(gateway, caller));
    }
    // Who asks for much and reads nothing, and who leaves, hold nobody up.
    let mut deaf = Vec::new();
    for caller in 0..4 {
        let mut socket = TcpStream::connect(gateway).await.expect("connected");
        let asked = format!("GET /deaf{caller}/300000 HTTP/1.1\r\nhost: h\r\n\r\n").repeat(40);
        socket.write_all(asked.as_bytes()).await.expect("sent");
        deaf.push(socket);
        let mut leaving = TcpStream::connect(gateway).await.expect("connected");
        leaving.write_all(asked.as_bytes()).await.expect("sent");
    }
    while let Some(caller) = callers.join_next().await {
        caller.expect("every answer");
    }
    drop(deaf);
    drop(handle);
}
