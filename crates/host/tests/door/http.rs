//! Plain HTTP, server-sent events, uploads, TensorFlow Serving.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use tokio::net::UnixStream;

use crate::client::{get, json, packed, post, problem, request};
use crate::fake::{MESSAGE, QUOTA, Served, served, sum, until};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

async fn call(door: &Served, path: &str, body: &str) -> Json {
    let response = post(&door.socket, path, JSON, body).await;
    assert_eq!(response.status(), StatusCode::OK, "{:?}", response.body());
    json(&response)
}

#[tokio::test]
async fn json_in_json_out() {
    let door = served();
    let headers = [
        ("content-type", "application/json; charset=utf-8"),
        ("x-request-id", "r"),
        ("idempotency-key", "k"),
    ];
    let response = post(
        &door.socket,
        "/fake/train?version=v2",
        &headers,
        r#"{"a": [1]}"#,
    )
    .await;
    assert_eq!(response.headers()["x-tidegate-instance"], "fake-0");
    assert_eq!(
        json(&response),
        json!({"method": "train", "kwargs": {"a": [1]}, "version": "v2", "parts": [], "retry": true, "id": "r", "deadline": false})
    );
    assert_eq!(call(&door, "/fake/train", "").await["kwargs"], json!({}));
    assert_eq!(call(&door, "/fake/nothing", "{}").await, Json::Null);
    let bytes = post(&door.socket, "/fake/bytes", JSON, "{}").await;
    assert_eq!(bytes.headers()["content-type"], "application/octet-stream");
    assert_eq!(&bytes.body()[..], b"\0\x01bytes");
}

