//! The Open Inference Protocol over gRPC.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::stream;
use http::uri::PathAndQuery;
use serde_json::{Value as Json, json};
use tidegate_host::proto::inference::infer_parameter::ParameterChoice;
use tidegate_host::proto::inference::model_infer_request::{
    InferInputTensor, InferRequestedOutputTensor,
};
use tidegate_host::proto::inference::model_repository_parameter::ParameterChoice as RepositoryChoice;
use tidegate_host::proto::inference::*;
use tonic::Code;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::client::{channel, reason, unary};
use crate::fake::{served, sum, until};

fn input(
    name: &str,
    datatype: &str,
    shape: &[i64],
    contents: Option<InferTensorContents>,
) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        contents,
        ..Default::default()
    }
}

fn asked(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "fake".to_owned(),
        id: "i-1".to_owned(),
        inputs,
        raw_input_contents: raw,
        ..Default::default()
    }
}

fn parameter(value: bool) -> InferParameter {
    InferParameter {
        parameter_choice: Some(ParameterChoice::BoolParam(value)),
    }
}

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

pub(crate) fn floats() -> Bytes {
    Bytes::from([1f32, 2.0].map(f32::to_le_bytes).concat())
}

/// What the fake was called with, from the outputs of an answer.
fn parts(response: &ModelInferResponse) -> Json {
    let i = response
        .outputs
        .iter()
        .position(|out| out.name == "parts")
        .unwrap();
    let raw = match &response.outputs[i].contents {
        Some(contents) => contents.bytes_contents[0].clone(),
        None => response.raw_output_contents[i].slice(4..),
    };
    serde_json::from_slice(&raw).unwrap()
}

#[tokio::test]
async fn raw_and_typed_tensors_reach_the_method_alike_and_answers_come_in_kind() {
    let door = served();
    let channel = channel(&door.socket).await;
    let expected = json!([["x", 8, sum(&floats()), [2]]]);
    let raw = asked(vec![input("x", "FP32", &[2], None)], vec![floats()]);
    let raw = unary::<_, ModelInferResponse>(&channel, INFER, tonic::Request::new(raw))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(parts(&raw), expected);
    assert_eq!(
        (&raw.model_name[..], &raw.model_version[..], &raw.id[..]),
        ("fake", "v1", "i-1")
    );
    assert_eq!(raw.raw_output_contents.len(), raw.outputs.len());
    let contents = InferTensorContents {
        fp32_contents: vec![1.0, 2.0],
        ..Default::default()
    };
    let typed = asked(vec![input("x", "FP32", &[2], Some(contents))], vec![]);
    let typed = unary::<_, ModelInferResponse>(&channel, INFER, tonic::Request::new(typed))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(parts(&typed), expected);
    assert!(typed.raw_output_contents.is_empty());
}

#[tokio::test]
async fn tensors_of_a_result_are_outputs_and_parameters_are_arguments() {
    let door = served();
    let channel = channel(&door.socket).await;
    let mut request = asked(vec![], vec![]);
    request.parameters = HashMap::from([
        ("tensors".to_owned(), parameter(true)),
        ("priority".to_owned(), parameter(true)),
    ]);
    let all = unary::<_, ModelInferResponse>(&channel, INFER, tonic::Request::new(request.clone()))
        .await
        .unwrap()
        .into_inner();
    let described: Vec<_> = all
        .outputs
        .iter()
        .map(|out| (&out.name[..], &out.datatype[..], &out.shape[..]))
        .collect();
    assert_eq!(
        described,
        [
            ("n", "INT64", &[1][..]),
            ("y", "FP32", &[2, 1]),
            ("b", "BYTES", &[1])
        ]
    );
    assert_eq!(all.raw_output_contents[2], &b"\x02\0\0\0ab"[..]);
    let wanted = |name: &str| InferRequestedOutputTensor {
        name: name.to_owned(),
        ..Default::default()
    };
    request.outputs = vec![wanted("y")];
    let some =
        unary::<_, ModelInferResponse>(&channel, INFER, tonic::Request::new(request.clone()))
            .await
            .unwrap()
            .into_inner();
    assert_eq!(some.outputs.len(), 1);
    request.outputs = vec![wanted("z")];
    let status = unary::<_, ModelInferResponse>(&channel, INFER, tonic::Request::new(request))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::InvalidArgument, "bad_tensor")
    );
}

