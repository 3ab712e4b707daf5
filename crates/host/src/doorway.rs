//! The socket of an instance, and the door that serves it.

use std::io;
use std::path::PathBuf;
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
        if let Some(open) = self.open.take() {
            let _ = open.shutdown.send(());
            let abort = open.task.abort_handle();
            if tokio::time::timeout_at(deadline, open.task).await.is_err() {
                abort.abort();
            }
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for Doorway {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.task.abort();
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn limits(service: &Service) -> Bounds {
    Bounds {
        message: service.limits.message.bytes(),
        parallel: service.concurrency.max(1) as usize,
    }
}
