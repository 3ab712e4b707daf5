//! Events on stderr: lines for a person at a terminal, JSON for everyone else; and what happens on a panic.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::time::Duration;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::lines::Lines;

/// The environment variable with the filter; also how a process tells its children.
pub(crate) const VARIABLE: &str = "TIDEGATE_LOG";

/// How long the end of a process waits for a reader of its log.
const LAST: Duration = Duration::from_secs(1);
/// How long a panic does.
const AT_PANIC: Duration = Duration::from_millis(100);

/// The filter in force: the option, else the environment, else `info`.
pub(crate) fn filter(option: Option<&str>) -> String {
    let environment = || std::env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    option
        .map(str::to_owned)
        .or_else(environment)
        .unwrap_or_else(|| "info".to_owned())
}

/// Checks a filter: `LEVEL` or `TARGET=LEVEL`, separated by commas.
///
/// # Errors
/// A sentence that says what would be right.
pub(crate) fn parse(filter: &str) -> Result<Targets, String> {
    filter.parse().map_err(|_| {
        format!("log filter `{filter}` is not LEVEL[,TARGET=LEVEL…] with the levels off, error, warn, info, debug, trace")
    })
}

/// As [`start`], in a process that serves: a thread writes, so that who logs never waits for whoever reads stderr. [`flush`] at the end.
pub(crate) fn start_apart(filter: Targets) {
    Lines::start();
    start(filter);
}

/// Waits for what was logged to be written, but not long.
pub(crate) fn flush() {
    Lines::flush(LAST);
}

/// Starts logging and has panics logged.
pub(crate) fn start(filter: Targets) {
    let registry = tracing_subscriber::registry().with(filter);
    // `log_internal_errors` prints with `eprintln!`, which panics when stderr is a pipe that nobody reads any more;
    // a role outlives the terminal it was started from.
    let started = if std::io::stderr().is_terminal() {
        registry
            .with(fmt::layer().with_writer(Lines).log_internal_errors(false))
            .try_init()
    } else {
        let layer = fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        registry
            .with(layer.with_writer(Lines).log_internal_errors(false))
            .try_init()
    };
    // Only fails if a subscriber exists already, which then serves as well.
    drop(started);
    std::panic::set_hook(Box::new(on_panic));
}

/// A panic is a defect of ours: told with its place, and without data that may be a caller's or a secret.
fn on_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let payload = info.payload();
    let message = match (
        payload.downcast_ref::<&'static str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(literal), _) => literal,
        (None, Some(formatted)) => without_data(formatted),
        (None, None) => "",
    };
    tracing::error!(
        place,
        thread = thread.name().unwrap_or("unnamed"),
        message_start = message,
        "panic"
    );
    // It may be the end of the process.
    Lines::flush(AT_PANIC);
}

/// The beginning of a formatted message, up to what may be data: the standard library's own messages put it in
/// quotes or backticks after a colon or `of` (`unwrap()` on an `Err` value: "…", is not a char boundary … of `…`).
fn without_data(message: &str) -> &str {
    let stops = [": \"", "value: ", " of `", "\"", "'", "left:"];
    let end = stops
        .iter()
        .filter_map(|stop| message.find(stop))
        .min()
        .unwrap_or(message.len());
    let mut end = end.min(160);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_message_loses_what_may_be_a_secret_and_keeps_what_helps() {
        let bounds = "index out of bounds: the len is 3 but the index is 5";
        assert_eq!(without_data(bounds), bounds);
        for message in [
            "called `Result::unwrap()` on an `Err` value: Refused(hunter2)",
            "byte index 1 is not a char boundary; it is inside 'é' (bytes 0..2) of `hunter2`",
            "bad key \"hunter2\"",
            "assertion `left == right` failed\n  left: hunter2\n right: 2",
        ] {
            let kept = without_data(message);
            assert!(!kept.contains("hunter2") && !kept.is_empty(), "{kept}");
        }
        assert_eq!(without_data(&"é".repeat(200)).len(), 160);
    }

    #[test]
    fn a_bad_filter_is_refused_with_what_would_be_right() {
        assert!(parse("info,tidegate_gateway=debug").is_ok());
        assert!(
            parse("info,tidegate=loud")
                .unwrap_err()
                .contains("off, error, warn")
        );
    }
}
