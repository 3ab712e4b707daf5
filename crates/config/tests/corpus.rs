//! The fuzz target's checks on the committed corpus and on random texts, on stable Rust.

#[path = "../../../fuzz/checks/config.rs"]
mod checks;

use checks::config;
use proptest::prelude::*;
use std::path::Path;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/config");
    let entries = std::fs::read_dir(&folder).expect("the corpus");
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (
                path.display().to_string(),
                std::fs::read(&path).expect("a file"),
            )
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn the_checks_hold_for_the_committed_corpus() {
    let inputs = corpus();
    assert!(inputs.len() >= 15, "{} inputs", inputs.len());
    for (name, data) in inputs {
        println!("{name}");
        config(&data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 2, ..ProptestConfig::default() })]

    #[test]
    fn the_checks_hold_for_any_text(text in any::<String>()) {
        config(text.as_bytes());
    }

    #[test]
    fn the_checks_hold_for_any_text_of_yamls_own_characters(
        text in "([a-z*&!|>%@`'\"#$\\{\\}\\[\\]:,\\-? \n\t0-9~<]|: |- |\n  |routes|upstreams|\\$\\{|<<: )*"
    ) {
        config(text.as_bytes());
    }

    /// A few bytes replaced: most of the text stays good, so that what is accepted is met often.
    #[test]
    fn the_checks_hold_for_good_texts_with_wounds(
        which in any::<prop::sample::Index>(),
        wounds in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, "[ -~\n\tß✓\u{0}\u{7f}\u{2028}]{0,4}"), 1..3),
    ) {
        let inputs = corpus();
        let mut text = String::from_utf8(which.get(&inputs).1.clone()).expect("the corpus is UTF-8");
        for (at, cut, put) in wounds {
            let boundaries: Vec<usize> = (0..=text.len()).filter(|n| text.is_char_boundary(*n)).collect();
            let start = at.index(boundaries.len());
            let end = (start + cut).min(boundaries.len() - 1);
            text.replace_range(boundaries[start]..boundaries[end], &put);
        }
        config(text.as_bytes());
    }
}
