//! When keys are spared and requests repeated.

use crate::import::Cx;
use crate::import::reader::Section;
use crate::import::text::Yaml;
use crate::source::Span;
use regex::Regex;

/// What Higress takes where nothing is given.
const STATUSES: [&str; 2] = ["4.*", "5.*"];
/// Ours that mean the same.
const OURS: [&str; 2] = ["4..", "5.."];
/// Statuses that are worth naming in a note.
const KNOWN: [u16; 12] = [200, 201, 202, 204, 206, 301, 302, 304, 307, 308, 400, 404];
const DAY_MS: u64 = 86_400_000;
/// Of thresholds.
const MOST_FAILURES: u64 = 1_000;

/// The provider's `failover`.
pub(super) fn failover(section: &Section<'_>, cx: &mut Cx<'_>) -> Vec<(String, Yaml)> {
    let mut out = Vec::new();
    let Some(failover) = section.section("failover") else {
        return out;
    };
    // Read whether it is on or not, so that only what is unknown is told.
    let failures = failover.number("failureThreshold");
    let successes = failover.number("successThreshold");
    let interval = failover.number("healthCheckInterval");
    let timeout = failover.number("healthCheckTimeout");
    let model = failover.text("healthCheckModel");
    let cooldown = failover.number("cooldownDuration");
    let given = failover.texts("failoverOnStatus");
    let is_on = failover.flag("enabled") == Some(true);
    failover.note_unread(cx);
    if !is_on {
        cx.note(
            section.span_of("failover"),
            "failover was off; here keys that fail are spared in any case: dead, limited and exhausted ones by what the provider answers",
        );
        return out;
    }
    let mut put = |key: &str, value: Option<Yaml>| {
        out.extend(value.map(|value| (key.to_owned(), value)));
    };
    put("failure_threshold", threshold(failures));
    put("success_threshold", threshold(successes));
    put(
        "health_check_interval",
        interval.map(|ms| duration(ms, DAY_MS)),
    );
    put(
        "health_check_timeout",
        timeout.map(|ms| duration(ms, DAY_MS)),
    );
    for (key, given, most) in [
        ("failureThreshold", failures, MOST_FAILURES),
        ("successThreshold", successes, MOST_FAILURES),
        ("healthCheckInterval", interval, DAY_MS),
        ("healthCheckTimeout", timeout, DAY_MS),
        ("cooldownDuration", cooldown, 30 * DAY_MS),
    ] {
        bounded(&failover, key, given, most, cx);
    }
    put("health_check_model", model.map(Yaml::text));
    put("cooldown", cooldown.map(|ms| duration(ms, 30 * DAY_MS)));
    if model.is_none() && cooldown.is_none_or(|ms| ms == 0) {
        cx.note(
            failover.span,
            "neither healthCheckModel nor cooldownDuration, which Higress refuses: by statuses alone a key would never come back, so answers are classified and the model that failed is probed",
        );
        return out;
    }
    let statuses = match given.is_empty() {
        true => OURS.map(str::to_owned).to_vec(),
        false => whole(&given, cx),
    };
    let list = statuses.into_iter().map(Yaml::Text).collect();
    put("on_status", Some(Yaml::List(list)));
    cx.note_once(
        failover.span,
        "`on_status` lets statuses alone decide, as Higress does, but for a caller's own fault: a 400 or 404 counts against the key only where that very number is named. Without `on_status` answers are classified (dead key, limited until, quota, provider down) and callers' faults count for nothing",
    );
    out
}

fn threshold(number: Option<u64>) -> Option<Yaml> {
    number.map(|number| Yaml::plain(number.min(MOST_FAILURES)))
}

/// Tells of a number that is beyond ours.
pub(super) fn bounded(
    section: &Section<'_>,
    key: &str,
    given: Option<u64>,
    most: u64,
    cx: &mut Cx<'_>,
) {
    if given.is_some_and(|given| given > most) {
        cx.note(
            section.span_of(key),
            format!("`{key}` is at most {most} here"),
        );
    }
}

/// Milliseconds as ours.
pub(super) fn duration(ms: u64, most: u64) -> Yaml {
    let ms = ms.min(most);
    Yaml::Plain(match ms % 1_000 {
        0 => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    })
}

