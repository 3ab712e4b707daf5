//! `/metrics` is what a scraper reads: checked by a parser that is stricter than scrapers are.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tidegate_admin::metrics::{Format, render};
use tidegate_gateway::view::{Family, Kind, Sample, Value};

mod support;
use support::Served;
use support::http::send;

type Labels = BTreeMap<String, String>;

/// A family as read back: kind, help and its series by sample name and labels.
#[derive(Debug, Default, PartialEq)]
struct Read {
    kind: String,
    help: String,
    series: Vec<(String, Labels, f64)>,
}

fn is_name(text: &str, colon: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !text.is_empty() && text.chars().all(fits) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn unescaped(text: &str, quotes: bool) -> Result<String, String> {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quotes) {
            ('\\', _) => match chars.next() {
                Some('\\') => out.push('\\'),
                Some('n') => out.push('\n'),
                Some('"') if quotes => out.push('"'),
                other => return Err(format!("escape \\{other:?} in {text:?}")),
            },
            ('"', true) => return Err(format!("bare quote in {text:?}")),
            _ => out.push(c),
        }
    }
    Ok(out)
}

fn labels(text: &str) -> Result<(Labels, &str), String> {
    let Some(mut rest) = text.strip_prefix('{') else {
        return Ok((Labels::new(), text));
    };
    let mut found = Labels::new();
    loop {
        let (name, after) = rest
            .split_once("=\"")
            .ok_or_else(|| format!("no label in {rest:?}"))?;
        if !is_name(name, false) {
            return Err(format!("label name {name:?}"));
        }
        let mut escaped = false;
        let end = after.char_indices().find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let (end, _) = end.ok_or_else(|| format!("unclosed value in {after:?}"))?;
        if found
            .insert(name.into(), unescaped(&after[..end], true)?)
            .is_some()
        {
            return Err(format!("label {name} twice"));
        }
        rest = &after[end + 1..];
        match rest.as_bytes().first() {
            Some(b',') => rest = &rest[1..],
            Some(b'}') => return Ok((found, &rest[1..])),
            _ => return Err(format!("after a label: {rest:?}")),
        }
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "NaN" => Ok(f64::NAN),
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        text if text.contains(|c: char| c.is_alphabetic() && c != 'e') => {
            Err(format!("number {text:?}"))
        }
        text => text.parse().map_err(|_| format!("number {text:?}")),
    }
}

/// Reads the text; any deviation from the format is an error.
fn parse(text: &str, open: bool) -> Result<BTreeMap<String, Read>, String> {
    let mut families: BTreeMap<String, Read> = BTreeMap::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    let body = if open {
        text.strip_suffix("# EOF\n").ok_or("no # EOF at the end")?
    } else {
        text
    };
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("no line end at the end".into());
    }
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest
                .split_once(' ')
                .ok_or_else(|| format!("help {rest:?}"))?;
            if !is_name(name, true) || families.contains_key(name) {
                return Err(format!("family {name:?} is no name or comes twice"));
            }
            current = name.into();
            let help = unescaped(help, open)?;
            families.insert(
                name.into(),
                Read {
                    help,
                    ..Read::default()
                },
            );
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest
                .split_once(' ')
                .ok_or_else(|| format!("type {rest:?}"))?;
            let family = families
                .get_mut(name)
                .filter(|f| f.kind.is_empty() && f.series.is_empty());
            if name != current || !["counter", "gauge", "histogram"].contains(&kind) {
                return Err(format!("type {rest:?} after the help of {current}"));
            }
            family
                .ok_or_else(|| format!("type of {name} out of place"))?
                .kind = kind.into();
        } else {
            let end = line
                .find(['{', ' '])
                .ok_or_else(|| format!("line {line:?}"))?;
            let (labels, rest) = labels(&line[end..])?;
            let value = number(
                rest.strip_prefix(' ')
                    .ok_or_else(|| format!("no value in {line:?}"))?,
            )?;
            let family = families
                .get_mut(&current)
                .ok_or("a sample before any family")?;
            let suffixes: &[&str] = match (family.kind.as_str(), open) {
                ("histogram", _) => &["_bucket", "_sum", "_count"],
                ("counter", true) => &["_total"],
                ("counter" | "gauge", _) => &[""],
                _ => return Err(format!("{current} has no type")),
            };
            let suffix = line[..end].strip_prefix(current.as_str()).unwrap_or("?");
            if !suffixes.contains(&suffix) {
                return Err(format!("sample {:?} in family {current}", &line[..end]));
            }
            if !seen.insert((line[..end].to_owned(), labels.clone())) {
                return Err(format!("series twice: {line}"));
            }
            if family.kind == "counter" && (value < 0.0 || value.is_nan()) {
                return Err(format!("a counter of {value}: {line}"));
            }
            family.series.push((suffix.to_owned(), labels, value));
        }
    }
    for (name, family) in &families {
        if family.kind == "counter" && !open && !name.ends_with("_total") {
            return Err(format!("counter {name} does not end in _total"));
        }
        if family.kind == "histogram" {
            histogram(family).map_err(|error| format!("{name}: {error}"))?;
        }
    }
    Ok(families)
}

