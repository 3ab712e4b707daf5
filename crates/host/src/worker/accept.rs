//! Where workers connect: who says the token of a worker that was started is that worker.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::AsyncRead;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use super::link::{Link, Writer};
use super::reader::Reader;
use crate::frame::Kind;
use crate::message::{self, Hello, PROTOCOL};
use crate::socket::Socket;

/// Time that a connection has to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Connections that have not said it yet.
const STRANGERS: usize = 256;
/// Longest message of a stranger.
const HELLO_LONGEST: u64 = 64 << 10;

/// A worker that has said who it is.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) reader: Reader,
    pub(crate) link: Arc<Link>,
    /// Whether it sees the same files.
    pub(crate) files: bool,
    /// Versions that it has in memory already.
    pub(crate) loaded: Vec<String>,
}

/// Where workers connect.
#[derive(Debug)]
pub(crate) struct Acceptor {
    expected: Arc<Expected>,
    unix: PathBuf,
    tcp: Option<SocketAddr>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where workers of this machine connect, or those of others.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;

impl Listener {
    async fn accept(&self) -> io::Result<(ReadHalf, Writer)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let (read, write) = Socket::new(stream)?.split()?;
                Ok((Box::new(read), Writer::Unix(write)))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                let (read, write) = stream.into_split();
                Ok((Box::new(read), Writer::Tcp(write)))
            }
        }
    }
}

#[derive(Debug, Default)]
struct Expected {
    tokens: Mutex<HashMap<String, Sought>>,
}

#[derive(Debug)]
struct Sought {
    epoch: u64,
    found: oneshot::Sender<Connection>,
}

/// A worker that is awaited. Dropping it means that it is not any more.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) token: String,
    epoch: u64,
    found: oneshot::Receiver<Connection>,
    expected: Arc<Expected>,
}

impl Acceptor {
    /// Listens on a Unix socket, and on a TCP port for workers of other machines.
    ///
    /// # Errors
    /// One of them can't be had.
    pub(crate) async fn listen(unix: &Path, tcp: Option<SocketAddr>) -> io::Result<Self> {
        match std::fs::remove_file(unix) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(unix)?;
        let expected = Arc::<Expected>::default();
        let strangers = Arc::new(Semaphore::new(STRANGERS));
        let accept = |listener| {
            let (expected, strangers) = (Arc::clone(&expected), Arc::clone(&strangers));
            tokio::spawn(expected.accept(listener, strangers))
        };
        let mut tasks = vec![accept(Listener::Unix(listener))];
        let mut tcp_at = None;
        if let Some(at) = tcp {
            let listener = TcpListener::bind(at).await?;
            tcp_at = Some(listener.local_addr()?);
            tasks.push(accept(Listener::Tcp(listener)));
        }
        Ok(Self {
            expected,
            unix: unix.to_owned(),
            tcp: tcp_at,
            tasks,
        })
    }

    /// What a worker of this machine connects to.
    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.unix.display())
    }

    /// What a worker of another machine connects to.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Awaits a worker, which must say the token and an epoch that is not lower.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(crate) fn await_worker(&self, epoch: u64) -> io::Result<Awaited> {
        let mut bytes = [0_u8; 16];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("the system gives no random bytes"))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (found, receiver) = oneshot::channel();
        self.expected
            .lock()
            .insert(token.clone(), Sought { epoch, found });
        Ok(Awaited {
            token,
            epoch,
            found: receiver,
            expected: Arc::clone(&self.expected),
        })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let _ = std::fs::remove_file(&self.unix);
    }
}

