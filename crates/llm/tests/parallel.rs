//! Calls whose arguments come in turns are told apart in dialects that tell one after the other.

mod support;

use serde_json::Value;
use support::{answer, call, feed, prepare, short};
use tidegate_llm::{ProviderKind, Step};

/// A stream of chat chunks: two calls that take turns.
fn mixed() -> Vec<u8> {
    let start = |index, id, name| {
        format!(
            r#"{{"index":{index},"id":"{id}","type":"function","function":{{"name":"{name}","arguments":""}}}}"#
        )
    };
    let more = |index, text: &str| {
        format!(
            r#"{{"index":{index},"function":{{"arguments":{}}}}}"#,
            Value::from(text)
        )
    };
    let pieces = [
        start(0, "call_a", "f"),
        start(1, "call_b", "g"),
        more(0, "{\"x\""),
        more(1, "{\"y\":"),
        more(0, ":\"}\"}"),
        more(1, "2}"),
    ];
    let mut out = String::new();
    for piece in pieces {
        out.push_str(&format!(
            "data: {{\"id\":\"c\",\"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{piece}]}},\"finish_reason\":null}}]}}\n\n"
        ));
    }
    out.push_str("data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n");
    out.into_bytes()
}

/// The events that a caller got.
fn events(path: &str, caller: &str) -> Vec<Value> {
    let call = call(path, short(caller, true)).unwrap();
    let prepared = prepare(&call, ProviderKind::DeepSeek, "m").unwrap();
    let mut answer = answer(&prepared, "text/event-stream");
    let (text, step) = feed(&mut answer, &[&mixed()]);
    assert_eq!(step, Step::Done);
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect()
}

#[test]
fn a_block_of_anthropics_stream_has_all_its_arguments_before_it_stops() {
    let mut open = None;
    let mut calls = Vec::new();
    for event in events("/v1/messages", "messages") {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(open, None);
                open = event["index"].as_u64();
                calls.push((event["content_block"]["id"].clone(), String::new()));
            }
            "content_block_delta" => {
                assert_eq!(event["index"].as_u64(), open);
                let piece = event["delta"]["partial_json"].as_str().unwrap();
                calls.last_mut().unwrap().1.push_str(piece);
            }
            "content_block_stop" => assert_eq!(event["index"].as_u64(), open.take()),
            _ => {}
        }
    }
    assert_eq!(open, None);
    assert_eq!(
        calls,
        [
            ("call_a".into(), "{\"x\":\"}\"}".to_owned()),
            ("call_b".into(), "{\"y\":2}".to_owned())
        ]
    );
}

#[test]
fn an_item_of_a_response_gets_its_own_arguments() {
    let mut pieces = std::collections::BTreeMap::<String, String>::new();
    let mut done = Vec::new();
    for event in events("/v1/responses", "responses") {
        let item = || event["item_id"].as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            "response.function_call_arguments.delta" => {
                let piece = event["delta"].as_str().unwrap();
                pieces.entry(item()).or_default().push_str(piece);
            }
            "response.function_call_arguments.done" => {
                assert_eq!(event["arguments"], pieces[&item()].as_str());
            }
            "response.output_item.done" => {
                let item = &event["item"];
                done.push((item["call_id"].clone(), item["arguments"].clone()));
            }
            "response.completed" => {
                assert_eq!(event["response"]["output"].as_array().unwrap().len(), 2);
            }
            _ => {}
        }
    }
    assert_eq!(
        done,
        [
            ("call_a".into(), "{\"x\":\"}\"}".into()),
            ("call_b".into(), "{\"y\":2}".into())
        ]
    );
}