/// Expressions that Higress looks for anywhere in the status → ours, which have to fit the whole.
fn whole(given: &[(&str, Span)], cx: &mut Cx<'_>) -> Vec<String> {
    let mut statuses = Vec::new();
    for (pattern, span) in given {
        let (Ok(anywhere), Ok(fits)) =
            (Regex::new(pattern), Regex::new(&format!("^(?:{pattern})$")))
        else {
            cx.note(
                *span,
                format!("the expression {pattern:?} does not compile: left out"),
            );
            continue;
        };
        let all = |regex: &Regex| -> Vec<u16> {
            (100..600)
                .filter(|status| regex.is_match(&status.to_string()))
                .collect()
        };
        let (before, after) = (all(&anywhere), all(&fits));
        if after.is_empty() && !before.is_empty() {
            let text = format!(
                "`{pattern}` is looked for anywhere in the status in Higress, and so it is here: `.*(?:{pattern}).*`"
            );
            cx.note(*span, text);
            statuses.push(format!(".*(?:{pattern}).*"));
            continue;
        }
        let lost = before.iter().filter(|status| !after.contains(status));
        let named: Vec<String> = lost
            .clone()
            .filter(|status| KNOWN.contains(status))
            .map(ToString::to_string)
            .collect();
        if lost.count() > 0 {
            let which = match named.is_empty() {
                true => "others matched too".to_owned(),
                false => format!("{} matched too", named.join(", ")),
            };
            let text = format!(
                "`{pattern}` is looked for anywhere in the status in Higress ({which}); here it has to fit the whole status"
            );
            cx.note(*span, text);
        }
        let at = STATUSES.iter().position(|status| status == pattern);
        statuses.push(at.map_or_else(|| (*pattern).to_owned(), |at| OURS[at].to_owned()));
    }
    statuses
}

/// `retryOnFailure` as a route's `retry`.
pub(super) fn retry(section: &Section<'_>, cx: &mut Cx<'_>) -> Option<Yaml> {
    let retry = section.section("retryOnFailure")?;
    let others = retry.number("maxRetries").unwrap_or(1);
    let timeout = retry.number("retryTimeout");
    let statuses = retry.texts("retryOnStatus");
    let is_on = retry.flag("enabled") == Some(true);
    retry.note_unread(cx);
    if !is_on {
        cx.note(
            section.span_of("retryOnFailure"),
            "retryOnFailure was off; here a request whose key fails goes on to another key in any case, before the caller sees anything",
        );
        return None;
    }
    let total = others.saturating_add(1).min(10);
    let mut text = format!("maxRetries {others} counts the others: `attempts: {total}` in total");
    if others > 9 {
        text.push_str(", the most there are");
    }
    text.push_str(". Going on to another key is no retry and has no bound but the number of keys");
    cx.note(retry.span_of("maxRetries"), text);
    let mut out = vec![("attempts".to_owned(), Yaml::plain(total))];
    let mut on: Vec<Yaml> = ["connect-failure", "refused-stream", "unavailable"]
        .map(Yaml::text)
        .into();
    let compile = |pattern: &&str| Regex::new(pattern).ok();
    let given: Vec<&str> = statuses.iter().map(|(pattern, _)| *pattern).collect();
    let given = if given.is_empty() {
        &STATUSES[..]
    } else {
        &given
    };
    let regexes: Vec<Regex> = given.iter().filter_map(compile).collect();
    let wanted = |status: &u16| regexes.iter().any(|r| r.is_match(&status.to_string()));
    if (500..600).all(|status| wanted(&status)) {
        on.push(Yaml::text("5xx"));
    } else {
        on.extend(
            [500_u16, 502, 503, 504, 529]
                .iter()
                .filter(|s| wanted(s))
                .map(|s| Yaml::text(s.to_string())),
        );
    }
    if (400..500).any(|status| wanted(&status)) {
        cx.note(
            retry.span_of("retryOnStatus"),
            "4xx are not repeated as such: a dead, limited or exhausted key is replaced by another one, and a caller's own fault would be one again",
        );
    }
    out.push(("on".to_owned(), Yaml::List(on)));
    bounded(&retry, "retryTimeout", timeout, DAY_MS, cx);
    if let Some(ms) = timeout {
        out.push(("per_try_timeout".to_owned(), duration(ms, DAY_MS)));
        cx.note(
            retry.span_of("retryTimeout"),
            "retryTimeout bounds the repeated attempts in Higress; `per_try_timeout` bounds the first one too",
        );
    }
    Some(Yaml::Map(out))
}
