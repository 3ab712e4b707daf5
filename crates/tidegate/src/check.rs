//! `tidegate check`: validates, and says what the configuration holds.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use tidegate_config::{Diagnostic, Diagnostics, Loaded, Severity};

use crate::cli::Check;

/// Exit code for a bad command line or configuration.
pub(crate) const BAD: u8 = 2;

/// Runs the command.
pub(crate) fn run(options: &Check) -> ExitCode {
    let loaded = load(&options.paths);
    if options.json {
        let report = match &loaded {
            Ok(loaded) => json!({
                "ok": true,
                "hash": loaded.hash,
                "files": loaded.files,
                "holds": holds(loaded).into_iter().map(|(what, count)| (what.replace(' ', "_"), json!(count)))
                    .collect::<serde_json::Map<_, _>>(),
                "diagnostics": loaded.warnings,
            }),
            Err(problems) => json!({ "ok": false, "diagnostics": problems }),
        };
        print(&format!("{report:#}\n"));
        return if loaded.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(BAD)
        };
    }
    match loaded {
        Ok(loaded) => {
            tell(&Diagnostics(loaded.warnings.clone()));
            print(&format!("ok: {}\n", summary(&loaded)));
            ExitCode::SUCCESS
        }
        Err(problems) => {
            tell(&problems);
            ExitCode::from(BAD)
        }
    }
}

/// Loads a configuration and looks at everything that a start would refuse: what only compiling shows, files of TLS, where the log goes.
///
/// # Errors
/// Every problem of the texts; when there is none, every problem beyond them.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Loaded, Diagnostics> {
    examine(tidegate_config::load(paths)?)
}

/// What only compiling shows of a configuration that was read, files of TLS, where the log goes.
///
/// # Errors
/// Every problem.
pub(crate) fn examine(loaded: Loaded) -> Result<Loaded, Diagnostics> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let problems = match runtime {
        Ok(runtime) => runtime.block_on(async { tidegate_gateway::check(&loaded) }),
        Err(error) => Err(vec![format!("cannot be checked: {error}")]),
    };
    match problems {
        Ok(()) => Ok(loaded),
        Err(problems) => Err(Diagnostics(problems.into_iter().map(problem).collect())),
    }
}

fn problem(message: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        path: String::new(),
        message,
        place: None,
        related: None,
        help: String::new(),
    }
}

/// Writes diagnostics to stderr; their number is the last line.
pub(crate) fn tell(problems: &Diagnostics) {
    if problems.0.is_empty() {
        return;
    }
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let text = problems.render(colour);
    // Nobody reads stderr: there is nowhere else to say it, and the exit code still tells.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes to stdout; a reader that left early (`| head`) is no error.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn holds(loaded: &Loaded) -> Vec<(&'static str, usize)> {
    let config = &loaded.config;
    let mut holds = vec![
        ("listeners", config.listeners.len()),
        ("routes", config.routes.len()),
        ("upstreams", config.upstreams.len()),
    ];
    // Told where there are some: many a configuration is about upstreams alone.
    let more = [
        ("providers", config.providers.len()),
        ("services", config.services.len()),
    ];
    holds.extend(more.into_iter().filter(|(_, count)| *count > 0));
    holds
}

fn summary(loaded: &Loaded) -> String {
    let counted = |what: &str, count: usize| {
        let what = if count == 1 {
            what.trim_end_matches('s')
        } else {
            what
        };
        format!("{count} {what}")
    };
    let parts: Vec<String> = holds(loaded)
        .into_iter()
        .map(|(what, count)| counted(what, count))
        .collect();
    format!(
        "{} in {}",
        parts.join(", "),
        counted("files", loaded.files.len())
    )
}
