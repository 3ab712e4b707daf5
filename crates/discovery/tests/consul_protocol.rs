//! Blocking queries against a Consul that does exactly as told: every rule of the reference, and every way to break.

mod support;

use std::time::{Duration, Instant};

use support::http::Server;
use support::{PATIENCE, ids, until, watch};
use tokio::net::TcpListener;

fn instances(ports: &[u16]) -> String {
    let entries: Vec<String> = ports
        .iter()
        .map(|port| {
            format!(r#"{{"Node":{{"Node":"n","Address":"10.0.0.1"}},"Service":{{"ID":"i{port}","Address":"","Port":{port}}},"Checks":[]}}"#)
        })
        .collect();
    format!("[{}]", entries.join(","))
}

fn discover(server: &Server, more: &str) -> tidegate_discovery::Watch {
    watch(&format!(
        "discover:\n  consul: {{ address: \"http://{}\", service: ranker, {more} }}",
        server.at
    ))
}

const ONE: [&str; 1] = ["10.0.0.1:1"];

#[tokio::test]
async fn the_question_carries_what_the_configuration_says_and_then_blocks() {
    let mut consul = Server::start().await;
    let source = discover(
        &consul,
        r#"tags: [v1, "a b"], datacenter: dc2, token: s3cret, wait: 2m"#,
    );
    let first = consul.next().await;
    assert!(
        first.line.starts_with("GET /v1/health/service/ranker?"),
        "{}",
        first.line
    );
    assert!(
        first.line.contains("tag=v1&tag=a%20b")
            && first.query("passing").is_some()
            && first.query("stale").is_some()
    );
    assert_eq!(
        (first.query("dc"), first.query("index")),
        (Some("dc2".into()), None)
    );
    assert!(first.head.contains("x-consul-token: s3cret"));
    first.consul(7, &instances(&[1]));
    let second = consul.next().await;
    assert_eq!(second.query("index").as_deref(), Some("7"));
    let wait: u64 = second
        .query("wait")
        .and_then(|wait| wait.strip_suffix("ms")?.parse().ok())
        .expect("milliseconds");
    assert!(
        (108_000..=120_000).contains(&wait),
        "with jitter, never longer than asked for: {wait}"
    );
    assert_eq!(second.connection, 0, "on the same connection");
    assert_eq!(source.kind(), "consul");
    assert!(!format!("{source:?}").contains("s3cret"));
}

#[tokio::test]
async fn warnings_are_asked_for_when_they_are_wanted() {
    let mut consul = Server::start().await;
    let _source = discover(&consul, "passing: false, stale: false");
    let first = consul.next().await;
    assert_eq!((first.query("passing"), first.query("stale")), (None, None));
}

#[tokio::test]
async fn a_change_is_known_far_below_a_second_after_consul_answers() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    consul.next().await.consul(1, &instances(&[1]));
    until(&mut updates, |update| update.endpoints.len() == 1).await;
    let open = consul.next().await;
    let answered = Instant::now();
    open.consul(2, &instances(&[1, 2]));
    until(&mut updates, |update| update.endpoints.len() == 2).await;
    assert!(
        answered.elapsed() < Duration::from_millis(500),
        "{:?}",
        answered.elapsed()
    );
}

#[tokio::test]
async fn an_index_that_goes_backwards_starts_anew_and_its_answer_counts() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    consul.next().await.consul(100, &instances(&[1]));
    let second = consul.next().await;
    assert_eq!(second.query("index").as_deref(), Some("100"));
    second.consul(5, &instances(&[2]));
    until(&mut updates, |update| ids(update) == ["10.0.0.1:2"]).await;
    let third = consul.next().await;
    assert_eq!(
        third.query("index"),
        None,
        "reset to 0: asks for the present state"
    );
    third.consul(5, &instances(&[2]));
    assert_eq!(consul.next().await.query("index").as_deref(), Some("5"));
}