#[tokio::test]
async fn tensors_that_lie_are_refused() {
    let door = served();
    let channel = channel(&door.socket).await;
    let typed = InferTensorContents {
        fp32_contents: vec![1.0],
        ..Default::default()
    };
    let cases = vec![
        asked(vec![input("x", "FP32", &[3], None)], vec![floats()]),
        asked(vec![input("x", "FP32", &[-1], None)], vec![floats()]),
        asked(vec![input("x", "FLOAT", &[2], None)], vec![floats()]),
        asked(
            vec![input("x", "FP32", &[2], None)],
            vec![floats(), floats()],
        ),
        asked(
            vec![input("x", "FP32", &[2], Some(typed.clone()))],
            vec![floats()],
        ),
        asked(vec![input("x", "FP32", &[2], Some(typed.clone()))], vec![]),
        asked(vec![input("x", "FP16", &[1], Some(typed))], vec![]),
        asked(
            vec![
                input("x", "FP32", &[2], None),
                input("x", "FP32", &[2], None),
            ],
            vec![floats(), floats()],
        ),
        asked(vec![input("_aipod_x", "FP32", &[2], None)], vec![floats()]),
    ];
    for case in cases {
        let status =
            unary::<_, ModelInferResponse>(&channel, INFER, tonic::Request::new(case.clone()))
                .await
                .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{case:?}");
    }
    let mut other = asked(vec![], vec![]);
    other.model_name = "other".to_owned();
    let status = unary::<_, ModelInferResponse>(&channel, INFER, tonic::Request::new(other))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn the_server_and_its_repository_describe_themselves() {
    let door = served();
    let channel = channel(&door.socket).await;
    macro_rules! ask {
        ($method:literal, $request:expr, $response:ty) => {
            unary::<_, $response>(
                &channel,
                concat!("/inference.GRPCInferenceService/", $method),
                tonic::Request::new($request),
            )
            .await
        };
    }
    assert!(
        ask!("ServerLive", ServerLiveRequest {}, ServerLiveResponse)
            .unwrap()
            .get_ref()
            .live
    );
    assert!(
        ask!("ServerReady", ServerReadyRequest {}, ServerReadyResponse)
            .unwrap()
            .get_ref()
            .ready
    );
    let name = || "fake".to_owned();
    let ready = |version: &str| ModelReadyRequest {
        name: name(),
        version: version.to_owned(),
    };
    assert!(
        ask!("ModelReady", ready(""), ModelReadyResponse)
            .unwrap()
            .get_ref()
            .ready
    );
    assert!(
        !ask!("ModelReady", ready("v2"), ModelReadyResponse)
            .unwrap()
            .get_ref()
            .ready
    );
    let server = ask!(
        "ServerMetadata",
        ServerMetadataRequest {},
        ServerMetadataResponse
    )
    .unwrap()
    .into_inner();
    assert!(server.extensions.contains(&"binary_tensor_data".to_owned()));
    let about = ask!(
        "ModelMetadata",
        ModelMetadataRequest {
            name: name(),
            version: String::new()
        },
        ModelMetadataResponse
    )
    .unwrap()
    .into_inner();
    assert_eq!(
        (&about.inputs[0].name[..], &about.inputs[0].shape[..]),
        ("x", &[-1][..])
    );
    assert_eq!(about.versions, ["v1", "v2"]);

    let choice = |version: &str| {
        let parameter_choice = Some(RepositoryChoice::StringParam(version.to_owned()));
        HashMap::from([(
            "version".to_owned(),
            ModelRepositoryParameter { parameter_choice },
        )])
    };
    let load = |version: &str| RepositoryModelLoadRequest {
        model_name: name(),
        parameters: choice(version),
        ..Default::default()
    };
    ask!(
        "RepositoryModelLoad",
        load("v2"),
        RepositoryModelLoadResponse
    )
    .unwrap();
    let index = |ready| RepositoryIndexRequest {
        ready,
        ..Default::default()
    };
    assert_eq!(
        ask!("RepositoryIndex", index(true), RepositoryIndexResponse)
            .unwrap()
            .get_ref()
            .models
            .len(),
        2
    );
    let unload = RepositoryModelUnloadRequest {
        model_name: name(),
        parameters: choice("v2"),
        ..Default::default()
    };
    ask!(
        "RepositoryModelUnload",
        unload,
        RepositoryModelUnloadResponse
    )
    .unwrap();
    assert_eq!(
        ask!("RepositoryIndex", index(true), RepositoryIndexResponse)
            .unwrap()
            .get_ref()
            .models
            .len(),
        1
    );
    assert_eq!(
        ask!(
            "RepositoryModelLoad",
            load("bad"),
            RepositoryModelLoadResponse
        )
        .unwrap_err()
        .code(),
        Code::NotFound
    );
    door.model.ready.send_replace(false);
    assert!(
        !ask!("ServerReady", ServerReadyRequest {}, ServerReadyResponse)
            .unwrap()
            .get_ref()
            .ready
    );
}

#[tokio::test]
async fn a_stream_answers_each_request_and_survives_one_that_fails() {
    let door = served();
    let channel = channel(&door.socket).await;
    let with = |names: &[&str]| {
        let mut request = asked(vec![], vec![]);
        request.parameters = names
            .iter()
            .map(|name| ((*name).to_owned(), parameter(true)))
            .collect();
        request
    };
    let wants_final = "triton_enable_empty_final_response";
    let mut requests = vec![with(&["fail"]), with(&["stream", wants_final]), with(&[])];
    for (number, request) in requests.iter_mut().enumerate() {
        request.id = format!("i-{number}");
    }
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelStreamInfer");
    let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let mut answers = client
        .streaming(tonic::Request::new(stream::iter(requests)), path, codec)
        .await
        .unwrap()
        .into_inner();
    let mut list = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let response = answer.infer_response.unwrap();
        let last = response.parameters.get("triton_final_response").cloned();
        list.push((
            response.id,
            answer.error_message,
            response.outputs.len(),
            last,
        ));
    }
    // Each request's own come in their order, whatever came between.
    list.sort_by(|one, other| one.0.cmp(&other.0));
    let list: Vec<_> = list
        .into_iter()
        .map(|(_, error, outputs, last)| (error, outputs, last))
        .collect();
    assert_eq!(list[0].0, "KeyError: no key 'x'\nsecond line");
    let flag = |value| Some(parameter(value));
    assert_eq!(
        list[1..4],
        [
            (String::new(), 1, flag(false)),
            (String::new(), 1, flag(false)),
            (String::new(), 0, flag(true))
        ]
    );
    assert!(list[4].0.is_empty() && list[4].1 > 0);
    assert_eq!(list.len(), 5);
}

