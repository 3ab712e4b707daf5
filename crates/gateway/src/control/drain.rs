//! The end: no new connections, and time for what is under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Control;

/// How long a gateway that is going waits for the collector of its spans, within the grace.
const SPANS: Duration = Duration::from_secs(5);

impl Control {
    /// No new connections; those that are open end after what they are doing. All of it, deregistering as well, within the grace. Gives
    /// the number of connections that were cut at the end.
    pub(crate) async fn drain(self: &Arc<Self>) -> u64 {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.events.push("draining", "", "", "");
        let grace = self.shared.snapshot.load().loaded.config.shutdown.grace;
        let begin = Instant::now();
        let end = begin + grace;
        self.shared.exports.hurry();
        // Others learn first that nobody should come any more. A catalogue that does not answer must not use up the time that callers
        // have: half of it, then both go on.
        let control = self.clone();
        let mut leaving = tokio::spawn(async move { control.deregister().await });
        let left = timeout_at(begin + grace / 2, &mut leaving).await.is_ok();
        let acceptors = std::mem::take(&mut self.state().acceptors);
        for (_, acceptor) in acceptors {
            acceptor.stop.notify_one();
            let _ = acceptor.task.await;
        }
        self.door.look();
        while self.door.connections() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if !left && timeout_at(end, leaving).await.is_err() {
            tracing::warn!("not deregistered within the grace");
        }
        // What was spent, and leases, do not wait for a collector.
        let spans = end.min(Instant::now() + SPANS);
        tokio::join!(self.shared.exports.finish(spans), self.leave_store());
        let cut = self.door.connections() as u64;
        self.door.stop();
        cut
    }
}
