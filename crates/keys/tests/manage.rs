//! Virtual keys that are changed while they are used, and names that two want.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::Replica;
use tidegate_keys::Clock;
use tidegate_keys::account::*;
use tidegate_state::{Prefix, Store, memory};
use tokio::time::sleep;

const SOON: Duration = Duration::from_millis(250);

impl Replica {
    async fn start(store: &Arc<dyn Store>) -> Replica {
        Replica::with(store, Accounts::default()).await
    }

    /// Sends requests until one is refused; how many were served.
    async fn exhaust(&self, secret: &Secret) -> u64 {
        for served in 0..10_000 {
            let now = self.clock.unix_ms();
            let permit = self.accounts.authorize(secret.expose(), None, now).unwrap();
            let patience = Duration::from_millis(100);
            let estimate = Estimate::default();
            let reserved = permit.reserve_within(estimate, "m", &*self.clock, patience);
            match reserved.await {
                Ok(mut reservation) => reservation.sent("m"),
                Err(Refused::UsedUp { .. }) => return served,
                Err(other) => panic!("{other}"),
            }
        }
        panic!("no limit holds");
    }

    fn used(&self, id: &str) -> Vec<(u64, u64)> {
        let list = self.accounts.list(self.clock.unix_ms());
        let (_, spending) = list.into_iter().find(|(key, _)| key.id == id).unwrap();
        spending.iter().map(|s| (s.used, s.limit)).collect()
    }
}

fn request(name: &str, requests_per_minute: Option<u64>) -> KeyRequest {
    KeyRequest {
        name: name.into(),
        limits: Limits {
            requests_per_minute,
            ..Limits::default()
        },
        expires_in: None,
    }
}

fn patch(text: &str) -> KeyUpdate {
    serde_json::from_str(text).unwrap()
}

