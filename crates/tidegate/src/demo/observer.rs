//! Looks at the gateway as any operator would: through its admin API.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::Method;
use tidegate_admin::client::{AdminUrl, Client};
use tidegate_admin::overview::Overview;
use tidegate_gateway::view::{EventView, KeyHealth, MemberView};
use tokio::sync::watch;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(100);
/// Looks between two readings of the metrics.
const METRICS_EVERY: u32 = 5;
/// A restarting gateway answers late, not never: the supervisor's socket keeps the question.
const PATIENCE: Duration = Duration::from_secs(3);
/// Events kept.
const KEPT_EVENTS: usize = 4000;

/// Milliseconds since the Unix epoch: the clock of events.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// What is known of the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    seen: Arc<Mutex<Seen>>,
    looks: watch::Receiver<u64>,
}

#[derive(Debug, Default)]
struct Seen {
    overview: Option<Arc<Overview>>,
    /// When the gateway last answered.
    answered: Option<Instant>,
    events: Vec<EventView>,
    retries: Counter,
    failovers: Counter,
}

/// A counter that begins anew when the gateway's process does.
#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    before: u64,
    last: u64,
}

impl Counter {
    fn read(&mut self, value: u64) {
        if value < self.last {
            self.before += self.last;
        }
        self.last = value;
    }

    fn total(self) -> u64 {
        self.before + self.last
    }
}

