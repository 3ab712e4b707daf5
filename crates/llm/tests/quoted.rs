//! Evidence quotes no request: whatever of a prompt a provider repeats, in whatever form, is taken out of what is shown.

use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use serde_json::json;
use tidegate_llm::ProviderKind;
use tidegate_llm::classify::{self, Class, Evidence};

fn said(message: &str) -> Evidence {
    let body = json!({ "error": { "message": message } }).to_string();
    let status = StatusCode::INTERNAL_SERVER_ERROR;
    let headers = HeaderMap::new();
    classify::classify(
        ProviderKind::OpenAi,
        status,
        &headers,
        body.as_bytes(),
        0,
        None,
    )
}

fn request(prompt: &str) -> Vec<u8> {
    json!({ "model": "gpt-4o-mini-2024-07-18", "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": prompt }], "max_completion_tokens": 5 })
        .to_string()
        .into_bytes()
}

fn shown(message: &str, prompt: &str) -> String {
    said(message).without_quotes(&request(prompt), "").excerpt
}

#[test]
fn a_quoted_prompt_is_taken_out_in_each_form() {
    let prompt = "I was diagnosed with \"gout\"\nin Ürümqi: what now? 😀 \\alpha";
    let body = String::from_utf8(request(prompt)).unwrap();
    let escaped = serde_json::to_string(&body).unwrap();
    let twice = serde_json::to_string(&escaped).unwrap();
    let ascii = body.replace('Ü', "\\u00dc").replace('ü', "\\u00fc");
    let forms = [
        prompt.to_owned(),
        prompt.to_uppercase(),
        prompt.split_whitespace().collect::<Vec<_>>().join("   "),
        format!("{prompt:?}"),
        body.clone(),
        escaped,
        twice,
        ascii.replace("😀", "\\ud83d\\ude00"),
        body.replace('"', "'"),
        body.chars().take(150).collect(),
    ];
    for form in forms {
        let told = shown(&format!("oops: {form}"), prompt);
        let lower = told.to_lowercase();
        for word in ["diagnos", "gout", "rümqi", "what", "alpha", "brief"] {
            assert!(!lower.contains(word), "{told} of {form}");
        }
        assert!(told.starts_with("oops: "), "{told}");
    }
}

#[test]
fn a_short_prompt_is_taken_out_where_it_is_quoted() {
    for (prompt, message, told) in [
        ("Hi", "bad content 'Hi' here", "bad content '…' here"),
        ("gout", "cannot parse \"gout\"", "cannot parse \"…\""),
        ("gout now", "can't parse `Gout  now`.", "can't parse `…`."),
        (
            "I have HIV",
            "invalid: I have HIV (content)",
            "invalid: … (content)",
        ),
        ("头痛", "内容「头痛」被拒绝", "内容「…」被拒绝"),
        ("我头痛发烧怎么办", "拒绝：我头痛发烧怎么办", "拒绝：…"),
        (
            "my boss is a fool, and I will tell him",
            "content 'my boss...'",
            "content '…...'",
        ),
    ] {
        assert_eq!(shown(message, prompt), told);
    }
}

#[test]
fn a_prompt_is_taken_out_where_the_excerpt_is_cut() {
    let prompt = "Bananas are yellow, Anna said to Otto";
    for room in 150..200 {
        let message = format!("{} '{prompt}'", "x ".repeat(room / 2));
        let told = shown(&message, prompt);
        let letters = told.trim_start_matches(['x', ' ', '\'']);
        assert!(
            letters.chars().all(|letter| !letter.is_alphanumeric()),
            "{told}"
        );
    }
}

#[test]
fn around_a_secret_what_is_quoted_goes_too() {
    let key = "sk-0123456789abcdef0123456789";
    let prompt = format!("my key {key} is bad");
    let told = shown(&format!("cannot read '{prompt}'"), &prompt);
    assert_eq!(told, "cannot read '…'");
}

