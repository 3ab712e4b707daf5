//! Counters: additions below a ceiling, several at once or none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_state::{Add, Error, Prefix};
use tokio::task::JoinSet;

use super::{HOUR, SHORT, Shared, key};
use crate::backends::eventually;

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
