//! Watches: everything at the beginning, then every change, and everything anew after a gap.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_state::{Entry, Event, Guard, Key, Prefix, Watch};
use tokio::task::JoinSet;

use super::{Shared, key, next, put};

/// What a watcher knows.
#[derive(Default)]
struct Picture(BTreeMap<Key, Entry>);

impl Picture {
    /// Takes an event; entries of one key must come in the order of their versions.
    fn take(&mut self, event: Event) {
        match event {
            Event::Resync(entries) => self.0 = entries.into_iter().collect(),
            Event::Put(key, entry) => {
                let version = entry.version;
                let old = self.0.insert(key, entry);
                assert!(old.is_none_or(|old| old.version < version));
            }
            Event::Delete(key, version) => {
                let old = self.0.remove(&key).expect("what is deleted was there");
                assert!(old.version < version);
            }
        }
    }
}

pub(crate) async fn a_watch_begins_with_everything_and_goes_on_with_every_change_in_order(
    store: Shared,
) {
    put(&store, "w/0", "before").await;
    let mut watches: Vec<Watch> = (0..3).map(|_| store.watch(&Prefix::all())).collect();
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for turn in 0..30 {
                let at = format!("w/{}", (writer + turn) % 5);
                if turn % 7 == 3 {
                    store.delete(&key(&at), &Guard::NONE).await.unwrap();
                } else {
                    put(&store, &at, &format!("{writer}-{turn}")).await;
                }
            }
        });
    }
    let mut following = JoinSet::new();
    for mut watch in watches.drain(..) {
        following.spawn(async move {
            let mut picture = Picture::default();
            let first = next(&mut watch).await;
            assert!(matches!(first, Event::Resync(_)), "{first:?}");
            picture.take(first);
            while !picture.0.contains_key(&key("end")) {
                picture.take(next(&mut watch).await);
            }
            picture.0
        });
    }
    writers.join_all().await;
    put(&store, "end", "").await;
    let listing = store.list(&Prefix::all()).await.unwrap();
    let truth: BTreeMap<Key, Entry> = listing.entries.into_iter().collect();
    for picture in following.join_all().await {
        assert_eq!(picture, truth);
    }
}

pub(crate) async fn a_watch_hears_of_its_prefix_alone(store: Shared) {
    put(&store, "other/x", "").await;
    let mut watch = store.watch(&Prefix::of(&["mine"]).unwrap());
    assert_eq!(next(&mut watch).await, Event::Resync(Vec::new()));
    put(&store, "other/y", "").await;
    put(&store, "mine", "").await;
    put(&store, "mine/x", "").await;
    match next(&mut watch).await {
        Event::Put(at, _) => assert_eq!(at, key("mine/x")),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn a_watcher_that_was_too_slow_is_given_everything_anew(store: Shared) {
    let mut slow = store.watch(&Prefix::all());
    assert_eq!(next(&mut slow).await, Event::Resync(Vec::new()));
    // Another watch tells when all changes have arrived here.
    let mut fast = store.watch(&Prefix::all());
    let reading = tokio::spawn(async move {
        loop {
            match next(&mut fast).await {
                Event::Put(at, _) if at == key("last") => break,
                // The writers may have been too fast for this one as well.
                Event::Resync(all) if all.iter().any(|(at, _)| *at == key("last")) => break,
                _ => {}
            }
        }
    });
    let mut writers = JoinSet::new();
    for writer in 0..16 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            for turn in 0..80 {
                put(&store, &format!("k/{writer}"), &turn.to_string()).await;
            }
        });
    }
    writers.join_all().await;
    put(&store, "last", "").await;
    reading.await.unwrap();
    match next(&mut slow).await {
        Event::Resync(entries) => {
            assert_eq!(entries.len(), 17);
            assert!(entries[..16].iter().all(|(_, entry)| entry.value == "79"));
        }
        other => panic!("{other:?}"),
    }
    put(&store, "after", "").await;
    match next(&mut slow).await {
        Event::Put(at, _) => assert_eq!(at, key("after")),
        other => panic!("{other:?}"),
    }
}
