use proptest::prelude::*;

use super::*;
use crate::json::Malformed;

fn read(dialect: Dialect, json: &str) -> Usage {
    Usage::read(dialect, json.as_bytes()).unwrap_or_else(|| panic!("no usage in {json}"))
}

fn usage(input: u64, output: u64) -> Usage {
    Usage {
        input,
        output,
        ..Usage::default()
    }
}

#[test]
fn openai_and_its_like() {
    let chat = r#"{"id":"c","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,
        "prompt_tokens_details":{"cached_tokens":4,"audio_tokens":2},
        "completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":1,"accepted_prediction_tokens":0}}}"#;
    let whole = Usage {
        cached: 4,
        audio_input: 2,
        reasoning: 3,
        audio_output: 1,
        ..usage(19, 10)
    };
    assert_eq!(read(Dialect::OpenAi, chat), whole);

    let responses = r#"{"type":"response.completed","response":{"id":"r","usage":{"input_tokens":36,
        "input_tokens_details":{"cached_tokens":6},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":7},"total_tokens":123}}}"#;
    assert_eq!(
        read(Dialect::OpenAi, responses),
        Usage {
            cached: 6,
            reasoning: 7,
            ..usage(36, 87)
        }
    );

    let embeddings =
        r#"{"data":[{"embedding":[0.1,-2e-3]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#;
    assert_eq!(read(Dialect::OpenAi, embeddings), usage(8, 0));

    let deepseek = r#"{"usage":{"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}}"#;
    assert_eq!(
        read(Dialect::OpenAi, deepseek),
        Usage {
            cached: 64,
            ..usage(100, 5)
        }
    );

    let moonshot = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":19,"completion_tokens":13,"total_tokens":32}}]}"#;
    assert_eq!(read(Dialect::OpenAi, moonshot), usage(19, 13));

    let groq = r#"{"choices":[{"delta":{}}],"x_groq":{"id":"req_1","usage":{"prompt_tokens":18,"completion_tokens":9,"total_tokens":27}}}"#;
    assert_eq!(read(Dialect::OpenAi, groq), usage(18, 9));
}

#[test]
fn reasoning_beside_the_output_is_added_where_the_total_says_so() {
    let xai = r#"{"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}}"#;
    assert_eq!(
        read(Dialect::OpenAi, xai),
        Usage {
            reasoning: 94,
            ..usage(32, 103)
        }
    );
}

#[test]
fn anthropic_counts_the_cache_beside_the_input_and_reports_in_two_parts() {
    let start = r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":25,"cache_creation_input_tokens":100,"cache_read_input_tokens":1000,"output_tokens":1}}}"#;
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}"#;
    let mut seen = read(Dialect::Anthropic, start);
    assert_eq!(
        seen,
        Usage {
            cached: 1000,
            cache_written: 100,
            ..usage(1125, 1)
        }
    );
    seen.merge(&read(Dialect::Anthropic, end));
    assert_eq!(
        seen,
        Usage {
            cached: 1000,
            cache_written: 100,
            ..usage(1125, 15)
        }
    );
}

#[test]
fn gemini_counts_thoughts_beside_the_candidates() {
    let json = r#"{"candidates":[],"usageMetadata":{"promptTokenCount":10,"candidatesTokenCount":20,"thoughtsTokenCount":30,
        "toolUsePromptTokenCount":5,"cachedContentTokenCount":4,"totalTokenCount":65,
        "promptTokensDetails":[{"modality":"TEXT","tokenCount":8},{"modality":"AUDIO","tokenCount":2}]}}"#;
    let expected = Usage {
        cached: 4,
        reasoning: 30,
        audio_input: 2,
        ..usage(15, 50)
    };
    assert_eq!(read(Dialect::Gemini, json), expected);
    assert_eq!(read(Dialect::Gemini, &format!("[{json},{json}]")), expected);
}

#[test]
fn bedrock_and_cohere() {
    let converse = r#"{"metrics":{"latencyMs":1},"usage":{"inputTokens":30,"outputTokens":628,"totalTokens":668,"cacheReadInputTokens":10,"cacheWriteInputTokens":0}}"#;
    assert_eq!(
        read(Dialect::Bedrock, converse),
        Usage {
            cached: 10,
            ..usage(40, 628)
        }
    );

    let stream = r#"{"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":17,"output_tokens":12},"tokens":{"input_tokens":215,"output_tokens":12}}}}"#;
    assert_eq!(read(Dialect::Cohere, stream), usage(215, 12));
    let rerank = r#"{"results":[],"meta":{"api_version":{"version":"2"},"billed_units":{"search_units":1,"input_tokens":7}}}"#;
    assert_eq!(read(Dialect::Cohere, rerank), usage(7, 0));
}

