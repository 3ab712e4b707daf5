//! The classifier against bodies as the providers send them, one or more a rule, each with its source.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use tidegate_llm::ProviderKind;
use tidegate_llm::classify::{self, Class, Evidence, LimitScope};

/// 2026-11-21T12:00:00Z, a Saturday.
const NOW: u64 = 1_795_262_400;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    rule: String,
    provider: String,
    status: u16,
    /// It came within a stream, with this name (or AWS's type of exception).
    event: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    body: Value,
    means: String,
    scope: Option<String>,
    retry_after: Option<f64>,
    code: Option<String>,
    try_other: Option<bool>,
    source: String,
}

impl Fixture {
    fn classify(&self) -> Evidence {
        let kind = ProviderKind::from_name(&self.provider).expect("a provider's name");
        let body = match &self.body {
            Value::String(text) => text.clone(),
            json => json.to_string(),
        };
        if let Some(event) = &self.event {
            return classify::classify_event(kind, event.as_bytes(), body.as_bytes(), NOW, None)
                .expect("an error");
        }
        let status = StatusCode::from_u16(self.status).expect("a status");
        classify::classify(
            kind,
            status,
            &headers(self.headers.iter()),
            body.as_bytes(),
            NOW,
            None,
        )
    }

    fn class(&self) -> Class {
        let scope = || match self.scope.as_deref() {
            Some("key") => LimitScope::Key,
            Some("model") => LimitScope::Model,
            other => panic!("{}: scope {other:?}", self.rule),
        };
        let retry_after = self.retry_after.map(Duration::from_secs_f64);
        match self.means.as_str() {
            "fault" => Class::CallerFault,
            "dead" => Class::KeyDead,
            "denied" => Class::ModelDenied,
            "limited" => Class::Limited {
                scope: scope(),
                retry_after,
            },
            "quota" => Class::QuotaExhausted {
                scope: scope(),
                retry_after,
            },
            "down" => Class::ProviderDown,
            "region" => Class::Region,
            "broken" => Class::Broken,
            other => panic!("{other} is no class"),
        }
    }
}

fn headers<T: AsRef<str>>(pairs: impl Iterator<Item = (T, T)>) -> HeaderMap {
    pairs
        .map(|(name, value)| {
            (
                name.as_ref().parse::<HeaderName>().unwrap(),
                value.as_ref().parse().unwrap(),
            )
        })
        .collect()
}

fn fixtures() -> Vec<Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/classify");
    let mut all = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let some: Vec<Fixture> =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        all.extend(some);
    }
    all
}

#[test]
fn every_fixture_means_what_its_provider_documents() {
    for fixture in fixtures() {
        let seen = fixture.classify();
        let place = format!("{fixture:?}\n{seen:?}");
        assert_eq!(seen.rule, fixture.rule, "{place}");
        assert_eq!(seen.class, fixture.class(), "{place}");
        assert_eq!(seen.says_why(), fixture.rule != "forbidden", "{place}");
        if let Some(code) = &fixture.code {
            assert_eq!(seen.code.as_ref(), Some(code), "{place}");
        }
        let other = fixture
            .try_other
            .unwrap_or(seen.class != Class::CallerFault);
        assert_eq!(seen.try_other, other, "{place}");
        assert!(!fixture.source.is_empty(), "{place}");
    }
}

