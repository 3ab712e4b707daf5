//! `tidegate status`: what a running gateway shows of itself, as tables in a terminal.
//!
//! [`render()`] is pure, from answers to text; `watch` draws it again and again; [`run`] is the command.

mod format;
mod keys;
mod providers;
mod render;
mod services;
mod table;
mod watch;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

pub use keys::keys_table;
pub use render::{Style, View, render};

use crate::Token;
use crate::client::{AdminUrl, Client, ClientError};
use crate::overview::Overview;

/// What `tidegate status` was asked.
#[derive(Clone, Debug)]
pub struct StatusOptions {
    /// The admin port.
    pub admin: AdminUrl,
    /// Its token, if it wants one.
    pub token: Option<Token>,
    /// What to show.
    pub view: View,
    /// The API's JSON instead of tables (one line an answer with `watch`).
    pub json: bool,
    /// Ask and draw again every `interval` until Ctrl-C.
    pub watch: bool,
    /// Time between two looks with `watch`; one second is usual, 100 ms the least.
    pub interval: Duration,
    /// Colours; `None`: when standard output is a terminal and `NO_COLOR` is not set.
    pub colour: Option<bool>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The gateway did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The tables could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[source] io::Error),
    /// No runtime for the request.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
}

/// Time for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the command on standard output; returns when it is done (with `watch`: on Ctrl-C or SIGTERM, the terminal
/// restored). Blocks; may be called inside a runtime or outside.
///
/// # Errors
/// [`StatusError`]. A reader that went away (`| head`) is no error.
pub fn run(options: StatusOptions) -> Result<(), StatusError> {
    // A thread of its own, because a runtime cannot be entered from within another.
    let outcome = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(StatusError::Runtime)?;
                runtime.block_on(command(&options))
            })
            .join()
    });
    match outcome {
        Ok(Err(StatusError::Output(error))) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

async fn command(options: &StatusOptions) -> Result<(), StatusError> {
    let mut client = Client::new(options.admin.clone(), options.token.clone(), TIMEOUT);
    if options.watch {
        return watch::watch(&mut client, options).await;
    }
    let text = if options.json {
        json(&mut client, options.view).await? + "\n"
    } else {
        let overview: Overview = client.get("/api/v1/overview").await?;
        render(&overview, None, options.view, &style(options.colour))
    };
    write(&text)
}

/// The API's own answer, as it came.
async fn json(client: &mut Client, view: View) -> Result<String, ClientError> {
    let path = match view {
        View::All => "/api/v1/overview",
        View::Upstreams => "/api/v1/upstreams",
        View::Providers => "/api/v1/providers",
        View::Services => "/api/v1/services",
        View::Routes => "/api/v1/routes",
        View::Listeners => "/api/v1/listeners",
        View::Events => "/api/v1/events",
    };
    let value: serde_json::Value = client.get(path).await?;
    Ok(value.to_string())
}

/// How standard output wants it.
fn style(colour: Option<bool>) -> Style {
    let terminal = io::stdout().is_terminal();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Style {
        width: size().map_or(120, |(width, _)| width),
        colour: colour.unwrap_or(terminal && !no_colour),
    }
}

/// Columns and rows of the terminal, `None` when standard output is none.
fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

fn write(text: &str) -> Result<(), StatusError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(StatusError::Output)
}
