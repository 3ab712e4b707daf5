//! The end: no new connections, and time for what is under way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Control;

impl Control {
    /// No new connections; those that are open end after what they are doing. Gives the number that were cut at the end.
    pub(crate) async fn drain(self: &Arc<Self>) -> u64 {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.events.push("draining", "", "", "");
        self.deregister().await;
        let acceptors = std::mem::take(&mut self.state().acceptors);
        for (_, acceptor) in acceptors {
            acceptor.stop.notify_one();
            let _ = acceptor.task.await;
        }
        self.door.look();
        let grace = self.shared.snapshot.load().loaded.config.shutdown.grace;
        let end = Instant::now() + grace;
        while self.door.connections() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let cut = self.door.connections() as u64;
        self.door.stop();
        cut
    }
}
