//! Which worker runs which call, and which version comes into memory.

use std::time::Duration;

use tokio::time::Instant;

use super::State;
use super::effects::Effects;
use super::job::{Job, What};
use super::lanes::Lane;
use super::member::{Fate, Member};
use super::send;
use crate::call::Answer;
use crate::events::{self, Release};
use crate::frame::Kind;
use crate::versions::{Room, Stage};

/// A second worker loads a version that another has when a call has waited for so long.
const COPY_AFTER: Duration = Duration::from_millis(100);
/// A call waits at most so long for calls of the version that is loaded to make room for its own.
const MOST_PATIENCE: Duration = Duration::from_secs(5);
/// Calls that were sent ahead to a worker that is slower than was thought are given to another after this time.
pub(super) const RECALL_AFTER: Duration = Duration::from_millis(5);
/// Bytes of arguments in one batch.
const BATCH_BYTES: usize = 8 << 20;

/// What a worker does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The first call of this lane.
    Run(usize),
    /// The version of this lane's first call comes into memory.
    Load(usize),
    /// Nothing, so that its calls end and make room for a version.
    Hold,
    Nothing,
}

impl State {
    /// A new job: to a worker or to the queue.
    pub(super) fn arrive(&mut self, job: Box<Job>, effects: &mut Effects) {
        let now = job.arrived;
        if let What::Call(_, facts) = &job.what
            && facts.batch.is_none()
            && self.lanes.none_before(&job)
            && let Some((index, ahead)) = self.place(&job, now)
        {
            self.run(index, job, ahead, now, effects);
            return;
        }
        self.lanes.put(job);
        self.pump_all(effects);
    }

    /// The worker that takes a call at once, and whether it waits in its socket.
    fn place(&self, job: &Job, now: Instant) -> Option<(usize, bool)> {
        let version = job.version();
        let fits = |member: &Member| member.may_run(job) && member.pool.takes_calls(version);
        let home = self
            .members
            .iter()
            .position(|member| member.slot == job.home && fits(member));
        if let Some(home) = home
            && self.members[home].is_free()
        {
            return Some((home, false));
        }
        let candidates = || {
            self.members
                .iter()
                .enumerate()
                .filter(|(_, member)| fits(member))
        };
        let least = |(_, member): &(usize, &Member)| member.state.units;
        if let Some((index, _)) = candidates()
            .filter(|(_, member)| member.is_free())
            .min_by_key(least)
        {
            return Some((index, false));
        }
        if !job.may_go_ahead() {
            return None;
        }
        let ahead = candidates()
            .filter(|(_, member)| member.takes_ahead(now))
            .min_by_key(least);
        ahead.map(|(index, _)| (index, true))
    }

    fn run(
        &mut self,
        index: usize,
        job: Box<Job>,
        ahead: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.counts.waited_ns += now.saturating_duration_since(job.arrived).as_nanos() as u64;
        if let Err((job, fault)) = send::call(
            &self.group,
            &mut self.members[index],
            job,
            ahead,
            now,
            effects,
        ) {
            self.fail(job, fault, effects);
        }
    }

    /// Gives every worker what it can do.
    pub(super) fn pump_all(&mut self, effects: &mut Effects) {
        if self.lanes.waiting() == 0 {
            return;
        }
        let now = Instant::now();
        for index in 0..self.members.len() {
            self.pump(index, now, effects);
        }
    }

    /// Gives a worker what it can do.
    pub(super) fn pump(&mut self, index: usize, now: Instant, effects: &mut Effects) {
        while self.lanes.waiting() > 0 {
            let member = &self.members[index];
            let ahead = !member.is_free();
            if !member.open || (ahead && !member.takes_ahead(now)) {
                return;
            }
            match self.next(index, ahead, now) {
                Next::Run(lane) => self.run_from(index, lane, ahead, now, effects),
                Next::Load(lane) => {
                    if !self.load_for(index, lane, now, effects) {
                        return;
                    }
                }
                Next::Hold | Next::Nothing => return,
            }
        }
    }

    fn next(&self, index: usize, ahead: bool, now: Instant) -> Next {
        let member = &self.members[index];
        let crowded = member.pool.is_crowded();
        // The first one's ticket, and the lane.
        let mut run: Option<(u64, usize)> = None;
        let mut load: Option<(u64, usize)> = None;
        for (number, lane) in self.lanes.busy() {
            let Some(first) = lane.first() else { continue };
            if !member.may_run(first) || !lane.is_ripe(now) {
                continue;
            }
            let candidate = (first.ticket, number);
            if member.pool.takes_calls(&lane.version) {
                if (!ahead || first.may_go_ahead()) && run.is_none_or(|best| candidate < best) {
                    run = Some(candidate);
                }
            } else if !ahead
                && member.pool.stage(&lane.version).is_none()
                && !(crowded && self.is_doubtful(lane))
                && self.wants_load(lane, first, now)
                && load.is_none_or(|best| candidate < best)
            {
                load = Some(candidate);
            }
        }
        match (run, load) {
            (None, None) => Next::Nothing,
            (Some((_, lane)), None) => Next::Run(lane),
            (None, Some((_, lane))) => Next::Load(lane),
            (Some((running, run)), Some((loading, load))) => {
                let waited = self
                    .lanes
                    .lane(load)
                    .first()
                    .map_or(Duration::ZERO, |first| now.duration_since(first.arrived));
                if loading > running || waited < self.load_time.min(MOST_PATIENCE) {
                    Next::Run(run)
                } else if member.pool.room() == Room::None {
                    Next::Hold
                } else {
                    Next::Load(load)
                }
            }
        }
    }

