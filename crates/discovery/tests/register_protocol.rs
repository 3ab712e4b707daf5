//! Registration with an agent that does exactly as told.

mod support;

use support::http::Server;
use support::{resolver, soon};
use tidegate_config::model::ConsulRegistration;
use tidegate_discovery::{ListenerFacts, Registration, RegistrationState};

fn registration(agent: &Server, more: &str) -> ConsulRegistration {
    support::registration(&format!(
        "address: \"http://{}\", service: gate, {more}",
        agent.at
    ))
}

fn start(config: &ConsulRegistration) -> Registration {
    let listener = ListenerFacts {
        name: "main".into(),
        address: Some("0.0.0.0:8080".parse().expect("address")),
        tls: false,
    };
    Registration::start(config, &listener, &resolver()).expect("starts")
}

/// The `Meta` of a registration's body, as the agent would give it back.
fn held(body: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(body).expect("json");
    serde_json::json!({ "Meta": body["Meta"] }).to_string()
}

#[tokio::test]
async fn the_body_says_what_the_configuration_says() {
    let mut agent = Server::start().await;
    let config = registration(
        &agent,
        "id: g1, token: s3cret, tags: [edge], meta: { region: eu }, check: { http: /readyz, interval: 2s, deregister_after: 2m }",
    );
    let registered = start(&config);
    assert_eq!(registered.id(), "g1");
    let asked = agent.next().await;
    assert_eq!(asked.line, "GET /v1/agent/self");
    asked.reply(403, "", "Permission denied");
    let asked = agent.next().await;
    assert_eq!(
        asked.line,
        "PUT /v1/agent/service/register?replace-existing-checks=true"
    );
    assert!(asked.head.contains("x-consul-token: s3cret"));
    let body: serde_json::Value = serde_json::from_str(&asked.body).expect("json");
    assert_eq!(
        (&body["ID"], &body["Name"], &body["Port"]),
        (&"g1".into(), &"gate".into(), &8080.into())
    );
    assert_eq!(
        body.get("Address"),
        None,
        "the agent is on this machine: the node's address is right"
    );
    assert_eq!(
        (&body["Tags"][0], &body["Meta"]["region"]),
        (&"edge".into(), &"eu".into())
    );
    assert_eq!(body["Check"]["HTTP"], "http://127.0.0.1:8080/readyz");
    assert_eq!(body["Check"]["DeregisterCriticalServiceAfter"], "120000ms");
    asked.reply(200, "", "");
    let is_registered = |state: &RegistrationState| *state == RegistrationState::Registered;
    soon("registered", registered.state().wait_for(is_registered))
        .await
        .expect("at work");
}

#[tokio::test]
async fn a_refused_registration_is_told_and_tried_again() {
    let mut agent = Server::start().await;
    let registered = start(&registration(&agent, "id: g1"));
    agent.next().await.reply(200, "", "{}");
    agent.next().await.reply(403, "", "Permission denied");
    let is_refused = |state: &RegistrationState| matches!(state, RegistrationState::Pending(Some(why)) if why.contains("Permission denied"));
    soon("the trouble", registered.state().wait_for(is_refused))
        .await
        .expect("at work");
    agent.next().await.reply(200, "", "{}");
    agent.next().await.reply(200, "", "");
    let is_registered = |state: &RegistrationState| *state == RegistrationState::Registered;
    soon("registered", registered.state().wait_for(is_registered))
        .await
        .expect("at work");
}

#[tokio::test]
async fn a_registration_on_its_way_is_not_overtaken_by_its_removal() {
    let mut agent = Server::start().await;
    let registered = start(&registration(&agent, "id: g1"));
    agent.next().await.reply(200, "", "{}");
    let registering = agent.next().await;
    assert!(
        registering
            .line
            .starts_with("PUT /v1/agent/service/register")
    );
    let leaving = tokio::spawn(registered.deregister());
    // The order to leave is there now; the answer to the registration is still missing.
    tokio::task::yield_now().await;
    let body = registering.body.clone();
    registering.reply(200, "", "");
    let looking = agent.next().await;
    assert_eq!(looking.line, "GET /v1/agent/service/g1");
    looking.reply(200, "", &held(&body));
    let removing = agent.next().await;
    assert_eq!(removing.line, "PUT /v1/agent/service/deregister/g1");
    removing.reply(200, "", "");
    soon("the end", leaving)
        .await
        .expect("no panic")
        .expect("removed");
}

#[tokio::test]
async fn after_trouble_a_successor_is_not_pushed_out() {
    let mut agent = Server::start().await;
    let old = start(&registration(&agent, "id: g1"));
    agent.next().await.reply(200, "", "{}");
    agent.next().await.reply(200, "", "");
    let looking = agent.next().await;
    assert_eq!(looking.line, "GET /v1/agent/service/g1");
    looking.reply(500, "", "restarting");
    let looking = agent.next().await;
    assert_eq!(
        looking.line, "GET /v1/agent/service/g1",
        "looks before it registers again"
    );
    looking.reply(200, "", r#"{ "Meta": { "tidegate-instance": "another" } }"#);
    let is_superseded = |state: &RegistrationState| *state == RegistrationState::Superseded;
    soon("superseded", old.state().wait_for(is_superseded))
        .await
        .expect("at work");
    let leaving = tokio::spawn(old.deregister());
    agent
        .next()
        .await
        .reply(200, "", r#"{ "Meta": { "tidegate-instance": "another" } }"#);
    soon("the end", leaving)
        .await
        .expect("no panic")
        .expect("nothing to remove");
}
