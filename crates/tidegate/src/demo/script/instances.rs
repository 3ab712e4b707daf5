//! What happens to the classifier's instances.

use std::time::{Duration, Instant};

use super::{EFFECT, Script, elapsed_ms};
use crate::demo::DemoError;
use crate::demo::instance::Conduct;
use crate::demo::model::Version;
use crate::demo::scene::Outcome;
use crate::demo::words::{millis, short};

/// A slowed instance answers this much later: slow for a model, far from every timeout.
const SLOW: Duration = Duration::from_millis(120);
/// A hanging instance answers long after every timeout.
const HANG: Duration = Duration::from_secs(3600);
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

impl Script {
    /// Five faults, then one more instance and one less.
    pub(super) async fn instances(&mut self) -> Result<(), DemoError> {
        self.fault(1, &KILL).await?;
        self.slow(2).await?;
        self.fault(0, &HANGS).await?;
        self.fault(1, &BREAKS).await?;
        self.fault(2, &RESETS).await?;
        self.add().await?;
        self.drain().await
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

    pub(super) async fn rolling_restart(&mut self) -> Result<(), DemoError> {
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
}