/// `(le, count)` of the buckets, the sum, the count.
type Buckets = (Vec<(f64, f64)>, Option<f64>, Option<f64>);

/// Buckets ascend to +Inf, their counts do not fall, the last is the count, and there is a sum.
fn histogram(family: &Read) -> Result<(), String> {
    let mut groups: BTreeMap<Labels, Buckets> = BTreeMap::new();
    for (suffix, labels, value) in &family.series {
        let mut labels = labels.clone();
        let le = labels.remove("le");
        let group = groups.entry(labels).or_default();
        match (suffix.as_str(), le) {
            ("_bucket", Some(le)) => group.0.push((number(&le)?, *value)),
            ("_sum", None) => group.1 = Some(*value),
            ("_count", None) => group.2 = Some(*value),
            other => return Err(format!("{other:?}")),
        }
    }
    for (labels, (buckets, sum, count)) in groups {
        let ascending = buckets
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let last = buckets.last().ok_or("no buckets")?;
        if !ascending || last.0 != f64::INFINITY || Some(last.1) != count || sum.is_none() {
            return Err(format!("{labels:?}: {buckets:?} {sum:?} {count:?}"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn both_texts_are_valid_and_say_the_same() {
    let served = Served::new();
    (0..50).for_each(|i| served.world.state().pass(f64::from(i), 0.2));
    let plain = send(served.address, "GET", "/metrics", &[]).await;
    assert_eq!(
        plain.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let accept =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
    let open = send(served.address, "GET", "/metrics", &[("accept", accept)]).await;
    assert_eq!(
        open.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let plain = parse(&plain.body, false).unwrap();
    let open = parse(&open.body, true).unwrap();
    assert!(
        plain.contains_key("process_cpu_seconds_total") && open.contains_key("process_cpu_seconds")
    );
    assert_eq!(
        plain["tidegate_requests_total"].series.len(),
        open["tidegate_requests"].series.len()
    );
    let values = |read: &Read| {
        read.series
            .iter()
            .map(|(_, _, value)| *value)
            .collect::<Vec<_>>()
    };
    for (one, other) in [
        ("tidegate_requests_total", "tidegate_requests"),
        (
            "tidegate_request_duration_seconds",
            "tidegate_request_duration_seconds",
        ),
        ("tidegate_member_state", "tidegate_member_state"),
    ] {
        assert_eq!(values(&plain[one]), values(&open[other]), "{one}");
    }
}

#[test]
fn the_parser_itself_finds_faults() {
    for (fault, text) in [
        ("no type", "# HELP a A.\na 1\n"),
        ("duplicate", "# HELP a A.\n# TYPE a gauge\na 1\na 2\n"),
        (
            "bare quote",
            "# HELP a A.\n# TYPE a gauge\na{b=\"c\"d\"} 1\n",
        ),
        (
            "bad escape",
            "# HELP a A.\n# TYPE a gauge\na{b=\"\\t\"} 1\n",
        ),
        ("counter name", "# HELP a A.\n# TYPE a counter\na 1\n"),
        (
            "falling buckets",
            "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
        ),
        (
            "no infinite bucket",
            "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"1\"} 1\na_sum 1\na_count 1\n",
        ),
        ("no line end", "# HELP a A.\n# TYPE a gauge\na 1"),
        (
            "two families mixed",
            "# HELP a A.\n# TYPE a gauge\n# HELP b B.\n# TYPE b gauge\na 1\n",
        ),
    ] {
        assert!(parse(text, false).is_err(), "{fault}");
    }
}

proptest! {
    #[test]
    fn whatever_the_labels_hold_is_read_back(
        values in proptest::collection::btree_set(any::<String>(), 1..6),
        help in "\\PC*",
        amounts in proptest::collection::vec(0.0..1e15f64, 6),
    ) {
        let samples: Vec<Sample> = values.iter().zip(&amounts).map(|(value, amount)| Sample {
            labels: vec![("route", value.clone()), ("code", "200".into())],
            value: Value::Number(*amount),
        }).collect();
        // A leaked string: the view wants a constant, the test wants any.
        let family = Family { name: "a_total", help: help.clone().leak(), kind: Kind::Counter, samples };
        for (format, name) in [(Format::Prometheus, "a_total"), (Format::OpenMetrics, "a")] {
            let text = render(std::slice::from_ref(&family), format);
            // Line ends other than \n are the parser's problem, not the format's: cut at \n only.
            let read = parse(&text.replace('\r', "␍"), format == Format::OpenMetrics);
            let read = read.map_err(TestCaseError::fail)?;
            prop_assert_eq!(&read[name].help, &help.replace('\r', "␍"));
            let back: Vec<(String, f64)> =
                read[name].series.iter().map(|(_, labels, value)| (labels["route"].clone(), *value)).collect();
            let meant: Vec<(String, f64)> =
                values.iter().zip(&amounts).map(|(value, amount)| (value.replace('\r', "␍"), *amount)).collect();
            prop_assert_eq!(back, meant);
        }
    }
}