async fn pause(error: &io::Error) {
    // Out of descriptors, mostly: trying again at once would only burn the processor.
    tracing::warn!(%error, "no worker can connect");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

impl Expected {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Sought>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts connections; those of this machine see the same files.
    async fn accept(self: Arc<Self>, listener: Listener, strangers: Arc<Semaphore>) {
        let files = matches!(listener, Listener::Unix(_));
        loop {
            let Ok(permit) = Arc::clone(&strangers).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((read, write)) => {
                    let expected = Arc::clone(&self);
                    tokio::spawn(async move {
                        expected.meet(read, write, files).await;
                        drop(permit);
                    });
                }
                Err(error) => pause(&error).await,
            }
        }
    }

    /// Takes a stranger's `HELLO`, and hands the connection to whoever awaits it.
    async fn meet(&self, read: ReadHalf, write: Writer, files: bool) {
        let mut reader = Reader::new(read, HELLO_LONGEST);
        let refused = match tokio::time::timeout(HELLO_WITHIN, reader.frame()).await {
            Err(_) => "it said nothing".to_owned(),
            Ok(Err(lost)) => lost.to_string(),
            Ok(Ok(frame)) if frame.kind != Kind::Hello => format!("{:?} is no HELLO", frame.kind),
            Ok(Ok(frame)) => match message::meta::<Hello>(&frame) {
                Err(broken) => broken.to_string(),
                Ok(hello) if hello.protocol != PROTOCOL => {
                    format!(
                        "it speaks version {} of the protocol, this host version {PROTOCOL}",
                        hello.protocol
                    )
                }
                Ok(hello) => {
                    let sought = {
                        let mut tokens = self.lock();
                        match tokens.get(&hello.token) {
                            Some(sought) if hello.epoch >= sought.epoch => {
                                tokens.remove(&hello.token)
                            }
                            _ => None,
                        }
                    };
                    if let Some(sought) = sought {
                        tracing::debug!(pid = hello.pid, epoch = hello.epoch, "worker connected");
                        reader.set_files(files);
                        let connection = Connection {
                            reader,
                            link: Link::new(write),
                            files,
                            loaded: hello.loaded,
                        };
                        if let Err(unwanted) = sought.found.send(connection) {
                            unwanted.link.close();
                        }
                        return;
                    }
                    "its token is of no worker that is awaited".to_owned()
                }
            },
        };
        tracing::warn!(cause = %refused, "a connection to the worker socket was refused");
    }
}

impl Awaited {
    /// From now on the same worker may connect once more.
    pub(crate) fn again(&mut self) {
        let (found, receiver) = oneshot::channel();
        let epoch = self.epoch;
        self.expected
            .lock()
            .insert(self.token.clone(), Sought { epoch, found });
        self.found = receiver;
    }

    /// The worker's connection.
    pub(crate) async fn connection(&mut self) -> Connection {
        match (&mut self.found).await {
            Ok(connection) => connection,
            // The acceptor is gone, and with it the host.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.expected.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;
    use crate::frame;

    fn hello(token: &str, epoch: u64) -> BytesMut {
        let meta = format!(r#"{{"protocol":1,"token":"{token}","epoch":{epoch},"pid":5}}"#);
        let mut out = BytesMut::new();
        frame::put_head(&mut out, Kind::Hello, false, 0, meta.len(), 0);
        out.put_slice(meta.as_bytes());
        out
    }

    #[tokio::test]
    async fn the_token_tells_the_worker_over_either_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.sock");
        let acceptor = Acceptor::listen(&path, Some("127.0.0.1:0".parse().unwrap()))
            .await
            .unwrap();
        let mut one = acceptor.await_worker(3).unwrap();
        let mut two = acceptor.await_worker(1).unwrap();
        let mut near = UnixStream::connect(&path).await.unwrap();
        near.write_all(&hello(&one.token, 3)).await.unwrap();
        let mut far = TcpStream::connect(acceptor.tcp().unwrap()).await.unwrap();
        far.write_all(&hello(&two.token, 2)).await.unwrap();
        let (first, second) = (one.connection().await, two.connection().await);
        assert!(first.files && !second.files);
    }

    #[tokio::test]
    async fn a_wrong_token_a_lower_epoch_and_noise_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.sock");
        let acceptor = Acceptor::listen(&path, None).await.unwrap();
        let mut awaited = acceptor.await_worker(3).unwrap();
        for bytes in [
            hello("guess", 3),
            hello(&awaited.token, 2),
            BytesMut::from(&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..]),
        ] {
            let mut stranger = UnixStream::connect(&path).await.unwrap();
            stranger.write_all(&bytes).await.unwrap();
            // Closed without a word.
            assert_eq!(stranger.read(&mut [0; 8]).await.unwrap_or(0), 0);
        }
        let mut right = UnixStream::connect(&path).await.unwrap();
        right.write_all(&hello(&awaited.token, 3)).await.unwrap();
        assert!(awaited.connection().await.files);
    }
}
