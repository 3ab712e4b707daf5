//! Dispatch with workers that do what the test says, over real sockets.

mod calls;
mod changes;
mod deaths;
mod streams;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::job::Outcome;
use super::*;
use crate::call::{Answer, Batch, Value};
use crate::events::{Event, Events};
use crate::frame::{self, Frame};
use crate::socket::Socket;
use crate::versions::Pool;
use crate::worker::link::{Link, Writer};
use crate::worker::reader::Reader;

#[derive(Debug)]
struct Silent;

impl Events for Silent {
    fn event(&self, _: Event) {}
}

/// A worker in the hands of the test.
struct Fake {
    stream: UnixStream,
    read: BytesMut,
    kills: mpsc::UnboundedReceiver<String>,
}

impl Fake {
    fn join(group: &Arc<Group>, id: u64, slot: usize, concurrency: u32, most: u32) -> Self {
        Self::join_as(group, id, slot, concurrency, most, 1)
    }

    fn join_as(
        group: &Arc<Group>,
        id: u64,
        slot: usize,
        concurrency: u32,
        most: u32,
        revision: u64,
    ) -> Self {
        Self::join_from(group, id, slot, concurrency, most, revision, true)
    }

    /// `files`: whether it is of this machine.
    fn join_from(
        group: &Arc<Group>,
        id: u64,
        slot: usize,
        concurrency: u32,
        most: u32,
        revision: u64,
        files: bool,
    ) -> Self {
        group.set(Settings {
            most_versions: most,
            ..(*group.settings()).clone()
        });
        let mut pool = Pool::new(most);
        pool.begin("");
        pool.finish("");
        Self::join_all(group, id, slot, concurrency, revision, files, pool, None)
    }

    /// With these versions.
    fn join_with(group: &Arc<Group>, id: u64, pool: Pool) -> Self {
        Self::join_all(group, id, 0, 1, 1, true, pool, None)
    }

    /// With this process.
    fn join_of(group: &Arc<Group>, id: u64, pid: Option<u32>) -> Self {
        let mut pool = Pool::new(1);
        pool.begin("");
        pool.finish("");
        Self::join_all(group, id, 0, 1, 1, true, pool, pid)
    }

    #[expect(clippy::too_many_arguments, reason = "all that a test may ask for")]
    fn join_all(
        group: &Arc<Group>,
        id: u64,
        slot: usize,
        concurrency: u32,
        revision: u64,
        files: bool,
        pool: Pool,
        pid: Option<u32>,
    ) -> Self {
        let (ours, stream) = UnixStream::pair().unwrap();
        let (read, write) = Socket::new(ours).unwrap().split().unwrap();
        let (kill, kills) = mpsc::unbounded_channel();
        let link = Link::new(Writer::Unix(write));
        let instance = format!("test-{slot}").into();
        group.join(Member::new(
            id,
            slot,
            revision,
            instance,
            pid,
            link,
            files,
            concurrency,
            pool,
            kill,
        ));
        let group = Arc::clone(group);
        tokio::spawn(async move {
            let mut reader = Reader::new(Box::new(read), 1 << 20);
            let mut messages = Vec::new();
            loop {
                let lost = reader.messages(&mut messages).await.is_err();
                group.heard(id, &mut messages);
                if lost {
                    group.leave(id, "it was killed", false);
                    return;
                }
            }
        });
        Self {
            stream,
            read: BytesMut::new(),
            kills,
        }
    }

    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = frame::take(&mut self.read).unwrap() {
                return frame;
            }
            assert!(
                self.stream.read_buf(&mut self.read).await.unwrap() > 0,
                "the host closed the connection"
            );
        }
    }

    /// The next frame, which is a call of `method`.
    async fn call(&mut self, method: &str) -> u64 {
        let frame = self.next().await;
        let meta: serde_json::Value = serde_json::from_slice(&frame.meta).unwrap();
        assert_eq!(
            (frame.kind, &meta["method"]),
            (Kind::Call, &serde_json::json!(method))
        );
        frame.call
    }

    /// The next frame that gives no credit, which cancels a call.
    async fn cancelled(&mut self) -> u64 {
        loop {
            let frame = self.next().await;
            if frame.kind != Kind::Credit {
                assert_eq!(frame.kind, Kind::Cancel);
                return frame.call;
            }
        }
    }

    /// Nothing was sent to it before this.
    async fn expect_nothing(&mut self) {
        let read = tokio::time::timeout(Duration::from_millis(30), self.next()).await;
        assert!(read.is_err(), "unexpected: {:?}", read.unwrap());
    }

    async fn send(&mut self, kind: Kind, call: u64, meta: &str, data: &[u8]) {
        let mut out = BytesMut::new();
        frame::put_head(&mut out, kind, false, call, meta.len(), data.len());
        out.extend_from_slice(meta.as_bytes());
        out.extend_from_slice(data);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn result(&mut self, call: u64, json: &str) {
        self.send(Kind::Result, call, "", json.as_bytes()).await;
    }
}

fn settings() -> Settings {
    Settings {
        queue: 1_000,
        call_time: None,
        memory: None,
        versions_memory: None,
        start_timeout: Duration::from_secs(60),
        most_versions: 1,
    }
}

fn group(settings: Settings) -> Arc<Group> {
    Group::new("test".into(), settings, Arc::new(Silent))
}

const RETRY: Facts = Facts {
    retry: true,
    stream: false,
    reload: false,
    batch: None,
    made_up: false,
};

const ONCE: Facts = Facts {
    retry: false,
    ..RETRY
};

fn call(method: &str, version: &str) -> Call {
    Call {
        method: method.into(),
        version: version.into(),
        kwargs: Bytes::from_static(b"{}"),
        parts: Vec::new(),
        deadline: None,
        retry: None,
        id: String::new(),
        progress: None,
    }
}

fn submit(group: &Group, method: &str, version: &str, facts: Facts) -> oneshot::Receiver<Outcome> {
    group.submit(0, 1, call(method, version), facts).unwrap().1
}

async fn value(outcome: oneshot::Receiver<Outcome>) -> String {
    match outcome.await.unwrap().unwrap() {
        Answer::Value(Value { json, .. }) => String::from_utf8(json.to_vec()).unwrap(),
        Answer::Items(_) => panic!("a stream"),
    }
}

async fn fault(outcome: oneshot::Receiver<Outcome>) -> (Code, &'static str) {
    let fault = outcome.await.unwrap().unwrap_err();
    (fault.code, fault.reason)
}
