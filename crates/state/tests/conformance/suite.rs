//! What every backend does. A behaviour is given an empty store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidegate_state::{
    Add, Candidate, Entry, Error, Event, Expect, Guard, Key, LARGEST_VALUE, Lease, Prefix, Store,
    Version, Watch,
};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::backends::{LONG, eventually};

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

async fn fenced_put(store: &Shared, lease: &Lease, value: &str) -> Result<Version, Error> {
    let value = Bytes::copy_from_slice(value.as_bytes());
    let guard = Guard::NONE.fenced(lease);
    store.put(&key("guarded"), value, None, &guard).await
}

pub(crate) async fn a_lease_has_one_holder_and_a_later_one_fences_the_earlier_one(store: Shared) {
    let name = key("leases/probe");
    assert_eq!(store.lease(&name).await.unwrap(), None);
    let first = store.acquire(&name, "one", SHORT).await.unwrap();
    fenced_put(&store, &first, "by one").await.unwrap();
    match store.acquire(&name, "two", HOUR).await {
        Err(Error::Held {
            lease,
            holder,
            remaining,
        }) => {
            assert_eq!((lease, holder.as_str()), (name.clone(), "one"));
            assert!(remaining <= SHORT, "{remaining:?}");
        }
        // A machine that stood still for longer than the lease.
        Ok(_) => assert!(tokio::time::Instant::now() >= first.until),
        Err(other) => panic!("{other}"),
    }
    eventually("the lease is taken over", || async {
        store.acquire(&name, "two", HOUR).await.is_ok()
    })
    .await;
    assert!(tokio::time::Instant::now() >= first.until);
    let view = store.lease(&name).await.unwrap().unwrap();
    assert!(view.epoch > first.epoch);
    assert_eq!(view.held.unwrap().0, "two");
    let fenced = Error::Fenced {
        lease: name.clone(),
        epoch: first.epoch,
        current: Some(view.epoch),
    };
    assert_eq!(
        fenced_put(&store, &first, "late").await,
        Err(fenced.clone())
    );
    let guard = Guard {
        expect: Expect::Absent,
        fence: Some(first.fence()),
    };
    // The fence is looked at before the expectation.
    assert_eq!(
        store
            .put(&key("guarded"), "late".into(), None, &guard)
            .await,
        Err(fenced.clone())
    );
    let delete = store
        .delete(&key("guarded"), &Guard::NONE.fenced(&first))
        .await;
    assert_eq!(delete, Err(fenced.clone()));
    assert_eq!(store.renew(&first).await, Err(fenced));
    store.release(&first).await.unwrap();
    assert_eq!(read(&store, "guarded").await.unwrap(), "by one");
    let second = store.acquire(&name, "two", HOUR).await.unwrap();
    assert_eq!(second.epoch, view.epoch);
    fenced_put(&store, &second, "by two").await.unwrap();
}

