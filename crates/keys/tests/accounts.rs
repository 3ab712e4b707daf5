//! Virtual keys on several replicas: made, used, settled, revoked; with the store near and away.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Calendar, Fickle, Replica};
use tidegate_keys::Clock;
use tidegate_keys::account::*;
use tidegate_llm::price::{Micros, Price, PriceTable};
use tidegate_llm::usage::Usage;
use tidegate_state::{Store, memory};
use tokio::time::sleep;

impl Replica {
    async fn start(store: &Arc<dyn Store>) -> Replica {
        let price = Price {
            input: Micros::from_units(1.0),
            output: Micros::from_units(2.0),
            cached_input: None,
        };
        let prices = PriceTable::new([("priced*".to_owned(), price)]);
        Replica::with(store, Accounts::new(prices, "EUR")).await
    }

    fn permit(&self, secret: &Secret) -> Result<Permit, Denied> {
        self.accounts
            .authorize(secret.expose(), Some("gpt-4o"), self.clock.unix_ms())
    }

    async fn reserve(
        &self,
        secret: &Secret,
        input: u64,
        output: u64,
    ) -> Result<Reservation, Refused> {
        let permit = self.permit(secret).unwrap();
        let patience = Duration::from_millis(100);
        permit
            .reserve_within(
                Estimate { input, output },
                "priced-1",
                &*self.clock,
                patience,
            )
            .await
    }

    fn used(&self, secret: &Secret) -> Vec<u64> {
        let id = self.permit(secret).unwrap().key().id.clone();
        let list = self.accounts.list(self.clock.unix_ms());
        let (_, spending) = list.into_iter().find(|(key, _)| key.id == id).unwrap();
        spending.iter().map(|s| s.used).collect()
    }
}

async fn key(store: &Arc<dyn Store>, limits: Limits) -> (VirtualKey, Secret) {
    let request = KeyRequest {
        name: "team".into(),
        limits,
        expires_in: None,
    };
    Accounts::create(&**store, &request, Calendar::here().unix_ms())
        .await
        .unwrap()
}

fn usage(input: u64, output: u64) -> Usage {
    Usage {
        input,
        output,
        ..Usage::default()
    }
}

const SOON: Duration = Duration::from_millis(250);

