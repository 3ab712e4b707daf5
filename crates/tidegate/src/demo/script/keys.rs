//! What happens to the keys of the LLM provider.

use std::time::{Duration, Instant};

use super::{EFFECT, Script};
use crate::demo::DemoError;
use crate::demo::observer::key_health;
use crate::demo::provider::{KEYS, fingerprint};
use crate::demo::scene::Outcome;
use crate::demo::words::millis;

/// For how long a key is limited: the provider says so in `Retry-After`.
const LIMITED: Duration = Duration::from_secs(2);

impl Script {
    /// The provider does not know a key any more, and later it does again.
    pub(super) async fn revoke_key(&mut self) -> Result<(), DemoError> {
        let (number, key) = self.next_key();
        let what = format!("Key {key} is revoked");
        let why = "Its provider answers 401. Whoever was given this key is asked with another one, in the same request.";
        let begun = self.begin(&what, &[why], Some(&key));
        self.provider.revoke(number);
        let (after, cause) = self.spared(&key, begun.at_ms).await;
        self.hold(begun.half()).await;
        self.traffic.await_instance(&key);
        let restored = Instant::now();
        self.provider.restore(number);
        self.scene
            .tell("The provider takes it again; a probe finds that out.");
        let used = self.first_answer(&key, restored).await;
        let back = used.map_or_else(
            || "not back in time".to_owned(),
            |used| format!("back {} after the provider takes it", millis(used)),
        );
        let outcome = Outcome {
            event: "key_revoked",
            what,
            result: format!("{}; {back}", seen(after, cause.as_deref())),
            ejected_after_ms: after,
            cause,
            used_after_ms: used,
            ..Outcome::default()
        };
        self.key_is_well(&key).await;
        self.finish(begun, outcome).await;
        Ok(())
    }

    /// The provider has had enough of a key for some seconds.
    pub(super) async fn limit_key(&mut self) -> Result<(), DemoError> {
        let (number, key) = self.next_key();
        let what = format!("Key {key} is limited");
        let why = format!(
            "Its provider answers 429 with Retry-After: {}. Until then the other keys have its share.",
            LIMITED.as_secs()
        );
        let begun = self.begin(&what, &[&why], Some(&key));
        self.provider.limit(number, LIMITED);
        let (after, cause) = self.spared(&key, begun.at_ms).await;
        self.traffic.await_instance(&key);
        let used = self.first_answer(&key, begun.at).await;
        let back = used.map_or_else(
            || "not back in time".to_owned(),
            |used| format!("used again after {}", millis(used)),
        );
        let outcome = Outcome {
            event: "key_limited",
            what,
            result: format!("{}; {back}", seen(after, cause.as_deref())),
            ejected_after_ms: after,
            cause,
            used_after_ms: used,
            ..Outcome::default()
        };
        self.key_is_well(&key).await;
        self.finish(begun, outcome).await;
        Ok(())
    }

    /// Milliseconds until the gateway spared a key, and why it does.
    async fn spared(&self, key: &str, since_ms: u64) -> (Option<u64>, Option<String>) {
        let found = self
            .observer
            .find(EFFECT, |overview| {
                let health = key_health(overview, key)?;
                let at_ms = overview.at_ms.saturating_sub(health.since_ms);
                (health.state != "healthy")
                    .then(|| (at_ms.saturating_sub(since_ms), health.cause.clone()))
            })
            .await;
        let seen_so_far = match &found {
            Some((after, cause)) => seen(Some(*after), Some(cause)),
            None => seen(None, None),
        };
        self.scene
            .tell(&format!("It was {seen_so_far}. The others have its share."));
        found.unzip()
    }

    /// Waits until a key is like the others: one fault at a time is what each figure is about.
    async fn key_is_well(&self, key: &str) {
        self.observer
            .until(EFFECT, |overview| {
                key_health(overview, key).is_some_and(|h| h.state == "healthy")
            })
            .await;
    }

    /// The key whose turn it is.
    fn next_key(&mut self) -> (usize, String) {
        let number = self.keys % KEYS.len();
        self.keys += 1;
        (number, fingerprint(KEYS[number]))
    }
}

fn seen(after: Option<u64>, cause: Option<&str>) -> String {
    match (after, cause) {
        (Some(after), Some(cause)) => format!("spared after {}: {cause}", millis(after)),
        _ => "not spared in time".to_owned(),
    }
}
