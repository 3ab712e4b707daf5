//! The other processes' side: one connection that is made again whenever it breaks.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::{Call, Said, receive, send};
use crate::error::Error;
use crate::operation::{Answer, Backend, Front, Operation, PATIENCE};
use crate::store::Store;
use crate::watch::{Change, Feed};

/// Calls that wait for a connection.
const WAITING: usize = 1024;
/// Wait before the first and at most before any new attempt to connect: the owner is a process of the same machine.
const CONNECT_AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Longest path of a Unix socket that every system takes.
const LONGEST_PATH: usize = 100;

type Reply = oneshot::Sender<Result<Answer, Error>>;

#[derive(Debug)]
struct Remote {
    path: PathBuf,
    calls: mpsc::Sender<(Operation, Reply)>,
    feed: Arc<Feed>,
    task: JoinHandle<()>,
}

/// The store that a [`super::Server`] serves at this path. There need not be one yet: operations wait for it as long
/// as operations may take. A write whose connection broke before its answer is not repeated, for it may have been done;
/// everything else is.
///
/// # Panics
/// Outside of a tokio runtime: a task keeps the connection.
pub fn remote(path: &Path) -> Arc<dyn Store> {
    let (calls, waiting) = mpsc::channel(WAITING);
    let feed = Arc::new(Feed::new(false));
    let task = tokio::spawn(keep_connected(path.to_owned(), waiting, Arc::clone(&feed)));
    Arc::new(Front(Arc::new(Remote {
        path: path.to_owned(),
        calls,
        feed,
        task,
    })))
}

#[async_trait]
impl Backend for Remote {
    async fn execute(&self, operation: Operation) -> Result<Answer, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (reply, answer) = oneshot::channel();
            let asked = async {
                // Fails only when the task is gone, which ends with this.
                let _ = self.calls.send((operation.clone(), reply)).await;
                answer.await
            };
            match timeout_at(deadline, asked).await {
                Ok(Ok(result)) => return result,
                Ok(Err(_)) if operation.is_repeatable() => {}
                Ok(Err(_)) => {
                    return Err(self.unavailable("the connection broke before the answer came"));
                }
                Err(_) => return Err(self.unavailable("its owner does not answer")),
            }
        }
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }
}

impl Remote {
    fn unavailable(&self, cause: &str) -> Error {
        Error::unavailable(format_args!("{}: {cause}", self.path.display()))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep_connected(
    path: PathBuf,
    mut waiting: mpsc::Receiver<(Operation, Reply)>,
    feed: Arc<Feed>,
) {
    let (mut wait, mut told) = (CONNECT_AGAIN.0, false);
    loop {
        match connect(&path).await {
            Ok(stream) => {
                (wait, told) = (CONNECT_AGAIN.0, false);
                let ended = session(stream, &mut waiting, &feed).await;
                feed.down();
                tracing::warn!(path = %path.display(), reason = %ended, "the store's owner is gone");
            }
            Err(error) if !told => {
                told = true;
                tracing::debug!(path = %path.display(), %error, "the store's owner is not there");
            }
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(CONNECT_AGAIN.1);
    }
}

/// Talks until the connection breaks. Returns why it did. Calls that were sent and not answered are dropped with it.
async fn session(
    stream: UnixStream,
    waiting: &mut mpsc::Receiver<(Operation, Reply)>,
    feed: &Feed,
) -> io::Error {
    let (mut from, mut to) = stream.into_split();
    let sent: Mutex<HashMap<u64, Reply>> = Mutex::default();
    let sending = async {
        let mut id = 0;
        loop {
            let Some((operation, reply)) = waiting.recv().await else {
                return std::future::pending().await;
            };
            // Its caller stopped waiting: it was told that nothing is known, so nothing is what should happen.
            if reply.is_closed() {
                continue;
            }
            id += 1;
            lock(&sent).insert(id, reply);
            if let Err(error) = send(&mut to, &Call { id, operation }).await {
                return error;
            }
        }
    };
    let receiving = async {
        loop {
            match receive(&mut from).await {
                Ok(Some(Said::Answer { id, result })) => {
                    if let Some(reply) = lock(&sent).remove(&id) {
                        let _ = reply.send(result);
                    }
                }
                Ok(Some(Said::Change(Change::Gap))) => feed.up(),
                Ok(Some(Said::Change(change))) => feed.publish(change),
                Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
                // Of a later version, and lost: what it changed may be anything.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(%error, "an answer of the store's owner is not understood");
                    feed.up();
                }
                Err(error) => return error,
            }
        }
    };
    tokio::select! {
        ended = sending => ended,
        ended = receiving => ended,
    }
}

async fn connect(path: &Path) -> io::Result<UnixStream> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if path.as_os_str().len() > LONGEST_PATH => {
            // Linux only; elsewhere the error says what is wrong.
            let folder = File::open(folder)?;
            let place = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
            UnixStream::connect(place.join(name)).await
        }
        _ => UnixStream::connect(path).await,
    }
}

/// Nothing is left half done under this lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
