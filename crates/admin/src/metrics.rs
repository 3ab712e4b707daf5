//! Metric families as text: the Prometheus format 0.0.4 and OpenMetrics 1.0.
//!
//! Written by hand over `view::Family` instead of through a metrics library: the gateway counts in per-worker tables of
//! its own and sums them when read, so a registry would be a second copy of every number.

use std::fmt::Write;

use tidegate_gateway::view::{Family, Kind, Sample, Value};

/// The two texts that scrapers understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4, the default.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// What the `accept` header prefers. OpenMetrics only when it is named and not ranked below `text/plain`.
    #[must_use]
    pub fn from_accept(accept: &str) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let q = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1.0, |q| q.parse::<f64>().unwrap_or(0.0));
            if name.eq_ignore_ascii_case("application/openmetrics-text") {
                open = f64::max(open, q);
            } else if name.eq_ignore_ascii_case("text/plain") {
                plain = f64::max(plain, q);
            }
        }
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The answer's `content-type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Renders the families in their order.
#[must_use]
pub fn render(families: &[Family], format: Format) -> String {
    let mut out = String::with_capacity(
        256 + families
            .iter()
            .map(|f| 160 + f.samples.len() * 96)
            .sum::<usize>(),
    );
    for family in families {
        render_family(&mut out, family, format);
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn render_family(out: &mut String, family: &Family, format: Format) {
    // OpenMetrics names a counter's family without `_total` and its samples with it.
    let (name, sample_name) = match (format, family.kind) {
        (Format::OpenMetrics, Kind::Counter) => {
            let base = family.name.strip_suffix("_total").unwrap_or(family.name);
            (base, format!("{base}_total"))
        }
        _ => (family.name, family.name.to_owned()),
    };
    out.push_str("# HELP ");
    out.push_str(name);
    out.push(' ');
    escape(out, family.help, format == Format::OpenMetrics);
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    out.push_str("\n# TYPE ");
    out.push_str(name);
    out.push(' ');
    out.push_str(kind);
    out.push('\n');
    for sample in &family.samples {
        match &sample.value {
            Value::Number(value) => {
                line(out, &sample_name, "", sample, None);
                number(out, *value);
                out.push('\n');
            }
            Value::Histogram {
                buckets,
                sum,
                count,
            } => {
                for (bound, n) in buckets {
                    line(
                        out,
                        name,
                        "_bucket",
                        sample,
                        Some(&bound_text(*bound, format)),
                    );
                    let _ = writeln!(out, "{n}");
                }
                line(out, name, "_bucket", sample, Some("+Inf"));
                let _ = writeln!(out, "{count}");
                line(out, name, "_sum", sample, None);
                number(out, *sum);
                out.push('\n');
                line(out, name, "_count", sample, None);
                let _ = writeln!(out, "{count}");
            }
        }
    }
}

/// `name_suffix{label="value",…} ` up to the value.
fn line(out: &mut String, name: &str, suffix: &str, sample: &Sample, le: Option<&str>) {
    out.push_str(name);
    out.push_str(suffix);
    let labels = sample
        .labels
        .iter()
        .map(|(n, v)| (*n, v.as_str()))
        .chain(le.map(|le| ("le", le)));
    let mut open = false;
    for (label, value) in labels {
        out.push(if open { ',' } else { '{' });
        open = true;
        out.push_str(label);
        out.push_str("=\"");
        escape(out, value, true);
        out.push('"');
    }
    if open {
        out.push('}');
    }
    out.push(' ');
}

fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

fn number(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("NaN");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        let _ = write!(out, "{value}");
    }
}

/// OpenMetrics wants `le` as a float even when it is whole (`1.0`), so that series keep their identity.
fn bound_text(bound: f64, format: Format) -> String {
    if format == Format::OpenMetrics && bound.fract() == 0.0 {
        format!("{bound:.1}")
    } else {
        format!("{bound}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(labels: Vec<(&'static str, String)>, value: f64) -> Family {
        Family {
            name: "tidegate_requests_total",
            help: "Requests \"answered\",\nby \\ code.",
            kind: Kind::Counter,
            samples: vec![Sample {
                labels,
                value: Value::Number(value),
            }],
        }
    }

    #[test]
    fn label_values_and_help_are_escaped() {
        let family = counter(vec![("route", "a\"b\\c\nd".into())], 3.0);
        let text = render(std::slice::from_ref(&family), Format::Prometheus);
        assert_eq!(
            text,
            "# HELP tidegate_requests_total Requests \"answered\",\\nby \\\\ code.\n\
             # TYPE tidegate_requests_total counter\n\
             tidegate_requests_total{route=\"a\\\"b\\\\c\\nd\"} 3\n"
        );
        assert!(render(&[family], Format::OpenMetrics).contains("Requests \\\"answered\\\",\\nby"));
    }

    #[test]
    fn openmetrics_names_the_counter_family_without_total_and_ends_with_eof() {
        let text = render(&[counter(Vec::new(), 1.5)], Format::OpenMetrics);
        assert!(
            text.contains("# TYPE tidegate_requests counter\ntidegate_requests_total 1.5\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn a_histogram_has_an_infinite_bucket_a_sum_and_a_count() {
        let family = Family {
            name: "h",
            help: "H.",
            kind: Kind::Histogram,
            samples: vec![Sample {
                labels: vec![("route", "r".into())],
                value: Value::Histogram {
                    buckets: vec![(0.25, 1), (1.0, 2)],
                    sum: 3.5,
                    count: 4,
                },
            }],
        };
        let text = render(std::slice::from_ref(&family), Format::Prometheus);
        let samples: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "h_bucket{route=\"r\",le=\"0.25\"} 1",
                "h_bucket{route=\"r\",le=\"1\"} 2",
                "h_bucket{route=\"r\",le=\"+Inf\"} 4",
                "h_sum{route=\"r\"} 3.5",
                "h_count{route=\"r\"} 4",
            ]
        );
        assert!(render(&[family], Format::OpenMetrics).contains("le=\"1.0\""));
    }

    #[test]
    fn numbers_outside_the_reals_have_their_names() {
        for (value, text) in [
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (1e21, "1000000000000000000000"),
        ] {
            let mut out = String::new();
            number(&mut out, value);
            assert_eq!(out, text);
        }
    }

    #[test]
    fn the_accept_header_decides() {
        for (accept, format) in [
            ("", Format::Prometheus),
            ("*/*", Format::Prometheus),
            (
                "text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::Prometheus,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;q=0.1, text/plain;q=0.5",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            ("Application/OpenMetrics-Text", Format::OpenMetrics),
        ] {
            assert_eq!(Format::from_accept(accept), format, "{accept}");
        }
    }
}
