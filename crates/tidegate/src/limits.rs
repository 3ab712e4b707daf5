//! What the system lets this process use, raised as far as it may be and told at the start: a gateway that runs out
//! of descriptors at its busiest hour should have said so on its first day.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside those of connections: listening sockets, epoll, files, control sockets, probes.
const OWN_DESCRIPTORS: u64 = 256;

/// The limits in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Open descriptors a process; `None` is no limit.
    pub(crate) descriptors: Option<u64>,
    /// Memory in bytes that the control group allows; `None` is no limit below the machine's memory.
    pub(crate) memory: Option<u64>,
}

/// Raises the soft limit of descriptors to the hard one and reads what holds then.
pub(crate) fn raise() -> Limits {
    let now = getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        // Refused by some sandboxes; the limit is then reported as it is.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: now.maximum,
                maximum: now.maximum,
            },
        );
    }
    Limits {
        descriptors: getrlimit(Resource::Nofile).current,
        memory: control_group_memory(),
    }
}

impl Limits {
    /// Tells the limits, and warns when the configuration asks for more connections than there can be: each needs a
    /// descriptor, and in the worst case one more towards its upstream. `connections` counts what listeners allow by
    /// default as well; of that nobody said that it must be possible.
    pub(crate) fn report(&self, connections: u64, asked: u64) {
        let shown =
            |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |value| value.to_string());
        tracing::info!(
            descriptors = shown(self.descriptors),
            memory_bytes = shown(self.memory),
            connections,
            "limits"
        );
        if let Some(possible) = self.too_many(asked) {
            tracing::warn!(
                connections = asked,
                possible,
                descriptors = shown(self.descriptors),
                remedy = "raise the open files limit (LimitNOFILE, ulimit -n) or lower listeners' limits.connections",
                "the limit of open files does not allow as many connections as the listeners do"
            );
        }
    }

    fn too_many(&self, connections: u64) -> Option<u64> {
        let possible = self.descriptors?.saturating_sub(OWN_DESCRIPTORS) / 2;
        (connections > possible).then_some(possible)
    }
}

/// The smallest `memory.max` from this process's control group up to the root (version 2).
fn control_group_memory() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let ancestors = std::path::Path::new(group.trim_start_matches('/')).ancestors();
    ancestors
        .filter_map(|folder| {
            let file = std::path::Path::new("/sys/fs/cgroup")
                .join(folder)
                .join("memory.max");
            std::fs::read_to_string(file).ok()?.trim().parse().ok()
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let limits = raise();
        assert_eq!(limits.descriptors, getrlimit(Resource::Nofile).maximum);
    }

    #[test]
    fn more_connections_than_descriptors_are_noticed() {
        let limits = Limits {
            descriptors: Some(1024),
            memory: None,
        };
        assert_eq!(limits.too_many(384), None);
        assert_eq!(limits.too_many(385), Some(384));
        assert_eq!(
            Limits {
                descriptors: None,
                memory: None
            }
            .too_many(u64::MAX),
            None
        );
    }
}
