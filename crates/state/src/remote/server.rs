//! The owner's side.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::{Call, LARGEST_FRAME, Said, frame, receive};
use crate::error::Error;
use crate::key::Prefix;
use crate::operation::{Answer, Operation, PATIENCE};
use crate::store::{Lease, Store};
use crate::watch::{Change, Event, Watch};

/// Calls of one connection that are under way at the same time; further ones are not read yet.
const CALLS: usize = 1024;
/// Frames that wait to be written; then changes wait too, and calls.
const FRAMES: usize = 256;
/// Wait after a connection could not be accepted (no descriptors left).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves a store to other processes, until it is stopped or dropped.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts to serve. Who can connect can do everything: the socket's file belongs to its owner alone.
    ///
    /// # Errors
    /// When the listener cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(listener: StdListener, store: Arc<dyn Store>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(listener, store, stopped));
        Ok(Self { stop, task })
    }

    /// Takes no more calls, answers those that were taken, and lets go of the store. A client that does not read its
    /// answers is not waited for longer than a few seconds.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // Ends by itself, for each of its parts has a bound: the store's own, and that of the writers.
        let _ = self.task.await;
    }
}

async fn serve(listener: UnixListener, store: Arc<dyn Store>, stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&store), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the store was not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
            // Also when the handle is gone.
            () = told(stop.clone()) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits for the order to stop, or for the end of whoever could give it.
async fn told(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(stream: UnixStream, store: Arc<dyn Store>, stop: watch::Receiver<bool>) {
    let (mut from, mut to) = stream.into_split();
    let (out, mut frames) = mpsc::channel::<Vec<u8>>(FRAMES);
    let stopped = stop.clone();
    // When it ends nothing more is taken to be written, so that nobody waits for it.
    let writer = async move {
        let mut late = pin!(async {
            told(stopped).await;
            tokio::time::sleep(PATIENCE).await;
        });
        while let Some(frame) = frames.recv().await {
            let written = tokio::select! {
                written = to.write_all(&frame) => written.is_ok(),
                () = &mut late => false,
            };
            if !written {
                return;
            }
        }
    };
    // In a set, so that it ends with the connection also where that is broken off: it holds the store.
    let mut teller = JoinSet::new();
    teller.spawn(tell(store.watch(&Prefix::all()), out.clone()));
    let reader = async {
        let mut calls = JoinSet::new();
        let places = Arc::new(Semaphore::new(CALLS));
        let read = async {
            loop {
                let call = match receive::<Call>(&mut from).await {
                    Ok(Some(call)) => call,
                    Ok(None) => return,
                    // Without its number it cannot be answered; its caller stops waiting.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        tracing::warn!(%error, "a call to the store is not understood");
                        continue;
                    }
                    Err(_) => return,
                };
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await;
                let (store, out) = (Arc::clone(&store), out.clone());
                calls.spawn(async move {
                    let id = call.id;
                    let result = run(&*store, call.operation).await;
                    say(&out, &Said::Answer { id, result }).await;
                    drop(place);
                });
                while calls.try_join_next().is_some() {}
            }
        };
        tokio::select! {
            () = read => {}
            () = told(stop.clone()) => {}
        }
        while calls.join_next().await.is_some() {}
        drop(out);
        // Not waited for by the answers above: it holds the last sender.
        teller.shutdown().await;
    };
    // The reader ends first when the client is gone or the server stops, and the writer then writes the rest out; a
    // writer that cannot write any more makes the reader end by the closed socket.
    tokio::join!(reader, writer);
}

async fn say(out: &mpsc::Sender<Vec<u8>>, said: &Said) {
    if let Some(frame) = framed(said, LARGEST_FRAME) {
        let _ = out.send(frame).await;
    }
}

/// As a frame of at most so many bytes. What is longer is answered all the same: a caller that heard nothing would wait, and ask again.
fn framed(said: &Said, most: usize) -> Option<Vec<u8>> {
    let error = match frame(said, most) {
        Ok(frame) => return Some(frame),
        Err(error) => error,
    };
    tracing::warn!(%error, "what the store says cannot be sent");
    let instead = match said {
        Said::Answer { id, .. } => Said::Answer {
            id: *id,
            result: Err(Error::unavailable(format_args!("its answer: {error}"))),
        },
        Said::Change(_) => Said::Change(Change::Gap),
    };
    frame(&instead, LARGEST_FRAME).ok()
}

