//! Faults for tests of what watches over workers. Not in builds without debug assertions.

use std::path::PathBuf;
use std::sync::OnceLock;

/// The file with the fault, if there is to be one: `hang PID WORKER` or `die PID WORKER`, so that the process that comes next is well.
fn file() -> Option<&'static PathBuf> {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    FILE.get_or_init(|| std::env::var_os("TIDEGATE_FAULT_FILE").map(PathBuf::from))
        .as_ref()
}

/// Called by each worker whenever it goes round.
pub(crate) fn at_round(worker: usize) {
    let Some(text) = file().and_then(|file| std::fs::read_to_string(file).ok()) else {
        return;
    };
    let meant = format!("{} {worker}", std::process::id());
    match text.trim().split_once(' ') {
        Some(("hang", whom)) if whom == meant => loop {
            std::thread::park();
        },
        Some(("die", whom)) if whom == meant => panic!("told to die"),
        _ => {}
    }
}
