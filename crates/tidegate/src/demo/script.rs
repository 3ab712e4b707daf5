//! What happens to the instances and to the gateway, one thing after the other, each until its effect was seen.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::DemoError;
use super::callers::Callers;
use super::fleet::Fleet;
use super::instance::Conduct;
use super::model::Version;
use super::observer::{Observer, unix_ms};
use super::scene::{Outcome, Scene};
use super::stack::Stack;
use super::traffic::{Totals, Traffic};
use super::words::{millis, sentence, short};

/// An effect that was not seen by then is not going to be.
const EFFECT: Duration = Duration::from_secs(8);
/// How closely the callers' side is looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A round of all events that has this much time per event is pleasant to follow.
const PLEASANT: Duration = Duration::from_secs(4);
/// Shortest time that a state is shown.
const SHOWN: Duration = Duration::from_millis(300);
/// A slowed instance answers this much later: slow for a model, far from every timeout.
const SLOW: Duration = Duration::from_millis(120);
/// A hanging instance answers long after every timeout.
const HANG: Duration = Duration::from_secs(3600);
/// Events of one round, the rolling restart counted twice for its length.
const ROUND: u32 = 12;
/// Weights before and after the reload.
pub(crate) const WEIGHTS: [[u32; 2]; 2] = [[90, 10], [50, 50]];

/// What a script acts on and looks at.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) fleet: Fleet,
    pub(crate) stack: Stack,
    pub(crate) callers: Arc<Callers>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) observer: Observer,
    pub(crate) scene: Arc<Scene>,
    pub(crate) start: Instant,
    pub(crate) deadline: Instant,
}

/// The script while it is played.
#[derive(Debug)]
pub(crate) struct Script {
    parts: Parts,
    /// Events of the round that are still to come.
    left: u32,
    /// Letters given to instances of v1 so far.
    letters: u8,
    /// Reloads so far.
    reloads: usize,
}

/// The moment before an event.
struct Begun {
    at: Instant,
    at_ms: u64,
    totals: Totals,
    retries: u64,
    /// When the next event may begin.
    until: Instant,
}

/// A fault that gets an instance ejected.
struct Fault {
    event: &'static str,
    what: &'static str,
    why: &'static str,
    conduct: Option<Conduct>,
}

const KILL: Fault = Fault {
    event: "kill",
    what: "kill -9",
    why: "Its connections break and new ones are refused; requests that it held are asked elsewhere.",
    conduct: None,
};
const HANGS: Fault = Fault {
    event: "hang",
    what: "hangs",
    why: "It accepts requests and never answers; each gets 400 ms there, then another instance is asked.",
    conduct: Some(Conduct::Slow(HANG)),
};
const BREAKS: Fault = Fault {
    event: "break",
    what: "answers 503 to everything",
    why: "Callers must not see it: what failed is asked again at another instance.",
    conduct: Some(Conduct::Broken),
};
const RESETS: Fault = Fault {
    event: "reset",
    what: "resets every connection",
    why: "A prediction may be repeated (retry.replay), so a reset under a request costs nobody an answer.",
    conduct: Some(Conduct::Reset),
};

impl Deref for Script {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl DerefMut for Script {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.parts
    }
}

