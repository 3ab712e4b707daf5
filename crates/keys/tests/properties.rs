//! What holds whatever providers answer and operators configure.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use tidegate_core::{MemberState, Time};
use tidegate_keys::*;
use tidegate_llm::classify::{Class, Evidence, LimitScope};

#[derive(Clone, Debug)]
enum Act {
    /// A request for a model; what the keys answer it, by number.
    Request {
        model: usize,
        answers: Vec<Answer>,
        retries: usize,
    },
    Wait(u64),
    Reload(Vec<usize>),
}

#[derive(Clone, Debug)]
enum Answer {
    Ok,
    Fault,
    Dead,
    Limited { whole: bool, seconds: Option<u64> },
    Down,
    Broken,
    Denied,
}

const KEYS: usize = 5;
const MODELS: [&str; 3] = ["a", "b", "c"];

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        4 => Just(Answer::Ok),
        1 => Just(Answer::Fault),
        1 => Just(Answer::Dead),
        3 => (any::<bool>(), prop::option::of(1u64..100)).prop_map(|(whole, seconds)| Answer::Limited { whole, seconds }),
        2 => Just(Answer::Down),
        1 => Just(Answer::Broken),
        1 => Just(Answer::Denied),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let request = (
        0..MODELS.len(),
        prop::collection::vec(answer(), KEYS),
        0usize..3,
    )
        .prop_map(|(model, answers, retries)| Act::Request {
            model,
            answers,
            retries,
        });
    let reload = prop::collection::vec(any::<bool>(), KEYS).prop_map(|keep| {
        let kept: Vec<usize> = (0..KEYS).filter(|i| keep[*i]).collect();
        Act::Reload(if kept.is_empty() { vec![0] } else { kept })
    });
    prop_oneof![
        8 => request,
        3 => (1u64..40_000).prop_map(Act::Wait),
        1 => reload,
    ]
}

fn evidence_of(answer: &Answer) -> Evidence {
    let limited = |whole: bool, seconds: Option<u64>| Class::Limited {
        scope: if whole {
            LimitScope::Key
        } else {
            LimitScope::Model
        },
        retry_after: seconds.map(Duration::from_secs),
    };
    match answer {
        Answer::Ok => good(),
        Answer::Fault => evidence(Class::CallerFault, 400),
        Answer::Dead => dead(),
        Answer::Limited { whole, seconds } => evidence(limited(*whole, *seconds), 429),
        Answer::Down => down(),
        Answer::Broken => evidence(Class::Broken, 200),
        Answer::Denied => evidence(Class::ModelDenied, 403),
    }
}

fn policies() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        HIGRESS,
        "choose: round_robin\nfailover: { failure_threshold: 1 }",
        "choose: { sticky: { ttl: 1m, body: user } }",
        "choose: least_used\nfailover: { cooldown: 10s, health_check_interval: 1s }",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, ..ProptestConfig::default() })]

    #[test]
    fn a_key_is_left_alone_as_long_as_its_provider_said_and_no_request_asks_a_refused_key_twice(
        more in policies(), story in prop::collection::vec(act(), 1..60),
    ) {
        let mut bench = Bench::of(KEYS, more);
        // Until when each key × model was told to be left alone.
        let mut floors: BTreeMap<(usize, usize), Time> = BTreeMap::new();
        let mut present: Vec<usize> = (0..KEYS).collect();
        for act in story {
            match act {
                Act::Wait(ms) => bench.wait(Duration::from_millis(ms)),
                Act::Reload(kept) => {
                    // A key that goes and comes back is a new one.
                    floors.retain(|(key, _), _| kept.contains(key));
                    bench.keys.apply(vec![settings(&kept, more)], bench.now);
                    present = kept;
                }
                Act::Request { model, answers, mut retries } => {
                    let mut rotation = bench.provider().rotation(MODELS[model], Some(model as u64), 0);
                    let (mut refused, mut attempts): (Vec<usize>, usize) = (Vec::new(), 0);
                    let mut failed = 0;
                    loop {
                        let pick = match rotation.next(bench.now, &mut bench.rng) {
                            Ok(pick) => pick,
                            Err(out) => {
                                // Nobody fit is left out, and nobody is told to come too early or too late.
                                let fit = bench.fit(MODELS[model]);
                                prop_assert!(fit.iter().all(|key| refused.contains(key)), "{fit:?} {refused:?}");
                                prop_assert!(out.busy || out.retry_after(bench.now).is_none_or(|d| d >= Duration::from_secs(1)));
                                break;
                            }
                        };
                        let key = number(&pick);
                        prop_assert!(present.contains(&key));
                        prop_assert!(!refused.contains(&key), "{key} is asked twice");
                        let floor = floors.get(&(key, model)).copied().unwrap_or_default();
                        prop_assert!(floor <= bench.now, "{key} is asked {:?} too early", floor - bench.now);
                        attempts += 1;
                        let evidence = evidence_of(&answers[key]);
                        if let Class::Limited { scope, retry_after: Some(time) } = evidence.class {
                            let models = if scope == LimitScope::Key { 0..MODELS.len() } else { model..model + 1 };
                            for model in models {
                                let floor = floors.entry((key, model)).or_default();
                                *floor = (*floor).max(bench.now + time);
                            }
                        }
                        match rotation.finish(pick, Outcome::Answer(&evidence), None, bench.now) {
                            Next::Done => break,
                            Next::Rotate => refused.push(key),
                            Next::Another => {
                                failed += 1;
                                prop_assert!(failed <= 3 && failed < present.len());
                            }
                            Next::Retry | Next::Elsewhere if retries == 0 => break,
                            Next::Retry | Next::Elsewhere => retries -= 1,
                        }
                    }
                    prop_assert!(attempts <= present.len() + 3 + failed);
                }
            }
        }
        bench.keys.turn(bench.now);
        // Nothing is remembered of keys that are gone.
        let members = bench.provider().pool().members();
        prop_assert_eq!(members.len(), present.len());
        prop_assert!(members.iter().all(|m| m.inflight() == 0));
    }

    #[test]
    fn callers_faults_and_cancellations_move_nothing(more in policies(), times in 1usize..200) {
        let mut bench = Bench::of(KEYS, more);
        let fault = evidence(Class::CallerFault, 422);
        for i in 0..times {
            let mut rotation = bench.rotation("m");
            let pick = rotation.next(bench.now, &mut bench.rng).unwrap();
            match i % 3 {
                0 => drop(pick),
                1 => { pick.finish(Outcome::Cancelled, None, bench.now); }
                _ => { pick.finish(Outcome::Answer(&fault), None, bench.now); }
            }
        }
        bench.wait(Duration::from_secs(10));
        for key in 0..KEYS {
            prop_assert_eq!(bench.state(key, ""), MemberState::Healthy);
            prop_assert_eq!(bench.state(key, "m"), MemberState::Healthy);
        }
    }
}
