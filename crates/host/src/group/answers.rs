//! What workers send.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::effects::Effects;
use super::job::{Job, Outcome, What};
use super::member::{Fate, Member, Running};
use super::stream::{self, Flow};
use super::{Group, State, UNKNOWN, send};
use crate::call::{Answer, Code, Fault, Items, Value};
use crate::events::{self, Release};
use crate::frame::Kind;
use crate::message::{Incoming, Raised};
use crate::versions::Stage;

impl State {
    /// Takes what a worker sent, and gives it what it can do next.
    pub(super) fn heard(
        &mut self,
        group: &Arc<Group>,
        id: u64,
        messages: &mut Vec<Incoming>,
        effects: &mut Effects,
    ) {
        let Some(index) = self.members.iter().position(|member| member.id == id) else {
            messages.clear();
            return;
        };
        self.members[index].state.pulse.heard();
        let now = Instant::now();
        let sent = self.members[index]
            .state
            .running
            .front()
            .and_then(|running| running.started)
            .unwrap_or(now);
        let mut answers = 0;
        for message in messages.drain(..) {
            match message {
                Incoming::Result { call, value } => {
                    answers += 1;
                    self.result(index, call, value, now, effects);
                }
                Incoming::Error { call, raised } => {
                    if !self.load_failed(index, call, &raised, effects) {
                        answers += 1;
                        self.raised(index, call, &raised, now, effects);
                    }
                }
                Incoming::Item { call, value } => self.item(group, index, call, value, effects),
                Incoming::Done { call } => self.done(index, call, now, effects),
                Incoming::Loaded { call, loaded } => {
                    self.loaded(index, call, &loaded.version, now, effects)
                }
                Incoming::Want { call, bytes } => {
                    if let Some(want) = self.members[index]
                        .find(call)
                        .and_then(|running| running.want.as_ref())
                    {
                        let _ = want.send(bytes);
                    }
                }
                Incoming::Log(log) => {
                    let (level, logger, message) = (log.level, log.logger, log.message);
                    effects.event(
                        &self.members[index],
                        events::What::Log {
                            level,
                            logger,
                            message,
                        },
                    );
                }
                Incoming::Progress { call, progress } => {
                    let call = self.members[index].told(call, &progress);
                    effects.event(
                        &self.members[index],
                        events::What::Progress { call, progress },
                    );
                }
                Incoming::Nothing => {}
            }
        }
        let member = &mut self.members[index];
        if answers > 0 {
            member.state.pace.answered(now, sent, answers);
            member.state.answered = true;
        }
        member.promote(now);
        self.pump(index, now, effects);
        let member = &mut self.members[index];
        if member.state.units == 0 {
            for idle in member.state.idle.drain(..) {
                let _ = idle.send(());
            }
            if self.members.iter().any(|member| member.state.unstarted > 0) {
                self.recall(now, effects);
            }
        }
    }

    fn result(
        &mut self,
        index: usize,
        call: u64,
        value: Result<Value, Fault>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(running) = self.take(index, call, now, effects) else {
            return;
        };
        if value.is_ok() && running.job.facts().reload {
            self.reloaded(index, running.job.version(), effects);
        }
        self.answer(running, value.map(Answer::Value), effects);
    }

    fn raised(
        &mut self,
        index: usize,
        call: u64,
        raised: &Raised,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(running) = self.take(index, call, now, effects) else {
            return;
        };
        if running.fate == Fate::Recalled && raised.code == Code::Cancelled {
            self.lanes.put(running.job);
            self.pump_all(effects);
            return;
        }
        if running.fate == Fate::Wanted && !raised.traceback.is_empty() {
            let what = events::What::Raised {
                call: running.job.id().to_owned(),
                method: running.job.method().to_owned(),
                exception: raised.kind.clone(),
                message: raised.message.clone(),
                traceback: raised.traceback.clone(),
            };
            effects.event(&self.members[index], what);
        }
        self.answer(running, Err(raised.fault()), effects);
    }

