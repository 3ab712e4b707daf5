//! The changes that Redis publishes.
//!
//! Redis sends what is published to a connection in order and without gaps, or breaks the connection; so every new
//! subscription is a gap and nothing else is. A connection that died without a word is found by asking for a sign of
//! life.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use redis::{Client, RedisResult};
use tokio::time::timeout;

use crate::key::Key;
use crate::store::{Entry, Version};
use crate::watch::{Change, Feed};

/// A sign of life is asked for so often, and must come within as long.
const ALIVE: Duration = Duration::from_secs(1);
/// Time to connect and subscribe.
const CONNECT: Duration = Duration::from_secs(2);
/// Wait before the first and at most before any new attempt to connect.
const CONNECT_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Feeds what is published on the channel, for ever.
pub(super) async fn follow(client: Client, channel: String, feed: Arc<Feed>) {
    let (mut wait, mut told) = (CONNECT_AGAIN.0, false);
    loop {
        let ended = subscription(&client, &channel, &feed).await;
        if feed.is_live() {
            feed.down();
            (wait, told) = (CONNECT_AGAIN.0, false);
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(reason = %ended, "Redis is away: going on with what is known");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(CONNECT_AGAIN.1);
    }
}

/// Follows one subscription; returns why it ended.
async fn subscription(client: &Client, channel: &str, feed: &Feed) -> String {
    let connected = async {
        let mut connection = client.get_async_pubsub().await?;
        connection.subscribe(channel).await?;
        RedisResult::Ok(connection)
    };
    let connection = match timeout(CONNECT, connected).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return error.to_string(),
        Err(_) => return "it does not answer".to_owned(),
    };
    tracing::debug!(channel, "following Redis");
    feed.up();
    let (mut asking, mut messages) = connection.split();
    let listening = async {
        while let Some(message) = messages.next().await {
            match parse(Bytes::copy_from_slice(message.get_payload_bytes())) {
                Some(change) => feed.publish(change),
                // Of a later version: what it changed may be anything.
                None => feed.up(),
            }
        }
        "the connection broke".to_owned()
    };
    let asking = async {
        loop {
            tokio::time::sleep(ALIVE).await;
            match timeout(ALIVE, asking.ping::<redis::Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "it does not answer".to_owned(),
            }
        }
    };
    tokio::select! {
        ended = listening => ended,
        ended = asking => ended,
    }
}

/// `P VERSION LEFT KEY\nVALUE` or `D VERSION KEY`; see `PUT` and `remove` in the scripts.
fn parse(message: Bytes) -> Option<Change> {
    let end = message
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(message.len());
    let head = std::str::from_utf8(&message[..end]).ok()?;
    let mut words = head.split(' ');
    let kind = words.next()?;
    let version = Version(words.next()?.parse().ok()?);
    let (entry, key) = match kind {
        "P" => {
            let left = words.next()?;
            let expires_in = match left {
                "-" => None,
                left => Some(Duration::from_millis(left.parse().ok()?)),
            };
            let entry = Entry {
                value: message.slice((end + 1).min(message.len())..),
                version,
                expires_in,
            };
            (Some(entry), words.next()?)
        }
        "D" => (None, words.next()?),
        _ => return None,
    };
    Some(Change::Entry(Key::parse(key).ok()?, version, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_line_ends_and_spaces() {
        let change = parse(Bytes::from_static(b"P 12 500 a/b\nfirst line\nsecond")).unwrap();
        let entry = Entry {
            value: Bytes::from_static(b"first line\nsecond"),
            version: Version(12),
            expires_in: Some(Duration::from_millis(500)),
        };
        let key = Key::parse("a/b").unwrap();
        assert_eq!(change, Change::Entry(key.clone(), Version(12), Some(entry)));
        let change = parse(Bytes::from_static(b"D 13 a/b")).unwrap();
        assert_eq!(change, Change::Entry(key, Version(13), None));
    }

    #[test]
    fn what_is_not_ours_is_not_mistaken() {
        for message in [
            "",
            "P",
            "P x - a\nv",
            "D 1",
            "D 1 a//b",
            "Q 1 a",
            "P 1 - \nv",
        ] {
            assert_eq!(parse(Bytes::from(message)), None, "{message:?}");
        }
    }
}
