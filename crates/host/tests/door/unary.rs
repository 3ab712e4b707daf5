//! `ai.AI`'s unary methods.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use serde_json::json;
use tidegate_host::proto::ai::{Input, Output};
use tonic::Code;

use crate::client::{channel, framed, grpc, input, predict, reason, unary};
use crate::fake::{MESSAGE, served, sum, until};

#[tokio::test]
async fn a_call_carries_its_arguments_and_who_asked() {
    let door = served();
    let channel = channel(&door.socket).await;
    let mut request = tonic::Request::new(Input {
        kwargs_json: Bytes::from_static(br#"{"text": "a"}"#),
        version: "v2".to_owned(),
        binary_data: Bytes::from_static(b"abc"),
    });
    request
        .metadata_mut()
        .insert("x-request-id", "r-1".parse().unwrap());
    request
        .metadata_mut()
        .insert("idempotency-key", "k".parse().unwrap());
    request.set_timeout(Duration::from_secs(60));
    let response = unary::<_, Output>(&channel, "/ai.AI/predict", request)
        .await
        .unwrap();
    assert_eq!(
        response.metadata().get("x-tidegate-instance").unwrap(),
        "fake-0"
    );
    let told: serde_json::Value = serde_json::from_slice(&response.get_ref().data_json).unwrap();
    assert_eq!(
        told,
        json!({
            "method": "predict", "kwargs": {"text": "a"}, "version": "v2", "retry": true, "id": "r-1",
            "deadline": true, "parts": [["", 3, sum(b"abc"), null]],
        })
    );
}

#[tokio::test]
async fn a_method_with_binary_data_gets_one_even_if_it_is_empty_and_others_none() {
    let door = served();
    let channel = channel(&door.socket).await;
    let told = predict(&channel, "").await.unwrap();
    assert_eq!(told["kwargs"], json!({}));
    assert_eq!(told["parts"], json!([["", 0, sum(b""), null]]));
    let output: Output = unary(&channel, "/ai.AI/train", input("{}"))
        .await
        .unwrap()
        .into_inner();
    let told: serde_json::Value = serde_json::from_slice(&output.data_json).unwrap();
    assert_eq!(
        (&told["method"], &told["parts"]),
        (&json!("train"), &json!([]))
    );
}

#[tokio::test]
async fn errors_have_a_status_a_word_and_the_exception_s_type() {
    let door = served();
    let channel = channel(&door.socket).await;
    for (kwargs, code, word) in [
        (r#"{"fail": 1}"#, Code::Internal, "model_error"),
        ("[]", Code::InvalidArgument, "bad_arguments"),
        ("{", Code::InvalidArgument, "bad_arguments"),
        (
            r#"{"_aipod_x": 1}"#,
            Code::InvalidArgument,
            "reserved_argument",
        ),
    ] {
        let status = predict(&channel, kwargs).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (code, word), "{kwargs}");
    }
    let status = predict(&channel, r#"{"fail": 1}"#).await.unwrap_err();
    assert_eq!(status.message(), "KeyError: no key 'x'\nsecond line");
    let details = String::from_utf8_lossy(status.details()).into_owned();
    assert!(
        details.contains("google.rpc.ErrorInfo") && details.contains("KeyError"),
        "{details}"
    );
}

#[tokio::test]
async fn what_does_not_exist_is_unimplemented() {
    let door = served();
    let channel = channel(&door.socket).await;
    for path in [
        "/ai.AI/other",
        "/ai.AI/_private",
        "/no.Such/method",
        "/inference.GRPCInferenceService/ModelConfig",
    ] {
        let status = unary::<_, Output>(&channel, path, input("{}"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn messages_beyond_the_limit_are_refused_compressed_or_not() {
    let door = served();
    let channel = channel(&door.socket).await;
    let large = Input {
        kwargs_json: Bytes::from_static(b"{}"),
        binary_data: vec![0; MESSAGE as usize].into(),
        ..Input::default()
    };
    let status = unary::<_, Output>(
        &channel,
        "/ai.AI/predict",
        tonic::Request::new(large.clone()),
    )
    .await
    .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::ResourceExhausted, "too_large")
    );

    let bomb = framed(true, &gzip(&large.encode_to_vec()));
    let (_, _, trailers) = grpc(
        &door.socket,
        "/ai.AI/predict",
        &[("grpc-encoding", "gzip")],
        bomb,
    )
    .await;
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-tidegate-error"]),
        (&"8".parse().unwrap(), &"too_large".parse().unwrap())
    );
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn gzip_is_taken_from_callers_and_given_to_those_that_accept_it() {
    let door = served();
    for (size, accepted, compressed) in [
        (10, "identity,gzip", false),
        (100_000, "identity,gzip", true),
        (100_000, "identity", false),
    ] {
        let asked = Input {
            kwargs_json: format!(r#"{{"text": "{}"}}"#, "x".repeat(size)).into(),
            ..Input::default()
        };
        let headers = [
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", accepted),
        ];
        let body = framed(true, &gzip(&asked.encode_to_vec()));
        let (head, body, trailers) = grpc(&door.socket, "/ai.AI/predict", &headers, body).await;
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(
            (body[0] == 1, head.contains_key("grpc-encoding")),
            (compressed, compressed)
        );
        assert_eq!(
            body[1..5],
            u32::try_from(body.len() - 5).unwrap().to_be_bytes()
        );
        let mut message = body[5..].to_vec();
        if compressed {
            message.clear();
            flate2::read::GzDecoder::new(&body[5..])
                .read_to_end(&mut message)
                .unwrap();
        }
        let output = Output::decode(&message[..]).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&output.data_json).unwrap();
        assert_eq!(told["kwargs"]["text"].as_str().unwrap().len(), size);
    }
}

#[tokio::test]
async fn broken_framing_has_a_status_and_ends_nothing_else() {
    let door = served();
    let good = framed(false, &Input::default().encode_to_vec());
    let twice = [&good[..], &good[..]].concat();
    let none: &[(&str, &str)] = &[];
    for (what, headers, body, status) in [
        ("nothing", none, vec![], "3"),
        ("a cut prefix", none, vec![0, 0], "3"),
        ("a cut message", none, vec![0, 0, 0, 0, 9, 1], "3"),
        ("a strange flag", none, vec![7, 0, 0, 0, 0], "3"),
        ("a length that lies", none, vec![0, 255, 255, 255, 255], "8"),
        ("no protocol buffer", none, framed(false, &[0xff; 9]), "3"),
        ("two messages", none, twice, "12"),
        (
            "compressed without saying how",
            none,
            framed(true, &gzip(b"")),
            "13",
        ),
        (
            "no gzip",
            &[("grpc-encoding", "gzip")],
            framed(true, b"abc"),
            "3",
        ),
        (
            "an unknown coding",
            &[("grpc-encoding", "br")],
            good.clone(),
            "12",
        ),
        (
            "a strange timeout",
            &[("grpc-timeout", "soon")],
            good.clone(),
            "3",
        ),
        ("all well", none, good.clone(), "0"),
    ] {
        let (_, _, trailers) = grpc(&door.socket, "/ai.AI/predict", headers, body).await;
        assert_eq!(trailers["grpc-status"], status, "{what}");
    }
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_frees_the_model() {
    let door = served();
    // By hand: tonic's client would answer before the door does.
    let asked = Input {
        kwargs_json: Bytes::from_static(br#"{"hang": 1}"#),
        ..Input::default()
    };
    let body = framed(false, &asked.encode_to_vec());
    let (_, _, trailers) = grpc(
        &door.socket,
        "/ai.AI/predict",
        &[("grpc-timeout", "20m")],
        body,
    )
    .await;
    assert_eq!(trailers["grpc-status"], "4");
    assert_eq!(trailers["x-tidegate-error"], "deadline");
    until(|| door.model.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_its_call() {
    let door = served();
    let channel = channel(&door.socket).await;
    let call = tokio::spawn(async move { predict(&channel, r#"{"hang": 1}"#).await });
    until(|| door.model.running.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until(|| door.model.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_generator_is_a_list_and_parts_become_json() {
    let door = served();
    let channel = channel(&door.socket).await;
    assert_eq!(
        predict(&channel, r#"{"stream": 1}"#).await.unwrap(),
        json!([0, 1])
    );
    assert_eq!(
        predict(&channel, r#"{"tensors": 1}"#).await.unwrap(),
        json!({"n": 1, "y": [[1.5], [2.5]], "b": "YWI="})
    );
}

#[tokio::test]
async fn many_calls_run_at_once_on_one_connection() {
    let door = served();
    let channel = channel(&door.socket).await;
    let calls: Vec<_> = (0..200)
        .map(|i| {
            let channel = channel.clone();
            tokio::spawn(async move { predict(&channel, &format!(r#"{{"i": {i}}}"#)).await })
        })
        .collect();
    for (i, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap().unwrap()["kwargs"]["i"], i);
    }
}
