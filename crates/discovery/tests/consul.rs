//! Against a real Consul: what the reference says is what it does.

mod support;

use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use support::consul::Consul;
use support::grpc::{Answer, HealthServer};
use support::{ids, resolver, soon, until};
use tidegate_config::model::ConsulRegistration;
use tidegate_discovery::{ListenerFacts, Registration, RegistrationState, Watch};
use tokio::net::TcpListener;
use tokio::sync::watch;

fn discover(consul: &Consul, more: &str) -> Watch {
    support::watch(&format!(
        "discover:\n  consul: {{ address: \"http://{}\", service: ranker, {more} }}",
        consul.http
    ))
}

fn registration(consul: &Consul, more: &str) -> ConsulRegistration {
    support::registration(&format!(
        "address: \"http://{}\", service: ranker, {more}",
        consul.http
    ))
}

fn listener(address: &str) -> ListenerFacts {
    ListenerFacts {
        name: "main".into(),
        address: Some(address.parse().expect("address")),
        tls: false,
    }
}

async fn becomes(state: &mut watch::Receiver<RegistrationState>, wanted: RegistrationState) {
    soon(
        "the registration's state",
        state.wait_for(|state| *state == wanted),
    )
    .await
    .expect("it is at work");
}

fn service(port: u16) -> serde_json::Value {
    json!({ "ID": format!("r{port}"), "Name": "ranker", "Address": "10.0.0.1", "Port": port })
}

