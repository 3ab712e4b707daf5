//! Doing what only one process may do: holding a lease for as long as one is wanted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::error::Error;
use crate::key::Key;
use crate::store::{Lease, Store};

/// A candidate for a lease: takes it when it is free, renews it at a third of its time to live, and tells when it is
/// lost. Dropped, it gives the lease back.
///
/// While the store is away the lease is kept until it has run out by this process' own clock, and not a moment
/// longer. That alone does not keep two processes from acting at the same time (this one may be stopped in between);
/// writes do that when they are fenced with the lease.
#[derive(Debug)]
pub struct Candidate {
    lease: watch::Receiver<Option<Lease>>,
    store: Arc<dyn Store>,
    task: JoinHandle<()>,
}

impl Candidate {
    /// Starts to try. `holder` is unique to this process and this start of it; see [`Store::acquire`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(store: Arc<dyn Store>, name: Key, holder: String, ttl: Duration) -> Self {
        let (told, lease) = watch::channel(None);
        let trying = Arc::clone(&store);
        let task = tokio::spawn(async move {
            loop {
                match trying.acquire(&name, &holder, ttl).await {
                    Ok(lease) => {
                        tracing::info!(lease = %name, epoch = lease.epoch.0, "lease taken");
                        hold(&*trying, lease, &told).await;
                        told.send_replace(None);
                    }
                    // It may be given back before it runs out.
                    Err(Error::Held { remaining, .. }) => sleep(remaining.min(ttl / 3)).await,
                    Err(error) => {
                        tracing::debug!(lease = %name, %error, "lease not taken");
                        sleep(ttl / 3).await;
                    }
                }
            }
        });
        Self { lease, store, task }
    }

    /// The lease, while it is held.
    pub fn lease(&self) -> Option<Lease> {
        let lease = self.lease.borrow();
        lease
            .as_ref()
            .filter(|lease| Instant::now() < lease.until)
            .cloned()
    }

    /// Waits until the lease was taken, prolonged or lost since the last look with this method.
    pub async fn changed(&mut self) -> Option<Lease> {
        // The sender ends only with the task, which ends only with this.
        let _ = self.lease.changed().await;
        self.lease.borrow_and_update().clone()
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.task.abort();
        if let (Some(lease), Ok(runtime)) = (self.lease(), tokio::runtime::Handle::try_current()) {
            let store = Arc::clone(&self.store);
            runtime.spawn(async move {
                let _ = store.release(&lease).await;
            });
        }
    }
}

/// Keeps a lease until it is lost.
async fn hold(store: &dyn Store, mut lease: Lease, told: &watch::Sender<Option<Lease>>) {
    loop {
        told.send_replace(Some(lease.clone()));
        let (until, pause) = (lease.until, lease.ttl / 3);
        sleep_until(until - pause * 2).await;
        // Past `until` the lease is lost whatever the store says later.
        let renewed = timeout_at(until, async {
            loop {
                match store.renew(&lease).await {
                    Err(error) if error.is_unavailable() => sleep(pause / 4).await,
                    answer => return answer,
                }
            }
        });
        match renewed.await {
            Ok(Ok(next)) => lease = next,
            Ok(Err(error)) => {
                tracing::warn!(lease = %lease.name, epoch = lease.epoch.0, %error, "lease lost");
                return;
            }
            Err(_) => {
                tracing::warn!(lease = %lease.name, epoch = lease.epoch.0, "lease not renewed in time");
                return;
            }
        }
    }
}
