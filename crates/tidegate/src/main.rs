//! The `tidegate` binary: command line, supervisor, wiring of the roles. It holds no logic of its own.
//!
//! `tidegate up` runs as two to four processes: the [`supervisor`], which holds the listening sockets and does next to
//! nothing; a gateway ([`role`]), which does the work and may die or be replaced at any time; control, which owns
//! the embedded store, where the configuration needs that ([`plan::needs_control`]); and a host ([`role::host`]), which has the
//! workers of models, where the configuration has services. They talk over Unix sockets
//! ([`control`]).

mod check;
mod cli;
mod control;
mod demo;
mod exe;
mod hostdir;
mod import;
mod keys;
mod limits;
mod lines;
mod log;
mod plan;
mod role;
mod rundir;
mod serve;
mod sockets;
mod status;
mod supervisor;
mod up;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::Targets;

use crate::cli::{Cli, Command, Role};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything else: the supervisor never parses a command line (see `plan`).
    if let Some(plan) = plan::Plan::from_environment() {
        return match log::parse(&log::filter(None)) {
            Ok(filter) => {
                log::start_apart(filter);
                let code = supervisor::run(plan);
                log::flush();
                code
            }
            Err(problem) => bad_usage(&problem),
        };
    }
    if let Some(role) = role_to_play() {
        return match log::parse(&log::filter(None)) {
            Ok(filter) => play(role, filter),
            Err(problem) => bad_usage(&problem),
        };
    }
    let cli = Cli::parse();
    let log = log::filter(cli.log.as_deref());
    let filter = match log::parse(&log) {
        Ok(filter) => filter,
        Err(problem) => return bad_usage(&problem),
    };
    match cli.command {
        Command::Up(options) => up::run(&options, &log),
        Command::Serve(options) => serve::run(&options, &log),
        Command::Check(options) => check::run(&options),
        Command::Schema => {
            check::print(&format!("{:#}\n", tidegate_config::schema()));
            ExitCode::SUCCESS
        }
        Command::Import(options) => import::run(&options),
        Command::Status(options) => status::run(&options),
        Command::Keys(options) => keys::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::DemoInstance(options) => demo::run_instance(&options),
        Command::DemoGuard { folder } => demo::run_guard(&folder),
        Command::Role { role } => play(role, filter),
    }
}

/// The role that a supervisor starts in these very words. They are not given to the parser: it would stay in the memory of a process that
/// lives long and never needs it again.
fn role_to_play() -> Option<Role> {
    let mut words = std::env::args_os().skip(1);
    let role = match (words.next()?.to_str()?, words.next()?.to_str()?) {
        ("role", "gateway") => Role::Gateway,
        ("role", "control") => Role::Control,
        ("role", "host") => Role::Host,
        _ => return None,
    };
    words.next().is_none().then_some(role)
}

fn play(role: Role, filter: Targets) -> ExitCode {
    log::start_apart(filter);
    let code = match role {
        Role::Gateway => role::run(),
        Role::Control => role::control::run(),
        Role::Host => role::host::run(),
    };
    log::flush();
    code
}

fn bad_usage(problem: &str) -> ExitCode {
    eprintln!("error: {problem}");
    ExitCode::from(check::BAD)
}
