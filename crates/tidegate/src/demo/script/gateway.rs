//! What happens to the gateway itself.

use std::time::Instant;

use super::{EFFECT, Script, WEIGHTS, as_ms, elapsed_ms, eventually};
use crate::demo::DemoError;
use crate::demo::scene::Outcome;
use crate::demo::words::millis;

impl Script {
    pub(super) async fn kill_gateway(&mut self) -> Result<(), DemoError> {
        let why = "The supervisor holds the listening sockets: nobody is refused, callers wait until the next gateway serves.";
        let begun = self.begin("kill -9 of the gateway itself", &[why], None);
        let resent = begun.totals.resent;
        self.traffic.await_kill(self.callers.gateway_dies());
        let killed = Instant::now();
        let pid = self.stack.kill_gateway()?;
        let gap = eventually(EFFECT, || self.traffic.first_after_kill())
            .await
            .map(|first| as_ms(first.saturating_duration_since(killed)));
        // All callers are back, and the new gateway has found the members, before anything else happens.
        self.observer
            .until(EFFECT, |overview| {
                overview.uptime_ms < elapsed_ms(begun.at)
                    && overview.upstreams.iter().all(|upstream| {
                        !upstream.members.is_empty()
                            && upstream.members.iter().all(|m| m.state != "ejected")
                    })
                    && overview.services.iter().all(|s| s.ready == s.replicas)
            })
            .await;
        let resent = self.traffic.totals().resent - resent;
        let result = gap.map_or_else(
            || "no answer in time".to_owned(),
            |gap| {
                format!(
                    "served again after {}; no connection refused; in flight in process {pid} and sent again by their callers: {resent}",
                    millis(gap)
                )
            },
        );
        let outcome = Outcome {
            event: "gateway_kill",
            what: "kill -9 of the gateway".into(),
            result,
            gap_ms: gap,
            ..Outcome::default()
        };
        self.finish(begun, outcome).await;
        Ok(())
    }

    pub(super) async fn reload(&mut self) -> Result<(), DemoError> {
        self.reloads += 1;
        let from = WEIGHTS[(self.reloads - 1) % 2];
        let to = WEIGHTS[self.reloads % 2];
        let words = |[v1, v2]: [u32; 2]| format!("{v1}/{v2}");
        let what = format!(
            "Reload: the split goes from {} to {}",
            words(from),
            words(to)
        );
        let why = "The file changes, the gateway checks it as a whole and swaps it in; connections and health stay.";
        let begun = self.begin(&what, &[why], None);
        // Between the file's change and the gateway's word for it, either weights may hold.
        self.traffic.begin_phase([0, 0]);
        self.stack.reweigh(to)?;
        let loaded = self
            .observer
            .event(&["config_loaded"], "", begun.at_ms, EFFECT)
            .await;
        if loaded.is_some() {
            self.traffic.begin_phase(to);
            self.scene.set_weights(to);
        }
        let took = loaded.map(|event| event.at_ms.saturating_sub(begun.at_ms));
        let outcome = Outcome {
            event: "reload",
            what,
            result: took.map_or_else(
                || "not loaded in time".to_owned(),
                |took| format!("in force {} after the file changed", millis(took)),
            ),
            took_ms: took,
            ..Outcome::default()
        };
        self.finish(begun, outcome).await;
        Ok(())
    }

    pub(super) async fn upgrade(&mut self) -> Result<(), DemoError> {
        let what = "tidegate up --upgrade";
        let why = "A new supervisor and a new gateway take the sockets over; the old ones finish what they hold and end.";
        let begun = self.begin(what, &[why], None);
        self.stack.upgrade().await?;
        let took = elapsed_ms(begun.at);
        let outcome = Outcome {
            event: "upgrade",
            what: what.to_owned(),
            result: match self.traffic.totals().failed - begun.totals.failed {
                0 => format!(
                    "replaced in {}; no connection refused, none cut",
                    millis(took)
                ),
                failed => format!("replaced in {}; {failed} requests failed", millis(took)),
            },
            took_ms: Some(took),
            ..Outcome::default()
        };
        self.finish(begun, outcome).await;
        Ok(())
    }
}
