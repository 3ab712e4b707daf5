//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidegate_config::values::parse_duration;
use tidegate_keys::account::{Amount, Budget, BudgetChange, NewAmount, Span};

use crate::serve;

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
    /// Host a Python class without a configuration: HTTP, gRPC, streams and the protocols of model servers
    Serve(Serve),
    /// Validate a configuration; exit code 2 and diagnostics on stderr when it is bad
    Check(Check),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Turn another system's configuration into ours: YAML on stdout, notes on what differs on stderr
    Import(Import),
    /// Look at a running Tidegate
    Status(Status),
    /// Virtual keys: what callers show instead of a provider's key, with limits of their own
    Keys(Keys),
    /// The whole thing on this machine, without files or network: a real model, real failures, no failed request
    Demo(Demo),
    /// Run as a part of `demo`: one instance of its model
    #[command(hide = true)]
    DemoInstance(DemoInstance),
    /// Run as a part of `demo`: ends what outlives it
    #[command(hide = true)]
    DemoGuard {
        /// The demo's folder.
        folder: PathBuf,
    },
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
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// Replace the running one on the same state folder without refusing a connection
    #[arg(long)]
    pub(crate) upgrade: bool,
    /// With --upgrade: hosts go on as they are, with their models in memory, and run the code that they were started with
    #[arg(long, requires = "upgrade")]
    pub(crate) keep_hosts: bool,
}

/// `tidegate serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The class, e.g. model:Sentiment for the class Sentiment in model.py
    #[arg(value_name = "MODULE:CLASS", value_parser = serve::class)]
    pub(crate) class: String,
    /// Port for callers, HTTP and gRPC
    #[arg(long, value_name = "N", default_value_t = 50051)]
    pub(crate) port: u16,
    /// Address that callers are taken on
    #[arg(long, value_name = "IP", default_value_t = serve::EVERYWHERE)]
    pub(crate) address: IpAddr,
    /// Admin port: IP:PORT, unix:PATH or off. Default: 127.0.0.1:9900, or another port when that is in use
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<String>,
    /// Processes that run the model
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) replicas: u32,
    /// Calls that each process runs at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) concurrency: u32,
    /// Versions of the model that each process keeps in memory
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) max_loaded: u32,
    /// Version that a call without one gets
    #[arg(long, value_name = "NAME", value_parser = serve::version)]
    pub(crate) version: Option<String>,
    /// Folder of the models: each version has its own in it
    #[arg(long, value_name = "DIR", default_value_os_t = serve::data())]
    pub(crate) data: PathBuf,
    /// Folder that the module is imported from
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) path: PathBuf,
    /// The Python interpreter: a name of PATH, or a path. Default: python3
    #[arg(long, value_name = "EXE")]
    pub(crate) python: Option<String>,
    /// Name of the service. Default: the class's, in lower case
    #[arg(long, value_name = "NAME", value_parser = serve::name)]
    pub(crate) name: Option<String>,
    /// Load the model anew, without a lost call, when a *.py file in or below its folder changes (but for hidden folders and --data)
    #[arg(long)]
    pub(crate) reload: bool,
    /// Threads of the gateway. Default: the processors that this process may use
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// Folder for state of its own. Default: .tidegate in the models' folder
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Print the configuration that this stands for, and end
    #[arg(long)]
    pub(crate) print_config: bool,
    /// Replace the running one on the same state folder
    #[arg(long, hide = true)]
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

/// `tidegate import`.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// Whose configuration it is
    pub(crate) system: ImportSystem,
    /// Files, or - for stdin
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Print secrets as they are, instead of ${NAME} with a note
    #[arg(long)]
    pub(crate) keep_secrets: bool,
}

/// Systems whose configuration `tidegate import` reads.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ImportSystem {
    /// ai-proxy: the plugin's configuration or its WasmPlugin object
    Higress,
}

/// `tidegate status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// What to show. Default: an overview
    pub(crate) section: Option<Section>,
    /// Print the admin API's JSON instead of tables
    #[arg(long)]
    pub(crate) json: bool,
    /// Look again every second until Ctrl-C
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) running: Running,
}

/// Which running Tidegate is asked.
#[derive(Debug, Args)]
pub(crate) struct Running {
    /// The admin port. Default: $TIDEGATE_ADMIN, else http://127.0.0.1:9900
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) admin: Option<String>,
    /// A file with the admin port's token. Default: the token in $TIDEGATE_ADMIN_TOKEN
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) token_file: Option<PathBuf>,
}

/// `tidegate keys`.
#[derive(Debug, Args)]
pub(crate) struct Keys {
    #[command(subcommand)]
    pub(crate) command: KeysCommand,
    /// Print the admin API's JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) running: Running,
}

/// What `tidegate keys` does.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key; its token is printed on stdout and can never be shown again
    Create(CreateKey),
    /// All keys with what they have used
    List,
    /// One key
    Show {
        /// Its id (vk-…)
        id: String,
    },
    /// Change a key's name, limits or end on every replica; what it has spent stays spent
    Update(UpdateKey),
    /// Revoke a key, on every replica
    Revoke {
        /// Its id (vk-…)
        id: String,
    },
}

/// `tidegate keys create`.
#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// A name for people
    pub(crate) name: String,
    /// Models that may be asked for, by callers' names; * stands for anything. Default: all
    #[arg(long, value_name = "GLOB,…", value_delimiter = ',')]
    pub(crate) models: Vec<String>,
    /// Requests in a minute
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<u64>,
    /// Tokens in a minute, prompt and answer together
    #[arg(long, value_name = "N")]
    pub(crate) tokens_per_minute: Option<u64>,
    /// AMOUNT/day or AMOUNT/month in the currency of the price table; may be given for each
    #[arg(long, value_name = "AMOUNT/SPAN", value_parser = money)]
    pub(crate) budget: Vec<Budget>,
    /// N/day or N/month in tokens; may be given for each
    #[arg(long, value_name = "N/SPAN", value_parser = tokens)]
    pub(crate) token_budget: Vec<Budget>,
    /// Time until it ends by itself (30d, 12h). Default: it stays until it is revoked
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub(crate) expires_in: Option<Duration>,
}

