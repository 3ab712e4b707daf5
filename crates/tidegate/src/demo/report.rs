//! What the demo says at its end, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::model::Version;
use super::scene::Outcome;
use super::style::{Style, columns, wrap};
use super::traffic::{Phase, Traffic};
use super::words::millis;

/// Columns of the report for people: fits every terminal.
const WIDTH: usize = 79;

/// What the names of events about keys begin with.
const KEY: &str = "key_";
/// Why the hosted model is missing.
pub(crate) const NO_PYTHON: &str = "left out: there is no python3 of 3.9 or newer on the PATH";

/// The report; its JSON is what `tidegate demo --json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Requests that callers made.
    pub(crate) requests: u64,
    /// Of them over gRPC; all others are JSON over HTTP/1.1.
    pub(crate) grpc_requests: u64,
    /// Of them chat completions of the LLM provider.
    pub(crate) chats: u64,
    /// Of those streamed.
    pub(crate) chats_streamed: u64,
    /// Of them calls of the hosted model.
    pub(crate) model_calls: u64,
    /// Requests without a right answer: refused, cut, an error, a wrong prediction. Zero, or the exit code is 1.
    pub(crate) failures: u64,
    /// The first failures, in words.
    pub(crate) failure_samples: Vec<String>,
    /// Attempts after the first at another instance: what callers would have seen as failures.
    pub(crate) retries_absorbed: u64,
    /// Attempts after which a chat went on to another key.
    pub(crate) key_failovers: u64,
    /// Calls of the hosted model that ran again because their worker was killed.
    pub(crate) worker_reruns: u64,
    /// Requests in flight in a killed gateway process, which the callers' own client sent again.
    pub(crate) resent_after_gateway_kill: u64,
    /// Seconds from the first request to the last.
    pub(crate) duration_s: f64,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Of the classifier, as callers saw it.
    pub(crate) latency_ms: LatencyMs,
    /// Milliseconds from each fault to the ejection of the instance or key.
    pub(crate) time_to_eject_ms: BTreeMap<&'static str, u64>,
    /// Milliseconds from the listing of a new instance to its first answer.
    pub(crate) time_to_use_new_instance_ms: Option<u64>,
    /// Milliseconds without answers after the gateway's process was killed.
    pub(crate) gateway_restart_gap_ms: Option<u64>,
    /// The split as it was asked for and as it was.
    pub(crate) split: Vec<Split>,
    /// How often each version was right about the texts.
    pub(crate) versions: BTreeMap<&'static str, Quality>,
    /// Version of the Python that hosted the model; `None`: there was none, and that part was left out.
    pub(crate) python: Option<String>,
    /// Everything that happened, in order.
    pub(crate) events: Vec<Outcome>,
    /// Whether a signal ended the demo before its time.
    pub(crate) interrupted: bool,
}

/// Latencies in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct LatencyMs {
    /// Median.
    pub(crate) p50: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// Longest; the restart of the killed gateway lies in it.
    pub(crate) max: f64,
}

/// One set of weights and the shares that callers saw under it.
#[derive(Debug, Serialize)]
pub(crate) struct Split {
    /// Weights of v1 and v2.
    pub(crate) weights: [u32; 2],
    /// Answers under these weights.
    pub(crate) requests: u64,
    /// Share of v1 and v2 in percent.
    pub(crate) seen_percent: [f64; 2],
}

/// How good a version is.
#[derive(Debug, Serialize)]
pub(crate) struct Quality {
    /// Answers.
    pub(crate) answers: u64,
    /// Share of the held-out texts that it gets right, 0 to 1, measured at the start.
    pub(crate) held_out_accuracy: f64,
    /// Share of right opinions among its answers, 0 to 1, as callers saw it.
    pub(crate) seen_accuracy: f64,
}

/// What a report is made of.
pub(crate) struct Sources<'a> {
    pub(crate) traffic: &'a Traffic,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) retries: u64,
    pub(crate) failovers: u64,
    pub(crate) python: Option<String>,
    pub(crate) accuracy: [f64; 2],
    pub(crate) duration: Duration,
    pub(crate) interrupted: bool,
}

