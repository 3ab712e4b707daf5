//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps model services available: one gateway in front of everything that can answer.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What is logged to stderr: LEVEL[,TARGET=LEVEL…]. Default: $TIDEGATE_LOG, else info
    #[arg(long, global = true, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run what the configuration names until SIGTERM or SIGINT
    Up(Up),
    /// Validate a configuration; exit code 2 and diagnostics on stderr when it is bad
    Check(Check),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Run as a part of `up`
    #[command(hide = true)]
    Role {
        /// Which part.
        #[command(subcommand)]
        role: Role,
    },
}

/// `tidegate up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Configuration files, or folders with *.yaml files
    #[arg(required = true, value_name = "CONFIG")]
    pub(crate) paths: Vec<PathBuf>,
    /// Worker threads. Default: the processors that this process may use
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<NonZeroUsize>,
    /// Replace the running one on the same state folder without refusing a connection
    #[arg(long)]
    pub(crate) upgrade: bool,
}

/// `tidegate check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Configuration files, or folders with *.yaml files
    #[arg(required = true, value_name = "CONFIG")]
    pub(crate) paths: Vec<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long)]
    pub(crate) json: bool,
}

/// The roles that a supervisor starts.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// The request path
    Gateway,
}
