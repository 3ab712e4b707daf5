//! The end of a worker: what becomes of the calls that it had.

use tokio::time::Instant;

use super::effects::Effects;
use super::job::{Job, What};
use super::member::{Fate, Running};
use super::{DEATHS, State, no_worker};
use crate::call::{Code, Fault};
use crate::events;

/// How a worker left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It was told to.
    Told,
    /// It died.
    Died,
    /// Its connection broke; it may connect again.
    Lost,
}

impl State {
    /// Takes a worker out. Returns whether it had answered any call, or died of one: then its start was none that failed.
    pub(super) fn leave(&mut self, id: u64, cause: &str, how: Left, effects: &mut Effects) -> bool {
        let Some(index) = self.members.iter().position(|member| member.id == id) else {
            return false;
        };
        let mut member = self.members.swap_remove(index);
        member.link.close();
        self.counts.deaths += u64::from(how == Left::Died);
        for loading in &member.state.loads {
            // A version whose load kills workers must not do so for ever.
            for job in self.lanes.of_version(&loading.version) {
                job.deaths += 1;
            }
        }
        for job in self.lanes.take(|job| job.deaths >= DEATHS) {
            let fault = crashed(&job, cause);
            self.fail(job, fault, effects);
        }
        let ran = |running: &Running| running.started.is_some();
        let served = member.state.answered || member.state.running.iter().any(ran);
        let blame = member.state.blame.take();
        for mut running in std::mem::take(&mut member.state.running) {
            if matches!(running.fate, Fate::Abandoned | Fate::Expired(_)) {
                continue;
            }
            let started = running.started.is_some();
            // A call may be what breaks connections, too.
            if started && how != Left::Told {
                running.job.deaths += 1;
            }
            match &blame {
                Some(fault) if started => self.answer(running, Err(fault.clone()), effects),
                _ if self.may_run_again(&running) => {
                    self.counts.retries += 1;
                    let (call, method) =
                        (running.job.id().to_owned(), running.job.method().to_owned());
                    effects.event(&member, events::What::Retried { call, method });
                    let mut job = running.job;
                    // It waits for a worker from now on.
                    job.arrived = Instant::now();
                    self.lanes.put(job);
                }
                _ => {
                    let fault = crashed(&running.job, cause);
                    self.answer(running, Err(fault), effects);
                }
            }
        }
        for idle in member.state.idle.drain(..) {
            let _ = idle.send(());
        }
        if self.members.is_empty()
            && let Some(cause) = self.hopeless.clone()
        {
            for job in self.lanes.take(|_| true) {
                self.fail(job, no_worker(&cause), effects);
            }
        }
        self.pump_all(effects);
        served
    }

    /// Nothing of its answer was given, and it does no harm to do it twice.
    fn may_run_again(&self, running: &Running) -> bool {
        let job = &running.job;
        running.items.is_none()
            && (job.facts().retry || running.started.is_none())
            && job.deaths < DEATHS
    }
}

fn crashed(job: &Job, cause: &str) -> Fault {
    let what = match &job.what {
        What::Call(call, _) => format!("`{}` got no answer", call.method),
        What::Load { version, .. } => format!("version `{version}` was not loaded"),
    };
    let again = if job.deaths > 1 {
        format!(", {} times", job.deaths)
    } else {
        String::new()
    };
    Fault::new(
        Code::Unavailable,
        "worker_crashed",
        format!("{what}: its worker died{again}: {cause}"),
    )
}