impl Report {
    /// Puts it together.
    pub(crate) fn new(sources: Sources<'_>) -> Self {
        let totals = sources.traffic.totals();
        let latency = sources.traffic.latency();
        let requests = totals.answered + totals.failed;
        let seconds = sources.duration.as_secs_f64();
        let mut time_to_eject_ms = BTreeMap::new();
        for outcome in &sources.outcomes {
            if let Some(after) = outcome.ejected_after_ms {
                // In a later round the worst counts.
                let worst = time_to_eject_ms.entry(outcome.event).or_insert(after);
                *worst = after.max(*worst);
            }
        }
        let worst = |event: &str, value: fn(&Outcome) -> Option<u64>| {
            let matching = sources.outcomes.iter().filter(|o| o.event == event);
            matching.filter_map(value).max()
        };
        let versions = Version::ALL.map(|version| {
            let count = totals.versions[version.index()];
            let quality = Quality {
                answers: count.answers,
                held_out_accuracy: round(sources.accuracy[version.index()], 4),
                seen_accuracy: round(share(count.hits, count.answers), 4),
            };
            (version.name(), quality)
        });
        Self {
            requests,
            grpc_requests: totals.grpc,
            chats: totals.chats,
            chats_streamed: totals.streamed,
            model_calls: totals.hosted,
            failures: totals.failed,
            failure_samples: sources.traffic.failures(),
            retries_absorbed: sources.retries,
            key_failovers: sources.failovers,
            worker_reruns: sources.outcomes.iter().filter_map(|o| o.reruns).sum(),
            resent_after_gateway_kill: totals.resent,
            duration_s: round(seconds, 3),
            rate: round(requests as f64 / seconds.max(0.001), 1),
            latency_ms: LatencyMs {
                p50: in_ms(latency.quantile(0.5)),
                p99: in_ms(latency.quantile(0.99)),
                max: in_ms(latency.longest()),
            },
            time_to_eject_ms,
            time_to_use_new_instance_ms: worst("add", |o| o.used_after_ms),
            gateway_restart_gap_ms: worst("gateway_kill", |o| o.gap_ms),
            split: splits(&sources.traffic.phases()),
            versions: versions.into(),
            python: sources.python,
            events: sources.outcomes,
            interrupted: sources.interrupted,
        }
    }

