//! The traps of the field that a pool of keys can fall into, each a test of ours. The numbers are the reference's.

mod common;

use std::time::Duration;

use common::*;
use tidegate_core::{MemberState, Time};
use tidegate_keys::*;
use tidegate_llm::classify::Class;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn trap_1_a_thousand_bad_requests_eject_nothing() {
    for failover in ["", HIGRESS] {
        let mut bench = Bench::of(3, failover);
        for status in [400, 404, 422].into_iter().cycle().take(1_000) {
            let bad = evidence(Class::CallerFault, status);
            let (served, tried) = bench.request("m", 1, |_| bad.clone());
            assert!(served.is_ok() && tried.len() == 1);
        }
        bench.wait(SECOND);
        assert_eq!(bench.fit("m"), [0, 1, 2]);
        assert!(
            bench
                .keys
                .drain_events()
                .iter()
                .all(|e| e.to != MemberState::Ejected)
        );
    }
}

#[test]
fn trap_2_a_retry_after_is_a_floor_and_only_ever_extended() {
    for failover in ["", HIGRESS] {
        let mut bench = Bench::of(2, failover);
        bench.attempt(0, "m", Outcome::Answer(&limited(30)));
        let floor = bench.now + 30 * SECOND;
        assert_eq!(bench.health(0, "m").unwrap().returns_at, Some(floor));
        // A shorter word that comes later, from a request that was under way, changes nothing.
        let slot = |i: u64| evidence(limited(i).class, 429);
        for shorter in [1, 10, 29] {
            bench.provider().pool().report(
                bench.provider().pool().members()[0].key(),
                &scope("m"),
                bench
                    .provider()
                    .live()
                    .failover
                    .judge(
                        Outcome::Answer(&slot(shorter)),
                        &scope("m"),
                        None,
                        bench.now,
                    )
                    .verdict,
                bench.now,
            );
        }
        assert_eq!(bench.health(0, "m").unwrap().returns_at, Some(floor));
        bench.wait(30 * SECOND - Duration::from_millis(200));
        assert_eq!(bench.fit("m"), [1]);
        bench.wait(SECOND);
        assert_ne!(bench.state(0, "m"), MemberState::Ejected);
    }
}

#[test]
fn trap_2_after_its_time_one_trial_decides() {
    let mut bench = Bench::of(2, "");
    bench.attempt(0, "m", Outcome::Answer(&limited(30)));
    bench.wait(31 * SECOND);
    assert_eq!(bench.state(0, "m"), MemberState::Probing);
    let mut trials = Vec::new();
    for _ in 0..100 {
        let pick = bench.rotation("m").next(bench.now, &mut bench.rng).unwrap();
        if number(&pick) == 0 {
            assert!(pick.is_trial());
            trials.push(pick);
        }
    }
    assert_eq!(trials.len(), 1);
    trials
        .pop()
        .unwrap()
        .finish(Outcome::Answer(&limited(60)), None, bench.now);
    assert_eq!(
        bench.health(0, "m").unwrap().returns_at,
        Some(bench.now + 60 * SECOND)
    );
}

#[test]
fn trap_3_connect_failures_timeouts_and_our_own_503s_count() {
    for failover in ["", HIGRESS] {
        for why in [
            NoAnswer::Connect,
            NoAnswer::Timeout,
            NoAnswer::Reset,
            NoAnswer::Refused,
        ] {
            let mut bench = Bench::of(2, failover);
            for times in 0..3 {
                assert_eq!(bench.fit("m"), [0, 1], "{why:?} {times}");
                bench.attempt(0, "m", Outcome::NoAnswer(why));
                bench.keys.turn(bench.now);
            }
            assert_eq!(bench.fit("m"), [1], "{why:?} {failover}");
        }
    }
}

