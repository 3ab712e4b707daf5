//! An HTTP/1.1 server whose every answer the test writes, byte by byte; and a real one for HTTP/2.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};

/// A request that waits for the test's answer.
#[derive(Debug)]
pub struct Asked {
    /// Method and target, such as `GET /x?y`.
    pub line: String,
    /// The head as it came, lower case.
    pub head: String,
    /// The body.
    pub body: String,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    answer: oneshot::Sender<Reply>,
    closed: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Reply {
    bytes: Vec<u8>,
    /// Repeated until the peer is gone.
    endless: bool,
    close: bool,
}

impl Asked {
    /// The value of a query parameter.
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.line.split_once('?')?;
        query
            .split('&')
            .find_map(|pair| match pair.split_once('=') {
                Some((key, value)) if key == name => Some(value.to_owned()),
                None if pair == name => Some(String::new()),
                _ => None,
            })
    }

    /// Answers in full.
    pub fn reply(self, status: u16, headers: &str, body: &str) {
        let text = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        self.send(text.into_bytes(), false, false);
    }

    /// A good answer of Consul's.
    pub fn consul(self, index: u64, body: &str) {
        self.reply(200, &format!("x-consul-index: {index}\r\n"), body);
    }

    /// These bytes, then the end of the connection.
    pub fn raw_and_close(self, bytes: &str) {
        self.send(bytes.as_bytes().to_vec(), false, true);
    }

    /// A head that promises a body without end, and keeps the promise.
    pub fn endless(self, headers: &str, filler: &str) {
        let chunk = filler.repeat(64 * 1024 / filler.len());
        let mut stream =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{headers}\r\n").into_bytes();
        stream.extend(format!("{:x}\r\n{chunk}\r\n", chunk.len()).into_bytes());
        self.send(stream, true, true);
    }

    fn send(self, bytes: Vec<u8>, endless: bool, close: bool) {
        // The peer may be gone; that is its business.
        let _ = self.answer.send(Reply {
            bytes,
            endless,
            close,
        });
    }

    /// Waits until the asking side gives up, without ever answering.
    pub async fn abandoned(self) {
        let Self { closed, answer, .. } = self;
        let _ = closed.await;
        drop(answer);
    }
}

/// Requests arrive in the order in which they were read.
pub struct Server {
    pub at: SocketAddr,
    asked: mpsc::UnboundedReceiver<Asked>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    pub fn on(listener: TcpListener) -> Self {
        let at = listener.local_addr().expect("bound");
        let (sender, asked) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                connections.spawn(serve(stream, connection, sender.clone()));
            }
        });
        Self { at, asked, task }
    }

    /// The next request.
    pub async fn next(&mut self) -> Asked {
        super::soon("a request", self.asked.recv())
            .await
            .expect("the server runs")
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    asked: mpsc::UnboundedSender<Asked>,
) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let text = String::from_utf8(buffer[..end].to_vec()).expect("an ASCII head");
        let head = text.to_ascii_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |value| value.trim().parse().expect("a length"));
        while buffer.len() < end + length {
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        let body = String::from_utf8(buffer[end..end + length].to_vec()).expect("text");
        buffer.drain(..end + length);
        let (answer, answered) = oneshot::channel();
        let (closer, closed) = oneshot::channel();
        let line = text
            .lines()
            .next()
            .expect("a line")
            .trim_end_matches(" HTTP/1.1")
            .to_owned();
        asked
            .send(Asked {
                line,
                head,
                body,
                connection,
                answer,
                closed,
            })
            .ok()?;
        let reply = tokio::select! {
            reply = answered => reply.ok()?,
            _ = stream.read_buf(&mut buffer) => {
                // No client here sends ahead of the answer: this is the end of the connection.
                let _ = closer.send(());
                return None;
            }
        };
        stream.write_all(&reply.bytes).await.ok()?;
        if reply.endless {
            let head = reply
                .bytes
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .expect("a head");
            loop {
                stream.write_all(&reply.bytes[head + 4..]).await.ok()?;
            }
        }
        if reply.close {
            return None;
        }
    }
}
