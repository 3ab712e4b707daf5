//! Replicas that spend one limit, with the store near, away, and with answers that are lost; that end, and begin anew.

use std::sync::Arc;

use proptest::prelude::*;

use super::meter::{Ask, Meter, Unit, Window};
use super::window::Span;

const NOW: u64 = 1_800_000_000_000;
/// The largest reservation of one request.
const MOST: i64 = 200;

/// The store's counter.
#[derive(Default)]
struct Counter(u64);

impl Counter {
    fn add(&mut self, delta: i64, ceiling: Option<u64>) -> Result<u64, u64> {
        let next = self.0.saturating_add_signed(delta);
        if delta > 0 && ceiling.is_some_and(|most| next > most) {
            return Err(self.0);
        }
        self.0 = next;
        Ok(next)
    }
}

struct Replica {
    meter: Meter,
    near: bool,
    /// Asked, not yet answered.
    under_way: Option<(Arc<Window>, Ask)>,
    /// Reserved, not yet settled.
    open: Vec<(Arc<Window>, i64)>,
    /// What was admitted and stays spent, by its reservation.
    spent: i64,
    /// What requests used beyond their reservation.
    beyond: i64,
    /// It began anew so often.
    begun: i64,
}

impl Replica {
    fn new(limit: u64) -> Replica {
        Replica {
            meter: Meter::new(Unit::Tokens, Span::Day, limit),
            near: true,
            under_way: None,
            open: Vec::new(),
            spent: 0,
            beyond: 0,
            begun: 1,
        }
    }

    fn take(&mut self, amount: i64, now: u64) -> bool {
        let amount = self.meter.amount(amount.unsigned_abs());
        let Ok(window) = self.meter.take(amount, now, self.near) else {
            return false;
        };
        self.open.push((window, amount));
        self.spent += amount;
        true
    }

    fn settle(&mut self, part: i64) {
        if let Some((window, amount)) = self.open.pop() {
            let used = amount * part / 100;
            window.correct(used - amount);
            self.spent += used.min(amount) - amount;
            self.beyond += used.max(amount) - amount;
        }
    }

    /// Ends as a process does that is told to, and begins anew.
    fn restart(&mut self, counter: &mut Counter, now: u64) {
        while !self.open.is_empty() {
            self.settle(100);
        }
        // The task is ended in the middle of what it asks.
        self.answer(counter, true, now);
        self.under_way = self.meter.last_word();
        self.answer(counter, false, now);
        let limit = self.meter.limit();
        let before = std::mem::replace(self, Replica::new(limit));
        (self.near, self.spent, self.beyond) = (before.near, before.spent, before.beyond);
        self.begun = before.begun + 1;
    }

    fn ask(&mut self, now: u64) {
        if self.under_way.is_none() {
            self.under_way = self.meter.ask(now, self.near);
        }
    }