#[test]
fn every_rule_has_a_fixture() {
    let shown: BTreeSet<_> = fixtures().into_iter().map(|fixture| fixture.rule).collect();
    let without: Vec<_> = classify::rules()
        .filter(|rule| !shown.contains(*rule))
        .collect();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn a_success_is_ok_whatever_its_text_says() {
    for body in [
        r#"{"id":"c","choices":[{"message":{"content":"{\"error\":{\"code\":401}}"}}],"usage":{"total_tokens":3}}"#,
        r#"{"id":"r","object":"response","status":"completed","error":null,"output":[]}"#,
        r#"{"type":"message","content":[{"type":"tool_use","input":{"error":"insufficient_quota"}}]}"#,
        r#"{"base_resp":{"status_code":0,"status_msg":"success"}}"#,
        "RIFF\0\0\0\0 \"error\"",
        "",
    ] {
        for kind in [ProviderKind::OpenAi, ProviderKind::MiniMax] {
            let seen = classify::classify(
                kind,
                StatusCode::OK,
                &HeaderMap::new(),
                body.as_bytes(),
                NOW,
                None,
            );
            assert_eq!(seen.class, Class::Ok, "{body}");
            assert_eq!(
                classify::classify_event(kind, b"", body.as_bytes(), NOW, None),
                None,
                "{body}"
            );
        }
    }
}

#[test]
fn a_thousand_bad_requests_say_nothing_about_the_key() {
    let words = [
        "insufficient_quota",
        "api key not valid",
        "credit balance is too low",
        "rate limit",
        "suspended",
    ];
    for status in [400, 404, 413, 415, 422] {
        for kind in ProviderKind::ALL {
            for word in words {
                let body = format!(
                    r#"{{"error":{{"message":"unknown field `{word}`","type":"invalid_request_error"}}}}"#
                );
                let status = StatusCode::from_u16(status).unwrap();
                let seen = classify::classify(
                    *kind,
                    status,
                    &HeaderMap::new(),
                    body.as_bytes(),
                    NOW,
                    None,
                );
                assert_eq!(
                    (seen.class, seen.try_other),
                    (Class::CallerFault, false),
                    "{kind:?} {status} {word}"
                );
            }
        }
    }
}

#[test]
fn a_callers_fault_keeps_no_words_of_the_caller() {
    let body =
        br#"{"error":{"message":"Invalid value: 'my secret diary'","code":"invalid_value"}}"#;
    let seen = classify::classify(
        ProviderKind::OpenAi,
        StatusCode::BAD_REQUEST,
        &HeaderMap::new(),
        body,
        NOW,
        None,
    );
    assert_eq!(
        (seen.excerpt.as_str(), seen.code.as_deref()),
        ("", Some("invalid_value"))
    );
}

fn limited(pairs: &[(&str, &str)], message: &str) -> Option<Duration> {
    let body = serde_json::json!({ "error": { "message": message } }).to_string();
    let status = StatusCode::TOO_MANY_REQUESTS;
    let seen = classify::classify(
        ProviderKind::Generic,
        status,
        &headers(pairs.iter().copied()),
        body.as_bytes(),
        NOW,
        None,
    );
    let Class::Limited { retry_after, .. } = seen.class else {
        panic!("{seen:?}")
    };
    retry_after
}

#[test]
fn the_reset_of_the_exhausted_dimension_counts_not_the_smallest() {
    let secs = |secs: f64| Some(Duration::from_secs_f64(secs));
    let all = [
        ("x-ratelimit-remaining-requests", "99"),
        ("x-ratelimit-reset-requests", "20ms"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "6m0s"),
    ];
    assert_eq!(limited(&all, ""), secs(360.0));
    // Both exhausted: the later.
    let both = [
        ("x-ratelimit-remaining-requests", "0"),
        ("x-ratelimit-reset-requests", "1h2m3s"),
        all[2],
        all[3],
    ];
    assert_eq!(limited(&both, ""), secs(3723.0));
    // None at zero, since the request was larger than what remained: the message says which.
    let some = [
        all[0],
        all[1],
        ("x-ratelimit-remaining-tokens", "500"),
        all[3],
    ];
    assert_eq!(
        limited(&some, "Rate limit reached on tokens per min (TPM)"),
        secs(360.0)
    );
    assert_eq!(
        limited(&some, "Rate limit reached on requests per min (RPM)"),
        secs(0.02)
    );
    assert_eq!(limited(&some, "Slow down"), None, "no guess");
    // The IETF's names without a dimension, a Unix time, an RFC 3339 time with an offset.
    assert_eq!(
        limited(
            &[("ratelimit-remaining", "0"), ("ratelimit-reset", "37")],
            ""
        ),
        secs(37.0)
    );
    let unix = (NOW + 9).to_string();
    assert_eq!(
        limited(
            &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", &unix)],
            ""
        ),
        secs(9.0)
    );
    let zone = [
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "2026-11-21T14:00:05.25+02:00"),
    ];
    assert_eq!(limited(&zone, ""), secs(5.0));
}