#[test]
fn trap_4_an_error_inside_a_stream_that_began_with_200_counts() {
    for failover in ["", HIGRESS] {
        let mut bench = Bench::of(2, failover);
        for _ in 0..3 {
            bench.attempt(0, "m", Outcome::Answer(&evidence(Class::Broken, 200)));
        }
        bench.keys.turn(bench.now);
        assert_eq!(bench.fit("m"), [1]);
    }
}

#[test]
fn trap_6_changing_one_key_never_resets_another_and_a_removed_one_leaves_nothing() {
    let mut bench = Bench::of(4, "");
    bench.attempt(0, "m", Outcome::Answer(&dead()));
    bench.attempt(1, "m", Outcome::Answer(&limited(60)));
    for _ in 0..2 {
        bench.attempt(2, "m", Outcome::Answer(&down()));
    }
    let before = (
        bench.health(0, "").unwrap().since,
        bench.health(1, "m").unwrap().returns_at,
    );
    bench.wait(SECOND);
    // Key 3 goes, key 9 comes, the order changes, weights and policy too.
    let more = "choose: weighted\nfailover: { failure_threshold: 3, cooldown: 1m }";
    bench
        .keys
        .apply(vec![settings(&[9, 2, 1, 0], more)], bench.now);
    let after = (
        bench.health(0, "").unwrap().since,
        bench.health(1, "m").unwrap().returns_at,
    );
    assert_eq!(before, after);
    assert_eq!(bench.fit("m"), [2, 9]);
    // Two failures of key 2 are remembered, too: the third one is the last.
    bench.attempt(2, "m", Outcome::Answer(&down()));
    bench.keys.turn(bench.now);
    assert_eq!(bench.fit("m"), [9]);
    // Removed and back again: a new key without a past.
    bench
        .keys
        .apply(vec![settings(&[1, 2, 9], more)], bench.now);
    bench.wait(SECOND);
    assert_eq!(bench.provider().pool().status(bench.now).len(), 3);
    bench
        .keys
        .apply(vec![settings(&[0, 1, 2, 9], more)], bench.now);
    assert_eq!(bench.state(0, ""), MemberState::Healthy);
    let id = bench.keys.identity().of("http://127.0.0.1:1", &token(0));
    assert_eq!(bench.provider().note(&id, &scope("")), None);
}

#[test]
fn trap_7_fifty_keys_forty_nine_dead_and_no_retry_allowed() {
    let mut bench = Bench::of(50, "");
    let answer = |key: usize| if key == 37 { good() } else { dead() };
    let (served, mut tried) = bench.request("m", 0, answer);
    assert_eq!(served, Ok(37));
    tried.sort_unstable();
    let distinct = tried.len();
    tried.dedup();
    assert_eq!(tried.len(), distinct, "a dead key is tried at most once");
    for _ in 0..100 {
        let (served, _) = bench.request("m", 0, answer);
        assert_eq!(served, Ok(37));
    }
}

#[test]
fn trap_7_keys_that_answer_with_failures_cost_nothing_while_there_is_one_that_has_not_been_tried() {
    for good_key in 0..3 {
        let mut bench = Bench::of(3, "");
        let answer = |key: usize| if key == good_key { good() } else { down() };
        for _ in 0..20 {
            let (served, tried) = bench.request("m", 0, answer);
            assert_eq!(served, Ok(good_key), "{tried:?}");
        }
    }
}

#[test]
fn a_provider_that_is_down_is_not_asked_with_all_keys_by_one_request() {
    let mut bench = Bench::of(50, "");
    let (_, mut tried) = bench.request("m", 0, |_| down());
    tried.sort_unstable();
    tried.dedup();
    assert_eq!(tried.len(), 4, "{tried:?}");
}

#[test]
fn trap_7_by_status_keys_below_the_threshold_are_not_tried_twice_by_one_request_either() {
    let mut bench = Bench::of(10, HIGRESS);
    let (served, mut tried) = bench.request("m", 0, |_| dead());
    let out = served.unwrap_err();
    assert_eq!(
        (out.earliest, out.status(), out.causes.len()),
        (None, 503, 10)
    );
    tried.sort_unstable();
    assert_eq!(tried, (0..10).collect::<Vec<_>>());
}

