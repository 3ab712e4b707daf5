//! Health, reflection, and a door that closes.

use std::sync::atomic::Ordering;

use futures_util::stream;
use http::StatusCode;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::client::{channel, get, predict, problem, reason, request};
use crate::fake::{served, until};

fn status(response: &HealthCheckResponse) -> ServingStatus {
    response.status()
}

#[tokio::test]
async fn health_follows_the_model_on_all_names() {
    let door = served();
    let mut health = HealthClient::new(channel(&door.socket).await);
    for service in ["", "ai.AI", "inference.GRPCInferenceService", "fake"] {
        let asked = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut watch = health.watch(asked.clone()).await.unwrap().into_inner();
        assert_eq!(
            status(&watch.message().await.unwrap().unwrap()),
            ServingStatus::Serving
        );
        door.model.ready.send_replace(false);
        assert_eq!(
            status(&watch.message().await.unwrap().unwrap()),
            ServingStatus::NotServing
        );
        assert_eq!(
            status(health.check(asked.clone()).await.unwrap().get_ref()),
            ServingStatus::NotServing
        );
        door.model.ready.send_replace(true);
        assert_eq!(
            status(&watch.message().await.unwrap().unwrap()),
            ServingStatus::Serving
        );
    }
    let unknown = HealthCheckRequest {
        service: "other".to_owned(),
    };
    assert_eq!(
        health.check(unknown).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn calls_are_refused_while_nothing_is_known_of_the_model_and_then_go_to_the_group() {
    let door = served();
    door.model.ready.send_replace(false);
    door.model.blank.store(true, Ordering::SeqCst);
    let channel = channel(&door.socket).await;
    let status = predict(&channel, "{}").await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status)),
        (Code::Unavailable, "not_ready")
    );
    let refused = problem(&get(&door.socket, "/readyz").await);
    assert_eq!(
        refused,
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready".to_owned())
    );
    assert_eq!(get(&door.socket, "/livez").await.status(), StatusCode::OK);
    // Known, but its worker drains: another worker of the group may run the call.
    door.model.blank.store(false, Ordering::SeqCst);
    predict(&channel, "{}").await.unwrap();
    door.model.ready.send_replace(true);
    assert_eq!(get(&door.socket, "/readyz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn reflection_describes_every_service() {
    let door = served();
    let mut client = ServerReflectionClient::new(channel(&door.socket).await);
    let asked = |message: MessageRequest| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let mut names = Vec::new();
    let requests = vec![
        asked(MessageRequest::ListServices(String::new())),
        asked(MessageRequest::FileContainingSymbol(
            "ai.AI.chaos".to_owned(),
        )),
        asked(MessageRequest::FileContainingSymbol(
            "inference.ModelInferRequest".to_owned(),
        )),
    ];
    let mut answers = client
        .server_reflection_info(stream::iter(requests))
        .await
        .unwrap()
        .into_inner();
    let mut files = 0;
    while let Some(ServerReflectionResponse {
        message_response, ..
    }) = answers.message().await.unwrap()
    {
        match message_response.unwrap() {
            MessageResponse::ListServicesResponse(list) => {
                names = list
                    .service
                    .into_iter()
                    .map(|service| service.name)
                    .collect();
            }
            MessageResponse::FileDescriptorResponse(file) => {
                files += file.file_descriptor_proto.len()
            }
            other => panic!("{other:?}"),
        }
    }
    for name in [
        "ai.AI",
        "inference.GRPCInferenceService",
        "tidegate.Uploads",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    assert_eq!(files, 2);
}

#[tokio::test]
async fn a_door_that_closes_finishes_its_calls_and_takes_no_new_ones() {
    let mut door = served();
    let channel = channel(&door.socket).await;
    let running = channel.clone();
    let call = tokio::spawn(async move {
        let mut client = tonic::client::Grpc::new(running);
        client.ready().await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/ai.AI/chaos");
        let codec = tonic_prost::ProstCodec::default();
        let list = crate::client::messages(r#"{"_aipod_binary_size": 0}"#, b"");
        let mut asked = tonic::Request::new(stream::iter(list));
        asked
            .metadata_mut()
            .insert("x-func-name", "slow".parse().unwrap());
        let answers = client.streaming(asked, path, codec).await.unwrap();
        crate::client::told(answers.into_inner()).await
    });
    until(|| door.model.running.load(Ordering::SeqCst) == 1).await;
    let asked = HealthCheckRequest::default();
    let mut watch = HealthClient::new(channel.clone())
        .watch(asked)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        status(&watch.message().await.unwrap().unwrap()),
        ServingStatus::Serving
    );
    door.stop.take().unwrap().send(()).unwrap();
    assert_eq!(
        status(&watch.message().await.unwrap().unwrap()),
        ServingStatus::NotServing
    );
    assert!(watch.message().await.unwrap().is_none());
    while tokio::net::UnixStream::connect(&door.socket).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!door.task.is_finished());
    door.model.release.notify_one();
    assert_eq!(call.await.unwrap().unwrap().data, [b"\"done\""]);
    door.task.await.unwrap();
}

#[tokio::test]
async fn a_door_that_is_dropped_cuts_its_calls() {
    let door = served();
    let channel = channel(&door.socket).await;
    let call = tokio::spawn(async move { predict(&channel, r#"{"hang": 1}"#).await });
    until(|| door.model.running.load(Ordering::SeqCst) == 1).await;
    door.task.abort();
    assert!(call.await.unwrap().is_err());
    until(|| door.model.cancelled.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn garbage_on_the_socket_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let door = served();
    for garbage in [
        &b"\0\0\0\0\0\0\0\0\0\0\0\0"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b"GET\r\n\r\n",
        b"POST /fake/train HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut stream = tokio::net::UnixStream::connect(&door.socket).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // The door ends the connection, with an error or without a word.
        let _ = stream.read_to_end(&mut answer).await;
    }
    let asked = request(
        "POST",
        "/ai.AI/predict",
        &[("content-type", "application/grpc")],
        b"",
    );
    let old = crate::client::http(&door.socket, asked).await;
    assert_eq!(problem(&old).1, "bad_request");
    assert_eq!(get(&door.socket, "/livez").await.status(), StatusCode::OK);
}
