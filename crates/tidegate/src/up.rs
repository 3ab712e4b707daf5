//! `tidegate up`: checks everything that can be checked before anything is touched, then becomes the supervisor.

use std::num::NonZeroUsize;
use std::process::ExitCode;

use tidegate_config::Diagnostics;

use crate::check;
use crate::cli::Up;
use crate::plan::Plan;

/// Runs the command. On success this does not return: the process becomes the supervisor.
pub(crate) fn run(options: &Up, log: &str) -> ExitCode {
    let loaded = match check::load(&options.paths) {
        Ok(loaded) => loaded,
        Err(problems) => {
            check::tell(&problems);
            return ExitCode::from(check::BAD);
        }
    };
    check::tell(&Diagnostics(loaded.warnings.clone()));
    let workers = workers(options.workers);
    let mut plan = match Plan::new(&loaded, &options.paths, workers, options.upgrade) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("error: the current folder cannot be used: {error}");
            return ExitCode::FAILURE;
        }
    };
    plan.keep_hosts = options.keep_hosts;
    let error = plan.execute(log);
    eprintln!("error: cannot start the supervisor: {error}");
    ExitCode::FAILURE
}

/// Worker threads: those asked for, else the processors that affinity and the control group's quota leave, not those of the machine.
pub(crate) fn workers(asked: Option<u16>) -> usize {
    let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    asked.map_or_else(|| available().get(), usize::from)
}
