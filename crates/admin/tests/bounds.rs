//! The admin port spends a bounded amount on any client, and serves Unix sockets and its own client.

use std::time::Duration;

use tidegate_admin::client::{AdminUrl, Client, ClientError};
use tidegate_admin::overview::Overview;
use tidegate_admin::{AdminOptions, Limits, ListenSocket, Token, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod support;
use support::http::{Answer, get, raw, read_until};
use support::{Served, World};

fn limited(limits: Limits) -> Served {
    Served::with(AdminOptions {
        limits,
        ..AdminOptions::default()
    })
}

#[tokio::test]
async fn one_connection_more_than_the_limit_is_told_so() {
    let served = limited(Limits {
        connections: 1,
        ..Limits::default()
    });
    let mut first = TcpStream::connect(served.address).await.unwrap();
    first
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut first, "ok\n").await;
    let mut second = TcpStream::connect(served.address).await.unwrap();
    let mut text = String::new();
    second.read_to_string(&mut text).await.unwrap();
    let answer = Answer::parse(&text);
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (503, "application/problem+json")
    );
    assert_eq!(answer.json()["code"], "too_many_connections");
    drop(first);
    let freed = async { while get(served.address, "/livez").await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(10), freed)
        .await
        .expect("the slot comes back");
}

#[tokio::test]
async fn a_head_that_does_not_end_and_an_idle_connection_are_closed() {
    let served = limited(Limits {
        header_timeout: Duration::from_millis(200),
        ..Limits::default()
    });
    for begun in [
        "GET /livez HTTP/1.1\r\nhost: loc",
        "",
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed =
            tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open after {begun:?}");
    }
}

#[tokio::test]
async fn a_head_too_large_or_malformed_is_refused() {
    let served = limited(Limits {
        header_bytes: 8192,
        ..Limits::default()
    });
    let large = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "a".repeat(9000)
    );
    assert_eq!(raw(served.address, &large).await.status, 431);
    let many = format!(
        "GET / HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
        "a: b\r\n".repeat(80)
    );
    assert_eq!(raw(served.address, &many).await.status, 431);
    assert_eq!(
        raw(served.address, "GET / HTTP/1.1\r\nbad header\r\n\r\n")
            .await
            .status,
        400
    );
    assert_eq!(
        get(served.address, "/livez").await.status,
        200,
        "and others are served"
    );
}

#[tokio::test]
async fn a_dropped_handle_ends_the_server() {
    let served = Served::new();
    drop(served.handle);
    let ended = async { while TcpStream::connect(served.address).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("the port closes");
}

fn client(url: &str, token: Option<Token>) -> Client {
    Client::new(url.parse().unwrap(), token, Duration::from_secs(5))
}

#[tokio::test]
async fn a_unix_socket_is_served_without_a_token_and_without_a_host_check() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let source = std::sync::Arc::new(World::new());
    let handle = serve(
        ListenSocket::Unix(listener),
        source,
        AdminOptions::default(),
    )
    .unwrap();
    assert_eq!(handle.address(), None);
    let mut client = client(&format!("unix:{}", path.display()), None);
    let overview: Overview = client.get("/api/v1/overview").await.unwrap();
    assert_eq!(overview.upstreams.len(), 5);
}

#[tokio::test]
async fn the_client_says_what_is_wrong_and_finds_a_restarted_gateway() {
    let options = || AdminOptions {
        token: Token::new("t0ken"),
        ..AdminOptions::default()
    };
    let served = Served::with(options());
    let url = format!("http://{}", served.address);
    let refused = client(&url, None)
        .get::<Overview>("/api/v1/overview")
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("--token"), "{refused}");
    let mut client = client(&url, Token::new("t0ken"));
    let before: Overview = client.get("/api/v1/overview").await.unwrap();
    let Served {
        world,
        handle,
        address,
    } = served;
    handle.shutdown().await;
    let gone = client
        .get::<Overview>("/api/v1/overview")
        .await
        .unwrap_err();
    assert!(matches!(gone, ClientError::Connect { .. }), "{gone}");
    let listener = std::net::TcpListener::bind(address).unwrap();
    let _handle = serve(ListenSocket::Tcp(listener), world, options()).unwrap();
    let after: Overview = client.get("/api/v1/overview").await.unwrap();
    assert_ne!(before.instance, after.instance);
}

#[tokio::test]
async fn the_client_gives_up_in_time_and_does_not_take_other_answers_for_ours() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = AdminUrl::Tcp(silent.local_addr().unwrap().to_string());
    let mut impatient = Client::new(url, None, Duration::from_millis(100));
    let error = impatient
        .get::<Overview>("/api/v1/overview")
        .await
        .unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    let served = Served::new();
    let mut client = client(&format!("{}", served.address), None);
    let error = client.get::<Overview>("/api/v1/config").await.unwrap_err();
    assert!(matches!(error, ClientError::Content { .. }), "{error}");
    let error = client.get::<Overview>("/nothing").await.unwrap_err();
    assert!(matches!(error, ClientError::Problem { .. }), "{error}");
}
