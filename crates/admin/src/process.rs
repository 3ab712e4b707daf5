//! What this process uses, read from `/proc` on Linux; elsewhere nothing is told.

use tidegate_gateway::view::{Family, Kind, Sample, Value};

use crate::overview::ProcessView;

/// Ticks of a second in `/proc/self/stat`: a constant of the Linux kernel's interface (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// Reads the numbers now.
pub(crate) fn read() -> ProcessView {
    let file =
        |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    ProcessView {
        memory_bytes: memory_bytes(&file("status")),
        cpu_ms: cpu_ms(&file("stat")),
        open_fds: std::fs::read_dir("/proc/self/fd")
            .map_or(0, |dir| dir.count().saturating_sub(1) as u64),
        max_fds: max_fds(&file("limits")),
    }
}

fn memory_bytes(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn cpu_ms(stat: &str) -> u64 {
    // The second field is the program's name in parentheses and may hold spaces and parentheses itself.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    ticks * (1000 / TICKS_PER_SECOND)
}

fn max_fds(limits: &str) -> u64 {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The same as the metric families that every Prometheus client library has.
pub(crate) fn families() -> Vec<Family> {
    let now = read();
    if now == ProcessView::default() {
        return Vec::new();
    }
    let one = |name, help, kind, value| Family {
        name,
        help,
        kind,
        samples: vec![Sample {
            labels: Vec::new(),
            value: Value::Number(value),
        }],
    };
    vec![
        one(
            "process_cpu_seconds_total",
            "Processor time used, user and system.",
            Kind::Counter,
            now.cpu_ms as f64 / 1e3,
        ),
        one(
            "process_resident_memory_bytes",
            "Resident memory.",
            Kind::Gauge,
            now.memory_bytes as f64,
        ),
        one(
            "process_open_fds",
            "Open file descriptors.",
            Kind::Gauge,
            now.open_fds as f64,
        ),
        one(
            "process_max_fds",
            "Limit of open file descriptors.",
            Kind::Gauge,
            now.max_fds as f64,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(cpu_ms(stat), 2000);
    }

    #[test]
    fn memory_and_descriptor_limit_are_read() {
        assert_eq!(memory_bytes("Name:\tx\nVmRSS:\t    2048 kB\n"), 2 << 20);
        assert_eq!(
            max_fds(
                "Limit Soft Hard\nMax open files            1024                 4096  files\n"
            ),
            1024
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_memory_and_descriptors() {
        let now = read();
        assert!(
            now.memory_bytes > 0 && now.open_fds > 0 && now.max_fds > 0,
            "{now:?}"
        );
    }
}
