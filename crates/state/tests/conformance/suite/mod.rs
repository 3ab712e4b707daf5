//! What every backend does. A behaviour is given an empty store.

mod counters;
mod entries;
mod leases;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_state::{Event, Guard, Key, Store, Version, Watch};
use tokio::time::timeout;

use crate::backends::LONG;

pub(crate) use counters::*;
pub(crate) use entries::*;
pub(crate) use leases::*;
pub(crate) use watches::*;

type Shared = Arc<dyn Store>;

/// Longer than a test.
const HOUR: Duration = Duration::from_secs(3600);
/// A time to live that is waited for.
const SHORT: Duration = Duration::from_millis(300);

pub(crate) fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

pub(crate) async fn put(store: &Shared, at: &str, value: &str) -> Version {
    let value = Bytes::copy_from_slice(value.as_bytes());
    store
        .put(&key(at), value, None, &Guard::NONE)
        .await
        .unwrap()
}

pub(crate) async fn read(store: &Shared, at: &str) -> Option<String> {
    let entry = store.get(&key(at)).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

pub(crate) async fn next(watch: &mut Watch) -> Event {
    timeout(LONG, watch.next()).await.expect("an event")
}