#[tokio::test(start_paused = true)]
async fn a_key_opens_every_replica_until_it_is_revoked() {
    let store = memory();
    let all = [Replica::start(&store).await, Replica::start(&store).await];
    let limits = Limits {
        models: vec!["gpt-4*".into()],
        ..Limits::default()
    };
    let (made, secret) = key(&store, limits).await;
    sleep(SOON).await;
    for replica in &all {
        assert_eq!(replica.permit(&secret).unwrap().key(), &made);
        let at = replica.clock.unix_ms();
        let other = replica
            .accounts
            .authorize(secret.expose(), Some("claude"), at);
        assert_eq!(
            other.unwrap_err(),
            Denied::Model {
                model: "claude".into()
            }
        );
        assert!(
            replica
                .accounts
                .authorize(secret.expose(), None, at)
                .is_ok()
        );
        assert_eq!(
            replica
                .accounts
                .authorize("tg-wrong", None, at)
                .unwrap_err(),
            Denied::Unknown
        );
    }
    // The store has no token.
    let everything = store.list(&tidegate_state::Prefix::all()).await.unwrap();
    assert!(!format!("{everything:?}").contains(&secret.expose()[3..15]));
    assert_eq!(Accounts::revoke(&*store, &made.id).await.unwrap(), made);
    sleep(SOON).await;
    for replica in &all {
        assert_eq!(replica.permit(&secret).unwrap_err(), Denied::Unknown);
    }
    assert!(matches!(
        Accounts::revoke(&*store, &made.id).await,
        Err(KeyError::Unknown(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_key_ends_at_its_time() {
    let store = memory();
    let replica = Replica::start(&store).await;
    let request = KeyRequest {
        name: "short".into(),
        expires_in: Some(60),
        ..KeyRequest::default()
    };
    let (_, secret) = Accounts::create(&*store, &request, replica.clock.unix_ms())
        .await
        .unwrap();
    sleep(SOON).await;
    assert!(replica.permit(&secret).is_ok());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(replica.permit(&secret).unwrap_err(), Denied::Unknown);
    assert!(replica.accounts.list(replica.clock.unix_ms()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn requests_per_minute_hold_over_all_replicas_and_begin_anew() {
    let store = memory();
    let all = [Replica::start(&store).await, Replica::start(&store).await];
    let (_, secret) = key(
        &store,
        Limits {
            requests_per_minute: Some(20),
            ..Limits::default()
        },
    )
    .await;
    sleep(SOON).await;
    for _ in 0..2 {
        let mut served = 0;
        for i in 0..60 {
            match all[i % 2].reserve(&secret, 1, 1).await {
                Ok(reservation) => {
                    reservation.settle(&usage(1, 1));
                    served += 1;
                }
                Err(refused) => {
                    let wait = refused.retry_after().unwrap();
                    assert!(wait <= Duration::from_secs(60), "{refused}");
                }
            }
        }
        // L + R × (C + M).
        assert!((20..=20 + 2 * (2 + 1)).contains(&served), "{served}");
        sleep(Span::Minute.left(all[0].clock.unix_ms())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn trap_12_what_is_reserved_is_settled_also_when_the_caller_leaves() {
    let store = memory();
    let replica = Replica::start(&store).await;
    let limits = Limits {
        budgets: vec![
            Budget {
                amount: Amount::Tokens(100_000),
                per: Span::Day,
            },
            Budget::money(1.0, Span::Month),
        ],
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    sleep(SOON).await;
    let reserve = || async {
        let reservation = replica.reserve(&secret, 100, 900).await.unwrap();
        assert_eq!(replica.used(&secret)[0], 1_000);
        reservation
    };
    // Refused before a provider had it: nothing is used.
    drop(reserve().await);
    assert_eq!(replica.used(&secret), [0, 0]);
    // The provider told the usage: 1 µ for a token of the prompt, 2 for one of the answer.
    let mut reservation = reserve().await;
    reservation.sent("priced-1");
    reservation.settle(&usage(110, 50));
    assert_eq!(replica.used(&secret), [160, 210]);
    // The caller left before the answer began: the prompt.
    let held = replica.used(&secret);
    let mut reservation = replica.reserve(&secret, 100, 900).await.unwrap();
    assert_eq!(replica.used(&secret)[0], held[0] + 1_000);
    reservation.sent("priced-1");
    drop(reservation);
    assert_eq!(replica.used(&secret), [160 + 100, 210 + 100]);
    // More than was reserved is counted too.
    let mut reservation = replica.reserve(&secret, 1, 1).await.unwrap();
    reservation.sent("priced-1");
    reservation.settle(&usage(1_000, 0));
    assert_eq!(replica.used(&secret), [260 + 1_000, 310 + 1_000]);
}

#[tokio::test(start_paused = true)]
async fn trap_12_under_concurrency_a_budget_holds_within_its_bound() {
    let store = memory();
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(Replica::start(&store).await);
    }
    let budget = 50_000;
    let limits = Limits {
        budgets: vec![Budget {
            amount: Amount::Tokens(budget),
            per: Span::Day,
        }],
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    sleep(SOON).await;
    let mut running: Vec<Reservation> = Vec::new();
    let mut admitted = 0;
    for i in 0..3_000 {
        if let Ok(mut reservation) = all[i % 3].reserve(&secret, 50, 50).await {
            reservation.sent("priced-1");
            running.push(reservation);
            admitted += 100;
        }
        // Forty at a time.
        if running.len() > 40 {
            running.remove(i % 40).settle(&usage(50, 50));
        }
    }
    let bound = budget + 3 * (budget / 100 + 100);
    assert!(
        admitted >= budget && admitted <= bound,
        "{admitted}, bound {bound}"
    );
    // Asked again a while later, the store's books say the same.
    sleep(Duration::from_secs(2)).await;
    let refused = all[0].reserve(&secret, 50, 50).await.unwrap_err();
    assert!(
        matches!(
            refused,
            Refused::UsedUp {
                what: "tokens",
                per: Span::Day,
                ..
            }
        ),
        "{refused}"
    );
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_callers_are_served_within_what_was_left() {
    let inner = memory();
    let fickle = Arc::new(Fickle::new(inner.clone()));
    let store: Arc<dyn Store> = fickle.clone();
    let replica = Replica::start(&store).await;
    let limits = Limits {
        budgets: vec![Budget {
            amount: Amount::Tokens(10_000),
            per: Span::Day,
        }],
        ..Limits::default()
    };
    let (_, secret) = key(&inner, limits).await;
    sleep(SOON).await;
    replica
        .reserve(&secret, 500, 500)
        .await
        .unwrap()
        .settle(&usage(500, 500));
    sleep(SOON).await;
    fickle.set_away(true);
    sleep(Duration::from_secs(6)).await;
    let mut served = 0;
    while let Ok(reservation) = replica.reserve(&secret, 50, 50).await {
        reservation.settle(&usage(50, 50));
        served += 100;
        assert!(served < 20_000);
    }
    assert!((8_000..=9_200).contains(&served), "{served}");
    // Back again, the debt is told: nobody else gets what was spent here.
    fickle.set_away(false);
    let other = Replica::start(&inner).await;
    sleep(Duration::from_secs(6)).await;
    let mut more = 0;
    while let Ok(reservation) = other.reserve(&secret, 50, 50).await {
        reservation.settle(&usage(50, 50));
        more += 100;
    }
    assert!(more <= 400, "{more}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_replica_gives_its_lease_back() {
    let store = memory();
    let all = [Replica::start(&store).await, Replica::start(&store).await];
    let limits = Limits {
        budgets: vec![Budget {
            amount: Amount::Tokens(10_000),
            per: Span::Day,
        }],
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    sleep(SOON).await;
    all[0]
        .reserve(&secret, 5, 5)
        .await
        .unwrap()
        .settle(&usage(5, 5));
    sleep(Duration::from_secs(60)).await;
    let mut served = 0;
    while let Ok(reservation) = all[1].reserve(&secret, 5, 5).await {
        reservation.settle(&usage(5, 5));
        served += 10;
    }
    assert!((9_990..=10_110).contains(&served), "{served}");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_leaves_gives_its_lease_back_and_tells_what_it_owes() {
    let store = memory();
    let all = [Replica::start(&store).await, Replica::start(&store).await];
    let limits = Limits {
        budgets: vec![Budget {
            amount: Amount::Tokens(10_000),
            per: Span::Day,
        }],
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    sleep(SOON).await;
    let served = all[0].reserve(&secret, 5, 5).await.unwrap();
    served.settle(&usage(5, 5));
    sleep(SOON).await;
    // Too late for the task to tell it.
    all[0].task.abort();
    sleep(SOON).await;
    let last = all[0].reserve(&secret, 5, 5).await.unwrap();
    last.settle(&usage(1_000, 990));
    let clock: Arc<dyn Clock> = all[0].clock.clone();
    leave(&all[0].accounts, &store, &clock).await;
    let mut more = 0;
    while let Ok(reservation) = all[1].reserve(&secret, 5, 5).await {
        reservation.settle(&usage(5, 5));
        more += 10;
    }
    assert!((8_000..=8_110).contains(&more), "{more}");
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_names_as_the_most_erases_nothing_that_was_spent() {
    let store = memory();
    let replica = Replica::start(&store).await;
    let limits = Limits {
        tokens_per_minute: Some(100),
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    sleep(SOON).await;
    let half = replica.reserve(&secret, 25, 25).await.unwrap();
    half.settle(&usage(25, 25));
    sleep(SOON).await;
    // Refused by the provider: nothing was used.
    let refused = replica.reserve(&secret, 5, u64::MAX).await.unwrap();
    sleep(SOON).await;
    drop(refused);
    sleep(SOON).await;
    assert_eq!(replica.used(&secret), [50]);
    let mut more = 0;
    for _ in 0..100 {
        let Ok(reservation) = replica.reserve(&secret, 1, 1).await else {
            break;
        };
        reservation.settle(&usage(1, 1));
        more += 2;
    }
    assert!((50..=62).contains(&more), "{more}");
}

#[tokio::test(start_paused = true)]
async fn a_count_that_panics_is_made_again() {
    let fickle = Arc::new(Fickle::new(memory()));
    let store: Arc<dyn Store> = fickle.clone();
    let replica = Replica::start(&store).await;
    let limits = Limits {
        tokens_per_minute: Some(100),
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    sleep(SOON).await;
    fickle.panic_once();
    let begun = replica.reserve(&secret, 5, 5).await.unwrap();
    begun.settle(&usage(5, 5));
    sleep(Duration::from_secs(6)).await;
    let more = replica.reserve(&secret, 20, 20).await.unwrap();
    more.settle(&usage(20, 20));
    assert_eq!(replica.used(&secret), [50]);
}

#[tokio::test(start_paused = true)]
async fn a_request_for_a_model_without_a_price_reserves_nothing_of_the_other_limits() {
    let store = memory();
    let replica = Replica::start(&store).await;
    let limits = Limits {
        requests_per_minute: Some(5),
        budgets: vec![Budget::money(1.0, Span::Day)],
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    sleep(SOON).await;
    let permit = replica.permit(&secret).unwrap();
    let refused = permit.reserve(
        Estimate::default(),
        "free-of-price",
        replica.clock.unix_ms(),
    );
    assert!(matches!(refused, Err(Refused::NoPrice { .. })));
    assert_eq!(replica.used(&secret), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_budget_in_money_needs_a_price() {
    let store = memory();
    let replica = Replica::start(&store).await;
    let (_, secret) = key(
        &store,
        Limits {
            budgets: vec![Budget::money(1.0, Span::Day)],
            ..Limits::default()
        },
    )
    .await;
    sleep(SOON).await;
    let permit = replica.permit(&secret).unwrap();
    let refused = permit
        .reserve(
            Estimate::default(),
            "free-of-price",
            replica.clock.unix_ms(),
        )
        .unwrap_err();
    assert_eq!(
        (refused.retry_after(), refused),
        (
            None,
            Refused::NoPrice {
                model: "free-of-price".into()
            }
        )
    );
}

#[tokio::test(start_paused = true)]
async fn before_the_store_was_read_nobody_is_let_in() {
    let fickle = Arc::new(Fickle::new(memory()));
    let accounts = Arc::new(Accounts::default());
    assert_eq!(
        accounts.authorize("tg-x", None, 0).unwrap_err(),
        Denied::NotReady
    );
    let store: Arc<dyn Store> = fickle;
    let replica = Replica::start(&store).await;
    assert!(replica.accounts.is_ready());
}

/// The same keys in another store.
async fn another(store: &Arc<dyn Store>) -> Arc<dyn Store> {
    let other = memory();
    let all = store.list(&tidegate_state::Prefix::all()).await.unwrap();
    for (path, entry) in all.entries {
        let free = tidegate_state::Guard::absent();
        other.put(&path, entry.value, None, &free).await.unwrap();
    }
    other
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_store_that_is_left_is_answered_by_the_other() {
    let store = memory();
    let limits = Limits {
        requests_per_minute: Some(60),
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    let other = another(&store).await;
    let replica = Replica::start(&store).await;
    sleep(SOON).await;
    // Nobody asks the one any more.
    replica.task.abort();
    let permit = replica.permit(&secret).unwrap();
    let (asks, clock) = (Estimate::default(), replica.clock.clone());
    // All that the replica was granted.
    let mut held = Vec::new();
    let short = loop {
        match permit.reserve(asks, "m", clock.unix_ms()) {
            Ok(reservation) => held.push(reservation),
            Err(short) => break short,
        }
    };
    assert!(matches!(short, Refused::Unconfirmed { .. }), "{short:?}");
    let waiting = tokio::spawn(async move {
        let patience = Duration::from_secs(60);
        permit.reserve_within(asks, "m", &*clock, patience).await
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let clock: Arc<dyn Clock> = replica.clock.clone();
    let parted = replica.accounts.part_from(store.clone(), clock.clone());
    let task = tokio::spawn(run(replica.accounts.clone(), other.clone(), clock));
    let answer = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    drop(answer.expect("the other store answers").unwrap().unwrap());
    assert_eq!(replica.used(&secret), [1]);
    drop((held, parted));
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_left_for_another_hears_what_was_spent_and_the_other_begins_anew() {
    let store = memory();
    let limits = Limits {
        budgets: vec![Budget {
            amount: Amount::Tokens(100_000),
            per: Span::Day,
        }],
        ..Limits::default()
    };
    let (_, secret) = key(&store, limits).await;
    let other = another(&store).await;
    let replica = Replica::start(&store).await;
    sleep(SOON).await;
    let mut first = replica.reserve(&secret, 10, 90).await.unwrap();
    first.sent("priced-1");
    first.settle(&usage(10, 20));
    let mut under_way = replica.reserve(&secret, 100, 900).await.unwrap();
    under_way.sent("priced-1");
    sleep(SOON).await;

    replica.task.abort();
    tokio::task::yield_now().await;
    let clock: Arc<dyn Clock> = replica.clock.clone();
    let parted = replica.accounts.part_from(store.clone(), clock.clone());
    let task = tokio::spawn(run(replica.accounts.clone(), other.clone(), clock));
    parted.settle().await;
    // Keys stay known, and nothing is counted in the other store yet.
    assert_eq!(replica.used(&secret), [0]);
    let watching = Replica::start(&store).await;
    let seen = |replica: &Replica| replica.used(&secret)[0];
    let asks = watching.reserve(&secret, 1, 0).await.unwrap();
    sleep(SOON).await;
    drop(asks);
    // What was settled and what is reserved; what the second replica has taken in advance is given back below.
    assert!(seen(&watching) >= 30 + 1_000, "{}", seen(&watching));

    // What was under way settles with the store that it began with.
    let rest = tokio::spawn(parted.settle_the_rest());
    sleep(SOON).await;
    assert!(!rest.is_finished());
    under_way.settle(&usage(100, 70));
    tokio::time::timeout(Duration::from_secs(10), rest)
        .await
        .expect("nothing is under way any more")
        .unwrap();
    let clock: Arc<dyn Clock> = watching.clock.clone();
    watching.task.abort();
    leave(&watching.accounts, &store, &clock).await;
    let last = Replica::start(&store).await;
    let asks = last.reserve(&secret, 1, 0).await.unwrap();
    sleep(SOON).await;
    drop(asks);
    assert_eq!(seen(&last), 30 + 170);

    // The other one counts what comes now, and that alone.
    let mut second = replica.reserve(&secret, 5, 5).await.unwrap();
    second.sent("priced-1");
    second.settle(&usage(5, 2));
    sleep(SOON).await;
    assert_eq!(replica.used(&secret), [7]);
    task.abort();
}