    fn item(
        &mut self,
        group: &Arc<Group>,
        index: usize,
        call: u64,
        value: Result<Value, Fault>,
        effects: &mut Effects,
    ) {
        let member = &mut self.members[index];
        let Some(running) = member.find(call) else {
            return;
        };
        if running.fate != Fate::Wanted {
            return;
        }
        if running.credit == 0 {
            member.kill("it sent more items than it had credit for".to_owned());
            return;
        }
        running.credit -= 1;
        let flow = match value {
            Ok(value) => Flow::Item(value),
            Err(fault) => {
                // The rest of the stream would not be what the caller asked for.
                running.fate = Fate::Abandoned;
                let to = running.items.clone();
                member.link.out().put(Kind::Cancel, call, b"", b"");
                effects.flush(&member.link);
                if let Some(to) = to {
                    let _ = to.send(Flow::Fault(fault));
                } else {
                    self.reply_running(index, call, fault, effects);
                }
                return;
            }
        };
        if let Some(items) = &running.items {
            let _ = items.send(flow);
            return;
        }
        let deadline = match &running.job.what {
            What::Call(call, _) => call.deadline,
            What::Load { .. } => None,
        };
        let (to, items) = stream::open(Arc::clone(group), call, deadline);
        let _ = to.send(flow);
        running.items = Some(to);
        let reply = std::mem::replace(&mut running.job.reply, tokio::sync::oneshot::channel().0);
        effects.reply(reply, Ok(Answer::Items(items)));
    }

    fn done(&mut self, index: usize, call: u64, now: Instant, effects: &mut Effects) {
        let Some(running) = self.take(index, call, now, effects) else {
            return;
        };
        if running.job.facts().reload {
            self.reloaded(index, running.job.version(), effects);
        }
        match &running.items {
            Some(items) => {
                let _ = items.send(Flow::End);
            }
            // A generator without an item.
            None => {
                let (_, receiver) = tokio::sync::mpsc::channel(1);
                self.answer(running, Ok(Answer::Items(Items { receiver })), effects);
            }
        }
    }