/// `tidegate keys update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateKey {
    /// Its id (vk-…)
    pub(crate) id: String,
    /// Another name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The models that may be asked for from now on; * alone: all
    #[arg(long, value_name = "GLOB,…", value_delimiter = ',')]
    pub(crate) models: Option<Vec<String>>,
    /// Requests in a minute, or none
    #[arg(long, value_name = "N|none", value_parser = count)]
    pub(crate) requests_per_minute: Option<Count>,
    /// Tokens in a minute, or none
    #[arg(long, value_name = "N|none", value_parser = count)]
    pub(crate) tokens_per_minute: Option<Count>,
    /// The budget in money for that span, or none/SPAN; may be given for each
    #[arg(long, value_name = "AMOUNT/SPAN", value_parser = money_change)]
    pub(crate) budget: Vec<BudgetChange>,
    /// The budget in tokens for that span, or none/SPAN; may be given for each
    #[arg(long, value_name = "N/SPAN", value_parser = tokens_change)]
    pub(crate) token_budget: Vec<BudgetChange>,
    /// Time from now until it ends by itself, or never
    #[arg(long, value_name = "TIME|never", value_parser = end)]
    pub(crate) expires_in: Option<End>,
}

/// A limit a minute; `None` removes it. (An `Option` in an `Option` is something else to the parser.)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub(crate) Option<u64>);

/// When a key ends; `None`: never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End(pub(crate) Option<Duration>);

/// What `tidegate status` shows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Section {
    /// Upstreams with their members
    Upstreams,
    /// Providers with their keys
    Providers,
    /// Services with their instances
    Services,
    /// Routes with their traffic
    Routes,
    /// Listeners with their connections
    Listeners,
    /// What happened
    Events,
}

/// `tidegate demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How long it lasts. One round of everything takes 20s at least
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Print the report as JSON on stdout, and what happens on stderr
    #[arg(long)]
    pub(crate) json: bool,
    /// Port that callers use. Default: 8080, or another one when that is in use
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Port of the dashboard. Default: 9900, or another one when that is in use
    #[arg(long, value_name = "N")]
    pub(crate) admin_port: Option<u16>,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// No colours
    #[arg(long)]
    pub(crate) no_color: bool,
    /// Nothing but the report
    #[arg(long)]
    pub(crate) quiet: bool,
}

/// `tidegate demo-instance`.
#[derive(Debug, Args)]
pub(crate) struct DemoInstance {
    /// `v1` or `v2`
    #[arg(long)]
    pub(crate) version: String,
    /// Its name in answers
    #[arg(long)]
    pub(crate) name: String,
    /// Port on 127.0.0.1; 0: any
    #[arg(long)]
    pub(crate) port: u16,
}

fn money(text: &str) -> Result<Budget, String> {
    let (amount, per) = budget(text)?;
    let amount: f64 = amount
        .parse()
        .map_err(|_| format!("{amount:?} is no amount"))?;
    match amount > 0.0 && amount.is_finite() {
        true => Ok(Budget::money(amount, per)),
        false => Err("an amount is more than 0".into()),
    }
}

fn tokens(text: &str) -> Result<Budget, String> {
    let (amount, per) = budget(text)?;
    let amount = amount
        .parse()
        .map_err(|_| format!("{amount:?} is no number of tokens"))?;
    let amount = Amount::Tokens(amount);
    Ok(Budget { amount, per })
}

fn budget(text: &str) -> Result<(&str, Span), String> {
    match text.split_once('/') {
        Some((amount, "day")) => Ok((amount, Span::Day)),
        Some((amount, "month")) => Ok((amount, Span::Month)),
        _ => Err("write 10/day or 200/month".into()),
    }
}

fn money_change(text: &str) -> Result<BudgetChange, String> {
    change(text, NewAmount::Micros(None), money)
}

fn tokens_change(text: &str) -> Result<BudgetChange, String> {
    change(text, NewAmount::Tokens(None), tokens)
}

fn change(
    text: &str,
    none: NewAmount,
    read: impl Fn(&str) -> Result<Budget, String>,
) -> Result<BudgetChange, String> {
    let parts = budget(text).map_err(|_| "write 10/day, 200/month, none/day or none/month")?;
    match parts {
        ("none", per) => Ok(BudgetChange { to: none, per }),
        _ => read(text).map(BudgetChange::from),
    }
}

fn count(text: &str) -> Result<Count, String> {
    match text {
        "none" => Ok(Count(None)),
        _ => match text.parse() {
            Ok(n) => Ok(Count(Some(n))),
            Err(_) => Err("write a number, or none".into()),
        },
    }
}

fn end(text: &str) -> Result<End, String> {
    match text {
        "never" => Ok(End(None)),
        _ => lifetime(text).map(|time| End(Some(time))),
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match text.strip_suffix('d').map(str::parse::<u64>) {
        Some(Ok(days)) => Ok(Duration::from_secs(days.saturating_mul(86_400))),
        _ => duration(text),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration < Duration::from_secs(1) => Err("less than a second".into()),
        Ok(duration) => Ok(duration),
        Err(wrong) => Err(wrong.to_string()),
    }
}

/// The roles that a supervisor starts.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// The request path
    Gateway,
    /// The embedded store's owner
    Control,
    /// Workers of models
    Host,
}
