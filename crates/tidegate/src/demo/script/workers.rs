//! What happens to the workers of the hosted model.

use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tidegate_admin::overview::Overview;
use tidegate_gateway::view::InstanceView;

use super::{EFFECT, Script};
use crate::demo::DemoError;
use crate::demo::scene::Outcome;
use crate::demo::words::millis;

impl Script {
    /// `kill -9` of a worker while it is called.
    pub(super) async fn kill_worker(&mut self) -> Result<(), DemoError> {
        let found = self
            .observer
            .find(EFFECT, |overview| {
                let worker = workers(overview).find(|worker| worker.state == "ready")?;
                Some((worker.name.clone(), worker.pid?, counts(overview)))
            })
            .await;
        let Some((name, pid, before)) = found else {
            return Err(DemoError::Gateway("no worker of the model is ready".into()));
        };
        let what = format!("kill -9 {name} (Python)");
        let why = "A call that it was running is run again by the other worker, and another process takes its place.";
        let begun = self.begin(&what, &[why], Some(&name));
        let victim = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let victim = victim.ok_or_else(|| DemoError::Gateway(format!("{pid} is no process id")))?;
        kill_process(victim, Signal::KILL).map_err(|errno| DemoError::Process(errno.into()))?;
        self.traffic.await_instance(&name);
        let used = self.first_answer(&name, Instant::now()).await;
        // The host tells its counts once a second.
        let reruns = self
            .observer
            .find(EFFECT, |overview| {
                let (deaths, reruns) = counts(overview);
                (deaths > before.0).then(|| reruns.saturating_sub(before.1))
            })
            .await;
        let again = match reruns {
            Some(0) => "it was idle".to_owned(),
            Some(1) => "one call ran again".to_owned(),
            Some(n) => format!("{n} calls ran again"),
            None => "its death was not told in time".to_owned(),
        };
        let outcome = Outcome {
            event: "worker_kill",
            what,
            result: match used {
                Some(used) => format!("{again}; a new process answered after {}", millis(used)),
                None => format!("{again}; no new process answered in time"),
            },
            used_after_ms: used.filter(|_| reruns.is_some()),
            reruns,
            ..Outcome::default()
        };
        self.observer
            .until(EFFECT, |overview| {
                overview.services.iter().all(|s| s.ready == s.replicas)
            })
            .await;
        self.finish(begun, outcome).await;
        Ok(())
    }
}

fn workers(overview: &Overview) -> impl Iterator<Item = &InstanceView> {
    overview.services.iter().flat_map(|s| &s.instances)
}

/// Deaths of workers, and calls that ran again after one.
fn counts(overview: &Overview) -> (u64, u64) {
    let sum = |value: fn(&tidegate_gateway::view::ServiceView) -> u64| {
        overview.services.iter().map(value).sum()
    };
    (sum(|s| s.deaths), sum(|s| s.retries))
}