#[test]
fn what_is_stated_goes_before_what_is_concluded() {
    let secs = |secs: f64| Some(Duration::from_secs_f64(secs));
    let dimension = [
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "50s"),
    ];
    let stated = [dimension[0], dimension[1], ("retry-after", "7")];
    assert_eq!(limited(&stated, "try again in 1.2s"), secs(7.0));
    assert_eq!(
        limited(&[stated[2], ("retry-after-ms", "1500")], ""),
        secs(1.5)
    );
    assert_eq!(limited(&dimension, "try again in 1.2s"), secs(50.0));
    assert_eq!(limited(&[], "Please try again in 1.2s."), secs(1.2));
    assert_eq!(
        limited(&[], "Rate limit is exceeded. Try again in 30 seconds."),
        secs(30.0)
    );
    assert_eq!(
        limited(&[], "Please try again in 58 hours."),
        secs(208_800.0)
    );
    assert_eq!(limited(&[], "Please try again in 644ms."), secs(0.644));
}

#[test]
fn nonsense_in_headers_is_no_time() {
    for value in [
        "",
        "-1",
        "0",
        "NaN",
        "inf",
        "soon",
        "1e400",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "9".repeat(400).as_str(),
    ] {
        let seen = limited(&[("retry-after", value)], "");
        assert!(
            seen.is_none_or(|delay| delay <= Duration::from_secs(32 * 86_400)),
            "{value}: {seen:?}"
        );
    }
    assert_eq!(
        limited(&[("retry-after", "99999999999")], ""),
        Some(Duration::from_secs(32 * 86_400))
    );
    assert_eq!(
        limited(
            &[
                ("x-ratelimit-remaining", "0"),
                ("x-ratelimit-reset", "2026-99-99T99:99:99Z")
            ],
            ""
        ),
        None
    );
}

#[test]
fn googles_day_ends_no_earlier_than_said_in_summer_and_winter() {
    let body = br#"{"error":{"code":429,"details":[{"violations":[{"quotaId":"RequestsPerDayPerModel"}]},{"retryDelay":"3s"}]}}"#;
    let hour = 3_600;
    let midnight = NOW - 12 * hour;
    for (at, hours) in [(0, 7), (6, 1), (7, 1), (8, 23), (23, 8)] {
        let now = midnight + at * hour;
        let status = StatusCode::TOO_MANY_REQUESTS;
        let seen = classify::classify(
            ProviderKind::Gemini,
            status,
            &HeaderMap::new(),
            body,
            now,
            None,
        );
        let retry_after = Some(Duration::from_secs(hours * hour));
        assert_eq!(
            seen.class,
            Class::QuotaExhausted {
                scope: LimitScope::Model,
                retry_after
            },
            "at {at} o'clock UTC"
        );
    }
}

#[test]
fn no_key_is_left_in_an_excerpt() {
    let keys = [
        "sk-proj-4ZkQm9bXh2TtR8sVnY1cWd",
        "sk-ant-api03-abcDEF123456-xyz_AA",
        "AIzaSyAJaC2_HRoQlWYanWPm2S-xxxxxxx",
        "gsk_1234567890abcdefABCDEF12",
        "xai-abcdefghij1234567890",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG1bPxRfiCYEXAMPLEKEY",
        "0123456789abcdef0123456789abcdef",
        "hf_abcdefghijklmnopqrstuv",
        "ghp_abcdefghijklmnopqrst",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "5f2b8c1e9a7d4f6b8c1e9a7d4f6b8c1e.Abc123Def456Ghi7",
    ];
    for key in keys {
        for text in [
            format!("bad key {key}."),
            format!("'{key}' is bad"),
            format!("key={key}&x"),
            format!("https://x.y/v1?key={key}"),
        ] {
            let body = serde_json::json!({ "error": { "message": text, "code": key } }).to_string();
            let status = StatusCode::UNAUTHORIZED;
            let seen = classify::classify(
                ProviderKind::Generic,
                status,
                &HeaderMap::new(),
                body.as_bytes(),
                NOW,
                None,
            );
            let shown = format!("{seen:?}");
            assert!(
                !shown.contains(key) && shown.contains("[redacted]"),
                "{shown}"
            );
        }
    }
    let body = br#"{"error":{"message":"token 'Bearer hunter2' and Basic dXNlcg== are bad"}}"#;
    let seen = classify::classify(
        ProviderKind::Generic,
        StatusCode::UNAUTHORIZED,
        &HeaderMap::new(),
        body,
        NOW,
        None,
    );
    assert!(
        !seen.excerpt.contains("hunter2") && !seen.excerpt.contains("dXNlcg"),
        "{}",
        seen.excerpt
    );
}

