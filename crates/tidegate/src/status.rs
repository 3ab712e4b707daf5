//! `tidegate status`: looks at a running Tidegate through its admin port. The tables are the admin room's.

use std::process::ExitCode;
use std::time::Duration;

use tidegate_admin::Token;
use tidegate_admin::client::AdminUrl;
use tidegate_admin::status::{StatusOptions, View};

use crate::check::BAD;
use crate::cli::{Running, Section, Status};

/// The environment variable with the admin port's address.
const ADMIN: &str = "TIDEGATE_ADMIN";
/// The environment variable with the admin port's token: an option would show it to everybody who lists processes.
const TOKEN: &str = "TIDEGATE_ADMIN_TOKEN";
/// Where the admin port is unless the configuration says otherwise.
const DEFAULT_ADMIN: &str = "http://127.0.0.1:9900";
/// Time between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

/// Where the running one is asked, with the token that it wants.
///
/// # Errors
/// The address or the token's file, already told.
pub(crate) fn running(options: &Running) -> Result<(AdminUrl, Option<Token>), ExitCode> {
    let environment = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let admin = options
        .admin
        .clone()
        .or_else(|| environment(ADMIN))
        .unwrap_or_else(|| DEFAULT_ADMIN.to_owned());
    let admin: AdminUrl = match admin.parse() {
        Ok(admin) => admin,
        Err(error) => {
            eprintln!("error: {error}");
            return Err(ExitCode::from(BAD));
        }
    };
    let token = match &options.token_file {
        None => environment(TOKEN),
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some(text),
            Err(error) => {
                eprintln!(
                    "error: the token's file {} cannot be read: {error}",
                    path.display()
                );
                return Err(ExitCode::from(BAD));
            }
        },
    };
    Ok((admin, token.as_deref().and_then(Token::new)))
}

/// Runs the command.
pub(crate) fn run(options: &Status) -> ExitCode {
    let (admin, token) = match running(&options.running) {
        Ok(found) => found,
        Err(code) => return code,
    };
    let asked = StatusOptions {
        admin,
        token,
        view: options.section.map_or(View::All, view),
        json: options.json,
        watch: options.watch,
        interval: INTERVAL,
        colour: None,
    };
    match tidegate_admin::status::run(asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn view(section: Section) -> View {
    match section {
        Section::Upstreams => View::Upstreams,
        Section::Providers => View::Providers,
        Section::Services => View::Services,
        Section::Routes => View::Routes,
        Section::Listeners => View::Listeners,
        Section::Events => View::Events,
    }
}