#[tokio::test]
async fn a_streams_requests_run_beside_each_other_and_no_more_than_the_instance_runs() {
    let door = served();
    let channel = channel(&door.socket).await;
    let request = |id: &str, name: Option<&str>| {
        let mut request = asked(vec![], vec![]);
        request.id = id.to_owned();
        request.parameters = name
            .map(|name| (name.to_owned(), parameter(true)))
            .into_iter()
            .collect();
        request
    };
    let (requests, sent) = tokio::sync::mpsc::unbounded_channel();
    for (id, name) in [("a", Some("slow")), ("b", Some("slow")), ("c", None)] {
        requests.send(request(id, name)).unwrap();
    }
    let sent = stream::unfold(sent, |mut sent| async { Some((sent.recv().await?, sent)) });
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelStreamInfer");
    let codec = ProstCodec::<ModelInferRequest, ModelStreamInferResponse>::default();
    let mut answers = client
        .streaming(tonic::Request::new(sent), path, codec)
        .await
        .unwrap()
        .into_inner();
    let calls = |count: usize| {
        let model = door.model.clone();
        until(move || model.calls.load(Ordering::SeqCst) == count)
    };
    calls(2).await;
    assert_eq!(door.model.running.load(Ordering::SeqCst), 2);
    // One of the two goes on, and makes room for the third.
    door.model.release.notify_one();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = answers.message().await.unwrap().unwrap();
        ids.push(answer.infer_response.unwrap().id);
    }
    assert_eq!(ids[1], "c", "it overtakes the one that is slow");
    drop(requests);
    door.model.release.notify_one();
    let last = answers.message().await.unwrap().unwrap();
    ids.push(last.infer_response.unwrap().id);
    ids.sort();
    assert_eq!(ids, ["a", "b", "c"]);
    assert!(answers.message().await.unwrap().is_none());
}
