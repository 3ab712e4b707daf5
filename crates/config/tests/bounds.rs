//! Hostile texts are bounded in time and memory.

mod support;

use std::time::{Duration, Instant};
use support::env;
use tidegate_config::{Diagnostics, load_str_with};

fn diagnostics(text: &str) -> Diagnostics {
    match load_str_with("t.yaml", text, &env) {
        Ok(loaded) => Diagnostics(loaded.warnings),
        Err(diagnostics) => diagnostics,
    }
}

#[test]
fn aliases_that_expand_beyond_all_bounds_are_refused_quickly() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..40 {
        let list = format!("*a{}", level - 1);
        text.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            [list.as_str(); 10].join(", ")
        ));
    }
    text.push_str("listeners: *a39\n");
    let start = Instant::now();
    let found = diagnostics(&text).to_string();
    assert!(
        found.contains("aliases that expand beyond all bounds"),
        "{found}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "took {:?}",
        start.elapsed()
    );
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        "- ".repeat(100_000),
        "a:\n  - ".repeat(3),
    ] {
        assert!(diagnostics(&text).errors() > 0);
    }
    let block: String = (0..2_000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert!(diagnostics(&block).errors() > 0);
}

#[test]
fn an_anchor_inside_itself_is_refused() {
    let found = diagnostics("node: &a { region: *a }\nlisteners: &b [ *b ]\n").to_string();
    assert!(found.contains("an alias inside its own anchor"), "{found}");
}

#[test]
fn a_text_beyond_the_largest_size_is_refused() {
    let text = "# x\n".repeat(5 << 20);
    let found = diagnostics(&text).to_string();
    assert!(found.contains("larger than 16 MiB"), "{found}");
}

#[test]
fn a_flood_of_mistakes_is_cut_and_counted() {
    let text: String = (0..2_000).map(|n| format!("wrong{n}: 1\n")).collect();
    let found = diagnostics(&text);
    assert_eq!(found.0.len(), 501);
    assert!(found.to_string().contains("and 1500 more problems"));
}

#[test]
fn ten_thousand_routes_load_in_a_moment() {
    let mut text = String::from(
        "listeners: [ { name: a, address: \"127.0.0.1:1\" } ]\nupstreams: [ { name: u, endpoints: [ { address: \"127.0.0.1:2\" } ] } ]\nroutes:\n",
    );
    for n in 0..10_000 {
        text.push_str(&format!("  - {{ name: r{n}, match: {{ hosts: [h{n}.local], path: {{ prefix: /a }} }}, to: [ {{ upstream: u }} ] }}\n"));
    }
    let start = Instant::now();
    assert_eq!(
        load_str_with("t", &text, &env).map(|l| l.config.routes.len()),
        Ok(10_000).map_err(|()| Diagnostics::default())
    );
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "took {:?}",
        start.elapsed()
    );
}