#[tokio::test]
async fn errors_are_problem_documents() {
    let door = served();
    let large = format!(r#"{{"a": "{}"}}"#, "x".repeat(MESSAGE as usize));
    for (path, body, status, word) in [
        ("/fake/fail", "{}", 500, "model_error"),
        ("/fake/crash", "{}", 503, "worker_crashed"),
        ("/fake/no_such", "{}", 501, "unknown_method"),
        ("/fake/_private", "{}", 501, "unknown_method"),
        ("/other/predict", "{}", 404, "unknown_model"),
        ("/fake/train", "[]", 400, "bad_arguments"),
        (
            "/fake/train",
            r#"{"_aipod_x": 1}"#,
            400,
            "reserved_argument",
        ),
        ("/fake/train", &large, 413, "too_large"),
        ("/a/b/c", "{}", 404, "unknown_path"),
        ("/fake/%FF", "{}", 400, "bad_request"),
    ] {
        let response = post(&door.socket, path, JSON, body).await;
        assert_eq!(
            problem(&response),
            (StatusCode::from_u16(status).unwrap(), word.to_owned()),
            "{path}"
        );
    }
    let failed = post(&door.socket, "/fake/fail", JSON, "{}").await;
    assert_eq!(json(&failed)["exception"], "KeyError");
}

#[tokio::test]
async fn a_service_describes_itself() {
    let door = served();
    let about = json(&get(&door.socket, "/fake").await);
    assert_eq!(about["class"], "model:Fake");
    assert_eq!(about["methods"]["items"]["stream"], true);
    assert_eq!(about["versions"][0], json!({"name": "v1", "loaded": true}));
    assert_eq!(
        problem(&get(&door.socket, "/other").await).1,
        "unknown_model"
    );
    assert_eq!(
        problem(&get(&door.socket, "/fake/predict").await).1,
        "method_not_allowed"
    );
}

#[tokio::test]
async fn a_body_of_bytes_is_the_binary_argument() {
    let door = served();
    let data: Vec<u8> = (0..1_000_000u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    let octets = ("content-type", "application/octet-stream");
    let path = "/fake/read?a=1&b=text&c=%5B1%5D";
    let plain = json(&post(&door.socket, path, &[octets], &data).await);
    assert_eq!(plain["kwargs"], json!({"a": 1, "b": "text", "c": [1]}));
    assert_eq!(plain["parts"], json!([["", data.len(), sum(&data), null]]));
    let coded = [octets, ("content-encoding", "zstd")];
    let packed = packed(&data);
    assert_eq!(
        json(&post(&door.socket, path, &coded, &packed).await),
        plain
    );
    let cut = post(&door.socket, path, &coded, &packed[..packed.len() - 3]).await;
    assert_eq!(problem(&cut).1, "truncated");
    let unknown = post(
        &door.socket,
        path,
        &[octets, ("content-encoding", "br")],
        &data,
    )
    .await;
    assert_eq!(problem(&unknown).1, "bad_request");
    let reserved = post(&door.socket, "/fake/read?_aipod_x=1", &[octets], &data).await;
    assert_eq!(problem(&reserved).1, "reserved_argument");
    let strict = post(&door.socket, "/fake/strict", &[octets], &data).await;
    assert_eq!(problem(&strict).1, "bad_arguments");
    door.emptied().await;
}

#[tokio::test]
async fn an_upload_beyond_the_quota_is_refused_whether_it_says_so_or_not() {
    let door = served();
    let length = (QUOTA + 1).to_string();
    let headers = [
        ("content-type", "application/octet-stream"),
        ("content-length", &length),
    ];
    // Nothing of it need be sent.
    let stream = UnixStream::connect(&door.socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let (body, _sender) = waiting();
    let mut builder = http::Request::builder()
        .method("POST")
        .uri("/fake/read")
        .header("host", "x");
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    let response = sender
        .send_request(builder.body(body).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let zeros = vec![0; QUOTA as usize + (1 << 20)];
    let coded = [
        ("content-type", "application/octet-stream"),
        ("content-encoding", "zstd"),
    ];
    let response = post(&door.socket, "/fake/read", &coded, packed(&zeros)).await;
    assert_eq!(problem(&response).1, "upload_quota");
    door.emptied().await;
}

/// A body that never comes.
fn waiting() -> (
    http_body_util::StreamBody<
        impl futures_util::Stream<Item = Result<http_body::Frame<Bytes>, std::io::Error>>,
    >,
    tokio::sync::mpsc::Sender<()>,
) {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<()>(1);
    let stream = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|_| None));
    (http_body_util::StreamBody::new(stream), sender)
}

#[tokio::test]
async fn a_form_has_fields_and_files() {
    let door = served();
    let file = vec![7; 600_000];
    let form = |name: &str| {
        let mut body = Vec::new();
        for (name, text) in [("a", "1"), ("b", "text"), (name, r#"{"x": 1}"#)] {
            body.extend_from_slice(
                format!("--B\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
                    .as_bytes(),
            );
        }
        body.extend_from_slice(
            b"--B\r\ncontent-disposition: form-data; name=\"image\"; filename=\"i.png\"\r\ncontent-type: image/png\r\n\r\n",
        );
        body.extend_from_slice(&file);
        body.extend_from_slice(b"\r\n--B--\r\n");
        body
    };
    let multipart = [("content-type", "multipart/form-data; boundary=B")];
    let told = json(&post(&door.socket, "/fake/train", &multipart, form("c")).await);
    assert_eq!(told["kwargs"], json!({"a": 1, "b": "text", "c": {"x": 1}}));
    assert_eq!(
        told["parts"],
        json!([["image", file.len(), sum(&file), null]])
    );
    for (body, word) in [
        (form("a"), "bad_request"),
        (form("image"), "bad_request"),
        (form("_aipod_x"), "reserved_argument"),
        (form("c")[..300_000].to_vec(), "bad_request"),
        (b"nonsense".to_vec(), "bad_request"),
    ] {
        assert_eq!(
            problem(&post(&door.socket, "/fake/train", &multipart, body).await).1,
            word
        );
    }
    let no_boundary = [("content-type", "multipart/form-data")];
    assert_eq!(
        problem(&post(&door.socket, "/fake/train", &no_boundary, form("c")).await).1,
        "bad_request"
    );
    door.emptied().await;
}

#[tokio::test]
async fn a_form_of_many_parts_takes_bounded_memory() {
    let door = served();
    let multipart = [("content-type", "multipart/form-data; boundary=B")];
    let form = |count: usize, file: bool, content: &[u8]| {
        let mut body = Vec::new();
        for number in 0..count {
            let name = if file { "; filename=\"f\"" } else { "" };
            body.extend_from_slice(
                format!("--B\r\ncontent-disposition: form-data; name=\"p{number}\"{name}\r\n\r\n")
                    .as_bytes(),
            );
            body.extend_from_slice(content);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--B--\r\n");
        body
    };
    // Fields of nothing are not for nothing.
    let count = MESSAGE as usize / 250;
    let response = post(
        &door.socket,
        "/fake/train",
        &multipart,
        form(count, false, b""),
    )
    .await;
    assert_eq!(problem(&response).1, "too_large");
    // Small files are files once there are many.
    let content = vec![b'x'; 200_000];
    let told = json(
        &post(
            &door.socket,
            "/fake/train",
            &multipart,
            form(60, true, &content),
        )
        .await,
    );
    let parts = told["parts"].as_array().unwrap();
    assert_eq!(parts.len(), 60);
    assert!(parts.iter().all(|part| part[1] == 200_000));
    let files = door.model.files.load(Ordering::SeqCst);
    assert_eq!(files, 60 - (8 << 20) / 200_000 - 1);
    door.emptied().await;
}

/// Events of an answer: the name and the data of each, comments by `:`.
fn events(text: &[u8]) -> Vec<(String, String)> {
    String::from_utf8(text.to_vec())
        .unwrap()
        .split_terminator("\n\n")
        .map(|event| {
            let (mut name, mut data) = (String::new(), String::new());
            for line in event.lines() {
                if let Some(text) = line.strip_prefix("event: ") {
                    name = text.to_owned();
                } else if let Some(text) = line.strip_prefix("data: ") {
                    data.push_str(text);
                } else {
                    assert_eq!(line, ": ping");
                    name = ":".to_owned();
                }
            }
            (name, data)
        })
        .collect()
}

fn loud(text: &[u8]) -> Vec<(String, String)> {
    events(text)
        .into_iter()
        .filter(|(name, _)| name != ":")
        .collect()
}

fn pair(name: &str, data: &str) -> (String, String) {
    (name.to_owned(), data.to_owned())
}

#[tokio::test]
async fn events_tell_how_far_a_call_is_before_its_result() {
    let door = served();
    let accept = [("accept", "text/event-stream")];
    let response = post(&door.socket, "/fake/steps", &accept, "{}").await;
    assert_eq!(
        loud(response.body()),
        [
            pair("progress", r#"{"progress":0.5}"#),
            pair("progress", r#"{"progress":1.0}"#),
            pair("result", r#"{"asked":true}"#),
            pair("done", r#"{"items":1}"#),
        ]
    );
    let response = post(&door.socket, "/fake/item_steps", &[], "{}").await;
    let told = loud(response.body());
    let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.iter().filter(|name| **name == "progress").count(), 3);
    assert_eq!((names[0], names[names.len() - 1]), ("progress", "done"));
    // Where nobody could be told, nothing is gathered.
    let response = post(&door.socket, "/fake/steps", &[], "{}").await;
    assert_eq!(json(&response)["asked"], false);
}

#[tokio::test]
async fn generators_and_those_who_ask_get_events() {
    let door = served();
    let response = post(&door.socket, "/fake/items", JSON, r#"{"count": 2}"#).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(
        loud(response.body()),
        [pair("", "0"), pair("", "1"), pair("done", r#"{"items":2}"#)]
    );
    let none = post(&door.socket, "/fake/items", JSON, r#"{"count": 0}"#).await;
    assert_eq!(loud(none.body()), [pair("done", r#"{"items":0}"#)]);
    let accept = [("accept", "text/event-stream")];
    let one = post(&door.socket, "/fake/nothing", &accept, "").await;
    assert_eq!(
        loud(one.body()),
        [pair("result", "null"), pair("done", r#"{"items":1}"#)]
    );
    // Where no generator was announced.
    let found = post(&door.socket, "/fake/predict", JSON, r#"{"stream": 1}"#).await;
    assert_eq!(loud(found.body()).len(), 3);
}

#[tokio::test]
async fn a_result_beyond_the_bound_of_messages_is_the_host_s_failure_in_words_of_its_own() {
    let door = served();
    let accept = [("accept", "text/event-stream")];
    let events = post(&door.socket, "/fake/huge", &accept, "").await;
    let list = loud(events.body());
    assert_eq!(list[0].0, "error");
    let document: Json = serde_json::from_str(&list[0].1).unwrap();
    assert_eq!(
        (&document["code"], &document["status"]),
        (&json!("result_too_large"), &json!(500))
    );
    // As bytes it is as good as any.
    let bytes = post(&door.socket, "/fake/huge", JSON, "").await;
    assert_eq!(bytes.body().len() as u64, crate::fake::MESSAGE + 1);
}

#[tokio::test]
async fn events_tell_errors_before_and_after_they_began() {
    let door = crate::fake::with(std::time::Duration::from_secs(3600));
    let accept = [("accept", "text/event-stream")];
    let early = post(&door.socket, "/fake/fail", &accept, "").await;
    assert_eq!(
        problem(&early),
        (StatusCode::INTERNAL_SERVER_ERROR, "model_error".to_owned())
    );
    let late = post(&door.socket, "/fake/fail_late", &accept, "").await;
    let list = loud(late.body());
    assert_eq!(list[0], pair("", "0"));
    assert_eq!(list[1].0, "error");
    let document: Json = serde_json::from_str(&list[1].1).unwrap();
    assert_eq!(
        (&document["code"], &document["exception"]),
        (&json!("model_error"), &json!("KeyError"))
    );
}

#[tokio::test]
async fn pings_come_while_nothing_else_does_and_a_caller_that_leaves_cancels() {
    let door = served();
    let stream = UnixStream::connect(&door.socket).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let asked: http::Request<Full<Bytes>> = request(
        "POST",
        "/fake/slow",
        &[("accept", "text/event-stream")],
        b"",
    );
    let mut body = sender.send_request(asked).await.unwrap().into_body();
    for _ in 0..3 {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(frame.starts_with(b": ping\n\n"));
    }
    door.model.release.notify_one();
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(loud(&rest)[0], pair("result", "\"done\""));

    let asked = request(
        "POST",
        "/fake/hang",
        &[("accept", "text/event-stream")],
        b"",
    );
    let mut body = sender.send_request(asked).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop((body, sender));
    connection.abort();
    until(|| door.model.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn tensorflow_serving_s_rows_and_columns() {
    let door = served();
    let rows = r#"{"signature_name": "x", "instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}"#;
    let response = call(&door, "/v1/models/fake:predict", rows).await;
    let kwargs = &response["predictions"]["kwargs"];
    assert_eq!(kwargs, &json!({"a": [1, 3], "b": [2, 4]}));
    let response = call(
        &door,
        "/v1/models/fake/versions/v2:predict",
        r#"{"inputs": [1, 2]}"#,
    )
    .await;
    assert_eq!(response["outputs"]["kwargs"], json!({"inputs": [1, 2]}));
    assert_eq!(response["outputs"]["version"], "v2");
    let response = call(
        &door,
        "/v1/models/fake/labels/v2%3Apredict",
        r#"{"inputs": {"a": 1}}"#,
    )
    .await;
    assert_eq!(response["outputs"]["kwargs"], json!({"a": 1}));

    let status = json(&get(&door.socket, "/v1/models/fake").await);
    assert_eq!(status["model_version_status"][0]["state"], "AVAILABLE");
    assert_eq!(status["model_version_status"][1]["version"], "v2");
    let metadata = json(&get(&door.socket, "/v1/models/fake/metadata").await);
    let signature = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"];
    assert_eq!(signature["inputs"]["x"]["dtype"], "DT_FLOAT");
    assert_eq!(
        problem(&get(&door.socket, "/v1/models/fake/versions/v9").await).1,
        "unknown_version"
    );
    for (path, body, word) in [
        ("/v1/models/other:predict", "{}", "unknown_model"),
        ("/v1/models/fake:classify", "{}", "unknown_method"),
        ("/v1/models/fake:predict", "{}", "bad_request"),
        ("/v1/models/fake:predict", "[", "bad_request"),
        ("/v1/models", "{}", "unknown_path"),
    ] {
        assert_eq!(
            problem(&post(&door.socket, path, JSON, body).await).1,
            word,
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_path_that_takes_another_method_says_which() {
    let door = served();
    for (method, path, allowed) in [
        ("GET", "/fake/predict", "POST"),
        ("PUT", "/fake/predict", "POST"),
        ("POST", "/fake", "GET, HEAD"),
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/readyz", "GET, HEAD"),
        ("GET", "/v1/models/fake:predict", "POST"),
        ("GET", "/v1/models/fake/versions/v1:predict", "POST"),
        ("POST", "/v1/models/fake", "GET, HEAD"),
        ("POST", "/v1/models/fake/metadata", "GET, HEAD"),
        ("POST", "/v2/health/ready", "GET, HEAD"),
        ("POST", "/v2/models/fake", "GET, HEAD"),
        ("GET", "/v2/models/fake/infer", "POST"),
        ("GET", "/v2/models/fake/versions/v1/infer", "POST"),
        ("GET", "/v2/repository/index", "POST"),
        ("PUT", "/tidegate/uploads/12345678", "GET, HEAD, DELETE"),
    ] {
        let response = crate::client::http(&door.socket, request(method, path, &[], b"{}")).await;
        assert_eq!(
            problem(&response),
            (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed".into()),
            "{method} {path}"
        );
        assert_eq!(response.headers()["allow"], allowed, "{method} {path}");
    }
    for (path, status, word) in [
        ("/other/predict", 404, "unknown_model"),
        ("/fake/none_such", 501, "unknown_method"),
        ("/v2/models/other/infer", 404, "unknown_model"),
        ("/v1/models/other:predict", 404, "unknown_model"),
        ("/fake/predict/more", 404, "unknown_path"),
    ] {
        let response = get(&door.socket, path).await;
        let (found, told) = problem(&response);
        assert_eq!((found.as_u16(), &told[..]), (status, word), "{path}");
    }
}
