//! The Open Inference Protocol over HTTP.

use http::StatusCode;
use serde_json::{Value as Json, json};

use crate::client::{get, json, post, problem};
use crate::fake::{served, sum, until};
use crate::inference::floats;

const PATH: &str = "/v2/models/fake/infer";

#[tokio::test]
async fn rest_takes_json_and_binary_tensors_and_answers_as_asked() {
    let door = served();
    let body = json!({"id": "7", "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]}]});
    let plain = json(&post(&door.socket, PATH, &[], body.to_string()).await);
    assert_eq!(
        (&plain["id"], &plain["model_name"], &plain["model_version"]),
        (&json!("7"), &json!("fake"), &json!("v1"))
    );
    let output = |answer: &Json, name: &str| {
        answer["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|out| out["name"] == name)
            .unwrap()
            .clone()
    };
    let text = output(&plain, "parts")["data"][0]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        serde_json::from_str::<Json>(&text).unwrap(),
        json!([["x", 8, sum(&floats()), [2]]])
    );

    let head = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}],
        "parameters": {"tensors": 1, "binary_data_output": true}, "outputs": [{"name": "y"}, {"name": "n", "parameters": {"binary_data": false}}]})
    .to_string();
    let mut body = head.clone().into_bytes();
    body.extend_from_slice(&floats());
    let length = head.len().to_string();
    let headers = [("inference-header-content-length", &length[..])];
    let answer = post(&door.socket, PATH, &headers, &body).await;
    let split: usize = answer.headers()["inference-header-content-length"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let told: Json = serde_json::from_slice(&answer.body()[..split]).unwrap();
    assert_eq!(output(&told, "y")["parameters"]["binary_data_size"], 8);
    assert_eq!(output(&told, "n")["data"], json!([1]));
    assert_eq!(
        answer.body()[split..],
        [1.5f32, 2.5].map(f32::to_le_bytes).concat()
    );

    use std::io::Write;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&body).unwrap();
    let coded = [headers[0], ("content-encoding", "gzip")];
    let again = post(&door.socket, PATH, &coded, gzip.finish().unwrap()).await;
    assert_eq!(again.body(), answer.body());
}

#[tokio::test]
async fn rest_tells_what_is_wrong() {
    let door = served();
    let with = |input: Json| json!({"inputs": [input]}).to_string();
    let x = |more: Json| {
        let mut tensor = json!({"name": "x", "datatype": "FP32", "shape": [1]});
        tensor
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        with(tensor)
    };
    for (body, word) in [
        ("{".to_owned(), "bad_request"),
        (json!({"inputs": 1}).to_string(), "bad_request"),
        (x(json!({})), "bad_tensor"),
        (x(json!({"data": [1, 2]})), "bad_tensor"),
        (x(json!({"data": ["a"]})), "bad_tensor"),
        (x(json!({"data": [1], "shape": [-1]})), "bad_tensor"),
        (x(json!({"data": [1], "datatype": "X"})), "bad_tensor"),
        (
            x(json!({"parameters": {"binary_data_size": 4}})),
            "bad_tensor",
        ),
        (
            x(json!({"parameters": {"shared_memory_region": "a"}})),
            "bad_tensor",
        ),
        (
            x(json!({"data": [1], "name": "_aipod_x"})),
            "reserved_argument",
        ),
        (
            json!({"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 3}}]})
                .to_string(),
            "bad_tensor",
        ),
        (
            json!({"inputs": [], "parameters": {"fail": 1}}).to_string(),
            "model_error",
        ),
        (
            json!({"inputs": [], "parameters": {"stream": 1}}).to_string(),
            "stream_only",
        ),
    ] {
        assert_eq!(
            problem(&post(&door.socket, PATH, &[], &body).await).1,
            word,
            "{body}"
        );
    }
    let headers = [("inference-header-content-length", "999")];
    assert_eq!(
        problem(&post(&door.socket, PATH, &headers, "{}").await).1,
        "bad_request"
    );
    let left_over = format!("{}xyz", json!({"inputs": []}));
    let headers = [("inference-header-content-length", "13")];
    assert_eq!(
        problem(&post(&door.socket, PATH, &headers, left_over).await).1,
        "bad_tensor"
    );
}

#[tokio::test]
async fn rest_s_health_and_metadata() {
    let door = served();
    assert_eq!(json(&get(&door.socket, "/v2").await)["name"], "tidegate");
    for (path, status) in [
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/fake/ready", 200),
        ("/v2/models/fake/versions/v1/ready", 200),
        ("/v2/models/fake/versions/v2/ready", 503),
        ("/v2/models/other/ready", 404),
        ("/v2/models/fake/versions/v9", 404),
        ("/v2/nonsense", 404),
    ] {
        assert_eq!(
            get(&door.socket, path).await.status().as_u16(),
            status,
            "{path}"
        );
    }
    let about = json(&get(&door.socket, "/v2/models/fake/versions/v1").await);
    assert_eq!(
        about["outputs"],
        json!([{"name": "y", "datatype": "FP32", "shape": [-1]}])
    );
    let path = "/v2/repository/models/fake/load";
    let loaded = post(
        &door.socket,
        path,
        &[],
        json!({"parameters": {"version": "v2"}}).to_string(),
    )
    .await;
    assert_eq!(loaded.status(), StatusCode::OK);
    let index = json(&post(&door.socket, "/v2/repository/index", &[], "").await);
    assert_eq!(
        index[1],
        json!({"name": "fake", "version": "v2", "state": "READY", "reason": ""})
    );
    door.model.ready.send_replace(false);
    until(|| !*door.model.ready.borrow()).await;
    assert_eq!(
        get(&door.socket, "/v2/health/ready").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}