#[tokio::test]
async fn an_index_of_zero_or_none_is_taken_for_one() {
    let mut consul = Server::start().await;
    let _source = discover(&consul, "");
    consul
        .next()
        .await
        .reply(200, "x-consul-index: 0\r\n", "[]");
    let second = consul.next().await;
    assert_eq!(second.query("index").as_deref(), Some("1"));
    second.reply(200, "", "[]");
    assert_eq!(consul.next().await.query("index").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_consul_that_answers_at_once_for_ever_is_asked_ten_times_a_second_at_most() {
    let mut consul = Server::start().await;
    let _source = discover(&consul, "");
    let start = Instant::now();
    for index in 1..=6 {
        consul.next().await.consul(index, &instances(&[1]));
    }
    assert!(
        start.elapsed() >= Duration::from_millis(480),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn an_empty_list_in_a_good_answer_is_the_truth() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    consul.next().await.consul(1, &instances(&[1]));
    until(&mut updates, |update| update.endpoints.len() == 1).await;
    consul.next().await.consul(2, "[]");
    let update = until(&mut updates, |update| update.endpoints.is_empty()).await;
    assert!(update.known && update.error.is_none());
}

/// Whatever is not a good answer: the list stays, the trouble is told, the next question does not block, and a good answer
/// ends the trouble.
async fn keeps_the_list_when(break_it: impl FnOnce(support::http::Asked), told: &str) {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    consul.next().await.consul(9, &instances(&[1]));
    until(&mut updates, |update| update.known).await;
    break_it(consul.next().await);
    let update = until(&mut updates, |update| update.error.is_some()).await;
    assert_eq!(ids(&update), ONE);
    let error = update.error.expect("told");
    assert!(error.contains(told), "{error}");
    let again = consul.next().await;
    assert_eq!(again.query("index"), None);
    again.consul(9, &instances(&[1]));
    assert_eq!(
        ids(&until(&mut updates, |update| update.error.is_none()).await),
        ONE
    );
}

#[tokio::test]
async fn an_error_of_consul_keeps_the_list() {
    keeps_the_list_when(
        |asked| asked.reply(500, "", "No cluster leader"),
        "500 Internal Server Error: No cluster leader",
    )
    .await;
    keeps_the_list_when(
        |asked| asked.reply(403, "", "Permission denied"),
        "Permission denied",
    )
    .await;
    keeps_the_list_when(|asked| asked.reply(404, "", "not here"), "404").await;
}

#[tokio::test]
async fn half_an_answer_keeps_the_list() {
    let half = instances(&[2, 3]);
    let half = &half[..half.len() / 2];
    let cut =
        format!("HTTP/1.1 200 OK\r\nx-consul-index: 10\r\ncontent-length: 5000\r\n\r\n{half}");
    keeps_the_list_when(|asked| asked.raw_and_close(&cut), "consul").await;
    keeps_the_list_when(|asked| asked.consul(10, half), "not that of a Consul agent").await;
    keeps_the_list_when(
        |asked| asked.consul(10, "<html>login</html>"),
        "<html>login</html>",
    )
    .await;
    keeps_the_list_when(
        |asked| asked.raw_and_close("\x16\x03\x01 not http\r\n\r\n"),
        "consul",
    )
    .await;
}

#[tokio::test]
async fn an_answer_without_end_is_cut_and_keeps_the_list() {
    keeps_the_list_when(
        |asked| asked.endless("x-consul-index: 10\r\n", "[{},{},{},{}] "),
        "longer than",
    )
    .await;
}

#[tokio::test]
async fn an_instance_that_cannot_be_used_costs_only_itself_and_is_told() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    consul.next().await.consul(1, &instances(&[0, 1]));
    let update = until(&mut updates, |update| update.known).await;
    assert_eq!(ids(&update), ONE);
    assert!(update.error.expect("told").contains("\"i0\""));
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_is_no_trouble() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    consul.next().await.raw_and_close(&format!(
        "HTTP/1.1 200 OK\r\nx-consul-index: 3\r\ncontent-length: {}\r\n\r\n{}",
        instances(&[1]).len(),
        instances(&[1])
    ));
    until(&mut updates, |update| update.known).await;
    let second = consul.next().await;
    assert_eq!(
        (second.connection, second.query("index").as_deref()),
        (1, Some("3"))
    );
    second.consul(4, &instances(&[1, 2]));
    until(&mut updates, |update| {
        assert_eq!(update.error, None);
        update.endpoints.len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_consul_that_comes_later_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound");
    drop(listener);
    let source = watch(&format!(
        "discover: {{ consul: {{ address: \"http://{at}\", service: ranker }} }}"
    ));
    let mut updates = source.updates();
    let update = until(&mut updates, |update| update.error.is_some()).await;
    assert!(!update.known && update.endpoints.is_empty());
    assert!(update.error.expect("told").contains("refused"));
    let mut consul = Server::on(TcpListener::bind(at).await.expect("the same port"));
    consul.next().await.consul(1, &instances(&[1]));
    let update = until(&mut updates, |update| update.known).await;
    assert_eq!(
        (ids(&update), update.error),
        (ONE.map(str::to_owned).to_vec(), None)
    );
}

#[tokio::test]
async fn a_follower_without_a_leader_is_not_believed_when_the_leader_answers() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    for old in [
        "x-consul-knownleader: false",
        "x-consul-knownleader: true\r\nx-consul-lastcontact: 60000",
    ] {
        let first = consul.next().await;
        assert!(first.query("stale").is_some());
        first.reply(
            200,
            &format!("x-consul-index: 4\r\n{old}\r\n"),
            &instances(&[7]),
        );
        let second = consul.next().await;
        assert_eq!(
            (second.query("stale"), second.query("index")),
            (None, None),
            "the leader is asked, without waiting"
        );
        second.consul(5, &instances(&[1]));
        assert_eq!(ids(&until(&mut updates, |update| update.known).await), ONE);
    }
    let next = consul.next().await;
    assert_eq!(
        (
            next.query("index").as_deref(),
            next.query("stale").is_some()
        ),
        (Some("5"), true)
    );
    next.reply(
        200,
        "x-consul-index: 6\r\nx-consul-knownleader: true\r\nx-consul-lastcontact: 20\r\n",
        &instances(&[1, 2]),
    );
    until(&mut updates, |update| update.endpoints.len() == 2).await;
}

#[tokio::test]
async fn without_any_leader_the_last_good_list_stays_and_an_old_one_is_better_than_none() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    let mut updates = source.updates();
    let old = "x-consul-index: 4\r\nx-consul-knownleader: false\r\n";
    consul.next().await.reply(200, old, &instances(&[1]));
    consul.next().await.reply(500, "", "No cluster leader");
    let update = until(&mut updates, |update| update.known).await;
    assert_eq!(ids(&update), ONE);
    assert!(update.error.expect("told").contains("may be old"));
    consul.next().await.reply(200, old, "[]");
    consul.next().await.reply(500, "", "No cluster leader");
    let update = until(&mut updates, |update| {
        update
            .error
            .as_deref()
            .is_some_and(|error| error.contains("asking the leader failed"))
    })
    .await;
    assert_eq!(
        ids(&update),
        ONE,
        "an empty list of a follower without a leader is not the truth"
    );
}

#[tokio::test]
async fn dropping_the_handle_ends_the_open_question() {
    let mut consul = Server::start().await;
    let source = discover(&consul, "");
    consul.next().await.consul(1, &instances(&[1]));
    let open = consul.next().await;
    let mut updates = source.updates();
    drop(source);
    support::soon("the connection's end", open.abandoned()).await;
    let ended =
        tokio::time::timeout(PATIENCE, async { while updates.changed().await.is_ok() {} }).await;
    assert!(ended.is_ok(), "receivers learn that nothing more will come");
}