    /// Takes an answered call out, and lets its version go if that was waited for.
    fn take(
        &mut self,
        index: usize,
        call: u64,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Running> {
        let member = &mut self.members[index];
        let running = member.take(call)?;
        let started = running.started.unwrap_or(now);
        self.counts.ran_ns += now.saturating_duration_since(started).as_nanos() as u64;
        let version = running.job.version();
        if member.pool.leave(version) {
            send::release(member, version, effects);
            effects.event(
                member,
                events::What::Released {
                    version: version.to_owned(),
                    why: Release::Asked,
                },
            );
        }
        Some(running)
    }

    /// Tells the caller, if somebody waits.
    pub(super) fn answer(&mut self, running: Running, outcome: Outcome, effects: &mut Effects) {
        if let Err(fault) = &outcome
            && matches!(running.fate, Fate::Wanted | Fate::Recalled)
        {
            *self.counts.faults.entry(fault.reason).or_default() += 1;
        }
        match (&running.items, outcome) {
            (None, outcome) => effects.reply(running.job.reply, outcome),
            (Some(items), Err(fault)) => {
                let _ = items.send(Flow::Fault(fault));
            }
            // A stream that ends with a value: the value is its end.
            (Some(items), Ok(_)) => {
                let _ = items.send(Flow::End);
            }
        }
    }

    /// Tells the caller of a call that goes on running that nothing comes of it.
    pub(super) fn reply_running(
        &mut self,
        index: usize,
        call: u64,
        fault: Fault,
        effects: &mut Effects,
    ) {
        if let Some(running) = self.members[index].find(call) {
            *self.counts.faults.entry(fault.reason).or_default() += 1;
            if let Some(items) = &running.items {
                let _ = items.send(Flow::Fault(fault));
            } else {
                let reply =
                    std::mem::replace(&mut running.job.reply, tokio::sync::oneshot::channel().0);
                effects.reply(reply, Err(fault));
            }
        }
    }

    /// A method left another model on the disk: every worker lets go what it has in memory.
    fn reloaded(&mut self, index: usize, version: &str, effects: &mut Effects) {
        for other in 0..self.members.len() {
            let member = &mut self.members[other];
            // The worker that ran the method has let it go before it answered.
            if member.pool.outdate(version) && other != index {
                send::release(member, version, effects);
                effects.event(
                    member,
                    events::What::Released {
                        version: version.to_owned(),
                        why: Release::Asked,
                    },
                );
            }
        }
        self.unknown.retain(|(unknown, ..)| unknown != version);
        self.failed.retain(|failed| failed != version);
        // Those that start now may have loaded it before.
        self.changed.retain(|(changed, _)| changed != version);
        self.changed.push((version.to_owned(), Instant::now()));
    }

    fn loaded(
        &mut self,
        index: usize,
        ticket: u64,
        version: &str,
        now: Instant,
        effects: &mut Effects,
    ) {
        let member = &mut self.members[index];
        let Some(loading) = take_load(member, ticket) else {
            return;
        };
        let took = now.duration_since(loading.since);
        debug_assert!(version.is_empty() || version == loading.version);
        let stays = member.pool.finish(&loading.version);
        effects.event(
            member,
            events::What::Loaded {
                version: loading.version.clone(),
                took,
            },
        );
        self.failed.retain(|failed| *failed != loading.version);
        self.load_time = if self.load_time.is_zero() {
            took
        } else {
            (self.load_time + took) / 2
        };
        if !stays {
            // Whoever waits for it waits for the next load.
            let member = &mut self.members[index];
            send::release(member, &loading.version, effects);
            effects.event(
                member,
                events::What::Released {
                    version: loading.version,
                    why: Release::Asked,
                },
            );
            self.pump_all(effects);
            return;
        }
        // One that came beside the others stays, and another goes.
        while let Some(oldest) = self.members[index].pool.beyond(&loading.version) {
            self.counts.evictions += 1;
            self.dismiss(index, &oldest, Release::Count, effects);
        }
        self.fulfil_loads(&loading.version, &Ok(()), effects);
        self.pump_all(effects);
    }

    /// True: the error was that of a load.
    fn load_failed(
        &mut self,
        index: usize,
        ticket: u64,
        raised: &Raised,
        effects: &mut Effects,
    ) -> bool {
        let member = &mut self.members[index];
        let Some(loading) = take_load(member, ticket) else {
            return false;
        };
        let version = loading.version;
        let stale = member.pool.stage(&version) == Some(Stage::Stale);
        member.pool.forget(&version);
        let (message, traceback) = (raised.message.clone(), raised.traceback.clone());
        effects.event(
            member,
            events::What::LoadFailed {
                version: version.clone(),
                message,
                traceback,
            },
        );
        if stale {
            // What did not load is on the disk no more: whoever waits gets what is.
            self.pump_all(effects);
            return true;
        }
        self.failed.retain(|failed| *failed != version);
        if self.failed.len() == UNKNOWN {
            self.failed.pop_front();
        }
        self.failed.push_back(version.clone());
        let mut fault = raised.fault();
        if fault.reason == "model_error" {
            fault.reason = "load_failed";
        }
        if fault.reason == "unknown_version" {
            self.unknown.retain(|(name, ..)| *name != version);
            if self.unknown.len() == UNKNOWN {
                self.unknown.pop_front();
            }
            let known = (version.clone(), Instant::now(), fault.clone());
            self.unknown.push_back(known);
        }
        self.fulfil_loads(&version, &Err(fault.clone()), effects);
        // Those who asked at once get the same answer: each trying it again would take the worker for as long again.
        for job in self.lanes.take(|job| job.version() == version) {
            self.fail(job, fault.clone(), effects);
        }
        self.pump_all(effects);
        true
    }

    /// Answers those who wished nothing but the load.
    fn fulfil_loads(&mut self, version: &str, result: &Result<(), Fault>, effects: &mut Effects) {
        let wished = |job: &Job| matches!(&job.what, What::Load { version: wished, .. } if wished == version);
        for job in self.lanes.take(wished) {
            let nothing = Value {
                json: Bytes::from_static(b"null"),
                parts: Vec::new(),
            };
            effects.reply(job.reply, result.clone().map(|()| Answer::Value(nothing)));
        }
    }
}

fn take_load(member: &mut Member, ticket: u64) -> Option<super::member::Loading> {
    let loads = &mut member.state.loads;
    let place = loads.iter().position(|loading| loading.ticket == ticket)?;
    member.state.units -= 1;
    Some(loads.swap_remove(place))
}
