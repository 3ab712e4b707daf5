//! Endpoints of a Consul service by blocking queries.
//!
//! One question is always open: Consul answers it the moment something changes, so a change is known about as fast as
//! Consul knows it itself. An empty list in a good answer is the truth (Consul knows no fit instance); anything else that
//! goes wrong keeps the last good list and says what is wrong.

use std::time::Duration;

use http::{HeaderMap, Method};
use tokio::time::Instant;

use super::cursor::Cursor;
use super::{ConsulError, Query, health};
use crate::client::{Answer, Client, encode};
use crate::endpoint::EndpointSet;
use crate::jitter::{Backoff, between};
use crate::source::Publisher;

/// Two questions start at least this far apart, however fast the answers come (a flapping service, an index that moves
/// without a change): at most ten a second, and a change waits at most this long for the next question.
const PACE: Duration = Duration::from_millis(100);
/// Consul's own limit for `wait`.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Consul adds up to wait/16 so that not all clients return together; beyond that and this, it is not going to answer.
const ANSWER_GRACE: Duration = Duration::from_secs(10);
/// A follower that has not heard from the leader for longer may tell old news: the leader is asked instead.
const MAX_STALE: Duration = Duration::from_secs(5);
/// Longest answer that is read: about 50,000 instances.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// Runs until dropped.
pub(super) async fn run(query: Query, publisher: Publisher) {
    let mut client = Client::new(query.server.clone(), query.max_answer);
    let mut cursor = Cursor::default();
    let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
    loop {
        let asked = Instant::now();
        match ask(&mut client, &query, cursor, &publisher).await {
            Ok(Some(index)) => {
                cursor.answered(index.0);
                backoff.reset();
                tokio::time::sleep_until(asked + PACE).await;
            }
            Ok(None) => {
                cursor.failed();
                tokio::time::sleep(backoff.wait().max(PACE)).await;
            }
            Err(error) => {
                publisher.trouble(format!("consul: {error}"));
                cursor.failed();
                tokio::time::sleep(backoff.wait().max(PACE)).await;
            }
        }
    }
}

/// The index that came with an answer.
struct Index(Option<u64>);

/// One question, and a second one to the leader when a follower's answer is too old. `None`: an old answer had to do.
async fn ask(
    client: &mut Client,
    query: &Query,
    cursor: Cursor,
    publisher: &Publisher,
) -> Result<Option<Index>, ConsulError> {
    let wait = between(query.wait.min(MAX_WAIT), 0.9, 1.0);
    let answer = get(
        client,
        &path(
            query,
            query.stale,
            cursor.index().map(|index| (index, wait)),
        ),
        wait,
    )
    .await?;
    let (endpoints, unusable) = read(&answer, query)?;
    let Some(age) = query.stale.then(|| staleness(&answer.headers)).flatten() else {
        publish(publisher, endpoints, unusable);
        return Ok(Some(Index(index(&answer.headers))));
    };
    match get(client, &path(query, false, None), Duration::ZERO).await {
        Ok(fresh) => {
            let (endpoints, unusable) = read(&fresh, query)?;
            publish(publisher, endpoints, unusable);
            Ok(Some(Index(index(&fresh.headers))))
        }
        // Nothing was ever known: an old list is better than none.
        Err(error) if !publisher.known() => {
            publisher.good(
                endpoints,
                Some(format!("consul: the list may be old ({age}): {error}")),
            );
            Ok(None)
        }
        Err(error) => Err(ConsulError::Stale {
            age,
            source: Box::new(error),
        }),
    }
}

fn publish(publisher: &Publisher, endpoints: EndpointSet, unusable: Option<String>) {
    publisher.good(endpoints, unusable.map(|text| format!("consul: {text}")));
}

fn read(answer: &Answer, query: &Query) -> Result<(EndpointSet, Option<String>), ConsulError> {
    health::parse(&answer.body, query.passing).map_err(|source| ConsulError::Malformed {
        source,
        excerpt: answer.excerpt(),
    })
}

async fn get(client: &mut Client, path: &str, wait: Duration) -> Result<Answer, ConsulError> {
    let answer = client
        .exchange(Method::GET, path, None, wait + wait / 16 + ANSWER_GRACE)
        .await?;
    if answer.status != http::StatusCode::OK {
        return Err(ConsulError::Status {
            status: answer.status,
            text: answer.excerpt(),
        });
    }
    Ok(answer)
}

fn path(query: &Query, stale: bool, block: Option<(u64, Duration)>) -> String {
    let mut path = format!("/v1/health/service/{}", encode(&query.service));
    let mut separator = '?';
    let mut add = |parameter: &str| {
        path.push(separator);
        path.push_str(parameter);
        separator = '&';
    };
    if query.passing {
        add("passing");
    }
    if stale {
        add("stale");
    }
    for tag in &query.tags {
        add(&format!("tag={}", encode(tag)));
    }
    if let Some(datacenter) = &query.datacenter {
        add(&format!("dc={}", encode(datacenter)));
    }
    if let Some((index, wait)) = block {
        add(&format!("index={index}&wait={}ms", wait.as_millis()));
    }
    path
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn index(headers: &HeaderMap) -> Option<u64> {
    number(headers, "x-consul-index")
}

/// Why a follower's answer is too old to be believed; none when it is not.
fn staleness(headers: &HeaderMap) -> Option<String> {
    if headers
        .get("x-consul-knownleader")
        .is_some_and(|known| known.as_bytes().eq_ignore_ascii_case(b"false"))
    {
        return Some("the server knows no leader".to_owned());
    }
    let contact = Duration::from_millis(number(headers, "x-consul-lastcontact")?);
    (contact > MAX_STALE).then(|| format!("the server last heard from the leader {contact:?} ago"))
}
