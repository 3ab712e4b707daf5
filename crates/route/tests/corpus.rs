//! The committed fuzz corpus, run through the check of the fuzz target on stable Rust.

#[path = "../../../fuzz/checks/router.rs"]
mod router;

use std::path::Path;

use proptest::prelude::*;

#[test]
fn the_corpus_of_routes_and_requests_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/router");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display()); // shown when the check fails
        router::router(&std::fs::read(&path).expect("a readable file"));
        files += 1;
    }
    assert!(files > 5, "{} has only {files} files", folder.display());
}

/// Words that random tables and requests are made of: plain noise would hardly ever match.
fn line() -> impl Strategy<Value = String> {
    let host = prop::sample::select(vec!["-", "a.x", "*.x", "*.b.x", "c.b.x", "*", "A.X."]);
    let kind = prop::sample::select(vec!["", "exact:", "prefix:", "regex:", "grpc:"]);
    let pieces = vec![
        "/", "a", "b", ".", "..", "%2e", "%2F", "%61", ";", "//", "[ab]", "*", "?", "é", "a.B/C",
    ];
    let path = prop::collection::vec(prop::sample::select(pieces), 0..6);
    let header = prop::sample::select(vec!["-", "x-p=1", "x-p=2", "X-Q="]);
    let method = prop::sample::select(vec!["-", "GET", "POST"]);
    (host, kind, path, header, method).prop_map(|(host, kind, path, header, method)| {
        format!("{host} {kind}/{} {header} {method}", path.concat())
    })
}

proptest! {
    #[test]
    fn random_routes_and_requests_hold(
        matches in prop::collection::vec(line(), 0..30), requests in prop::collection::vec(line(), 1..10),
    ) {
        router::router(format!("{}\n\n{}", matches.join("\n"), requests.join("\n")).as_bytes());
    }
}
