//! The socket of an instance, and the door that serves it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tidegate_config::model::Service;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::call::Model;
use crate::door::{self, DoorOptions};
use crate::spool::Spool;
use crate::state::Address;

/// Between two signs of life of a call that takes long.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A socket that is served. Dropping it cuts its connections.
#[derive(Debug)]
pub(crate) struct Doorway {
    path: PathBuf,
    model: Arc<dyn Model>,
    spool: Arc<Spool>,
    limits: Bounds,
    ratio: Arc<AtomicU64>,
    open: Option<Open>,
    /// Doors with other bounds, whose calls go on.
    before: Vec<JoinHandle<()>>,
    /// Which file its socket is. A service that comes back while its former one still drains has the same path, and a socket of its own there.
    own: Option<Socket>,
}

/// What of a configuration a door keeps to until it is opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    message: u64,
    parallel: usize,
}

#[derive(Debug)]
struct Open {
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Doorway {
    /// `ratio`: `limits.ratio`, as it is at each moment.
    ///
    /// # Errors
    /// The socket can't be made.
    pub(crate) fn open(
        path: PathBuf,
        model: Arc<dyn Model>,
        spool: Arc<Spool>,
        ratio: Arc<AtomicU64>,
        service: &Service,
    ) -> io::Result<Self> {
        let mut doorway = Self {
            path,
            model,
            spool,
            limits: limits(service),
            ratio,
            open: None,
            before: Vec::new(),
            own: None,
        };
        doorway.serve()?;
        Ok(doorway)
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.path.clone())
    }

    /// Other bounds hold for the connections that come from now on.
    pub(crate) fn follow(&mut self, service: &Service) {
        if self.limits == limits(service) {
            return;
        }
        self.limits = limits(service);
        let before = self.open.take();
        match self.serve() {
            Ok(()) => {
                if let Some(before) = before {
                    // Its connections go on until their calls are answered.
                    let _ = before.shutdown.send(());
                    self.before.retain(|door| !door.is_finished());
                    self.before.push(before.task);
                }
            }
            Err(error) => {
                tracing::warn!(%error, socket = %self.path.display(), "new bounds of messages wait for the next start");
                self.open = before;
            }
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&self.path)?;
        self.own = socket(&self.path);
        let (shutdown, told) = oneshot::channel::<()>();
        let Bounds { message, parallel } = self.limits;
        let options = DoorOptions {
            message,
            ratio: Arc::clone(&self.ratio),
            parallel,
            heartbeat: HEARTBEAT,
            spool: Arc::clone(&self.spool),
        };
        let task = tokio::spawn(door::serve(
            listener,
            Arc::clone(&self.model),
            options,
            async move {
                // Whoever drops the sender means the same.
                let _ = told.await;
            },
        ));
        self.open = Some(Open { shutdown, task });
        Ok(())
    }

    /// No new connections; resolves when the calls under way are answered, or cut at `deadline`.
    pub(crate) async fn close(mut self, deadline: Instant) {
        let mut doors = std::mem::take(&mut self.before);
        if let Some(open) = self.open.take() {
            let _ = open.shutdown.send(());
            doors.push(open.task);
        }
        for mut door in doors {
            if tokio::time::timeout_at(deadline, &mut door).await.is_err() {
                door.abort();
            }
        }
        self.remove();
    }

    fn remove(&self) {
        if self.own.is_some() && socket(&self.path) == self.own {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Doorway {
    fn drop(&mut self) {
        for door in &self.before {
            door.abort();
        }
        if let Some(open) = self.open.take() {
            open.task.abort();
            self.remove();
        }
    }
}

/// A socket's file: its inode, which another may get when it is gone, and when it was made.
type Socket = (u64, i64, i64);

fn socket(path: &Path) -> Option<Socket> {
    let about = std::fs::symlink_metadata(path).ok()?;
    Some((about.ino(), about.mtime(), about.mtime_nsec()))
}

fn limits(service: &Service) -> Bounds {
    Bounds {
        message: service.limits.message.bytes(),
        parallel: service.concurrency.max(1) as usize,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use async_trait::async_trait;
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixStream;
    use tokio::sync::Notify;

    use super::*;
    use crate::call::{About, Answer, Call, Fault, Method, Version};
    use crate::spool::SpoolLimits;

    /// A model whose only method answers when it is let.
    #[derive(Debug, Default)]
    struct Slow {
        runs: AtomicBool,
        let_go: Notify,
    }

    #[async_trait]
    impl Model for Slow {
        fn about(&self) -> Arc<About> {
            Arc::new(About {
                service: "slow".to_owned(),
                class: "model:Slow".to_owned(),
                methods: [("predict".to_owned(), Method::default())].into(),
                ..About::default()
            })
        }

        fn ready(&self) -> bool {
            true
        }

        async fn changed(&self, _: bool) {
            std::future::pending().await
        }

        async fn call(&self, _: Call) -> Result<Answer, Fault> {
            self.runs.store(true, std::sync::atomic::Ordering::SeqCst);
            self.let_go.notified().await;
            Ok(Answer::Value(crate::call::Value::default()))
        }

        async fn load(&self, _: &str) -> Result<(), Fault> {
            Ok(())
        }

        async fn release(&self, _: &str) {}

        fn versions(&self) -> Vec<Version> {
            Vec::new()
        }
    }

    fn service(message: u64) -> Service {
        let text = format!(
            "listeners: [ {{ name: a, address: 127.0.0.1:1 }} ]\nroutes: [ {{ name: a, to: [ {{ service: slow }} ] }} ]\n\
             services: [ {{ name: slow, python: {{ class: \"model:Slow\", path: /tmp }}, limits: {{ message: {message}MiB }} }} ]"
        );
        let loaded = tidegate_config::load_str("test.yaml", &text).unwrap();
        loaded.config.services[0].clone()
    }

    #[tokio::test]
    async fn calls_that_came_through_a_door_with_other_bounds_are_answered_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let limits = SpoolLimits {
            quota: 1 << 20,
            resume: Duration::ZERO,
        };
        let model = Arc::new(Slow::default());
        let path = folder.path().join("door.sock");
        let mut doorway = Doorway::open(
            path.clone(),
            model.clone(),
            Spool::open(&folder.path().join("spool"), limits).unwrap(),
            Arc::default(),
            &service(1),
        )
        .unwrap();
        let stream = UnixStream::connect(&path).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("/slow/predict")
            .header("host", "door")
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let answer = tokio::spawn(sender.send_request(request));
        while !model.runs.load(std::sync::atomic::Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        doorway.follow(&service(2));
        let mut closing = tokio::spawn(doorway.close(Instant::now() + Duration::from_secs(60)));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut closing).await;
        assert!(early.is_err(), "closed with a call under way");
        model.let_go.notify_one();
        closing.await.unwrap();
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "null");
    }
}