    /// For people.
    pub(crate) fn text(&self, style: Style) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = self.write(&mut out, style);
        out
    }

    fn write(&self, out: &mut String, style: Style) -> std::fmt::Result {
        let rule = style.dim(&"─".repeat(WIDTH));
        writeln!(out, "{rule}")?;
        let failures = match self.failures {
            0 => style.good("0 failures seen by callers"),
            1 => style.bad("1 failure seen by callers"),
            n => style.bad(&format!("{n} failures seen by callers")),
        };
        writeln!(
            out,
            "{} requests in {:.0} s · {failures}",
            style.bold(&thousands(self.requests)),
            self.duration_s
        )?;
        writeln!(out, "{rule}")?;
        for sample in &self.failure_samples {
            writeln!(out, "  {}", style.bad(sample))?;
        }
        for outcome in &self.events {
            let mark = if outcome.is_good() {
                style.good("✓")
            } else {
                style.bad("✗")
            };
            let meanwhile = format!(
                "{} requests, {} failed",
                thousands(outcome.requests),
                outcome.failures
            );
            let gap = WIDTH.saturating_sub(2 + columns(&outcome.what) + columns(&meanwhile));
            writeln!(
                out,
                "{mark} {}{}{}",
                style.bold(&outcome.what),
                " ".repeat(gap.max(2)),
                style.dim(&meanwhile)
            )?;
            for line in wrap(&outcome.result, WIDTH - 2) {
                writeln!(out, "  {line}")?;
            }
        }
        if !self.events.is_empty() {
            writeln!(out, "{rule}")?;
        }
        let mut row =
            |name: &str, value: String| writeln!(out, "{} {value}", style.dim(&pad(name)));
        row(
            "latency",
            format!(
                "p50 {:.1} ms · p99 {:.1} ms · longest {}",
                self.latency_ms.p50,
                self.latency_ms.p99,
                millis(self.latency_ms.max.round() as u64)
            ),
        )?;
        let others = self.grpc_requests + self.chats + self.model_calls;
        row(
            "protocols",
            format!(
                "{} JSON over HTTP/1.1 · {} gRPC",
                thousands(self.requests.saturating_sub(others)),
                thousands(self.grpc_requests)
            ),
        )?;
        row(
            "absorbed",
            format!(
                "{} failed attempts, each made again at another instance",
                thousands(self.retries_absorbed)
            ),
        )?;
        let ejected = |keys: bool| {
            let each = self.time_to_eject_ms.iter();
            let each: Vec<String> = each
                .filter(|(event, _)| event.starts_with(KEY) == keys)
                .map(|(event, ms)| format!("{} {}", event.trim_start_matches(KEY), millis(*ms)))
                .collect();
            (!each.is_empty()).then(|| each.join(" · "))
        };
        if let Some(times) = ejected(false) {
            row("time to eject", times)?;
        }
        row(
            "LLM provider",
            format!(
                "{} chats, {} of them streams; {} went on to another key",
                thousands(self.chats),
                thousands(self.chats_streamed),
                thousands(self.key_failovers)
            ),
        )?;
        if let Some(times) = ejected(true) {
            row("time to spare", times)?;
        }
        row(
            "hosted model",
            match &self.python {
                Some(version) => format!(
                    "{} calls in Python {version}, {} ran again",
                    thousands(self.model_calls),
                    thousands(self.worker_reruns)
                ),
                None => NO_PYTHON.to_owned(),
            },
        )?;
        if let Some(ms) = self.time_to_use_new_instance_ms {
            row("new instance", format!("used after {}", millis(ms)))?;
        }
        if let Some(ms) = self.gateway_restart_gap_ms {
            let resent = self.resent_after_gateway_kill;
            row(
                "gateway killed",
                format!(
                    "{} without answers, none refused, sent again by callers: {resent}",
                    millis(ms)
                ),
            )?;
        }
        for split in &self.split {
            let [v1, v2] = split.weights;
            let [seen1, seen2] = split.seen_percent;
            row(
                &format!("split {v1}/{v2}"),
                format!(
                    "seen {seen1:.1}/{seen2:.1} over {} requests",
                    thousands(split.requests)
                ),
            )?;
        }
        for (version, quality) in &self.versions {
            row(
                &format!("model {version}"),
                format!(
                    "right about {:.0}% of {} texts (measured before: {:.0}%)",
                    quality.seen_accuracy * 100.0,
                    thousands(quality.answers),
                    quality.held_out_accuracy * 100.0
                ),
            )?;
        }
        Ok(())
    }
}

fn splits(phases: &[Phase]) -> Vec<Split> {
    let mut splits: Vec<([u32; 2], [u64; 2])> = Vec::new();
    for phase in phases.iter().filter(|phase| phase.weights != [0, 0]) {
        match splits.iter_mut().find(|(w, _)| *w == phase.weights) {
            Some((_, answers)) => {
                answers[0] += phase.answers[0];
                answers[1] += phase.answers[1];
            }
            None => splits.push((phase.weights, phase.answers)),
        }
    }
    splits
        .into_iter()
        .filter(|(_, answers)| answers.iter().any(|&count| count > 0))
        .map(|(weights, answers)| {
            let requests = answers.iter().sum();
            Split {
                weights,
                requests,
                seen_percent: answers.map(|count| round(share(count, requests) * 100.0, 2)),
            }
        })
        .collect()
}

fn pad(name: &str) -> String {
    format!("{name:<15}")
}

/// `12,345`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn round(number: f64, places: i32) -> f64 {
    let factor = 10_f64.powi(places);
    (number * factor).round() / factor
}