/// Tells a client what changes.
async fn tell(mut watch: Watch, out: mpsc::Sender<Vec<u8>>) {
    while !out.is_closed() {
        let change = match watch.next().await {
            // The client lists what it wants.
            Event::Resync(_) => Change::Gap,
            Event::Put(key, entry) => Change::Entry(key, entry.version, Some(entry)),
            Event::Delete(key, version) => Change::Entry(key, version, None),
        };
        say(&out, &Said::Change(change)).await;
    }
}

async fn run(store: &dyn Store, operation: Operation) -> Result<Answer, Error> {
    let lease = |name, holder, epoch, ttl_ms| Lease {
        name,
        holder,
        epoch,
        ttl: Duration::from_millis(ttl_ms),
        until: tokio::time::Instant::now(),
    };
    Ok(match operation {
        Operation::Get { key } => Answer::Entry(store.get(&key).await?),
        Operation::List { prefix } => Answer::Listing(store.list(&prefix).await?),
        Operation::Put {
            key,
            value,
            ttl_ms,
            guard,
        } => {
            let ttl = ttl_ms.map(Duration::from_millis);
            Answer::Written(store.put(&key, value, ttl, &guard).await?)
        }
        Operation::Delete { key, guard } => Answer::Deleted(store.delete(&key, &guard).await?),
        Operation::Acquire {
            name,
            holder,
            ttl_ms,
        } => {
            let ttl = Duration::from_millis(ttl_ms);
            Answer::Acquired(store.acquire(&name, &holder, ttl).await?.epoch)
        }
        Operation::Renew {
            name,
            holder,
            epoch,
            ttl_ms,
        } => {
            store.renew(&lease(name, holder, epoch, ttl_ms)).await?;
            Answer::Renewed
        }
        Operation::Release {
            name,
            holder,
            epoch,
        } => {
            store.release(&lease(name, holder, epoch, 1)).await?;
            Answer::Released
        }
        Operation::Lease { name } => Answer::Lease(store.lease(&name).await?),
        Operation::Add { adds } => Answer::Added(store.add_all(&adds).await?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::store::Guard;

    #[test]
    fn an_answer_that_is_too_long_for_a_frame_is_told_as_that() {
        let answer = Said::Answer {
            id: 7,
            result: Ok(Answer::Added(vec![u64::MAX; 1_000])),
        };
        let frame = framed(&answer, 1_000).unwrap();
        match serde_json::from_slice(&frame[4..]).unwrap() {
            Said::Answer { id: 7, result } => assert!(result.unwrap_err().is_unavailable()),
            other => panic!("{other:?}"),
        }
        assert!(framed(&answer, LARGEST_FRAME).unwrap().len() > 1_000);
    }

    #[tokio::test]
    async fn a_server_that_stops_lets_go_of_the_store_though_a_client_reads_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, socket) = (folder.path().join("f"), folder.path().join("s"));
        let store = crate::file(&path).unwrap();
        let key = Key::parse("large").unwrap();
        let value = vec![0; 64 << 10];
        store
            .put(&key, value.into(), None, &Guard::NONE)
            .await
            .unwrap();
        let server =
            Server::start(StdListener::bind(&socket).unwrap(), Arc::clone(&store)).unwrap();
        let mut client = UnixStream::connect(&socket).await.unwrap();
        for id in 0..CALLS as u64 {
            let operation = Operation::Get { key: key.clone() };
            let call = frame(&Call { id, operation }, LARGEST_FRAME).unwrap();
            client.write_all(&call).await.unwrap();
        }
        // Each call that waits to be answered has the store in its hands.
        while Arc::strong_count(&store) < CALLS / 2 {
            tokio::task::yield_now().await;
        }
        drop(store);
        tokio::time::pause();
        server.stop().await;
        crate::file(&path).unwrap();
    }
}