impl Script {
    /// Nothing has happened yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let first = parts.fleet.members().filter(|m| m.version == Version::V1);
        Self {
            letters: u8::try_from(first.count()).unwrap_or(u8::MAX),
            parts,
            left: ROUND,
            reloads: 0,
        }
    }

    /// What is to be stopped.
    pub(crate) fn into_parts(self) -> (Fleet, Stack) {
        (self.parts.fleet, self.parts.stack)
    }

    /// Round after round until the time is over; the first round is finished in any case.
    pub(crate) async fn run(&mut self) -> Result<(), DemoError> {
        self.scene.begin(
            "Steady traffic",
            &["Every request is balanced by itself: each instance gets the share that fits its latency and load."],
            None,
        );
        self.hold(Instant::now() + self.slot().min(Duration::from_secs(3)))
            .await;
        loop {
            self.round().await?;
            if self.remaining() < PLEASANT * ROUND {
                break;
            }
            self.left = ROUND;
        }
        self.scene
            .begin("Steady traffic again", &["Everything was shown."], None);
        tokio::time::sleep(self.remaining()).await;
        Ok(())
    }

    async fn round(&mut self) -> Result<(), DemoError> {
        self.fault(1, &KILL).await?;
        self.slow(2).await?;
        self.fault(0, &HANGS).await?;
        self.fault(1, &BREAKS).await?;
        self.fault(2, &RESETS).await?;
        self.add().await?;
        self.drain().await?;
        self.kill_gateway().await?;
        self.reload().await?;
        self.rolling_restart().await?;
        self.upgrade().await
    }

    async fn fault(&mut self, victim: usize, fault: &Fault) -> Result<(), DemoError> {
        let name = self.victim(victim)?;
        let address = self.fleet.member(&name)?.address();
        let what = match fault.event {
            "kill" => format!("kill -9 {name}"),
            _ => format!("{name} {}", fault.what),
        };
        let begun = self.begin(&what, &[fault.why], Some(&name));
        match fault.conduct {
            Some(conduct) => self.fleet.tell(&name, conduct).await?,
            None => self.fleet.kill(&name).await?,
        }
        let ejected = self
            .observer
            .event(&["member_ejected"], &address, begun.at_ms, EFFECT)
            .await;
        let after = ejected
            .as_ref()
            .map(|event| event.at_ms.saturating_sub(begun.at_ms));
        let seen = match (&ejected, after) {
            (Some(event), Some(after)) => {
                format!("ejected after {} ({})", millis(after), short(&event.cause))
            }
            _ => "not ejected in time".to_owned(),
        };
        self.scene
            .tell(&format!("It was {seen}: the others have its share."));
        self.hold(begun.half()).await;
        // In time order: an answer to a request that is sent from now on is one of the instance's new life.
        self.traffic.await_instance(&name);
        let recovered = Instant::now();
        match fault.conduct {
            Some(_) => self.fleet.tell(&name, Conduct::Good).await?,
            None => self.fleet.restart(&name).await?,
        }
        let verb = match fault.conduct {
            Some(_) => "recovered",
            None => "started again",
        };
        self.scene.tell(&format!(
            "It has {verb}; a check that passes brings it back, slowly at first."
        ));
        let used = self.first_answer(&name, recovered).await;
        let back = used.map_or_else(
            || "not back in time".to_owned(),
            |used| format!("back {} after it {verb}", millis(used)),
        );
        let outcome = Outcome {
            event: fault.event,
            what,
            result: format!("{seen}; {back}"),
            ejected_after_ms: after,
            cause: ejected.map(|event| event.cause),
            used_after_ms: used,
            ..Outcome::default()
        };
        // Healthy again before the next one: one fault at a time is what each figure is about.
        self.observer
            .until(EFFECT, |overview| {
                let mut members = overview.upstreams.iter().flat_map(|u| &u.members);
                members.any(|m| m.id == address && matches!(&*m.state, "healthy" | "warming"))
            })
            .await;
        self.finish(begun, outcome).await;
        Ok(())
    }

    async fn slow(&mut self, victim: usize) -> Result<(), DemoError> {
        let name = self.victim(victim)?;
        let delay = millis(u64::try_from(SLOW.as_millis()).unwrap_or(0));
        let before =
            self.traffic
                .share(&name, Version::V1, Instant::now() - Duration::from_secs(1));
        let what = format!("{name} answers {delay} late");
        let why = "Slow is not dead: no ejection, but the balancer (least_request) sends it only what it can take.";
        let begun = self.begin(&what, &[why], Some(&name));
        self.fleet.tell(&name, Conduct::Slow(SLOW)).await?;
        // The first slow answers tell the balancer; what comes later shows what it made of them.
        let noticed = begun.at + 3 * SLOW;
        self.hold(begun.half().max(noticed + Duration::from_secs(1)))
            .await;
        let since = noticed.max(Instant::now() - Duration::from_millis(1500));
        let during = self.traffic.share(&name, Version::V1, since);
        let percent = |share: f64| format!("{:.0}%", share * 100.0);
        let result = format!(
            "its share of v1 went from {} to {}, without ejection",
            percent(before),
            percent(during)
        );
        self.fleet.tell(&name, Conduct::Good).await?;
        let outcome = Outcome {
            event: "slow",
            what,
            result,
            share: Some([before, during]),
            ..Outcome::default()
        };
        self.finish(begun, outcome).await;
        Ok(())
    }

    async fn add(&mut self) -> Result<(), DemoError> {
        let name = self.next_name();
        let what = format!("A new instance, {name}");
        let why =
            "It is added to the file that the gateway watches; no caller reconnects to use it.";
        let begun = self.begin(&what, &[why], Some(&name));
        self.fleet.start(&name, Version::V1).await?;
        self.scene.set_members(&self.fleet);
        self.traffic.await_instance(&name);
        let listed = Instant::now();
        self.fleet.list(&name, true)?;
        let used = self.first_answer(&name, listed).await;
        let outcome = Outcome {
            event: "add",
            what,
            result: used.map_or_else(
                || "not used in time".to_owned(),
                |used| {
                    format!(
                        "answered its first request {} after it was listed",
                        millis(used)
                    )
                },
            ),
            used_after_ms: used,
            ..Outcome::default()
        };
        self.finish(begun, outcome).await;
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), DemoError> {
        let name = self.victim(0)?;
        let what = format!("{name} is drained and removed");
        let why = "It leaves the file first: what it holds is finished there, nothing new is sent. Then its process ends.";
        let begun = self.begin(&what, &[why], Some(&name));
        let removed = self.take_out(&name).await?;
        self.fleet.forget(&name);
        let took = removed.then(|| elapsed_ms(begun.at));
        let outcome = Outcome {
            event: "drain",
            what,
            result: took.map_or_else(
                || "not removed in time".to_owned(),
                |took| format!("empty and ended after {}", millis(took)),
            ),
            took_ms: took,
            ..Outcome::default()
        };
        self.scene.set_members(&self.fleet);
        self.finish(begun, outcome).await;
        Ok(())
    }

    async fn kill_gateway(&mut self) -> Result<(), DemoError> {
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

    async fn reload(&mut self) -> Result<(), DemoError> {
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

    async fn rolling_restart(&mut self) -> Result<(), DemoError> {
        let names: Vec<String> = self.fleet.members().map(|m| m.name.clone()).collect();
        let what = format!("Rolling restart of all {} instances", names.len());
        let why = "One after the other: out of the file, drained, restarted, back in, waited for until it answers.";
        let begun = self.begin(&what, &[why], None);
        let mut back = 0;
        for name in &names {
            let removed = self.take_out(name).await?;
            self.fleet.restart(name).await?;
            self.traffic.await_instance(name);
            let listed = Instant::now();
            self.fleet.list(name, true)?;
            let used = self.first_answer(name, listed).await;
            back += u32::from(removed && used.is_some());
            if let Some(used) = used {
                self.scene
                    .tell(&format!("{name} restarted, used {} later", millis(used)));
            }
        }
        let took = (back as usize == names.len()).then(|| elapsed_ms(begun.at));
        let outcome = Outcome {
            event: "rolling_restart",
            result: took.map_or_else(
                || format!("{back} of {} came back in time", names.len()),
                |took| {
                    let each = took / names.len().max(1) as u64;
                    format!("all replaced in {}, {} each", millis(took), millis(each))
                },
            ),
            what,
            took_ms: took,
            ..Outcome::default()
        };
        self.finish(begun, outcome).await;
        Ok(())
    }

    async fn upgrade(&mut self) -> Result<(), DemoError> {
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

    /// Takes an instance out of the gateway's list, waits until the gateway has let it go, and ends its process; whether
    /// the gateway did in time.
    async fn take_out(&mut self, name: &str) -> Result<bool, DemoError> {
        let address = self.fleet.member(name)?.address();
        self.fleet.list(name, false)?;
        let removed = self
            .observer
            .until(EFFECT, |overview| {
                let mut members = overview.upstreams.iter().flat_map(|u| &u.members);
                members.all(|member| member.id != address)
            })
            .await;
        self.fleet.drain(name).await?;
        Ok(removed)
    }

    /// Milliseconds from `since` to the awaited first answer of an instance.
    async fn first_answer(&self, name: &str, since: Instant) -> Option<u64> {
        eventually(EFFECT, || self.traffic.first_answer(name))
            .await
            .map(|first| as_ms(first.saturating_duration_since(since)))
    }

    /// The nth instance of v1: v1 has the traffic that makes a fault worth looking at.
    fn victim(&self, nth: usize) -> Result<String, DemoError> {
        let mut names = self
            .fleet
            .members()
            .filter(|member| member.version == Version::V1);
        names
            .nth(nth)
            .map(|member| member.name.clone())
            .ok_or_else(|| DemoError::Member(format!("number {nth} of v1")))
    }

    fn next_name(&mut self) -> String {
        let letter = self.letters;
        self.letters += 1;
        match letter {
            0..26 => format!("v1-{}", char::from(b'a' + letter)),
            _ => format!("v1-{letter}"),
        }
    }

    fn begin(&self, title: &str, lines: &[&str], member: Option<&str>) -> Begun {
        self.scene.begin(title, lines, member);
        let at = Instant::now();
        Begun {
            at,
            at_ms: unix_ms(),
            totals: self.traffic.totals(),
            retries: self.observer.retries(),
            until: at + self.slot(),
        }
    }

    async fn finish(&mut self, begun: Begun, mut outcome: Outcome) {
        let totals = self.traffic.totals();
        outcome.at_s = begun.at.saturating_duration_since(self.start).as_secs_f64();
        outcome.requests = totals.answered - begun.totals.answered;
        outcome.failures = totals.failed - begun.totals.failed;
        outcome.retries = self.observer.retries() - begun.retries;
        let twice = outcome.event == "rolling_restart";
        self.left = self.left.saturating_sub(1 + u32::from(twice));
        self.scene.tell(&sentence(&outcome.result));
        self.scene.finish(outcome);
        self.hold(begun.until).await;
    }

    /// The time for the next event, so that all that are left fit.
    fn slot(&self) -> Duration {
        (self.remaining() / (self.left + 1)).min(PLEASANT * 2)
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    async fn hold(&self, until: Instant) {
        let until = until.max(Instant::now() + SHOWN);
        tokio::time::sleep_until(until.into()).await;
    }
}

impl Begun {
    /// The middle of the event's time: until then its fault is shown.
    fn half(&self) -> Instant {
        self.at + self.until.saturating_duration_since(self.at) / 2
    }
}

async fn eventually<T>(at_most: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(at_most, found).await.ok()
}

fn elapsed_ms(since: Instant) -> u64 {
    as_ms(since.elapsed())
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