fn in_ms(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0, 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::model::Label;
    use crate::demo::traffic::{Answer, Opined, What};
    use std::time::Instant;

    fn report(failures: u32) -> Report {
        let start = Instant::now();
        let traffic = Traffic::new(start, [90, 10]);
        for n in 0..10 {
            let version = Version::ALL[usize::from(n == 9)];
            traffic.answered(Answer {
                what: What::Opinion(Opined {
                    text: "",
                    label: Label::Positive,
                    reason: None,
                    version,
                    hit: n != 0,
                    grpc: n > 6,
                }),
                instance: "v1-a".into(),
                sent: start,
                done: start + Duration::from_millis(2),
                kills: 0,
            });
        }
        for _ in 0..failures {
            traffic.failed("status 503".into());
        }
        let kill = |ms| Outcome {
            event: "kill",
            what: "kill -9 v1-b".into(),
            result: "ejected".into(),
            ejected_after_ms: Some(ms),
            used_after_ms: Some(5),
            requests: 1234,
            failures: u64::from(failures),
            ..Outcome::default()
        };
        let add = Outcome {
            event: "add",
            used_after_ms: Some(140),
            ..Outcome::default()
        };
        let revoked = Outcome {
            event: "key_revoked",
            ejected_after_ms: Some(4),
            reruns: Some(2),
            ..Outcome::default()
        };
        Report::new(Sources {
            traffic: &traffic,
            outcomes: vec![kill(60), add, kill(90), revoked],
            retries: 7,
            failovers: 3,
            python: None,
            accuracy: [0.7, 0.9],
            duration: Duration::from_secs(2),
            interrupted: false,
        })
    }

    #[test]
    fn failures_are_told_first_and_loudly() {
        let good = report(0).text(Style::plain());
        assert!(
            good.contains("10 requests in 2 s · 0 failures seen by callers"),
            "{good}"
        );
        let bad = report(2).text(Style::plain());
        assert!(
            bad.contains("12 requests in 2 s · 2 failures seen by callers"),
            "{bad}"
        );
        assert!(
            bad.contains("status 503") && bad.contains("✗ kill -9 v1-b"),
            "{bad}"
        );
    }

    #[test]
    fn scripts_find_every_figure() {
        let json = serde_json::to_value(report(0)).unwrap();
        assert_eq!(json["requests"], 10);
        assert_eq!(json["grpc_requests"], 3);
        assert_eq!(json["failures"], 0);
        assert_eq!(json["retries_absorbed"], 7);
        assert_eq!(
            json["time_to_eject_ms"]["kill"], 90,
            "the worst of two rounds"
        );
        assert_eq!(json["time_to_use_new_instance_ms"], 140);
        assert_eq!(json["gateway_restart_gap_ms"], serde_json::Value::Null);
        assert_eq!(
            json["split"][0]["seen_percent"],
            serde_json::json!([90.0, 10.0])
        );
        assert_eq!(json["versions"]["v1"]["seen_accuracy"], 0.8889);
        assert_eq!(json["events"][0]["ejected_after_ms"], 60);
        assert_eq!(json["key_failovers"], 3);
        assert_eq!(json["worker_reruns"], 2);
        assert_eq!(json["python"], serde_json::Value::Null);
    }

    #[test]
    fn a_part_that_is_left_out_is_told_plainly_and_every_line_fits() {
        let text = report(0).text(Style::plain());
        assert!(text.contains(NO_PYTHON), "{text}");
        assert!(text.contains("time to eject   kill 90 ms\n"), "{text}");
        assert!(text.contains("time to spare   revoked 4 ms\n"), "{text}");
        assert!(text.lines().all(|line| columns(line) <= WIDTH), "{text}");
    }

    #[test]
    fn the_moments_between_two_weights_belong_to_neither() {
        let phase = |weights, answers| Phase { weights, answers };
        let seen = splits(&[
            phase([90, 10], [9, 1]),
            phase([0, 0], [5, 5]),
            phase([50, 50], [3, 1]),
            phase([90, 10], [9, 1]),
        ]);
        let summary: Vec<_> = seen.iter().map(|s| (s.weights, s.requests)).collect();
        assert_eq!(summary, [([90, 10], 20), ([50, 50], 4)]);
    }

    #[test]
    fn big_numbers_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1234567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