#[tokio::test(flavor = "multi_thread")]
async fn services_come_and_go_far_below_a_second_after_consul_knows() {
    let consul = Consul::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    let update = until(&mut updates, |update| update.known).await;
    assert!(
        update.endpoints.is_empty() && update.error.is_none(),
        "a service without instances is known to be empty: {update:?}"
    );
    for (port, expected) in [(1, &["10.0.0.1:1"][..]), (2, &["10.0.0.1:1", "10.0.0.1:2"])] {
        consul.register(service(port)).await;
        let registered = Instant::now();
        assert_eq!(
            ids(&until(&mut updates, |update| update.endpoints.len()
                == expected.len())
            .await),
            expected
        );
        assert!(
            registered.elapsed() < Duration::from_millis(500),
            "{:?}",
            registered.elapsed()
        );
    }
    consul.deregister("r1").await;
    assert_eq!(
        ids(&until(&mut updates, |update| update.endpoints.len() == 1).await),
        ["10.0.0.1:2"]
    );
    consul.deregister("r2").await;
    until(&mut updates, |update| update.endpoints.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_weights_places_and_node_addresses_are_taken_up() {
    let consul = Consul::start().await;
    let mut v1 = service(1);
    v1["Tags"] = json!(["v1", "gpu"]);
    v1["Weights"] = json!({ "Passing": 10, "Warning": 3 });
    v1["Meta"] = json!({ "region": "eu", "zone": "a", "model": "x" });
    v1["Check"] = json!({ "CheckID": "c1", "TTL": "10m", "Status": "passing" });
    let mut at_node = json!({ "ID": "n", "Name": "ranker", "Port": 9, "Tags": ["v1"] });
    let mut v2 = service(2);
    v2["Tags"] = json!(["v2", "gpu"]);
    consul.register(v1).await;
    consul.register(v2).await;
    consul.register(at_node.clone()).await;

    let tagged = discover(&consul, "tags: [v1], passing: false");
    let mut updates = tagged.updates();
    let update = until(&mut updates, |update| update.endpoints.len() == 2).await;
    assert_eq!(
        ids(&update),
        ["10.0.0.1:1", "127.0.0.1:9"],
        "without an address of its own it is at its node's"
    );
    let first = &update.endpoints[0];
    assert_eq!(
        (first.weight, &*first.region, &*first.zone),
        (10, "eu", "a")
    );
    assert_eq!(
        (
            first.metadata["model"].as_str(),
            first.metadata["tags"].as_str()
        ),
        ("x", "v1,gpu")
    );
    let both = discover(&consul, "tags: [v1, gpu]");
    assert_eq!(
        ids(&until(&mut both.updates(), |update| update.known).await),
        ["10.0.0.1:1"],
        "all tags are needed"
    );

    let passing = discover(&consul, "tags: [v1]");
    let mut passing = passing.updates();
    until(&mut passing, |update| update.endpoints.len() == 2).await;
    consul
        .call(Method::PUT, "/v1/agent/check/warn/c1", json!(null))
        .await;
    let update = until(&mut updates, |update| {
        update.endpoints.iter().any(|endpoint| endpoint.weight == 3)
    })
    .await;
    assert_eq!(update.endpoints.len(), 2, "a warning has its own weight");
    until(&mut passing, |update| ids(update) == ["127.0.0.1:9"]).await;
    consul
        .call(Method::PUT, "/v1/agent/check/fail/c1", json!(null))
        .await;
    until(&mut updates, |update| ids(update) == ["127.0.0.1:9"]).await;
    // Maintenance mode is a critical check of Consul's own.
    consul
        .call(
            Method::PUT,
            "/v1/agent/service/maintenance/n?enable=true",
            json!(null),
        )
        .await;
    until(&mut updates, |update| update.endpoints.is_empty()).await;
    at_node["Port"] = json!(10);
    consul.register(at_node).await;
    consul
        .call(
            Method::PUT,
            "/v1/agent/service/maintenance/n?enable=false",
            json!(null),
        )
        .await;
    until(&mut updates, |update| ids(update) == ["127.0.0.1:10"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_consul_is_away_the_last_good_list_stays() {
    let mut consul = Consul::start().await;
    consul.register(service(1)).await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    until(&mut updates, |update| update.endpoints.len() == 1).await;
    consul.kill().await;
    let update = until(&mut updates, |update| update.error.is_some()).await;
    assert_eq!(ids(&update), ["10.0.0.1:1"]);
    consul.restart(false).await;
    let update = until(&mut updates, |update| update.error.is_none()).await;
    assert_eq!(ids(&update), ["10.0.0.1:1"]);
    consul.register(service(2)).await;
    until(&mut updates, |update| update.endpoints.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_rebuilt_and_counts_from_the_start_is_followed() {
    let mut consul = Consul::start().await;
    for port in 1..=20 {
        // Moves the index far beyond where a new cluster begins.
        consul.register(service(port)).await;
    }
    let source = discover(&consul, "");
    let mut updates = source.updates();
    until(&mut updates, |update| update.endpoints.len() == 20).await;
    consul.kill().await;
    until(&mut updates, |update| update.error.is_some()).await;
    consul.restart(true).await;
    consul.register(service(77)).await;
    assert_eq!(
        ids(&until(&mut updates, |update| update.endpoints.len() == 1).await),
        ["10.0.0.1:77"]
    );
    let registered = Instant::now();
    consul.register(service(78)).await;
    until(&mut updates, |update| update.endpoints.len() == 2).await;
    assert!(
        registered.elapsed() < Duration::from_secs(1),
        "blocking queries work on the new cluster"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_registered_until_it_drains() {
    let consul = Consul::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    let config = registration(&consul, "tags: [edge], meta: { region: eu }");
    let registered =
        Registration::start(&config, &listener("127.0.0.1:8123"), &resolver()).expect("registers");
    assert_eq!(registered.id(), "ranker-127.0.0.1-8123");
    becomes(&mut registered.state(), RegistrationState::Registered).await;
    let update = until(&mut updates, |update| update.endpoints.len() == 1).await;
    assert_eq!(ids(&update), ["127.0.0.1:8123"]);
    assert_eq!(
        (
            &*update.endpoints[0].region,
            update.endpoints[0].metadata["tags"].as_str()
        ),
        ("eu", "edge")
    );
    registered.deregister().await.expect("removed");
    assert_eq!(
        consul
            .call(Method::GET, "/v1/agent/services", json!(null))
            .await,
        "{}"
    );
    until(&mut updates, |update| update.endpoints.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_check_is_kept_passing_and_what_the_agent_forgot_is_registered_again() {
    let mut consul = Consul::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    let config = registration(
        &consul,
        "id: gate, check: { ttl: 2s, deregister_after: 1m }",
    );
    let registered =
        Registration::start(&config, &listener("127.0.0.1:8124"), &resolver()).expect("registers");
    let mut state = registered.state();
    becomes(&mut state, RegistrationState::Registered).await;
    let passing_since = Instant::now();
    until(&mut updates, |update| update.endpoints.len() == 1).await;

    consul.deregister("gate").await;
    until(&mut updates, |update| update.endpoints.is_empty()).await;
    until(&mut updates, |update| update.endpoints.len() == 1).await;

    consul.kill().await;
    soon(
        "trouble",
        state.wait_for(|state| matches!(state, RegistrationState::Pending(Some(_)))),
    )
    .await
    .expect("at work");
    consul.restart(true).await;
    becomes(&mut state, RegistrationState::Registered).await;
    until(&mut updates, |update| {
        update.error.is_none() && update.endpoints.len() == 1
    })
    .await;

    // The check would have turned critical without our reports: watch it for longer than its time to live.
    let quiet = tokio::time::timeout(
        Duration::from_secs(3),
        updates.wait_for(|update| update.endpoints.is_empty()),
    )
    .await;
    assert!(quiet.is_err(), "it was critical for a moment");
    assert!(passing_since.elapsed() > Duration::from_secs(2));
    registered.deregister().await.expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_checks_the_listener_over_http_tcp_and_grpc() {
    let consul = Consul::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    for check in ["tcp: true", "http: /readyz"] {
        let open = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = open.local_addr().expect("bound");
        let config = registration(
            &consul,
            &format!("id: gate, check: {{ {check}, interval: 1s, timeout: 1s }}"),
        );
        let registered = Registration::start(&config, &listener(&at.to_string()), &resolver())
            .expect("registers");
        let server = tokio::spawn(async move {
            let mut server = support::http::Server::on(open);
            loop {
                let asked = server.next().await;
                assert_eq!(asked.line, "GET /readyz");
                asked.reply(200, "connection: close\r\n", "ok");
            }
        });
        until(&mut updates, |update| update.endpoints.len() == 1).await;
        server.abort();
        until(&mut updates, |update| update.endpoints.is_empty()).await;
        registered.deregister().await.expect("removed");
    }
    let server = HealthServer::start(Answer::Status(1), None).await;
    let config = registration(
        &consul,
        "id: gate, check: { grpc: a.B, interval: 1s, timeout: 1s }",
    );
    let registered = Registration::start(&config, &listener(&server.at.to_string()), &resolver())
        .expect("registers");
    until(&mut updates, |update| update.endpoints.len() == 1).await;
    assert_eq!(
        &server.asked.lock().expect("not poisoned")[0][5..],
        [0x0a, 3, b'a', b'.', b'B']
    );
    server.say(Answer::Status(2));
    until(&mut updates, |update| update.endpoints.is_empty()).await;
    registered.deregister().await.expect("removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_process_leaves_the_registration_to_the_one_that_took_over() {
    let consul = Consul::start().await;
    let config = registration(&consul, "id: gate");
    let resolver = resolver();
    let old =
        Registration::start(&config, &listener("127.0.0.1:8125"), &resolver).expect("registers");
    becomes(&mut old.state(), RegistrationState::Registered).await;
    let new =
        Registration::start(&config, &listener("127.0.0.1:8126"), &resolver).expect("registers");
    becomes(&mut new.state(), RegistrationState::Registered).await;
    becomes(&mut old.state(), RegistrationState::Superseded).await;
    old.deregister().await.expect("nothing to remove");
    let services = consul
        .call(Method::GET, "/v1/agent/services", json!(null))
        .await;
    assert!(services.contains("8126"), "{services}");
    new.deregister().await.expect("removed");
    assert_eq!(
        consul
            .call(Method::GET, "/v1/agent/services", json!(null))
            .await,
        "{}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_another_datacenter_is_refused_and_an_absent_one_does_not_hold_up_a_drain() {
    let mut consul = Consul::start().await;
    let resolver = resolver();
    let config = registration(&consul, "datacenter: dc9");
    let elsewhere =
        Registration::start(&config, &listener("127.0.0.1:8127"), &resolver).expect("starts");
    let wrong = |state: &RegistrationState| matches!(state, RegistrationState::Pending(Some(why)) if why.contains("dc1"));
    soon("the trouble", elsewhere.state().wait_for(wrong))
        .await
        .expect("at work");
    elsewhere.deregister().await.expect("nothing to remove");

    let config = registration(&consul, "id: gate");
    let registered =
        Registration::start(&config, &listener("127.0.0.1:8127"), &resolver).expect("starts");
    becomes(&mut registered.state(), RegistrationState::Registered).await;
    consul.kill().await;
    let leaving = Instant::now();
    let error = registered
        .deregister()
        .await
        .expect_err("nobody to tell")
        .to_string();
    assert!(
        error.contains("gate") && leaving.elapsed() < Duration::from_secs(9),
        "{error} after {:?}",
        leaving.elapsed()
    );
    // A Unix socket is no address for others.
    let socket = ListenerFacts {
        name: "s".into(),
        address: None,
        tls: false,
    };
    assert!(
        Registration::start(&config, &socket, &resolver)
            .expect_err("no address")
            .to_string()
            .contains("advertise")
    );
}