    fn answer(&mut self, counter: &mut Counter, lost: bool, now: u64) {
        let Some((window, ask)) = self.under_way.take() else {
            return;
        };
        let mut next = Some(ask);
        while let Some(ask) = next {
            if !self.near {
                next = self.meter.answered(&window, ask, Err(None), now);
                continue;
            }
            let answer = match ask {
                Ask::Grant(more) => counter.add(more, Some(self.meter.limit())),
                Ask::Debt(more) => counter.add(more, None),
                Ask::Return(less) => counter.add(-less, None),
            };
            let answer = if lost {
                Err(None)
            } else {
                answer.map_err(Some)
            };
            next = self.meter.answered(&window, ask, answer, now);
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Take(usize, i64),
    /// Percent of the reservation that was used, which may be more than all of it.
    Settle(usize, i64),
    Restart(usize),
    Ask(usize),
    Answer(usize),
    Lose(usize),
    Cut(usize),
    Heal(usize),
    Wait(u64),
}

fn acts(replicas: usize, apart: bool) -> impl Strategy<Value = Vec<Act>> {
    let who = 0..replicas;
    let take = (who.clone(), 1..=MOST).prop_map(|(r, n)| Act::Take(r, n));
    let settle = (who.clone(), 0i64..=300).prop_map(|(r, part)| Act::Settle(r, part));
    let ask = who.clone().prop_map(Act::Ask);
    let answer = who.clone().prop_map(Act::Answer);
    let wait = (1u64..40_000).prop_map(Act::Wait);
    let act = if apart {
        let lose = who.clone().prop_map(Act::Lose);
        let (cut, heal) = (who.clone().prop_map(Act::Cut), who.prop_map(Act::Heal));
        prop_oneof![8 => take, 2 => settle, 4 => ask, 4 => answer, 1 => lose, 1 => cut, 1 => heal, 1 => wait].boxed()
    } else {
        let restart = who.prop_map(Act::Restart);
        prop_oneof![16 => take, 4 => settle, 8 => ask, 8 => answer, 2 => wait, 1 => restart].boxed()
    };
    prop::collection::vec(act, 1..400)
}

/// `check`: what is spent by all, and how many replicas there were.
fn play(limit: u64, replicas: usize, story: &[Act], mut check: impl FnMut(i64, i64)) {
    let mut counter = Counter::default();
    let mut all: Vec<Replica> = (0..replicas).map(|_| Replica::new(limit)).collect();
    // Within one day.
    let mut now = NOW - NOW % 86_400_000;
    for act in story {
        match *act {
            Act::Take(r, amount) => {
                all[r].take(amount, now);
            }
            Act::Settle(r, part) => all[r].settle(part),
            Act::Restart(r) => all[r].restart(&mut counter, now),
            Act::Ask(r) => all[r].ask(now),
            Act::Answer(r) => all[r].answer(&mut counter, false, now),
            Act::Lose(r) => all[r].answer(&mut counter, true, now),
            Act::Cut(r) | Act::Heal(r) => {
                all[r].near = matches!(act, Act::Heal(_));
                let near = all[r].near;
                all[r].meter.set_connected(near);
            }
            Act::Wait(ms) => now += ms,
        }
        check(
            all.iter().map(|r| r.spent).sum(),
            all.iter().map(|r| r.begun).sum(),
        );
    }
}

proptest! {
    #[test]
    fn with_the_store_near_a_limit_is_passed_by_no_more_than_the_slack_and_a_request_a_replica(
        limit in 1u64..20_000, story in acts(3, false),
    ) {
        let slack = Meter::new(Unit::Tokens, Span::Day, limit).slack();
        let mut worst = i64::MIN;
        play(limit, 3, &story, |spent, replicas| {
            let bound = limit as i64 + replicas * (slack + MOST.min(limit as i64));
            worst = worst.max(spent - bound);
        });
        prop_assert!(worst <= 0, "{worst} over the bound of {limit}");
    }

    #[test]
    fn what_replicas_that_left_spent_is_what_the_store_counts(limit in 1u64..20_000, story in acts(3, false)) {
        let mut counter = Counter::default();
        let mut all: Vec<Replica> = (0..3).map(|_| Replica::new(limit)).collect();
        let mut now = NOW - NOW % 86_400_000;
        for act in &story {
            match *act {
                Act::Take(r, amount) => { all[r].take(amount, now); }
                Act::Settle(r, part) => all[r].settle(part),
                Act::Ask(r) => all[r].ask(now),
                Act::Answer(r) => all[r].answer(&mut counter, false, now),
                Act::Wait(ms) => now += ms,
                _ => {}
            }
        }
        for replica in &mut all {
            replica.answer(&mut counter, false, now);
            replica.restart(&mut counter, now);
        }
        let spent: i64 = all.iter().map(|r| r.spent + r.beyond).sum();
        prop_assert_eq!(counter.0, spent as u64);
    }

    #[test]
    fn nothing_is_lost_by_what_a_caller_says_that_it_may_use(
        limit in 1u64..20_000, spent in 0u64..20_000, most in prop_oneof![0u64..30_000, (u64::MAX - 5)..=u64::MAX],
        asked: bool,
    ) {
        let now = NOW - NOW % 86_400_000;
        let spent = spent.min(limit) as i64;
        let mut counter = Counter::default();
        let mut replica = Replica::new(limit);
        while replica.spent < spent {
            replica.take(1, now);
            replica.ask(now);
            replica.answer(&mut counter, false, now);
        }
        let amount = replica.meter.amount(most);
        if let Ok(window) = replica.meter.take(amount, now, true) {
            if asked {
                replica.ask(now);
                replica.answer(&mut counter, false, now);
            }
            window.correct(-amount);
        }
        for _ in 0..3 {
            replica.ask(now);
            replica.answer(&mut counter, false, now);
        }
        prop_assert_eq!(replica.meter.used(now), spent as u64);
        prop_assert!(counter.0 <= limit, "{} of {limit}", counter.0);
    }

    #[test]
    fn cut_off_replicas_together_spend_no_more_than_their_bound(
        limit in 1u64..20_000, story in acts(3, true),
    ) {
        let bound = 3 * (limit as i64 + MOST) + limit as i64;
        let mut worst = 0;
        play(limit, 3, &story, |spent, _| worst = worst.max(spent));
        prop_assert!(worst <= bound, "{worst} of {limit}, bound {bound}");
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_refused_for_good_while_something_is_left(limit in 500u64..3_000, story in acts(3, false)) {
        // Whatever happened, once everybody has settled and given back, what is left can be spent by one of them.
        let mut counter = Counter::default();
        let mut all: Vec<Replica> = (0..3).map(|_| Replica::new(limit)).collect();
        let mut now = NOW - NOW % 86_400_000;
        for act in &story {
            match *act {
                Act::Take(r, amount) => { all[r].take(amount, now); }
                Act::Settle(r, part) => all[r].settle(part),
                Act::Ask(r) => all[r].ask(now),
                Act::Answer(r) => all[r].answer(&mut counter, false, now),
                _ => {}
            }
        }
        let spent: i64 = all.iter().map(|r| r.spent + r.beyond).sum();
        for _ in 0..4 {
            now += 31_000;
            for replica in &mut all {
                replica.ask(now);
                replica.answer(&mut counter, false, now);
            }
        }
        let mut left = limit as i64 - spent;
        while left > 0 {
            let mut taken = false;
            for _ in 0..5 {
                now += 1_001;
                taken = all[0].take(1, now);
                all[0].ask(now);
                all[0].answer(&mut counter, false, now);
                if taken {
                    break;
                }
            }
            prop_assert!(taken, "{left} of {limit} is left");
            // In large steps, and the last ones one by one.
            let step = (left / 20).clamp(0, MOST);
            if step > 1 && all[0].take(step, now) {
                left -= step;
            }
            left -= 1;
        }
    }
}
