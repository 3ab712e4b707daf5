//! Entries: values with versions, compare-and-set, listings, times to live.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_state::{Entry, Error, Event, Guard, LARGEST_VALUE, Prefix};
use tokio::task::JoinSet;

use super::{HOUR, SHORT, Shared, key, next, put, read};
use crate::backends::eventually;

pub(crate) async fn what_is_written_is_read_back_and_what_is_deleted_is_gone(store: Shared) {
    let at = key("a/b");
    assert_eq!(store.get(&at).await.unwrap(), None);
    assert!(!store.delete(&at, &Guard::NONE).await.unwrap());
    let first = put(&store, "a/b", "one").await;
    let second = put(&store, "a/b", "two").await;
    assert!(second > first);
    let entry = store.get(&at).await.unwrap().unwrap();
    let expected = Entry {
        value: "two".into(),
        version: second,
        expires_in: None,
    };
    assert_eq!(entry, expected);
    assert_eq!(read(&store, "a").await, None);
    assert!(store.delete(&at, &Guard::version(second)).await.unwrap());
    assert_eq!(store.get(&at).await.unwrap(), None);
    let gone = store.delete(&at, &Guard::version(second)).await;
    let conflict = Error::Conflict {
        key: at,
        current: None,
    };
    assert_eq!(gone, Err(conflict));
}

pub(crate) async fn values_are_any_bytes_up_to_the_limit(store: Shared) {
    let all: Vec<u8> = (0..=255).cycle().take(LARGEST_VALUE).collect();
    let mut watch = store.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, Event::Resync(Vec::new()));
    for value in [Bytes::new(), Bytes::from_static(b"\r\n\0 \xff"), all.into()] {
        store
            .put(&key("v"), value.clone(), None, &Guard::NONE)
            .await
            .unwrap();
        let read = store.get(&key("v")).await.unwrap().unwrap();
        assert!(read.value == value);
        assert!(store.list(&Prefix::all()).await.unwrap().entries[0].1 == read);
        match next(&mut watch).await {
            Event::Put(at, entry) => assert!(at == key("v") && entry == read),
            other => panic!("{other:?}"),
        }
    }
    let over = Bytes::from(vec![0; LARGEST_VALUE + 1]);
    let refused = store.put(&key("v"), over, None, &Guard::NONE).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