#[test]
fn trap_10_a_key_that_fails_for_one_model_serves_the_others() {
    for failover in ["", HIGRESS] {
        let mut bench = Bench::of(2, failover);
        for _ in 0..2 {
            for key in [0, 1] {
                bench.attempt(key, "broken", Outcome::Answer(&down()));
            }
        }
        bench.attempt(0, "broken", Outcome::Answer(&down()));
        bench.attempt(1, "broken", Outcome::Answer(&down()));
        bench.keys.turn(bench.now);
        assert_eq!(bench.fit("broken"), [] as [usize; 0]);
        assert_eq!(bench.fit("good"), [0, 1]);
        bench.attempt(0, "limited", Outcome::Answer(&limited(30)));
        assert_eq!(bench.fit("limited"), [1]);
        assert_eq!(bench.fit("good"), [0, 1]);
        // What concerns the key concerns every model.
        bench.attempt(0, "good", Outcome::Answer(&limited_whole(30)));
        assert_eq!(bench.fit("good"), [1]);
        assert_eq!(bench.fit("other"), [1]);
    }
}

const STICKY: &str = "choose: { sticky: { ttl: 5m, body: user } }";

fn where_is(bench: &mut Bench, session: u64) -> usize {
    let mut rotation = bench.provider().rotation("m", Some(session), 0);
    let pick = rotation.next(bench.now, &mut bench.rng).unwrap();
    let key = number(&pick);
    pick.finish(Outcome::Answer(&good()), None, bench.now);
    key
}

#[test]
fn trap_13_a_session_that_had_to_move_does_not_flap_back() {
    let mut bench = Bench::of(5, STICKY);
    let homes: Vec<usize> = (0..50).map(|s| where_is(&mut bench, s)).collect();
    assert!(homes.iter().any(|h| *h != homes[0]));
    for (session, home) in homes.iter().enumerate() {
        assert_eq!(where_is(&mut bench, session as u64), *home);
    }
    let lost = homes[0];
    let id = bench.keys.identity().of("http://127.0.0.1:1", &token(lost));
    bench.attempt(lost, "m", Outcome::Answer(&dead()));
    let moved: Vec<usize> = (0..50).map(|s| where_is(&mut bench, s)).collect();
    for (home, now) in homes.iter().zip(&moved) {
        assert!(*now != lost && (*home == lost || home == now));
    }
    let inherited: std::collections::BTreeSet<_> = homes
        .iter()
        .zip(&moved)
        .filter(|(h, _)| **h == lost)
        .map(|(_, m)| m)
        .collect();
    assert!(
        inherited.len() > 1,
        "the lost key's sessions spread over the others"
    );
    // Back again: who moved stays, for as long as it goes on.
    bench.provider().restore(&id, bench.now);
    for _ in 0..10 {
        bench.wait(60 * SECOND);
        let still: Vec<usize> = (0..50).map(|s| where_is(&mut bench, s)).collect();
        assert_eq!(still, moved);
    }
    // After its time without a request it goes home.
    bench.wait(301 * SECOND);
    assert_eq!(
        (0..50).map(|s| where_is(&mut bench, s)).collect::<Vec<_>>(),
        homes
    );
}

#[test]
fn trap_13_a_new_key_takes_no_session_that_is_under_way() {
    let mut bench = Bench::of(3, STICKY);
    let homes: Vec<usize> = (0..50).map(|s| where_is(&mut bench, s)).collect();
    bench
        .keys
        .apply(vec![settings(&[0, 1, 2, 3, 4], STICKY)], bench.now);
    assert_eq!(
        (0..50).map(|s| where_is(&mut bench, s)).collect::<Vec<_>>(),
        homes
    );
    bench.wait(301 * SECOND);
    assert!((0..50).any(|s| where_is(&mut bench, s) > 2));
}