async fn update(store: &Arc<dyn Store>, id: &str, text: &str) -> Result<VirtualKey, KeyError> {
    let (_, after) = Accounts::update(&**store, id, &patch(text), 1_000).await?;
    Ok(after)
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_changed_holds_on_every_replica_and_counts_on() {
    let store = memory();
    let all = [Replica::start(&store).await, Replica::start(&store).await];
    let made = Accounts::create(&*store, &request("team", Some(20)), 0).await;
    let (key, secret) = made.unwrap();
    sleep(SOON).await;
    let first = all[0].exhaust(&secret).await + all[1].exhaust(&secret).await;
    assert!((20..=26).contains(&first), "{first}");
    // Raised: so much more, not all of it anew.
    update(
        &store,
        &key.id,
        r#"{"limits": {"requests_per_minute": 50}}"#,
    )
    .await
    .unwrap();
    sleep(SOON).await;
    let more = all[1].exhaust(&secret).await + all[0].exhaust(&secret).await;
    assert!((50..=62).contains(&(first + more)), "{first} + {more}");
    // Lowered below what is spent: nothing more in this window, on no replica.
    update(
        &store,
        &key.id,
        r#"{"limits": {"requests_per_minute": 30}}"#,
    )
    .await
    .unwrap();
    sleep(SOON).await;
    for replica in &all {
        assert_eq!(replica.exhaust(&secret).await, 0);
        let (used, limit) = replica.used(&key.id)[0];
        assert!(used >= 50 && limit == 30, "{used} of {limit}");
    }
    // Removed.
    update(
        &store,
        &key.id,
        r#"{"limits": {"requests_per_minute": null}}"#,
    )
    .await
    .unwrap();
    sleep(SOON).await;
    assert!(all[0].used(&key.id).is_empty());
}

#[tokio::test(start_paused = true)]
async fn budgets_that_are_changed_at_the_same_moment_are_all_changed() {
    let store = memory();
    let made = Accounts::create(&*store, &request("team", None), 0).await;
    let (key, _) = made.unwrap();
    let change = |what: &str| {
        let text = format!(r#"{{"limits": {{"change_budgets": [{what}]}}}}"#);
        let (store, id) = (store.clone(), key.id.clone());
        tokio::spawn(async move { update(&store, &id, &text).await })
    };
    let changes = [
        r#"{"tokens": 1, "per": "day"}"#,
        r#"{"tokens": 2, "per": "month"}"#,
        r#"{"micros": 3, "per": "day"}"#,
        r#"{"micros": 4, "per": "month"}"#,
    ];
    for changed in changes.map(change) {
        changed.await.unwrap().unwrap();
    }
    let after = update(&store, &key.id, "{}").await.unwrap();
    let mut budgets: Vec<_> = after.limits.budgets.iter().map(|b| b.amount).collect();
    budgets.sort_by_key(|amount| match amount {
        Amount::Tokens(n) | Amount::Micros(n) => *n,
    });
    assert_eq!(
        budgets,
        [
            Amount::Tokens(1),
            Amount::Tokens(2),
            Amount::Micros(3),
            Amount::Micros(4)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_of_a_higher_limit_goes_back_when_it_is_lowered() {
    let store = memory();
    let all = [Replica::start(&store).await, Replica::start(&store).await];
    let made = Accounts::create(&*store, &request("team", Some(1_000)), 0).await;
    let (key, secret) = made.unwrap();
    sleep(SOON).await;
    // The first one takes a tenth of the limit in advance, and spends little of it.
    let now = all[0].clock.unix_ms();
    let permit = all[0]
        .accounts
        .authorize(secret.expose(), None, now)
        .unwrap();
    drop(permit.reserve(Estimate::default(), "m", now).unwrap());
    sleep(SOON).await;
    update(
        &store,
        &key.id,
        r#"{"limits": {"requests_per_minute": 10}}"#,
    )
    .await
    .unwrap();
    sleep(SOON).await;
    let served = all[1].exhaust(&secret).await + all[0].exhaust(&secret).await;
    assert!((9..=10 + 2 * 2).contains(&served), "{served}");
}

#[tokio::test(start_paused = true)]
async fn two_live_keys_never_have_one_name() {
    let store = memory();
    let make = |name: &'static str, at: u64| {
        let store = store.clone();
        async move { Accounts::create(&*store, &request(name, None), at).await }
    };
    let taken = |error: &KeyError| matches!(error, KeyError::NameTaken(_));
    let (a, b) = tokio::join!(make("team", 0), make(" team ", 0));
    assert!(a.is_ok() != b.is_ok());
    let (kept, _) = a.or(b).unwrap();
    assert_eq!(kept.name, "team");
    // Long after, and to rename too.
    assert!(taken(&make("team", 3_600_000).await.unwrap_err()));
    let (other, _) = make("other", 0).await.unwrap();
    let renamed = update(&store, &other.id, r#"{"name": "team"}"#).await;
    assert!(taken(&renamed.unwrap_err()));
    // A name that is given up is free at once: by renaming, and by revoking.
    assert_eq!(
        update(&store, &kept.id, r#"{"name": "crew"}"#)
            .await
            .unwrap()
            .name,
        "crew"
    );
    assert!(make("team", 1_000).await.is_ok());
    Accounts::revoke(&*store, &kept.id).await.unwrap();
    let (again, _) = make("crew", 1_000).await.unwrap();
    // Nothing is left of keys that are gone: two keys, and their names.
    Accounts::revoke(&*store, &again.id).await.unwrap();
    let left = store.list(&Prefix::all()).await.unwrap();
    assert_eq!(left.entries.len(), 2 * 2, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_a_name_whose_key_was_never_written_does_not_last() {
    let store = memory();
    let (key, _) = Accounts::create(&*store, &request("team", None), 1_000)
        .await
        .unwrap();
    let listing = store
        .list(&Prefix::of(&["accounts", "keys"]).unwrap())
        .await;
    for (path, _) in listing.unwrap().entries {
        store
            .delete(&path, &tidegate_state::Guard::NONE)
            .await
            .unwrap();
    }
    assert!(matches!(
        Accounts::update(&*store, &key.id, &KeyUpdate::default(), 1_000).await,
        Err(KeyError::Unknown(_))
    ));
    let early = Accounts::create(&*store, &request("team", None), 2_000).await;
    assert!(matches!(early, Err(KeyError::NameTaken(_))));
    let late = Accounts::create(&*store, &request("team", None), 12_000).await;
    assert!(late.is_ok());
}
