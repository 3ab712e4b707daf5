//! Ends the groups of workers when the host was killed and could not.
//!
//! A worker that keeps the protocol ends when its connection closes, but a `command` knows of none, and what a worker
//! has started itself knows of nothing. So a shell sleeps beside the host, with the groups' ids, on a pipe that only
//! the host holds open: its end is the host's, however it came about.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Reads `+ GROUP` and `- GROUP`, and kills what is left at the end.
const SCRIPT: &str = r#"trap '' HUP INT TERM
groups=' '
while read -r sign group; do
  case $sign in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
"#;

/// The shell, and what it watches.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    shell: Option<Child>,
    groups: BTreeSet<u32>,
}

impl Guard {
    /// From now on the group ends with the host.
    pub(crate) fn add(&self, group: u32) {
        self.change('+', group);
    }

    /// The group has ended.
    pub(crate) fn remove(&self, group: u32) {
        self.change('-', group);
    }

    /// How many groups there are.
    pub(crate) fn watches(&self) -> usize {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .groups
            .len()
    }

    fn change(&self, sign: char, group: u32) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = if sign == '+' {
            inner.groups.insert(group)
        } else {
            inner.groups.remove(&group)
        };
        if !changed {
            return;
        }
        let told = inner
            .shell
            .as_mut()
            .and_then(|shell| shell.stdin.as_mut())
            .map(|pipe| writeln!(pipe, "{sign} {group}"));
        if !matches!(told, Some(Ok(())))
            && let Err(error) = inner.start()
        {
            tracing::warn!(%error, "nothing ends workers if the host is killed: no shell could be started");
        }
    }
}

impl Inner {
    /// Starts the shell, again if it was killed, and tells it all groups.
    fn start(&mut self) -> io::Result<()> {
        self.end();
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "tidegate-guard"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // What ends the host's group must not end its guard first.
            .process_group(0)
            .spawn()?;
        let lines: String = self
            .groups
            .iter()
            .map(|group| format!("+ {group}\n"))
            .collect();
        let told = shell
            .stdin
            .as_mut()
            .map(|pipe| pipe.write_all(lines.as_bytes()));
        self.shell = Some(shell);
        told.unwrap_or(Ok(()))
    }

    fn end(&mut self) {
        if let Some(mut shell) = self.shell.take() {
            let _ = shell.kill();
            let _ = shell.wait();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Its groups were ended by those who started them, or end by the closing of the pipe now.
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut shell) = inner.shell.take() {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[test]
    fn groups_that_were_added_end_with_the_guard_and_those_removed_do_not() {
        let guard = Guard::default();
        let (mut kept, mut ended, mut last) = (sleeper(), sleeper(), sleeper());
        for child in [&ended, &kept, &last] {
            guard.add(child.id());
        }
        guard.remove(kept.id());
        drop(guard);
        assert_eq!(ended.wait().unwrap().signal(), Some(9));
        assert_eq!(last.wait().unwrap().signal(), Some(9));
        assert!(kept.try_wait().unwrap().is_none());
        kept.kill().unwrap();
        kept.wait().unwrap();
    }

    #[test]
    fn a_guard_that_was_killed_is_replaced_and_knows_all_groups() {
        let guard = Guard::default();
        let (mut first, mut second) = (sleeper(), sleeper());
        guard.add(first.id());
        {
            let mut inner = guard.inner.lock().unwrap();
            let shell = inner.shell.as_mut().unwrap();
            shell.kill().unwrap();
            shell.wait().unwrap();
        }
        guard.add(second.id());
        drop(guard);
        assert_eq!(first.wait().unwrap().signal(), Some(9));
        assert_eq!(second.wait().unwrap().signal(), Some(9));
    }
}
