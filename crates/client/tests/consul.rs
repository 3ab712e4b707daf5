//! Addresses from an agent of Consul.
#![cfg(feature = "consul")]

#[allow(dead_code)] // a part of it is for other tests
mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::Fake;
use serde_json::json;
use tidegate_client::{Client, Consul, Retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An agent that knows one instance; a query that waits for a change is not answered.
async fn agent(instance: SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    request.push(byte);
                    if !request.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let asked = String::from_utf8(std::mem::take(&mut request)).unwrap();
                    assert!(
                        asked.starts_with("GET /v1/health/service/sentiment"),
                        "{asked}"
                    );
                    if asked.contains("index=7") {
                        std::future::pending::<()>().await;
                    }
                    let entry = json!([{
                        "Node": {"Node": "n", "Address": "127.0.0.1"},
                        "Service": {"ID": "s", "Service": "sentiment", "Address": instance.ip().to_string(), "Port": instance.port(), "Weights": {"Passing": 1, "Warning": 1}},
                        "Checks": [],
                    }]);
                    let body = entry.to_string();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nx-consul-index: 7\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all((head + &body).as_bytes()).await.unwrap();
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn calls_go_to_the_instances_that_consul_lists() {
    let fake = Fake::start();
    let retry = Retry {
        initial: Duration::from_millis(200),
        ..Retry::default()
    };
    let consul = Consul::new(agent(fake.address).await, "sentiment");
    let client = Client::builder(Vec::<String>::new())
        .retry(retry)
        .consul(consul)
        .build()
        .unwrap();
    client.predict(&json!({"a": 1})).await.unwrap();
    assert_eq!(fake.seen().len(), 1);
}

#[tokio::test]
async fn an_agent_that_is_none_is_told() {
    let error = Client::builder(Vec::<String>::new())
        .consul(Consul::new("nowhere", "s"))
        .build()
        .unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}