pub(crate) async fn of_many_candidates_for_a_lease_one_gets_it(store: Shared) {
    let mut epochs = Vec::new();
    for _ in 0..5 {
        let mut candidates = JoinSet::new();
        for number in 0..16 {
            let store = Arc::clone(&store);
            candidates.spawn(async move {
                let holder = format!("candidate {number}");
                store.acquire(&key("l"), &holder, HOUR).await
            });
        }
        let mut won = Vec::new();
        for result in candidates.join_all().await {
            match result {
                Ok(lease) => won.push(lease),
                Err(Error::Held { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        store.release(&won[0]).await.unwrap();
        epochs.push(won[0].epoch);
    }
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
}

pub(crate) async fn a_holder_that_asks_again_keeps_its_epoch(store: Shared) {
    let first = store.acquire(&key("l"), "me", SHORT).await.unwrap();
    let second = store.acquire(&key("l"), "me", HOUR).await.unwrap();
    assert_eq!(first.epoch, second.epoch);
    let (_, left) = store.lease(&key("l")).await.unwrap().unwrap().held.unwrap();
    assert!(left > HOUR / 2 && left <= HOUR, "{left:?}");
    fenced_put(&store, &first, "x").await.unwrap();
}

pub(crate) async fn a_lease_that_ran_out_is_prolonged_unless_somebody_took_it(store: Shared) {
    let lease = store.acquire(&key("l"), "me", SHORT).await.unwrap();
    eventually("the lease runs out", || async {
        store
            .lease(&key("l"))
            .await
            .unwrap()
            .unwrap()
            .held
            .is_none()
    })
    .await;
    fenced_put(&store, &lease, "nobody minds").await.unwrap();
    let renewed = store.renew(&lease).await.unwrap();
    assert_eq!(renewed.epoch, lease.epoch);
    assert!(renewed.until > lease.until);
}

pub(crate) async fn a_lease_that_was_given_back_is_free_at_once_and_carries_no_writes(
    store: Shared,
) {
    let first = store.acquire(&key("l"), "one", HOUR).await.unwrap();
    store.release(&first).await.unwrap();
    store.release(&first).await.unwrap();
    assert!(matches!(
        fenced_put(&store, &first, "late").await,
        Err(Error::Fenced { .. })
    ));
    assert!(matches!(
        store.renew(&first).await,
        Err(Error::Fenced { .. })
    ));
    let view = store.lease(&key("l")).await.unwrap().unwrap();
    assert_eq!((view.epoch, view.held), (first.epoch, None));
    let second = store.acquire(&key("l"), "two", HOUR).await.unwrap();
    assert!(second.epoch > first.epoch);
}

pub(crate) async fn a_counter_never_passes_its_ceiling_whoever_adds(store: Shared) {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut taken = 0;
            for _ in 0..40 {
                match store.add(&key("c"), 3, Some(500), None).await {
                    Ok(value) => {
                        assert!(value <= 500);
                        taken += 3;
                    }
                    Err(Error::Ceiling { value, ceiling, .. }) => {
                        assert!(value > 497 && ceiling == 500, "{value}")
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            taken
        });
    }
    assert_eq!(tasks.join_all().await.iter().sum::<u64>(), 498);
    assert_eq!(store.add(&key("c"), 2, Some(500), None).await.unwrap(), 500);
    // What was used and had not been reserved is counted, whatever the ceiling.
    assert_eq!(store.add(&key("c"), 7, None, None).await.unwrap(), 507);
    assert_eq!(store.add(&key("c"), -8, Some(1), None).await.unwrap(), 499);
}

pub(crate) async fn several_additions_are_done_all_or_none(store: Shared) {
    let add = |name: &str, delta, ceiling| Add {
        key: key(name),
        delta,
        ceiling,
        ttl: None,
    };
    let adds = [
        add("a", 5, Some(10)),
        add("b", 1, None),
        add("a", 5, Some(10)),
    ];
    assert_eq!(store.add_all(&adds).await.unwrap(), [5, 1, 10]);
    let refused = store
        .add_all(&[
            add("b", 1, None),
            add("new", 1, None),
            add("a", 1, Some(10)),
        ])
        .await;
    let ceiling = Error::Ceiling {
        key: key("a"),
        value: 10,
        ceiling: 10,
    };
    assert_eq!(refused, Err(ceiling));
    let reads = [add("a", 0, None), add("b", 0, None), add("new", 0, Some(0))];
    assert_eq!(store.add_all(&reads).await.unwrap(), [10, 1, 0]);
    assert_eq!(store.add_all(&[]).await.unwrap(), [0; 0]);
}

pub(crate) async fn a_counter_does_not_go_below_zero_and_reading_changes_nothing(store: Shared) {
    assert_eq!(store.add(&key("c"), -5, None, None).await.unwrap(), 0);
    assert_eq!(store.add(&key("c"), 0, None, None).await.unwrap(), 0);
    assert_eq!(
        store.add(&key("c"), i64::MAX, None, None).await.unwrap(),
        1 << 53
    );
    assert_eq!(store.add(&key("c"), 1, None, None).await.unwrap(), 1 << 53);
    assert_eq!(
        store.add(&key("c"), -1, None, None).await.unwrap(),
        (1 << 53) - 1
    );
    assert_eq!(store.add(&key("c"), i64::MIN, None, None).await.unwrap(), 0);
    assert_eq!(store.get(&key("c")).await.unwrap(), None);
    assert_eq!(store.list(&Prefix::all()).await.unwrap().entries, []);
}

pub(crate) async fn a_counter_lives_from_its_first_addition(store: Shared) {
    let began = Instant::now();
    assert_eq!(store.add(&key("c"), 1, None, Some(SHORT)).await.unwrap(), 1);
    let second = store.add(&key("c"), 1, None, Some(HOUR)).await.unwrap();
    assert!(second == 2 || began.elapsed() >= SHORT);
    eventually("the counter is over", || async {
        store.add(&key("c"), 0, None, None).await.unwrap() == 0
    })
    .await;
    // Times to live are counted in whole milliseconds.
    assert!(began.elapsed() + Duration::from_millis(2) >= SHORT);
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

pub(crate) async fn one_candidate_leads_and_when_it_leaves_the_next_does(store: Shared) {
    let ttl = Duration::from_secs(2);
    let start =
        |holder: &str| Candidate::start(Arc::clone(&store), key("lead"), holder.to_owned(), ttl);
    let mut first = start("first");
    let lease = timeout(LONG, first.changed()).await.unwrap().unwrap();
    let mut second = start("second");
    // It renews, and stays the one.
    let renewed = timeout(LONG, first.changed()).await.unwrap().unwrap();
    assert_eq!(renewed.epoch, lease.epoch);
    assert!(renewed.until > lease.until);
    assert_eq!(second.lease(), None);
    drop(first);
    let taken = timeout(LONG, second.changed()).await.unwrap().unwrap();
    assert!(taken.epoch > lease.epoch);
    assert_eq!(taken.holder, "second");
    assert_eq!(second.lease().map(|lease| lease.epoch), Some(taken.epoch));
}
