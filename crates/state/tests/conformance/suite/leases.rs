//! Leases: one holder, epochs that only grow, and writes that are fenced by them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_state::{Candidate, Error, Expect, Guard, Lease, Version};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{HOUR, SHORT, Shared, key, read};
use crate::backends::{LONG, eventually};

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
