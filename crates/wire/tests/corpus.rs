//! The committed fuzz corpus, run through the checks of the fuzz targets on stable Rust, and the
//! same checks on random messages.

#[path = "../../../fuzz/checks/wire.rs"]
mod wire;

use std::path::Path;

use proptest::prelude::*;

#[track_caller]
fn run(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("a readable folder").path();
        let data = std::fs::read(&path).expect("a readable file");
        // Shown when the check fails.
        println!("{}", path.display());
        check(&data);
        files += 1;
    }
    assert!(files > 5, "{} has only {files} files", folder.display());
}

#[test]
fn the_corpus_of_requests_holds() {
    run("h1_request", wire::h1_request);
}

#[test]
fn the_corpus_of_responses_holds() {
    run("h1_response", wire::h1_response);
}

#[test]
fn the_corpus_of_chunked_bodies_holds() {
    run("h1_chunked", wire::h1_chunked);
}

/// Pieces of HTTP that random messages are made of: plain noise would never get past the first byte.
fn fragment() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"GET ",
        b"POST ",
        b"CONNECT ",
        b"/",
        b"/a?b=c",
        b"*",
        b"http://h/p",
        b"a:80",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
        b"HTTP/1.1 ",
        b"200",
        b"204 ",
        b"304 x",
        b"101",
        b" OK\r\n",
        b"host: a\r\n",
        b"Host:b:1\r\n",
        b"content-length: 3\r\n",
        b"Content-Length: 0\r\n",
        b"transfer-encoding: chunked\r\n",
        b"transfer-encoding: gzip\r\n",
        b"connection: close\r\n",
        b"connection: upgrade, keep-alive\r\n",
        b"upgrade: websocket\r\n",
        b"upgrade: h2c\r\n",
        b"expect: 100-continue\r\n",
        b"te: trailers\r\n",
        b"x-request-id: 1\r\n",
        b"x: \t y \r\n",
        b" folded\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b":",
        b" ",
        b"\t",
        b"3\r\nabc\r\n",
        b"5;a=b\r\nhello\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"a\r\n",
        b"ffffffffffffffff\r\n",
        b"1",
        b";x=\"q\"",
        b"\0",
        b"\xff",
    ];
    prop_oneof![
        8 => proptest::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(fragment(), 0..24).prop_map(|parts| parts.concat())
}

/// A request that is well formed, so that what lies behind the checks is reached often.
fn well_formed() -> impl Strategy<Value = Vec<u8>> {
    let header = ("[A-Za-z][A-Za-z0-9-]{0,20}", "[!-~]([ -~]{0,30}[!-~])?");
    let headers = proptest::collection::vec(header, 0..15);
    let body = prop_oneof![
        Just(("".to_owned(), Vec::new())),
        proptest::collection::vec(any::<u8>(), 0..40)
            .prop_map(|b| (format!("content-length: {}\r\n", b.len()), b)),
        proptest::collection::vec(any::<u8>(), 1..40).prop_map(|b| {
            let chunk = [
                format!("{:x}\r\n", b.len()).as_bytes(),
                &b,
                b"\r\n0\r\nx-sum: 1\r\n\r\n",
            ]
            .concat();
            ("Transfer-Encoding: chunked\r\n".to_owned(), chunk)
        }),
    ];
    ("[A-Z]{1,8}", "/[!-\"$-~]{0,20}", headers, body).prop_map(
        |(method, path, headers, (framing, body))| {
            let mut out = format!("{method} {path} HTTP/1.1\r\nHost: a.example\r\n{framing}");
            for (name, value) in headers {
                out.push_str(&format!("{name}:{value}\r\n"));
            }
            [out.as_bytes(), b"\r\n", &body].concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases * 2, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_requests(data in bytes()) {
        wire::h1_request(&data);
    }

    #[test]
    fn any_bytes_as_responses(data in bytes()) {
        wire::h1_response(&data);
    }

    #[test]
    fn any_bytes_as_a_chunked_body(data in bytes()) {
        wire::h1_chunked(&data);
    }

    #[test]
    fn well_formed_requests_one_after_the_other(first in well_formed(), second in well_formed()) {
        wire::h1_request(&[first, second].concat());
    }
}