#[test]
fn the_words_of_an_error_stay_legible() {
    let prompt = "The server of our model is overloaded, and too many requests come. Please write: rate limit, error, quota, token.";
    for message in [
        "The engine is currently overloaded, please try again later",
        "Rate limit reached for gpt-4o-mini-2024-07-18 in organization org-x on tokens per min: Limit 30000, Used 29000",
        "You didn't set max_completion_tokens: can't go on with 'user' messages of model \"gpt-4o-mini-2024-07-18\"",
        "Internal error",
    ] {
        assert_eq!(shown(message, prompt), message);
    }
    let plain = said("overloaded").without_quotes(b"not JSON at all", "");
    assert_eq!(plain.excerpt, "overloaded");
    assert_eq!(
        said("overloaded").without_quotes(b"", ""),
        said("overloaded")
    );
}

#[test]
fn codes_are_the_providers_and_never_the_request() {
    let coded = |code: &str| Evidence {
        code: Some(code.into()),
        ..Evidence::local(Class::ProviderDown, 500, "test", "")
    };
    let of = |code, prompt| {
        coded(code)
            .without_quotes(&request(prompt), "")
            .code
            .unwrap()
    };
    assert_eq!(of("CANARY-7f3a", "CANARY-7f3a"), "…");
    assert_eq!(
        of("insufficient_quota", "insufficient_quota"),
        "insufficient_quota"
    );
    assert_eq!(of("1302", "1302"), "1302");
    assert_eq!(of("shard_down", "hello"), "shard_down");
    let left = coded("shard_down").without_words();
    assert_eq!((left.code, left.excerpt.as_str()), (None, ""));
}

#[test]
fn the_end_of_a_long_request_and_a_form_are_looked_at_too() {
    let mut long = request(&"lorem ipsum dolor ".repeat(200_000));
    long.extend_from_slice(b"{\"content\":\"the newest message is the last one\"}");
    let told = said("bad: the newest message is the last one").without_quotes(&long, "");
    assert_eq!(told.excerpt, "bad: …");
    let form = b"--x\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\nDoctor Smith speaks of gout\r\n--x--";
    let told = said("bad words: Doctor Smith speaks of gout").without_quotes(form, "");
    assert_eq!(told.excerpt, "bad words: …");
    let told =
        said("bad: what was answered before").without_quotes(b"{}", "what was answered before");
    assert_eq!(told.excerpt, "bad: …");
}

/// What is told apart from another by letters alone.
fn letters(text: &str) -> String {
    text.to_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sixteen_letters_of_a_prompt_are_shown_wherever_and_however_they_stand(
        prompt in "[ -~\n\täöü]{0,300}", before in "[ -~]{0,60}", after in "[ -~]{0,60}", from in 0usize..200, form in 0usize..4,
    ) {
        let cut: String = prompt.chars().skip(from).collect();
        let quoted = match form {
            0 => cut,
            1 => json!(cut).to_string(),
            2 => json!(json!(cut).to_string()).to_string(),
            _ => format!("'{cut}'"),
        };
        let told = shown(&format!("{before} {quoted} {after}"), &prompt);
        // Letters between which something was taken out are no run; escapes are none of the prompt's letters.
        for piece in told.split(['…', '\\']).flat_map(|piece| piece.split("[redacted]")) {
            if prompt.contains('\\') {
                continue;
            }
            let (piece, all) = (letters(piece), letters(&prompt));
            for at in 0..piece.len().saturating_sub(15) {
                prop_assert!(!all.contains(&piece[at..at + 16]), "{told}");
            }
        }
        prop_assert!(told.chars().count() <= 200);
    }

    #[test]
    fn what_has_nothing_of_the_request_stays_as_it_is(message in "[a-m '\"]{0,150}", prompt in "[n-z]{20,300}") {
        let body = json!({ "contents": prompt }).to_string();
        let seen = said(&message);
        // The names of the protocol's fields are nobody's.
        prop_assert_eq!(seen.without_quotes(body.as_bytes(), "").excerpt, seen.excerpt);
    }

    #[test]
    fn any_bytes_are_a_request(body in prop::collection::vec(any::<u8>(), 0..400), message in "[ -~äß\u{1F600}\u{2026}\"]{0,250}") {
        let _ = said(&message).without_quotes(&body, "");
        let mut json = b"{\"a\":\"".to_vec();
        json.extend_from_slice(&body);
        let _ = said(&message).without_quotes(&json, &message);
    }
}
