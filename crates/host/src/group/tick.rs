//! What time alone brings about: calls beyond their time, workers beyond their memory, calls that wait for nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::effects::Effects;
use super::member::Fate;
use super::pulse::{Beat, DEAF};
use super::{Group, Settings, State, no_worker};
use crate::call::{Code, Fault};
use crate::events::Release;
use crate::frame::Kind;
use crate::worker::memory;

/// How often a group with calls is looked at.
const BUSY: Duration = Duration::from_millis(50);
/// How often one without calls is.
const QUIET: Duration = Duration::from_millis(500);
/// A call beyond its time has so long to stop before its worker is killed.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Added to `start_timeout` where a start must be over for certain.
const SURELY: Duration = Duration::from_secs(60);

/// Starts the group's clock. It ends with the group.
pub(super) fn start(group: &Arc<Group>) {
    let group: Weak<Group> = Arc::downgrade(group);
    tokio::spawn(async move {
        let mut wait = QUIET;
        loop {
            tokio::time::sleep(wait).await;
            let Some(group) = group.upgrade() else { return };
            let settings = group.settings();
            wait = if settings.call_time.is_none() && settings.memory.is_none() && group.is_quiet()
            {
                QUIET
            } else {
                settings.call_time.map_or(BUSY, |limit| {
                    (limit / 4).clamp(Duration::from_millis(5), BUSY)
                })
            };
            group.change(|state, effects| state.tick(&settings, Instant::now(), effects));
        }
    });
}

impl State {
    fn tick(&mut self, settings: &Settings, now: Instant, effects: &mut Effects) {
        if let Some(limit) = settings.call_time {
            for index in 0..self.members.len() {
                self.expire(index, limit, now, effects);
            }
        }
        for index in 0..self.members.len() {
            self.weigh(index, settings, effects);
            self.feel(index, now, effects);
        }
        // Calls wait for a worker that starts, but not for ever.
        if self.members.is_empty() {
            let timeout = settings.start_timeout;
            for job in self
                .lanes
                .take(|job| now.duration_since(job.arrived) >= timeout)
            {
                self.fail(
                    job,
                    no_worker("none has become ready within `start_timeout`"),
                    effects,
                );
            }
        }
        // No start that is under way can have begun before.
        let longest = settings.start_timeout + SURELY;
        self.changed
            .retain(|(_, changed)| now.duration_since(*changed) < longest);
        self.recall(now, effects);
        self.pump_all(effects);
    }

    /// Ends the calls of a worker that are beyond their time, and the worker if it does not stop them.
    fn expire(&mut self, index: usize, limit: Duration, now: Instant, effects: &mut Effects) {
        let late: Vec<(u64, Fate)> = self.members[index]
            .state
            .running
            .iter()
            .filter(|running| running.items.is_none() || running.fate != Fate::Wanted)
            .filter(|running| {
                running
                    .started
                    .is_some_and(|started| now.duration_since(started) >= limit)
            })
            .map(|running| (running.job.ticket, running.fate))
            .collect();
        for (ticket, fate) in late {
            match fate {
                Fate::Expired(since) if now.duration_since(since) >= STOP_WITHIN => {
                    self.members[index]
                        .kill("a call was beyond `limits.call_time` and did not stop".to_owned());
                    continue;
                }
                Fate::Expired(_) => continue,
                Fate::Wanted => {
                    let fault = Fault::new(
                        Code::DeadlineExceeded,
                        "call_time",
                        format!(
                            "the call took longer than `limits.call_time` ({} ms)",
                            limit.as_millis()
                        ),
                    );
                    self.reply_running(index, ticket, fault, effects);
                }
                Fate::Abandoned | Fate::Recalled => {}
            }
            let member = &mut self.members[index];
            if let Some(running) = member.find(ticket) {
                running.fate = Fate::Expired(now);
                member.link.out().put(Kind::Cancel, ticket, b"", b"");
                effects.flush(&member.link);
            }
        }
    }

    /// Ends a worker that hangs.
    fn feel(&mut self, index: usize, now: Instant, effects: &mut Effects) {
        let member = &mut self.members[index];
        let oldest = member
            .state
            .running
            .iter()
            .filter_map(|one| one.started)
            .min();
        let pid = member.pid;
        let spent = || pid.and_then(memory::processor_time);
        match member.state.pulse.look(now, oldest, spent) {
            Beat::Nothing => {}
            Beat::Ping => {
                member.link.out().put(Kind::Ping, 0, b"", b"");
                effects.flush(&member.link);
            }
            Beat::Dead => member.kill(format!(
                "it hung: for {} s it neither answered nor computed",
                DEAF.as_secs()
            )),
        }
    }

    /// Bounds a worker's memory: versions go, or the worker does.
    fn weigh(&mut self, index: usize, settings: &Settings, effects: &mut Effects) {
        if settings.memory.is_none() && settings.versions_memory.is_none() {
            return;
        }
        let Some(resident) = self.members[index].pid.and_then(memory::resident) else {
            return;
        };
        if settings
            .versions_memory
            .is_some_and(|bound| resident > bound)
        {
            // One at a time: the next look shows what it brought. The one used last stays.
            let member = &self.members[index];
            if member.pool.loaded().count() > 1
                && let Some(oldest) = member.pool.oldest_idle(None)
            {
                self.counts.evictions += 1;
                self.dismiss(index, &oldest, Release::Memory, effects);
            }
        }
        if let Some(bound) = settings.memory.filter(|bound| resident > *bound) {
            let cause =
                format!("it took {resident} bytes of memory; `limits.memory` allows {bound}");
            let member = &mut self.members[index];
            member.state.blame = Some(Fault::new(
                Code::ResourceExhausted,
                "memory_limit",
                format!("the worker was ended: {cause}"),
            ));
            member.kill(cause);
        }
    }
}