#[test]
fn a_session_sticks_to_a_key_for_each_model_apart() {
    let mut bench = Bench::of(5, STICKY);
    let home = where_is(&mut bench, 1);
    bench.attempt(home, "other", Outcome::Answer(&limited(600)));
    assert_eq!(where_is(&mut bench, 1), home);
}

#[test]
fn all_out_tells_the_earliest_true_return_and_why() {
    let mut bench = Bench::of(3, "");
    bench.attempt(0, "m", Outcome::Answer(&dead()));
    bench.attempt(1, "m", Outcome::Answer(&limited(30)));
    bench.attempt(2, "m", Outcome::Answer(&limited_whole(20)));
    let out = bench
        .rotation("m")
        .next(bench.now, &mut bench.rng)
        .unwrap_err();
    assert_eq!(out.earliest, Some(bench.now + 20 * SECOND));
    assert_eq!(out.retry_after(bench.now), Some(20 * SECOND));
    assert_eq!((out.status(), out.causes.len(), out.busy), (429, 3, false));
    assert_eq!(out.message(), "no key is fit: 1 key dead, 2 limited");
    assert!(!format!("{out:?}").contains(&token(0)));
    // For another model one key less is out.
    assert!(
        bench
            .rotation("other")
            .next(bench.now, &mut bench.rng)
            .is_ok()
    );
}

#[test]
fn with_use_least_bad_the_key_that_returns_first_is_tried_and_each_only_once() {
    let mut bench = Bench::of(3, "failover: { when_exhausted: use_least_bad }");
    bench.attempt(0, "m", Outcome::Answer(&dead()));
    bench.attempt(1, "m", Outcome::Answer(&limited(30)));
    bench.attempt(2, "m", Outcome::Answer(&limited(20)));
    let (served, tried) = bench.request("m", 0, |_| limited(60));
    assert!(served.is_err());
    assert_eq!(tried, [2, 1, 0]);
}

#[test]
fn by_status_three_failures_in_a_row_spare_a_key_and_any_200_counts_anew() {
    let mut bench = Bench::of(2, HIGRESS);
    for _ in 0..2 {
        bench.attempt(0, "m", Outcome::Answer(&dead()));
    }
    // A success for any model.
    bench.attempt(0, "other", Outcome::Answer(&good()));
    for _ in 0..2 {
        bench.attempt(0, "m", Outcome::Answer(&dead()));
    }
    bench.keys.turn(bench.now);
    assert_eq!(bench.fit("m"), [0, 1]);
    bench.attempt(0, "third", Outcome::Answer(&dead()));
    bench.keys.turn(bench.now);
    assert_eq!(bench.fit("m"), [1]);
    // Without a cooldown nothing but a probe brings it back.
    assert_eq!(bench.health(0, "").unwrap().returns_at, None);
    bench.wait(Duration::from_secs(3600));
    assert_eq!(bench.fit("m"), [1]);
}

#[test]
fn by_status_a_cooldown_ends_on_the_first_tick_after_it_and_the_key_is_simply_back() {
    let cooled = "failover: { failure_threshold: 1, health_check_interval: 5s, cooldown: 12s, on_status: [\"5..\"] }";
    let mut bench = Bench::of(2, cooled);
    bench.attempt(0, "m", Outcome::Answer(&down()));
    bench.keys.turn(bench.now);
    assert_eq!(bench.fit("m"), [1]);
    bench.wait(12 * SECOND);
    assert_eq!(bench.fit("m"), [1], "the tick is at 15 s");
    bench.wait(4 * SECOND);
    assert_eq!(bench.fit("m"), [0, 1]);
    // Each time the same.
    for _ in 0..3 {
        bench.attempt(0, "m", Outcome::Answer(&down()));
        let back = bench.health(0, "m").unwrap().returns_at;
        assert_eq!(back, Some(bench.now + 12 * SECOND));
        bench.wait(17 * SECOND);
    }
}

