//! What is told of keys that change.

mod common;

use common::*;
use tidegate_keys::*;

#[test]
fn events_tell_every_change_once() {
    let mut bench = Bench::of(2, "");
    bench.keys.drain_events();
    bench.attempt(0, "m", Outcome::Answer(&limited(1)));
    bench.wait(std::time::Duration::from_secs(2));
    bench.attempt(0, "m", Outcome::Answer(&good()));
    bench.keys.turn(bench.now);
    let told: Vec<_> = bench
        .keys
        .drain_events()
        .iter()
        .filter(|e| e.scope == scope("m"))
        .map(|e| {
            format!(
                "{} {} {} → {}: {}",
                e.provider, e.fingerprint, e.from, e.to, e.cause
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "p sk-…0000 healthy → ejected: limited (429 test_code)",
            "p sk-…0000 ejected → probing: time over",
            "p sk-…0000 probing → healthy: trial passed",
        ]
    );
}

#[test]
fn a_key_that_an_operator_restores_is_told_as_that() {
    let mut bench = Bench::of(2, "");
    bench.attempt(0, "m", Outcome::Answer(&dead()));
    bench.keys.turn(bench.now);
    bench.keys.drain_events();
    let id = bench.keys.identity().of("http://127.0.0.1:1", &token(0));
    bench.provider().restore(&id, bench.now);
    bench.keys.turn(bench.now);
    let causes: Vec<_> = bench
        .keys
        .drain_events()
        .into_iter()
        .map(|e| e.cause)
        .collect();
    assert_eq!(causes, ["restored by an operator"]);
}

#[test]
fn keys_that_are_named_anew_are_not_told_as_added_again() {
    let bench = Bench::of(2, "");
    // Not told before the store's secret came.
    bench.keys.adopt(Identity::new([9; 32]), bench.now);
    bench.keys.turn(bench.now);
    let causes: Vec<_> = bench
        .keys
        .drain_events()
        .into_iter()
        .map(|e| e.cause)
        .collect();
    assert_eq!(causes, ["added", "added"]);
    bench.keys.adopt(Identity::new([8; 32]), bench.now);
    bench.keys.turn(bench.now);
    assert_eq!(bench.keys.drain_events(), []);
}

#[test]
fn keys_that_look_alike_have_fingerprints_that_differ() {
    let loaded = tidegate_config::load_str(
        "t.yaml",
        "listeners: [{ name: main, address: 127.0.0.1:8080 }]\n\
         routes: [{ name: r, to: [{ provider: p }] }]\n\
         providers: [{ name: p, type: openai, api_tokens: [one, two, sk-abcdefghijklmnop1234] }]\n",
    )
    .unwrap();
    let bench = Bench::new(vec![Settings::of(&loaded.config.providers[0]).unwrap()]);
    let members = bench.provider().pool().members();
    let shown: Vec<_> = members
        .iter()
        .map(|m| m.payload().fingerprint.to_string())
        .collect();
    assert_eq!(shown[2], "sk-…1234");
    assert!(shown[0] != shown[1], "{shown:?}");
    for (shown, member) in shown[..2].iter().zip(&members) {
        let id = member.payload().id.as_str();
        assert_eq!(*shown, format!("…/{}", &id[..6]));
    }
}
