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

#[test]
fn large_files_of_one_mistake_are_answered_in_a_moment() {
    let numbers = || 0..40_000;
    let top: String = numbers().map(|n| format!("k{n}: 1\n")).collect();
    let one_line = format!(
        "node: {{ {} }}",
        numbers()
            .map(|n| format!("k{n}: 1, token: a"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    let broken: String = numbers().map(|_| "  - [\n").collect();
    let listeners: String = numbers()
        .map(|n| {
            format!(
                "  - {{ name: l{n}, address: \"127.1.{}.{}:80\" }}\n",
                n / 256 % 256,
                n % 256
            )
        })
        .collect();
    let names: String = numbers()
        .map(|n| {
            format!("  - {{ name: u{n}, to: [ {{ upstream: long-name-of-upstream-{n} }} ] }}\n")
        })
        .collect();
    let matches: String = numbers()
        .map(|n| format!("      - {{ hosts: [h{n}] }}\n"))
        .collect();
    for text in [
        top,
        one_line,
        format!("routes:\n{broken}"),
        format!("listeners:\n{listeners}  - {{ name: again, address: \"127.1.0.0:80\" }}\n"),
        format!("routes:\n{names}"),
        format!(
            "routes:\n  - name: a\n    match:\n{matches}    respond: {{}}\n  - name: b\n    match:\n{matches}    respond: {{}}\n"
        ),
    ] {
        let start = Instant::now();
        assert!(!diagnostics(&text).to_string().is_empty());
        // A quadratic step takes minutes here, a linear one a second or two without optimisation.
        assert!(
            start.elapsed() < Duration::from_secs(40),
            "{:?} for {}…",
            start.elapsed(),
            &text[..40]
        );
        println!("{:?} for {}…", start.elapsed(), &text[..40]);
    }
}

#[test]
fn a_switch_for_the_access_log_is_no_files_name() {
    assert!(
        diagnostics("access_log: on")
            .to_string()
            .contains("write stdout")
    );
}
