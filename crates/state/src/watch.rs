//! Following changes: what a backend publishes, and how a watcher turns that into a picture without gaps.
//!
//! A backend publishes its changes in the order of their versions into a ring that all watchers share. A watcher
//! begins with a listing and drops the changes that the listing contains already. Whenever changes may have been
//! missed (the watcher was too slow for the ring, or the store was away) it lists again. So no watcher can hold up the
//! store, and none needs more memory than the ring.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, watch};

use crate::key::{Key, Prefix};
use crate::ledger::Effect;
use crate::operation::{Backend, list};
use crate::store::{Entry, Listing, Version};

/// Changes that a watcher may lag behind before it has to list again.
const RING: usize = 1024;
/// Wait before a listing that failed is tried again.
const LIST_AGAIN: Duration = Duration::from_millis(100);

/// What happened below the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything there is: the first event, and again whenever changes may have been missed. What it does not hold is
    /// gone.
    Resync(Vec<(Key, Entry)>),
    /// An entry was written.
    Put(Key, Entry),
    /// An entry was deleted, or its time to live is over.
    Delete(Key, Version),
}

/// A change as a backend publishes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// `None`: deleted.
    Entry(Key, Version, Option<Entry>),
    /// Changes may have been missed.
    Gap,
}

impl Change {
    /// What watchers hear of an effect: of entries only.
    pub(crate) fn of(effect: Effect, now: u64) -> Option<Self> {
        match effect {
            Effect::Entry(key, version, stored) => Some(Self::Entry(
                key,
                version,
                stored.map(|stored| stored.entry(now)),
            )),
            Effect::Lease(..) | Effect::Counter(..) => None,
        }
    }
}

/// Where a backend publishes.
#[derive(Debug)]
pub(crate) struct Feed {
    changes: broadcast::Sender<Change>,
    live: watch::Sender<bool>,
}

impl Feed {
    /// `live`: whether changes are seen from the beginning.
    pub(crate) fn new(live: bool) -> Self {
        Self {
            changes: broadcast::Sender::new(RING),
            live: watch::Sender::new(live),
        }
    }

    pub(crate) fn publish(&self, change: Change) {
        // No watcher: nobody to tell.
        let _ = self.changes.send(change);
    }

    /// Changes are seen from now on; some may have been missed before.
    pub(crate) fn up(&self) {
        self.publish(Change::Gap);
        self.live.send_replace(true);
    }

    /// Changes are not seen until further notice.
    pub(crate) fn down(&self) {
        self.live.send_replace(false);
    }

    pub(crate) fn is_live(&self) -> bool {
        *self.live.borrow()
    }
}

/// The changes below a prefix, in order: for every key the puts and deletes as they happened, or at least the last
/// one of them, and a [`Event::Resync`] at the beginning and after every gap. Nothing comes while the store is away.
#[derive(Debug)]
pub struct Watch {
    backend: Arc<dyn Backend>,
    prefix: Prefix,
    changes: broadcast::Receiver<Change>,
    live: watch::Receiver<bool>,
    /// What the last listing contained; `None` when the next event is a listing.
    seen: Option<Version>,
}

impl Watch {
    pub(crate) fn new(backend: Arc<dyn Backend>, prefix: Prefix) -> Self {
        let (changes, live) = {
            let feed = backend.feed();
            (feed.changes.subscribe(), feed.live.subscribe())
        };
        Self {
            backend,
            prefix,
            changes,
            live,
            seen: None,
        }
    }

    /// Waits for the next event. Nothing is lost when the returned future is dropped.
    pub async fn next(&mut self) -> Event {
        loop {
            let Some(seen) = self.seen else {
                let listing = self.listing().await;
                self.seen = Some(listing.version);
                return Event::Resync(listing.entries);
            };
            match self.changes.recv().await {
                Ok(Change::Entry(key, version, entry))
                    if version > seen && self.prefix.contains(&key) =>
                {
                    return match entry {
                        Some(entry) => Event::Put(key, entry),
                        None => Event::Delete(key, version),
                    };
                }
                Ok(Change::Entry(..)) => {}
                Ok(Change::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => self.seen = None,
                // The backend, which holds the sender, is ours.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    async fn listing(&mut self) -> Listing {
        loop {
            // A listing taken while changes are not seen would be followed by another one anyway.
            let _ = self.live.wait_for(|live| *live).await;
            // What is in the ring by now is contained in the listing.
            self.changes = self.changes.resubscribe();
            match list(&*self.backend, &self.prefix).await {
                Ok(listing) => return listing,
                Err(error) => {
                    tracing::debug!(prefix = %self.prefix, %error, "not listed");
                    tokio::time::sleep(LIST_AGAIN).await;
                }
            }
        }
    }
}
