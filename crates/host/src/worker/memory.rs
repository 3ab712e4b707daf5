//! How much memory and processor time a process takes.

/// Resident memory of a process in bytes; `None` where the system does not tell.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Time of the processor that a process has used since its start, in the system's ticks; `None` where the system does not tell.
pub(crate) fn processor_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; behind it come the state and ten numbers, then the times in user and system mode.
    let (_, rest) = text.rsplit_once(')')?;
    let mut times = rest.split_ascii_whitespace().skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_computes_uses_time_and_one_that_does_not_exist_has_none() {
        let me = std::process::id();
        let before = super::processor_time(me).unwrap();
        let mut number = 1_u64;
        while super::processor_time(me).unwrap() < before + 2 {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
        assert_eq!(super::processor_time(u32::MAX), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_takes_more_than_a_megabyte() {
        assert!(super::resident(std::process::id()).unwrap() > 1 << 20);
    }
}