#[test]
fn by_class_a_provider_that_is_down_is_spared_for_longer_each_time() {
    let mut bench = Bench::of(1, "");
    let mut last = Duration::ZERO;
    for _ in 0..4 {
        while bench.state(0, "m") != MemberState::Ejected {
            bench.attempt(0, "m", Outcome::Answer(&down()));
        }
        let health = bench.health(0, "m").unwrap();
        let length = health.returns_at.unwrap_or(Time::NEVER).since(health.since);
        assert!(length > last && length <= 60 * SECOND, "{length:?}");
        last = length;
        // The next trial fails at once.
        bench.wait(length - SECOND);
        while bench.state(0, "m") == MemberState::Ejected {
            bench.wait(Duration::from_millis(100));
        }
        assert_eq!(bench.state(0, "m"), MemberState::Probing);
    }
}

#[test]
fn a_stream_passes_its_trial_when_content_begins() {
    let mut bench = Bench::of(1, "");
    bench.attempt(0, "m", Outcome::Answer(&limited(1)));
    bench.wait(2 * SECOND);
    let mut stream = bench.rotation("m").next(bench.now, &mut bench.rng).unwrap();
    let busy = bench
        .rotation("m")
        .next(bench.now, &mut bench.rng)
        .unwrap_err();
    assert!(busy.busy);
    assert_eq!(busy.retry_after(bench.now), Some(SECOND));
    stream.content_began(bench.now);
    assert!(bench.rotation("m").next(bench.now, &mut bench.rng).is_ok());
}

#[test]
fn the_same_key_at_the_same_origin_shares_its_health() {
    let one = named("p", "http://127.0.0.1:1", &[0, 1], "");
    let two = named("q", "http://127.0.0.1:1/other", &[1, 2], "");
    let far = named("far", "http://127.0.0.2:1", &[1, 2], "");
    let mut bench = Bench::new(vec![one, two]);
    bench.attempt(1, "m", Outcome::Answer(&limited_whole(60)));
    // Another provider of the origin that comes later learns it at once, one elsewhere does not.
    let again = named("r", "http://127.0.0.1:1", &[1, 5], "");
    let one = named("p", "http://127.0.0.1:1", &[0, 1], "");
    bench.keys.apply(vec![one, again, far], bench.now);
    assert_eq!(fit(&bench.keys.provider("r").unwrap(), "m", bench.now), [5]);
    assert_eq!(
        fit(&bench.keys.provider("far").unwrap(), "m", bench.now),
        [1, 2]
    );
}

#[test]
fn choices_are_what_they_say() {
    let served = |more: &str| {
        let mut bench = Bench::of(3, more);
        let mut counts = [0u32; 3];
        for _ in 0..3_000 {
            let (key, _) = bench.request("m", 0, |_| good());
            counts[key.unwrap()] += 1;
        }
        counts
    };
    assert_eq!(served("choose: round_robin"), [1_000; 3]);
    assert!(
        served("choose: random")
            .iter()
            .all(|c| (900..1_100).contains(c))
    );
    // Fewest in flight: with two taken, the third is next.
    let mut bench = Bench::of(3, "choose: least_used");
    let held: Vec<_> = (0..3)
        .map(|_| bench.rotation("m").next(bench.now, &mut bench.rng).unwrap())
        .collect();
    let mut taken: Vec<usize> = held.iter().map(number).collect();
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 2]);
}

#[test]
fn no_debug_output_holds_a_key() {
    let mut bench = Bench::of(3, "");
    bench.attempt(0, "m", Outcome::Answer(&dead()));
    let mut rotation = bench.rotation("m");
    let pick = rotation.next(bench.now, &mut bench.rng).unwrap();
    let told = format!(
        "{:?} {:?} {:?} {:?} {:?}",
        bench.keys,
        bench.provider(),
        rotation,
        pick,
        bench.keys.drain_events()
    );
    for i in 0..3 {
        assert!(!told.contains(&token(i)), "{told}");
    }
}
