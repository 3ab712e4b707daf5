//! DNS as a source of endpoints and for connecting, against a name server in this process.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::RecordType;
use support::dns::{Mood, NameServer};
use support::{ids, until};
use tidegate_discovery::{Connector, Resolver, Watch};

fn discover(server: &NameServer, more: &str) -> Watch {
    support::watch(&format!(
        "discover:\n  dns: {{ name: ranker.test, servers: [\"{}\"], {more} }}",
        server.at
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_both_families_is_a_member_and_changes_are_followed() {
    let server = NameServer::start().await;
    server.set_a("ranker.test", 0, &["10.0.0.2", "10.0.0.1"]);
    server.set_aaaa("ranker.test", 0, &["fd00::1"]);
    let source = discover(&server, "port: 80");
    assert_eq!(source.kind(), "dns");
    let mut updates = source.updates();
    let update = until(&mut updates, |update| update.known).await;
    assert_eq!(ids(&update), ["10.0.0.1:80", "10.0.0.2:80", "[fd00::1]:80"]);
    server.set_a("ranker.test", 0, &["10.0.0.3"]);
    until(&mut updates, |update| {
        ids(update) == ["10.0.0.3:80", "[fd00::1]:80"]
    })
    .await;
    server.set_aaaa("ranker.test", 0, &[]);
    until(&mut updates, |update| ids(update) == ["10.0.0.3:80"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_of_zero_does_not_make_a_loop() {
    let server = NameServer::start().await;
    server.set_a("ranker.test", 0, &["10.0.0.1"]);
    let source = discover(&server, "port: 80");
    until(&mut source.updates(), |update| update.known).await;
    let start = Instant::now();
    // Two families a round: the third round's questions.
    server.asked_at_least(5).await;
    assert!(
        start.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_live_is_kept_within_the_configured_bounds() {
    let server = NameServer::start().await;
    server.alias("ranker.test", 3600, "other.test");
    server.set_a("other.test", 3600, &["10.0.0.1"]);
    let source = discover(&server, "port: 80, max_interval: 1s");
    let mut updates = source.updates();
    assert_eq!(
        ids(&until(&mut updates, |update| update.known).await),
        ["10.0.0.1:80"],
        "through the alias"
    );
    server.set_a("other.test", 3600, &["10.0.0.2"]);
    let start = Instant::now();
    until(&mut updates, |update| ids(update) == ["10.0.0.2:80"]).await;
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "an hour would have been its own wish"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn srv_records_bring_ports_weights_and_priorities() {
    let server = NameServer::start().await;
    server.set_srv(
        "_grpc._tcp.ranker.test",
        60,
        &[(20, 0, 81, "b.test"), (10, 7, 80, "a.test")],
    );
    let source = support::watch(&format!(
        "discover: {{ dns: {{ name: _grpc._tcp.ranker.test, servers: [\"{}\"] }} }}",
        server.at
    ));
    let update = until(&mut source.updates(), |update| update.known).await;
    let read: Vec<_> = update
        .endpoints
        .iter()
        .map(|e| (&*e.id, e.weight, e.priority))
        .collect();
    assert_eq!(read, [("a.test.:80", 7, 0), ("b.test.:81", 1, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_addresses_arrive_over_tcp() {
    let server = NameServer::start().await;
    let many: Vec<String> = (0..1000)
        .map(|n| format!("10.1.{}.{}", n / 250, n % 250))
        .collect();
    server.set_a(
        "ranker.test",
        60,
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let source = discover(&server, "port: 80");
    let update = until(&mut source.updates(), |update| update.known).await;
    assert_eq!(update.endpoints.len(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_and_a_sudden_no_keep_the_last_good_list() {
    let server = NameServer::start().await;
    server.set_a("ranker.test", 0, &["10.0.0.1"]);
    let source = discover(&server, "port: 80");
    let mut updates = source.updates();
    until(&mut updates, |update| update.known).await;
    server.mood(Mood::Failing);
    let update = until(&mut updates, |update| update.error.is_some()).await;
    assert_eq!(ids(&update), ["10.0.0.1:80"]);
    server.mood(Mood::Honest);
    until(&mut updates, |update| update.error.is_none()).await;
    server.forget("ranker.test");
    let update = until(&mut updates, |update| update.error.is_some()).await;
    assert_eq!(ids(&update), ["10.0.0.1:80"]);
    assert!(update.error.expect("told").contains("no such name"));
    server.set_a("ranker.test", 0, &["10.0.0.2"]);
    let update = until(&mut updates, |update| update.error.is_none()).await;
    assert_eq!(ids(&update), ["10.0.0.2:80"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connecting_asks_once_a_time_to_live_however_many_ask() {
    let server = NameServer::start().await;
    server.set_a("backend.test", 60, &["127.0.0.1"]);
    let resolver = Resolver::with_servers(&[server.at]).expect("a resolver");
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let resolver = resolver.clone();
        asking.spawn(async move { resolver.addresses("backend.test").await });
    }
    for found in asking.join_all().await {
        assert_eq!(
            *found.expect("found"),
            ["127.0.0.1".parse::<IpAddr>().expect("ip")]
        );
    }
    assert_eq!(server.asked(), 2, "A and AAAA");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_name_server_is_silent_connecting_goes_on_with_the_last_answer_and_little_delay()
{
    let server = NameServer::start().await;
    server.set_a("backend.test", 0, &["127.0.0.1"]);
    let resolver = Resolver::with_servers(&[server.at]).expect("a resolver");
    resolver.addresses("backend.test").await.expect("found");
    server.mood(Mood::Silent);
    let mut slowest = Duration::ZERO;
    let asked = server.asked();
    // Until the time to live is over and the question has been asked again, in vain.
    while server.asked() == asked || slowest < Duration::from_millis(400) {
        let start = Instant::now();
        resolver
            .addresses("backend.test")
            .await
            .expect("the last good answer");
        slowest = slowest.max(start.elapsed());
        tokio::task::yield_now().await;
    }
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn localhost_needs_no_name_server() {
    let server = NameServer::start().await;
    server.mood(Mood::Silent);
    for resolver in [Resolver::with_servers(&[server.at]), Ok(Resolver::system())] {
        let found = resolver
            .expect("a resolver")
            .addresses("localhost")
            .await
            .expect("found");
        assert!(found.contains(&IpAddr::from([127, 0, 0, 1])), "{found:?}");
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_address_is_an_error_that_says_so() {
    let server = NameServer::start().await;
    server.set("empty.test", RecordType::A, 0, Vec::new());
    let resolver = Resolver::with_servers(&[server.at]).expect("a resolver");
    let error = |name: &'static str| {
        let resolver = resolver.clone();
        async move {
            resolver
                .addresses(name)
                .await
                .expect_err("no address")
                .to_string()
        }
    };
    assert_eq!(error("gone.test").await, "gone.test: no such name");
    assert!(error("empty.test").await.contains("no A"));
    server.mood(Mood::Failing);
    assert!(error("broken.test").await.contains("look-up failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_its_own_runtime_connects_by_name_over_whichever_family_answers() {
    let server = NameServer::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // Nothing listens on the v6 address.
    server.set_aaaa("backend.test", 60, &["::1"]);
    server.set_a("backend.test", 60, &["127.0.0.1"]);
    let resolver = Resolver::with_servers(&[server.at]).expect("a resolver");
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let connector = Connector {
            resolver,
            tls: None,
            timeout: Duration::from_secs(10),
        };
        let address = format!("backend.test:{port}").parse().expect("an address");
        runtime
            .block_on(connector.connect(&address))
            .expect("connected")
    });
    let (_, from) = listener.accept().await.expect("a connection");
    assert!(matches!(from, SocketAddr::V4(_)));
    tokio::task::spawn_blocking(|| worker.join().expect("no panic"))
        .await
        .expect("joined");
}
