//! The Rust client of models against the real thing: a Python class as a service.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::{PATIENCE, Running, Site};
use tidegate_client::{Client, Code, Error, Input, Retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const MODEL: &str = r#"
import os, signal, time
from pathlib import Path
from tidegate import Model


class Example(Model):
    def predict(self, text=""):
        return {"upper": text.upper(), "version": self.version}

    def train(self, steps=1, binary_data=None):
        return {"steps": steps}

    def size(self, binary_data: Path, seconds=0.0):
        time.sleep(seconds)
        with open(binary_data, "rb") as file:
            data = file.read()
        return {"size": len(data), "sum": sum(data)}

    def count(self, n):
        for number in range(n):
            yield number

    def raw(self):
        return b"\x00\x01\x02"

    def fails(self):
        raise ValueError("the weights are cold")
"#;

/// A running service of the class above.
fn serving() -> (Site, Running) {
    let site = Site::new();
    let code = site.folder.path().join("code");
    std::fs::create_dir(&code).unwrap();
    std::fs::write(code.join("model.py"), MODEL).unwrap();
    let services = format!(
        "routes: [ {{ name: all, to: [ {{ service: example }} ] }} ]\n\
         services: [ {{ name: example, python: {{ path: {}, class: \"model:Example\" }} }} ]\n",
        code.display()
    );
    site.write(&site.config(&services, ""));
    let running = site.start(&[]);
    running.wait_for("gateway ready");
    (site, running)
}

fn client(port: u16) -> Client {
    let retry = Retry {
        initial: Duration::from_millis(100),
        ..Retry::default()
    };
    Client::builder([format!("127.0.0.1:{port}")])
        .retry(retry)
        .deadline(PATIENCE)
        .build()
        .unwrap()
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u8::try_from(state >> 56).unwrap()
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn told(data: &[u8]) -> Value {
    let sum: u64 = data.iter().map(|byte| u64::from(*byte)).sum();
    json!({"size": data.len(), "sum": sum})
}

#[tokio::test]
async fn every_kind_of_call_reaches_the_model() {
    let (site, mut running) = serving();
    let client = client(site.port);
    let answer = client.predict(&json!({"text": "ä"})).await.unwrap();
    assert_eq!(answer["upper"], "Ä");
    let answer = client.call("predict").version("v7").unary().await.unwrap();
    assert_eq!(answer["version"], "v7");
    let answer = client.train(&json!({"steps": 3})).await.unwrap();
    assert_eq!(answer, json!({"steps": 3}));

    let mut items = client.call("count").kwargs(&json!({"n": 3})).stream();
    let mut got = Vec::new();
    while let Some(item) = items.next().await {
        got.push(item.unwrap().value);
    }
    assert_eq!(got, [json!(0), json!(1), json!(2)]);

    let raw = client.call("raw").send().await.unwrap();
    assert_eq!(raw.value, Value::Null);
    assert_eq!(raw.parts[0].data.as_ref(), [0, 1, 2]);

    let error = client.call("fails").send().await.unwrap_err();
    let Error::Status(status) = &error else {
        panic!("{error}");
    };
    assert_eq!(
        (status.code, status.reason.as_str()),
        (Code::Internal, "model_error")
    );
    assert_eq!(status.exception.as_deref(), Some("ValueError"));
    assert!(status.message.contains("the weights are cold"), "{status}");
    let error = client.call("none_such").send().await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert_eq!(running.stop(), Some(0));
}

#[tokio::test]
async fn heartbeats_are_seen_while_the_model_works() {
    let (site, _running) = serving();
    let beats = Arc::new(AtomicU64::new(0));
    let beat = Arc::clone(&beats);
    let call = client(site.port)
        .call("size")
        .kwargs(&json!({"seconds": 2.5}));
    let call = call
        .input(Input::bytes(noise(10_000)))
        .on_heartbeat(move || {
            beat.fetch_add(1, Ordering::SeqCst);
        });
    assert_eq!(call.send().await.unwrap().value, told(&noise(10_000)));
    assert!(beats.load(Ordering::SeqCst) >= 1);
}

#[tokio::test]
async fn an_upload_that_breaks_at_three_quarters_goes_on_where_it_was() {
    let (site, _running) = serving();
    let data = noise(16 << 20);
    let file = site.folder.path().join("input");
    std::fs::write(&file, &data).unwrap();
    // The first connection is cut after 12 MiB.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let passed = Arc::new(AtomicU64::new(0));
    let (count, to) = (
        Arc::clone(&passed),
        SocketAddr::from(([127, 0, 0, 1], site.port)),
    );
    tokio::spawn(async move {
        let mut left = 12 << 20;
        while let Ok((caller, _)) = listener.accept().await {
            tokio::spawn(pass(caller, to, left, Arc::clone(&count)));
            left = u64::MAX;
        }
    });
    let output = client(port)
        .call("size")
        .input(Input::path(&file))
        .send()
        .await
        .unwrap();
    assert_eq!(output.value, told(&data));
    let passed = passed.load(Ordering::SeqCst);
    assert!(passed < 22 << 20, "{passed} bytes for {}", data.len());
}

/// Passes a connection on until so many bytes came from the caller.
async fn pass(mut caller: TcpStream, to: SocketAddr, mut left: u64, count: Arc<AtomicU64>) {
    let mut server = TcpStream::connect(to).await.unwrap();
    let (mut up, mut down) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let done = tokio::select! {
            read = caller.read(&mut up) => match read {
                Ok(length) if length > 0 && left > length as u64 => {
                    left -= length as u64;
                    count.fetch_add(length as u64, Ordering::SeqCst);
                    server.write_all(&up[..length]).await
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(length) if length > 0 => caller.write_all(&down[..length]).await,
                _ => return,
            },
        };
        if done.is_err() {
            return;
        }
    }
}
