//! What the status page tells.

mod common;

use common::*;
use serde_json::json;
use tidegate_core::Time;
use tidegate_keys::*;

struct At(Time);

impl Clock for At {
    fn now(&self) -> Time {
        self.0
    }

    fn unix_ms(&self) -> u64 {
        1_000_000_000_000
    }
}

#[test]
fn the_status_tells_cause_evidence_and_times_and_no_secret() {
    let mut bench = Bench::of(3, "choose: round_robin");
    bench.attempt(0, "m", Outcome::Answer(&dead()));
    bench.attempt(1, "m", Outcome::Answer(&limited(30)));
    bench.attempt(2, "m", Outcome::Answer(&good()));
    bench.wait(std::time::Duration::from_secs(10));
    let status = bench.keys.status(&At(bench.now));
    let told = serde_json::to_value(&status).unwrap();
    let provider = &told[0];
    assert_eq!(provider["choose"], "round_robin");
    assert_eq!(
        (&provider["origin"], &provider["type"]),
        (&json!("http://127.0.0.1:1"), &json!("openai"))
    );
    assert_eq!(
        (&provider["fit"], &provider["judged_by"]),
        (&json!(2), &json!("class"))
    );
    assert_eq!(
        provider["attempts"],
        json!({ "ok": 1, "key_dead": 1, "limited": 1 })
    );
    assert_eq!(
        provider["failovers"],
        json!({ "key_dead": 1, "limited": 1 })
    );
    let keys = provider["keys"].as_array().unwrap();
    assert_eq!(keys[0]["fingerprint"], "sk-…0000");
    assert_eq!(keys[0]["state"], "ejected");
    assert_eq!(keys[0]["cause"], "key dead (401 test_code)");
    assert_eq!(keys[0]["since"], 999_999_990_000u64);
    assert_eq!(keys[0].get("returns_at"), None);
    assert_eq!(
        keys[0]["evidence"],
        json!({ "class": "key_dead", "status": 401, "code": "test_code", "excerpt": "what it said", "model": "m", "at": 999_999_990_000u64 })
    );
    assert_eq!(keys[1]["state"], "healthy");
    let model = &keys[1]["models"][0];
    assert_eq!(
        (&model["model"], &model["state"]),
        (&json!("m"), &json!("ejected"))
    );
    assert_eq!(model["returns_at"], 1_000_000_020_000u64);
    assert_eq!(keys[2]["models"], json!([]));
    let text = told.to_string();
    assert!((0..3).all(|i| !text.contains(&token(i))), "{text}");
}

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