impl Observer {
    /// Looks every tenth of a second until the runtime ends.
    pub(crate) fn start(admin: u16) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (looked, looks) = watch::channel(0);
        let url = AdminUrl::Tcp(format!("127.0.0.1:{admin}"));
        tokio::spawn(look(
            Client::new(url, None, PATIENCE),
            Arc::clone(&seen),
            looked,
        ));
        Self { seen, looks }
    }

    /// The latest overview.
    pub(crate) fn overview(&self) -> Option<Arc<Overview>> {
        self.lock().overview.clone()
    }

    /// Whether the gateway answered lately.
    pub(crate) fn is_fresh(&self) -> bool {
        self.lock()
            .answered
            .is_some_and(|at| at.elapsed() < 4 * LOOK)
    }

    /// Attempts after the first at another instance, over all gateways so far.
    pub(crate) fn retries(&self) -> u64 {
        self.lock().retries.total()
    }

    /// Attempts after which a chat went on to another key, over all gateways so far.
    pub(crate) fn failovers(&self) -> u64 {
        self.lock().failovers.total()
    }

    /// A member of the latest overview.
    pub(crate) fn member(&self, address: &str) -> Option<MemberView> {
        let overview = self.overview()?;
        overview
            .upstreams
            .iter()
            .flat_map(|upstream| &upstream.members)
            .find(|member| member.id == address)
            .cloned()
    }

    /// Waits for an event of this kind about this member that is not older than `since_ms`; `None` after `at_most`.
    pub(crate) async fn event(
        &self,
        kinds: &[&str],
        member: &str,
        since_ms: u64,
        at_most: Duration,
    ) -> Option<EventView> {
        self.wait(at_most, |seen| {
            let newest_first = seen.events.iter().rev();
            newest_first
                .take_while(|event| event.at_ms + 2_000 >= since_ms)
                .filter(|event| event.at_ms >= since_ms)
                .filter(|event| {
                    kinds.contains(&event.kind.as_str())
                        && (member.is_empty() || event.member == member)
                })
                .last()
                .cloned()
        })
        .await
    }

    /// Waits until something is found in the latest overview; `None` after `at_most`.
    pub(crate) async fn find<T>(
        &self,
        at_most: Duration,
        find: impl Fn(&Overview) -> Option<T>,
    ) -> Option<T> {
        self.wait(at_most, |seen| find(seen.overview.as_ref()?))
            .await
    }

    /// Waits until the latest overview satisfies a condition.
    pub(crate) async fn until(
        &self,
        at_most: Duration,
        condition: impl Fn(&Overview) -> bool,
    ) -> bool {
        self.find(at_most, |overview| condition(overview).then_some(()))
            .await
            .is_some()
    }

    /// Waits until all that happened so far is in the counters.
    pub(crate) async fn settle(&self) {
        let start = *self.looks.borrow();
        let mut looks = self.looks.clone();
        let enough = looks.wait_for(|looks| *looks > start + u64::from(METRICS_EVERY));
        let _ = tokio::time::timeout(2 * PATIENCE, enough).await;
    }

    async fn wait<T>(&self, at_most: Duration, find: impl Fn(&Seen) -> Option<T>) -> Option<T> {
        let mut looks = self.looks.clone();
        let found = async {
            loop {
                if let Some(found) = find(&self.lock()) {
                    return Some(found);
                }
                looks.changed().await.ok()?;
            }
        };
        tokio::time::timeout(at_most, found).await.ok().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(mut client: Client, seen: Arc<Mutex<Seen>>, looked: watch::Sender<u64>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut instance, mut after) = (String::new(), 0);
    let mut count = 0;
    loop {
        ticks.tick().await;
        let path = format!("/api/v1/overview?after={after}");
        let Ok(overview) = client.get::<Overview>(&path).await else {
            continue;
        };
        if overview.instance != instance {
            // Another gateway: its events begin anew. What it told before this look is asked for again.
            let first = instance.is_empty();
            instance.clone_from(&overview.instance);
            if after != 0 && !first {
                after = 0;
                continue;
            }
        }
        after = overview.last_event;
        count += 1;
        let metrics = if count % METRICS_EVERY == 1 {
            client.request(Method::GET, "/metrics").await.ok()
        } else {
            None
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = metrics {
            let text = String::from_utf8_lossy(&metrics);
            seen.retries
                .read(sum(&text, "tidegate_retries_total", "kind=\"retry\""));
            seen.failovers
                .read(sum(&text, "tidegate_failovers_total", ""));
        }
        seen.events.extend(overview.events.iter().cloned());
        let surplus = seen.events.len().saturating_sub(KEPT_EVENTS);
        seen.events.drain(..surplus);
        seen.answered = Some(Instant::now());
        seen.overview = Some(Arc::new(overview));
        drop(seen);
        looked.send_modify(|looks| *looks += 1);
    }
}

/// How a key is: as a whole, or for the model that it is spared for.
pub(crate) fn key_health<'a>(overview: &'a Overview, name: &str) -> Option<&'a KeyHealth> {
    let mut keys = overview.providers.iter().flat_map(|p| &p.keys);
    let key = keys.find(|key| key.name == name)?;
    let each = std::iter::once(&key.health).chain(key.models.iter().map(|model| &model.health));
    Some(
        each.into_iter()
            .find(|h| h.state != "healthy")
            .unwrap_or(&key.health),
    )
}

/// Adds the samples of a family that have this label.
fn sum(metrics: &str, family: &str, label: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let labels = line.strip_prefix(family)?.strip_prefix('{')?;
        let (labels, value) = labels.rsplit_once("} ")?;
        let value = value.split(' ').next()?.parse::<f64>().ok()?;
        labels.contains(label).then_some(value)
    });
    values.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_added_by_label() {
        let metrics = "# HELP tidegate_retries_total Further attempts.\n\
                       tidegate_retries_total{pool=\"a\",kind=\"retry\"} 3\n\
                       tidegate_retries_total{pool=\"b\",kind=\"retry\"} 4\n\
                       tidegate_retries_total{pool=\"b\",kind=\"hedge\"} 50\n\
                       tidegate_requests_total{kind=\"retry\"} 600\n";
        assert_eq!(sum(metrics, "tidegate_retries_total", "kind=\"retry\""), 7);
    }

    #[test]
    fn a_counter_goes_on_where_a_killed_gateway_left_it() {
        let mut counter = Counter::default();
        for value in [5, 9, 2, 3] {
            counter.read(value);
        }
        assert_eq!(counter.total(), 12);
    }
}