    /// One load of a version at a time, and a copy of one that is loaded only for a call that has waited.
    fn wants_load(&self, lane: &Lane, first: &Job, now: Instant) -> bool {
        let mut elsewhere = false;
        for member in self.members.iter().filter(|member| member.may_run(first)) {
            match member.pool.stage(&lane.version) {
                Some(Stage::Loading) => return false,
                Some(Stage::Loaded) => elsewhere = true,
                Some(Stage::Stale | Stage::Leaving) | None => {}
            }
        }
        !elsewhere || now.duration_since(first.arrived) >= COPY_AFTER
    }

    /// Whether it is to be seen first that the version of a lane loads.
    fn is_doubtful(&self, lane: &Lane) -> bool {
        let first = lane.first();
        first.is_some_and(|first| first.facts().made_up) || self.failed.contains(&lane.version)
    }

    /// Runs the first call of a lane, or a batch of its first ones.
    fn run_from(
        &mut self,
        index: usize,
        lane: usize,
        ahead: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        let batch = self
            .lanes
            .lane(lane)
            .batch
            .as_ref()
            .map(|(_, batch)| *batch);
        let Some(job) = self.lanes.pop(lane) else {
            return;
        };
        let Some(batch) = batch else {
            match &job.what {
                // It is loaded: that is all that was wished.
                What::Load { .. } => {
                    effects.reply(job.reply, Ok(Answer::Value(crate::call::Value::default())))
                }
                What::Call(..) => self.run(index, job, ahead, now, effects),
            }
            return;
        };
        let mut bytes = 0;
        let mut jobs = vec![job];
        while jobs.len() < batch.max_size as usize {
            let Some(next) = self.lanes.lane(lane).first() else {
                break;
            };
            let What::Call(call, _) = &next.what else {
                break;
            };
            bytes += call.kwargs.len();
            if bytes > BATCH_BYTES || !self.members[index].may_run(next) {
                break;
            }
            let Some(next) = self.lanes.pop(lane) else {
                break;
            };
            jobs.push(next);
        }
        self.counts.batches += 1;
        self.counts.batched += jobs.len() as u64;
        for job in &jobs {
            self.counts.waited_ns += now.saturating_duration_since(job.arrived).as_nanos() as u64;
        }
        self.tickets += 1;
        send::batch(&mut self.members[index], self.tickets, jobs, now, effects);
    }

    /// Has a worker load the version of a lane. False: it has no room.
    ///
    /// A version that has a folder takes the place of another before it is loaded, so that there are never more than `max_loaded` in memory.
    /// Names are the callers' to choose, so one that nobody else knows, or that did not load, must load first: beside the others, one at a
    /// time. Only then another goes.
    fn load_for(&mut self, index: usize, lane: usize, now: Instant, effects: &mut Effects) -> bool {
        let lane = self.lanes.lane(lane);
        let version = lane.version.clone();
        let doubtful = self.is_doubtful(lane);
        match self.members[index].pool.room() {
            Room::Free => {}
            // It comes beside the others.
            Room::After(_) if doubtful => {}
            Room::After(oldest) => {
                self.counts.evictions += 1;
                self.dismiss(index, &oldest, Release::Count, effects);
            }
            Room::None => return false,
        }
        self.tickets += 1;
        self.counts.loads += 1;
        send::load(
            &mut self.members[index],
            self.tickets,
            &version,
            now,
            effects,
        );
        true
    }

    /// A version of a worker is to go, now or after its calls.
    pub(super) fn dismiss(
        &mut self,
        index: usize,
        version: &str,
        why: Release,
        effects: &mut Effects,
    ) {
        let member = &mut self.members[index];
        if member.pool.dismiss(version) {
            send::release(member, version, effects);
            effects.event(
                member,
                events::What::Released {
                    version: version.to_owned(),
                    why,
                },
            );
        }
    }

    /// A worker with nothing to do gets the calls back that wait in the socket of a slow one.
    pub(super) fn recall(&mut self, now: Instant, effects: &mut Effects) {
        let free: Vec<u64> = self
            .members
            .iter()
            .filter(|member| member.open && member.state.units == 0)
            .map(|member| member.revision)
            .collect();
        if free.is_empty() || self.lanes.waiting() > 0 {
            return;
        }
        let mut places = free.len();
        for member in &mut self.members {
            let slow = member.state.running.front().and_then(|first| first.started);
            if member.state.unstarted == 0
                || slow.is_none_or(|started| now.duration_since(started) < RECALL_AFTER)
            {
                continue;
            }
            for running in member.state.running.iter_mut().rev() {
                if places == 0 {
                    break;
                }
                if running.started.is_none()
                    && running.fate == Fate::Wanted
                    && free
                        .iter()
                        .any(|revision| *revision >= running.job.revision)
                {
                    running.fate = Fate::Recalled;
                    member
                        .link
                        .out()
                        .put(Kind::Cancel, running.job.ticket, b"", b"");
                    effects.flush(&member.link);
                    places -= 1;
                }
            }
        }
    }
}