#[test]
fn what_holds_no_usage_is_none_and_what_is_odd_counts_as_nothing() {
    for json in [
        r#"{"usage":null}"#,
        r#"{"choices":[{"delta":{"content":"\"usage\""}}]}"#,
        r#"{"usage":{"prompt_tokens":1}"#,
        "",
        "[]",
    ] {
        assert_eq!(
            Usage::read(Dialect::OpenAi, json.as_bytes()),
            None,
            "{json}"
        );
    }
    let odd = r#"{"usage":{"prompt_tokens":"7","completion_tokens":-3,"total_tokens":1e3,"prompt_tokens_details":[]}}"#;
    assert_eq!(read(Dialect::OpenAi, odd), usage(0, 0));
}

#[test]
fn an_estimate_fills_what_was_not_reported() {
    assert_eq!(
        Usage::estimate(401, 8),
        Usage {
            estimated: true,
            ..usage(101, 2)
        }
    );
    // Anthropic's first report: the input is known, the output was just beginning.
    assert_eq!(
        usage(25, 1).or_estimate(4000, 400),
        Usage {
            estimated: true,
            ..usage(25, 100)
        }
    );
    assert_eq!(usage(25, 120).or_estimate(4000, 400), usage(25, 120));
    assert_eq!(Usage::default().or_estimate(0, 0), Usage::default());
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), numbers in any::<[u64; 6]>()) {
        let [a, b, c, d, e, f] = numbers;
        let json = format!(
            r#"{{"usage":{{"input_tokens":{a},"output_tokens":{b},"cache_read_input_tokens":{c},"cache_creation_input_tokens":{d},
            "prompt_tokens":{e},"inputTokens":{f},"cacheReadInputTokens":{a},"total_tokens":{b},"completion_tokens_details":{{"reasoning_tokens":{c}}}}},
            "usageMetadata":{{"promptTokenCount":{a},"thoughtsTokenCount":{b},"candidatesTokenCount":{c}}}}}"#,
        );
        for dialect in [Dialect::OpenAi, Dialect::Anthropic, Dialect::Gemini, Dialect::Cohere, Dialect::Bedrock] {
            let _ = Usage::read(dialect, &bytes);
            let seen = Usage::read(dialect, json.as_bytes());
            prop_assert!(seen.is_some_and(|seen| seen.total() > 0 || dialect == Dialect::Cohere || a.max(b).max(c) == 0));
        }
    }

    #[test]
    fn merging_never_loses(one in any::<[u32; 2]>(), other in any::<[u32; 2]>()) {
        let [one, other] = [one, other].map(|[input, output]| usage(input.into(), output.into()));
        let mut merged = one;
        merged.merge(&other);
        prop_assert!(merged.input >= one.input.max(other.input) && merged.output >= one.output.max(other.output));
        let again = merged;
        merged.merge(&other);
        prop_assert_eq!(merged, again);
    }
}

#[test]
fn the_end_of_an_answer_tells_its_usage_where_it_is_its_own() {
    let seen = |dialect, end: &str| Usage::read_end(dialect, end.as_bytes());
    let counted = Usage {
        input: 3,
        output: 4,
        ..Usage::default()
    };
    for end in [
        r#"AAAA"}],"usage":{"input_tokens":3,"output_tokens":4}}"#,
        "AA\"} ] , \"usage\" : {\"prompt_tokens\":3,\"completion_tokens\":4} , \"user\":null,\"metadata\":{\"a\":[1]} }\n",
    ] {
        assert_eq!(seen(Dialect::OpenAi, end), Some(counted), "{end}");
    }
    let end =
        r#"}],"usageMetadata":{"promptTokenCount":3,"candidatesTokenCount":4},"modelVersion":"g"}"#;
    assert_eq!(seen(Dialect::Gemini, end), Some(counted));
    for end in [
        // Of something within the answer, cut, of another type, a text that speaks of it.
        r#"{"usage":{"input_tokens":3,"output_tokens":4}}]}"#,
        r#""usage":{"input_tokens":3,"output_tokens":4}"#,
        r#""usage":{"input_tokens":3,"#,
        r#""usage":null}"#,
        r#""a":"b \"usage\": {}"}"#,
        "",
    ] {
        assert_eq!(seen(Dialect::OpenAi, end), None, "{end}");
    }
}

#[test]
fn a_whole_answer_is_checked_and_counted_in_one_walk() {
    let checked = |text: &str| Usage::read_checked(Dialect::OpenAi, text.as_bytes());
    let answer = r#"{"choices":[{"message":{"content":"a \"usage\""}}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
    assert_eq!(checked(answer), Ok(Some(usage(3, 4))));
    for sound in ["{}", "[]", "3", " {\"usage\":null} ", "\"x\""] {
        assert_eq!(checked(sound), Ok(None), "{sound}");
    }
    for end in 0..answer.len() {
        assert_eq!(checked(&answer[..end]), Err(Malformed), "{end}");
    }
    assert_eq!(checked(&format!("{answer}x")), Err(Malformed));
}
