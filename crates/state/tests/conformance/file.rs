//! What the embedded file promises beyond the suite.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tidegate_state::{Error, FILE_NAME, Guard, OpenError, StateUrl};

use crate::suite::{key, put, read};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_restart_keeps_entries_leases_counters_and_versions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let store = tidegate_state::file(&path).unwrap();
    put(&store, "kept", "x").await;
    let limited = store
        .put(&key("limited"), "y".into(), Some(HOUR), &Guard::NONE)
        .await;
    let lease = store.acquire(&key("l"), "me", HOUR).await.unwrap();
    store.add(&key("c"), 41, None, Some(HOUR)).await.unwrap();
    let last = put(&store, "gone", "z").await;
    store.delete(&key("gone"), &Guard::NONE).await.unwrap();
    drop(store);
    let store = tidegate_state::file(&path).unwrap();
    assert_eq!(read(&store, "kept").await.unwrap(), "x");
    assert_eq!(read(&store, "gone").await, None);
    let entry = store.get(&key("limited")).await.unwrap().unwrap();
    assert_eq!(Ok(entry.version), limited);
    let left = entry.expires_in.unwrap();
    assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
    assert_eq!(store.add(&key("c"), 1, None, None).await.unwrap(), 42);
    assert!(matches!(
        store.acquire(&key("l"), "other", HOUR).await,
        Err(Error::Held { .. })
    ));
    assert_eq!(store.renew(&lease).await.unwrap().epoch, lease.epoch);
    assert!(put(&store, "gone", "again").await > last);
    store.release(&lease).await.unwrap();
    drop(store);
    let store = tidegate_state::file(&path).unwrap();
    let next = store.acquire(&key("l"), "other", HOUR).await.unwrap();
    assert!(next.epoch > lease.epoch);
}

#[tokio::test]
async fn a_second_owner_is_told_that_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let store = tidegate_state::file(&path).unwrap();
    let watch = store.watch(&tidegate_state::Prefix::all());
    let second = tidegate_state::file(&path).unwrap_err();
    assert!(matches!(second, OpenError::InUse { .. }), "{second}");
    assert!(second.to_string().contains("in use"), "{second}");
    drop(store);
    // A watch needs the store too.
    assert!(tidegate_state::file(&path).is_err());
    drop(watch);
    tidegate_state::file(&path).unwrap();
}

#[tokio::test]
async fn only_the_owner_can_read_the_file_and_a_url_names_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("new/state");
    let store = tidegate_state::open(&StateUrl::File(inner.clone())).unwrap();
    put(&store, "a", "b").await;
    let mode = std::fs::metadata(inner.join(FILE_NAME))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_file_that_is_something_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE_NAME);
    let text = "not a database, ".repeat(1000);
    std::fs::write(&path, &text).unwrap();
    let error = tidegate_state::file(&path).unwrap_err();
    assert!(matches!(error, OpenError::File { .. }), "{error}");
    assert!(error.to_string().contains(FILE_NAME), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}
