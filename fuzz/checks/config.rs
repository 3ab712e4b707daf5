//! What must hold for any text that is given as a configuration. Shared by the fuzz target and by the tests that run the
//! committed corpus and random texts.

use tidegate_config::{Diagnostics, load_endpoints, load_str_with};

/// Some variables are set, so that texts get past them; none of the machine's own show through.
fn env(name: &str) -> Option<String> {
    match name {
        "TOKEN" => Some("hunter2-from-env".into()),
        "PORT" => Some("8080".into()),
        "EMPTY" => Some(String::new()),
        _ => None,
    }
}

/// Places fit the text, nothing steers a terminal, and what is accepted is written in a form that means the same.
pub(crate) fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match load_str_with("fuzz.yaml", text, &env) {
        Ok(loaded) => {
            assert!(
                loaded
                    .warnings
                    .iter()
                    .all(|w| w.severity != tidegate_config::Severity::Error)
            );
            places_fit(text, &Diagnostics(loaded.warnings));
            let written = serde_json::to_string(&loaded.config).expect("plain data");
            if !written.contains("<secret ") {
                let again = load_str_with("written.yaml", &written, &env)
                    .unwrap_or_else(|d| panic!("what was accepted is refused:\n{written}\n{d}"));
                assert_eq!(again.config, loaded.config, "{written}");
                assert_eq!(again.hash, loaded.hash);
            }
        }
        Err(diagnostics) => {
            assert!(diagnostics.errors() > 0, "refused without an error");
            places_fit(text, &diagnostics);
        }
    }
    let _ = load_endpoints("endpoints.json".as_ref(), text);
}

fn places_fit(text: &str, diagnostics: &Diagnostics) {
    let lines = text.split('\n').count();
    for diagnostic in diagnostics.iter() {
        assert!(!diagnostic.message.is_empty());
        let related = diagnostic.related.iter().map(|(_, place)| place);
        for place in diagnostic.place.iter().chain(related) {
            assert!(place.line >= 1 && place.line <= lines, "{place:?}");
            assert!(
                place.column >= 1 && place.length >= 1 && place.mark_length >= 1,
                "{place:?}"
            );
            assert!(place.mark <= place.excerpt.chars().count(), "{place:?}");
        }
    }
    let shown = diagnostics.to_string();
    assert!(
        shown.chars().all(|c| c == '\n' || !c.is_control()),
        "{shown:?}"
    );
    assert!(diagnostics.render(true).len() >= shown.len());
}