#[test]
fn words_and_models_stay_readable() {
    let text = "Rate limit reached for model `llama-3.3-70b-versatile` on black-forest-labs/FLUX.1-kontext-pro, see https://console.groq.com/docs/rate-limits";
    let seen = Evidence::local(Class::ProviderDown, 500, "test", text);
    assert_eq!(seen.excerpt, text);
    assert_eq!(
        Evidence::local(Class::Broken, 200, "cut", "  a\r\n\tb\0 c ").excerpt,
        "a b c"
    );
}

fn secret() -> impl Strategy<Value = String> {
    "[!-~]{8,60}".prop_filter("the mark itself", |text| {
        !"[redacted]".contains(text.as_str())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_key_in_use_is_never_shown_however_it_is_quoted(
        secret in secret(), before in "[ -~]{0,30}", after in "[ -~]{0,200}", status in 300u16..600,
    ) {
        let body = serde_json::json!({ "error": { "message": format!("{before}{secret}{after}"), "code": secret } }).to_string();
        let status = StatusCode::from_u16(status).unwrap();
        let seen = classify::classify(ProviderKind::Generic, status, &HeaderMap::new(), body.as_bytes(), NOW, Some(&secret));
        prop_assert!(!seen.excerpt.contains(&secret) && !seen.code.unwrap_or_default().contains(&secret), "{}", seen.excerpt);
    }

    #[test]
    fn any_answer_is_classified_within_bounds(
        body in prop_oneof![prop::collection::vec(any::<u8>(), 0..400), "[ -~äß\u{1F600}\n\r\t]{0,400}".prop_map(String::into_bytes)],
        status in 100u16..1000, name in "[a-z-]{1,30}", value in "[ -~]{0,40}", now in any::<u64>(),
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let mut headers = HeaderMap::new();
        for name in [name.as_str(), "retry-after", "retry-after-ms", "x-ratelimit-remaining", "x-ratelimit-reset", "x-amzn-errortype"] {
            headers.insert(http::HeaderName::from_bytes(name.trim_matches('-').as_bytes()).unwrap_or(http::header::DATE), value.parse().unwrap());
        }
        for kind in ProviderKind::ALL {
            let seen = classify::classify(*kind, status, &headers, &body, now, Some("s"));
            prop_assert!(seen.excerpt.chars().count() <= 200 && !seen.excerpt.contains(['\n', '\r']));
            prop_assert!(seen.code.is_none_or(|code| code.chars().count() <= 64));
            let _ = classify::classify_event(*kind, name.as_bytes(), &body, now, None);
        }
    }

    #[test]
    fn any_error_of_a_known_shape_is_read(message in "\\PC{0,300}", code in "\\PC{0,80}", number in any::<i64>(), delay in "\\PC{0,20}") {
        let details = serde_json::json!([{ "retryDelay": delay, "reason": code, "violations": [{ "quotaId": code }] }]);
        let error = serde_json::json!({ "message": message, "code": code, "type": number, "details": details });
        for body in [
            serde_json::json!({ "error": error }), serde_json::json!([{ "error": error }]), serde_json::json!({ "error": message }),
            serde_json::json!({ "errors": [error] }), serde_json::json!({ "base_resp": { "status_code": number, "status_msg": message } }),
            serde_json::json!({ "error_code": number, "error_msg": message }), error.clone(),
        ] {
            let body = body.to_string();
            let seen = classify::classify(ProviderKind::Gemini, StatusCode::IM_A_TEAPOT, &HeaderMap::new(), body.as_bytes(), NOW, None);
            prop_assert!(seen.class != Class::Ok);
        }
    }
}

#[test]
fn a_frame_that_is_no_error_is_passed_without_an_allocation() {
    let frames: [&[u8]; 3] = [
        br#"{"id":"c","choices":[{"delta":{"content":"hello"}}]}"#,
        br#"{"type":"response.created","response":{"id":"r","error":null,"output":[]}}"#,
        br#"{"id":"c","error":null,"choices":[{"delta":{"content":"an \"error\""}}]}"#,
    ];
    let counted = allocation_counter::measure(|| {
        for _ in 0..100 {
            for frame in frames {
                assert_eq!(
                    classify::classify_event(ProviderKind::OpenAi, b"", frame, NOW, None),
                    None
                );
            }
        }
    });
    assert_eq!(counted.count_total, 0);
}
