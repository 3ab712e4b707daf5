//! Services with their instances, as tables: what runs, and why something does not.

use tidegate_gateway::view::{InstanceView, ServiceView};

use super::format::{amount, micros, rate, span};
use super::render::{Colour, Page};
use super::table::{Cell, Column, clip, lines, printable};

/// Columns for the class or the command of a service.
const RUNS: usize = 40;

impl Page<'_> {
    /// One layout for the instances of all services, as for the members of upstreams.
    pub(super) fn services(&self, out: &mut Vec<String>) {
        let columns = [
            Column::flexible("INSTANCE", 14, 0),
            Column::text("STATE", 0),
            Column::flexible("CAUSE", 12, 1),
            Column::number("SINCE", 4),
            Column::number("IN FLIGHT", 3),
            Column::number("RESTARTS", 2),
            Column::number("MEMORY", 3),
            Column::flexible("VERSIONS", 8, 5),
            Column::number("PID", 6),
        ];
        let services = &self.now.services;
        let rows: Vec<_> = services
            .iter()
            .flat_map(|service| service.instances.iter().map(row))
            .collect();
        let width = self.style.width.saturating_sub(2);
        let table = lines(&columns, &rows, width, self.style.colour);
        let mut table = table.into_iter().map(|line| format!("  {line}"));
        let title = table.next().unwrap_or_default();
        for service in services {
            self.service(out, service);
            if !service.instances.is_empty() {
                out.push(title.clone());
            }
            out.extend(table.by_ref().take(service.instances.len()));
        }
    }

    /// What stands over a service's instances.
    fn service(&self, out: &mut Vec<String>, service: &ServiceView) {
        // The words of a command must not crowd out how it stands.
        let mut facts = vec![clip(&service.runs, RUNS)];
        if !service.version.is_empty() {
            facts.push(format!("version {}", service.version));
        }
        facts.push(format!("{} of {} ready", service.ready, service.replicas));
        if let Some(span_ms) = held_up(&service.instances) {
            let since = span(span_ms);
            facts.push(format!(
                "its successor is not ready for {since}, the workers before serve on"
            ));
        }
        facts.push(format!("{} in workers", service.running));
        if service.waiting > 0 {
            facts.push(format!("{} waiting", service.waiting));
        }
        let before = self
            .earlier
            .and_then(|e| e.services.iter().find(|s| s.name == service.name));
        facts.push(match (self.seconds(), before) {
            (Some(seconds), Some(before)) => {
                let calls = service.calls.saturating_sub(before.calls) as f64;
                format!("{} calls/s", rate(calls / seconds))
            }
            _ => format!("{} calls", amount(service.calls)),
        });
        if service.mean_run_us > 0 {
            facts.push(format!("{} each", micros(service.mean_run_us as f64)));
        }
        let faults: u64 = service.faults.values().sum();
        if faults > 0 {
            facts.push(format!("{} failed", amount(faults)));
        }
        if service.retries > 0 {
            facts.push(format!("{} ran again", amount(service.retries)));
        }
        out.push(String::new());
        let name = clip(&printable(&service.name), self.style.width);
        let room = self.style.width.saturating_sub(name.chars().count());
        let facts = clip(&printable(&format!("  {}", facts.join(" · "))), room);
        let colour = self.style.colour;
        out.push(Colour::Strong.paint(&name, colour) + &Colour::Faint.paint(&facts, colour));
    }
}

/// For how long a new host's instances are not ready while those of the host before serve; `None`: nothing is being replaced.
fn held_up(instances: &[InstanceView]) -> Option<u64> {
    let serving: Vec<_> = instances
        .iter()
        .filter(|instance| instance.state == "ready")
        .map(|instance| &instance.host)
        .collect();
    let coming = |instance: &&InstanceView| {
        matches!(instance.state.as_str(), "starting" | "crash_loop")
            && serving.iter().any(|host| **host != instance.host)
            && !serving.contains(&&instance.host)
    };
    let coming = instances.iter().filter(coming);
    coming.map(|instance| instance.since_ms).max()
}

fn row(instance: &InstanceView) -> Vec<Cell> {
    let colour = match instance.state.as_str() {
        "ready" => Colour::Good,
        "crash_loop" | "failing" => Colour::Bad,
        "starting" => Colour::Warn,
        _ => Colour::Other,
    };
    let cause = instance.cause.lines().next().unwrap_or_default();
    // Of one that is ready it is history: why it was started anew.
    let cause = match instance.state.as_str() {
        "ready" if instance.restarts == 0 || cause.is_empty() => String::new(),
        "ready" => format!("last death: {cause}"),
        _ => cause.to_owned(),
    };
    let versions: Vec<&str> = instance
        .versions
        .iter()
        .map(|version| if version.is_empty() { "–" } else { version })
        .collect();
    vec![
        instance.name.as_str().into(),
        Cell::new(&instance.state, colour),
        cause.into(),
        span(instance.since_ms).into(),
        instance.in_flight.to_string().into(),
        instance.restarts.to_string().into(),
        memory(instance.memory).into(),
        versions.join(", ").into(),
        instance
            .pid
            .map(|pid| pid.to_string())
            .unwrap_or_default()
            .into(),
    ]
}

/// `812 MiB`, empty where it is not known.
fn memory(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0 => String::new(),
        bytes if bytes >= 10 * 1024 * MIB => format!("{} GiB", bytes / (1024 * MIB)),
        bytes => format!("{} MiB", bytes.div_ceil(MIB)),
    }
}