pub(crate) async fn of_many_writers_with_the_same_expectation_exactly_one_wins(store: Shared) {
    let mut guard = Guard::absent();
    for _ in 0..5 {
        let mut writers = JoinSet::new();
        for number in 0..32 {
            let (store, guard) = (Arc::clone(&store), guard.clone());
            writers.spawn(async move {
                let value = Bytes::from(number.to_string());
                let result = store.put(&key("race"), value, None, &guard).await;
                (number, result)
            });
        }
        let mut winners = Vec::new();
        for (number, result) in writers.join_all().await {
            match result {
                Ok(version) => winners.push((number, version)),
                Err(Error::Conflict {
                    current: Some(_), ..
                }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let entry = store.get(&key("race")).await.unwrap().unwrap();
        assert_eq!(entry.version, winners[0].1);
        assert_eq!(entry.value, winners[0].0.to_string());
        guard = Guard::version(entry.version);
    }
}

pub(crate) async fn increments_by_compare_and_set_lose_nothing(store: Shared) {
    put(&store, "n", "0").await;
    let mut tasks = JoinSet::new();
    for _ in 0..6 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for _ in 0..20 {
                loop {
                    let entry = store.get(&key("n")).await.unwrap().unwrap();
                    let number: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                    let next = Bytes::from((number + 1).to_string());
                    let guard = Guard::version(entry.version);
                    match store.put(&key("n"), next, None, &guard).await {
                        Ok(_) => break,
                        Err(Error::Conflict { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(read(&store, "n").await.unwrap(), "120");
}

pub(crate) async fn an_entry_that_was_made_again_is_not_the_old_one(store: Shared) {
    let old = put(&store, "a", "same").await;
    store.delete(&key("a"), &Guard::NONE).await.unwrap();
    let new = put(&store, "a", "same").await;
    assert!(new > old);
    let late = store
        .put(&key("a"), "late".into(), None, &Guard::version(old))
        .await;
    let conflict = Error::Conflict {
        key: key("a"),
        current: Some(new),
    };
    assert_eq!(late, Err(conflict));
}

pub(crate) async fn a_listing_has_what_is_below_its_prefix_in_order(store: Shared) {
    for at in ["b/2", "b/10", "b", "bb/1", "b/1/x", "a/1", "c"] {
        put(&store, at, at).await;
    }
    let listing = store.list(&Prefix::of(&["b"]).unwrap()).await.unwrap();
    let keys: Vec<&str> = listing
        .entries
        .iter()
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(keys, ["b/1/x", "b/10", "b/2"]);
    assert!(
        listing
            .entries
            .iter()
            .all(|(key, entry)| entry.value == key.as_str())
    );
    let all = store.list(&Prefix::all()).await.unwrap();
    assert_eq!(all.entries.len(), 7);
    assert_eq!(
        all.entries.iter().map(|(_, entry)| entry.version).max(),
        Some(all.version)
    );
}

pub(crate) async fn an_entry_ends_with_its_time_to_live_and_watchers_hear_of_it(store: Shared) {
    let mut watch = store.watch(&Prefix::all());
    assert_eq!(next(&mut watch).await, Event::Resync(Vec::new()));
    let began = Instant::now();
    let version = store
        .put(&key("t"), "x".into(), Some(SHORT), &Guard::NONE)
        .await
        .unwrap();
    match next(&mut watch).await {
        Event::Put(at, entry) => {
            assert_eq!((at, entry.version), (key("t"), version));
            let left = entry.expires_in.unwrap();
            assert!(left <= SHORT && left > Duration::ZERO, "{left:?}");
        }
        other => panic!("{other:?}"),
    }
    match next(&mut watch).await {
        Event::Delete(at, gone) => assert!(at == key("t") && gone > version),
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() >= SHORT);
    assert_eq!(store.get(&key("t")).await.unwrap(), None);
    assert_eq!(store.list(&Prefix::all()).await.unwrap().entries, []);
    store
        .put(&key("t"), "y".into(), None, &Guard::absent())
        .await
        .unwrap();
}

pub(crate) async fn a_put_renews_or_removes_the_time_to_live(store: Shared) {
    for at in ["renewed", "kept", "ends"] {
        store
            .put(&key(at), "x".into(), Some(SHORT), &Guard::NONE)
            .await
            .unwrap();
    }
    store
        .put(&key("renewed"), "y".into(), Some(HOUR), &Guard::NONE)
        .await
        .unwrap();
    put(&store, "kept", "y").await;
    eventually("the third entry ends", || async {
        read(&store, "ends").await.is_none()
    })
    .await;
    let left = async |at| store.get(&key(at)).await.unwrap().unwrap().expires_in;
    let renewed = left("renewed").await.unwrap();
    assert!(renewed > HOUR / 2 && renewed <= HOUR, "{renewed:?}");
    assert_eq!(left("kept").await, None);
}

pub(crate) async fn the_callers_mistakes_are_told_apart(store: Shared) {
    let invalid = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(!error.is_unavailable());
    };
    let zero = Some(Duration::ZERO);
    let put = store.put(&key("a"), Bytes::new(), zero, &Guard::NONE).await;
    invalid(put.map(drop));
    invalid(store.add(&key("a"), 1, None, zero).await.map(drop));
    invalid(store.acquire(&key("a"), "", HOUR).await.map(drop));
    invalid(
        store
            .acquire(&key("a"), "me", Duration::MAX)
            .await
            .map(drop),
    );
    assert_eq!(store.lease(&key("a")).await.unwrap(), None);
}
