//! What endpoints report of their load with each answer (ORCA): the header `endpoint-load-metrics` in its text or JSON form.

use std::sync::Arc;

use http::HeaderMap;
use tidegate_core::{Pick, Time};

use crate::upstream::Target;

/// A report; fields that were not sent are 0.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Report {
    application: f32,
    cpu: f32,
    qps: f32,
    eps: f32,
}

/// Passes the report of an answer, if there is one, to the member.
pub(crate) fn report(headers: &HeaderMap, pick: &Pick<Arc<Target>>, now: Time) {
    let Some(text) = headers
        .get("endpoint-load-metrics")
        .and_then(|v| v.to_str().ok())
    else {
        return;
    };
    if let Some(r) = parse(text) {
        let utilization = if r.application > 0.0 {
            r.application
        } else {
            r.cpu
        };
        pick.member().report_load(utilization, r.qps, r.eps, now);
    }
}

/// `TEXT cpu_utilization=0.3,rps_fractional=10`, or `JSON {"cpu_utilization": 0.3}`.
fn parse(text: &str) -> Option<Report> {
    let mut report = Report::default();
    let mut set = |name: &str, value: f32| {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        match name {
            "application_utilization" => report.application = value,
            "cpu_utilization" => report.cpu = value,
            "rps_fractional" | "rps" => report.qps = value,
            "eps" => report.eps = value,
            _ => {}
        }
    };
    if let Some(pairs) = text.strip_prefix("TEXT ") {
        for (name, value) in pairs.split(',').filter_map(|pair| pair.split_once('=')) {
            set(name.trim(), value.trim().parse().ok()?);
        }
    } else if let Some(json) = text.strip_prefix("JSON ") {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).ok()?;
        for (name, value) in &object {
            if let Some(number) = value.as_f64() {
                set(name, number as f32);
            }
        }
    } else {
        return None;
    }
    Some(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nonsense_is_not() {
        let want = Report {
            application: 0.5,
            cpu: 0.3,
            qps: 10.0,
            eps: 1.0,
        };
        assert_eq!(
            parse(
                "TEXT application_utilization=0.5, cpu_utilization=0.3,rps_fractional=10,eps=1,named_metrics.x=3"
            ),
            Some(want)
        );
        let json = r#"JSON {"application_utilization":0.5,"cpu_utilization":0.3,"rps_fractional":10,"eps":1,"named_metrics":{}}"#;
        assert_eq!(parse(json), Some(want));
        assert_eq!(parse("TEXT cpu_utilization=-1"), Some(Report::default()));
        for bad in ["", "TEXT cpu_utilization=x", "JSON [", "BIN AAAA"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
