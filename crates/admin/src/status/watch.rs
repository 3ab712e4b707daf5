//! `--watch`: the tables drawn again in place, with rates.
//!
//! Plain ANSI: the alternate screen keeps what stood before, each frame overwrites the last line by line (nothing is
//! cleared first, so nothing flickers), and a guard restores the terminal however the command ends.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{StatusError, StatusOptions, View, json, render, size, style, write};
use crate::client::{Client, ClientError};
use crate::overview::Overview;

/// Rates are over the answers of this time: steady enough to read, quick enough to see a change.
const WINDOW: Duration = Duration::from_secs(5);

pub(super) async fn watch(client: &mut Client, options: &StatusOptions) -> Result<(), StatusError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StatusError::Runtime)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(StatusError::Runtime)?;
    tokio::select! {
        result = frames(client, options) => result,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

async fn frames(client: &mut Client, options: &StatusOptions) -> Result<(), StatusError> {
    let mut ticks = interval(options.interval.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    if options.json {
        loop {
            ticks.tick().await;
            write(&(json(client, options.view).await? + "\n"))?;
        }
    }
    // The first answer comes before the screen is taken: a wrong address is told in plain text.
    let first: Overview = client.get("/api/v1/overview").await?;
    let live = io::stdout().is_terminal();
    let _screen = live.then(Screen::enter).transpose()?;
    let mut answers = VecDeque::from([(Instant::now(), first)]);
    let mut lost: Option<(Instant, ClientError)> = None;
    ticks.reset();
    loop {
        if let Some((_, now)) = answers.back() {
            let earlier = if answers.len() > 1 {
                answers.front().map(|(_, overview)| overview)
            } else {
                None
            };
            let mut text = render(now, earlier, options.view, &style(options.colour));
            if let Some((since, error)) = &lost {
                let notice = format!(
                    "no answer for {} s, trying again: {error}\n\n",
                    since.elapsed().as_secs()
                );
                text.insert_str(0, &notice);
            }
            let rows = size().map_or(usize::MAX, |(_, rows)| rows);
            write(&if live {
                frame(&text, rows, options.view)
            } else {
                text + "\n"
            })?;
        }
        ticks.tick().await;
        match client.get::<Overview>("/api/v1/overview").await {
            Ok(overview) => {
                if answers
                    .back()
                    .is_some_and(|(_, last)| last.instance != overview.instance)
                {
                    answers.clear();
                }
                lost = None;
                answers.push_back((Instant::now(), overview));
                while answers.len() > 2
                    && answers.front().is_some_and(|(at, _)| at.elapsed() > WINDOW)
                {
                    answers.pop_front();
                }
            }
            Err(error) => lost = Some((lost.map_or_else(Instant::now, |(since, _)| since), error)),
        }
    }
}

/// The bytes that turn the last frame into this one: from the top, each line cleared to its end, then all below.
/// What does not fit is cut with a note; for events the newest (the last lines) are kept.
pub(super) fn frame(text: &str, rows: usize, view: View) -> String {
    let mut lines: Vec<&str> = text.trim_end().lines().collect();
    let more;
    if lines.len() > rows && rows > 2 {
        let hidden = lines.len() - (rows - 1);
        more = format!("… {hidden} more lines");
        if view == View::Events {
            // Headline, blank and titles stay.
            lines.drain(3..3 + hidden.min(lines.len() - 3));
        } else {
            lines.truncate(rows - 1);
        }
        lines.push(&more);
    }
    // 2026: a terminal that knows it shows the frame at once; others ignore it.
    let mut out = String::from("\x1b[?2026h\x1b[H");
    for (n, line) in lines.iter().enumerate() {
        if n > 0 {
            out.push_str("\r\n");
        }
        out.push_str(line);
        out.push_str("\x1b[0m\x1b[K");
    }
    out.push_str("\x1b[J\x1b[?2026l");
    out
}

/// The alternate screen with the cursor hidden, until dropped.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, StatusError> {
        // The guard exists before the write: a half-written sequence is undone too.
        let screen = Self;
        write("\x1b[?1049h\x1b[?25l\x1b[2J")?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write("\x1b[?2026l\x1b[0m\x1b[?25h\x1b[?1049l");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_clears_what_it_does_not_overwrite_and_never_scrolls() {
        let drawn = frame("a\nb\nc\nd\ne\n", 4, View::All);
        assert!(
            drawn.starts_with("\x1b[?2026h\x1b[Ha\x1b[0m\x1b[K\r\nb"),
            "{drawn:?}"
        );
        assert!(
            drawn.ends_with("… 2 more lines\x1b[0m\x1b[K\x1b[J\x1b[?2026l"),
            "{drawn:?}"
        );
        assert_eq!(
            drawn.matches("\r\n").count(),
            3,
            "four rows have three line ends"
        );
    }

    #[test]
    fn of_many_events_the_newest_stay() {
        let drawn = frame("head\n\ntitles\n1\n2\n3\n4", 5, View::Events);
        assert!(
            drawn.contains('4') && !drawn.contains("\r\n1") && drawn.contains("titles"),
            "{drawn:?}"
        );
    }
}
