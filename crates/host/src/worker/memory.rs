//! How much memory a process takes.

/// Resident memory of a process in bytes; `None` where the system does not tell.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_more_than_a_megabyte() {
        assert!(super::resident(std::process::id()).unwrap() > 1 << 20);
    }
}
