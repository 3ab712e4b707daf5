//! The terminal: one screen redrawn in place, or a line an event where nobody is watching.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tidegate_admin::overview::Overview;

use super::model::Version;
use super::observer::{Observer, key_health};
use super::report::thousands;
use super::scene::{Scene, Shown};
use super::style::{Style, columns, fit, wrap};
use super::traffic::{Answer, Recent, RecentAll, Second, Traffic};
use super::words::short;

/// How often the screen is drawn.
const FRAME: Duration = Duration::from_millis(200);
/// How often a line tells the traffic where there is no screen.
const STATUS_LINE: Duration = Duration::from_secs(5);
/// One of hundreds of answers is shown for so long.
const READABLE: Duration = Duration::from_millis(1600);
/// Wider than this nothing gets better.
const WIDEST: usize = 110;
/// Lines of what has happened that stay, however many members there are.
const FEWEST_OUTCOMES: usize = 4;
/// Columns of the bar that shows an instance's share: where there is room, and where there is little.
const BAR: [usize; 2] = [16, 10];
/// Columns that the longer bar needs.
const ROOMY: usize = 96;

/// What all views show.
#[derive(Clone, Debug)]
pub(crate) struct Shows {
    pub(crate) scene: Arc<Scene>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) observer: Observer,
    pub(crate) start: Instant,
    pub(crate) deadline: Instant,
    pub(crate) dashboard: String,
    pub(crate) accuracy: [f64; 2],
}

/// Where the view goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Redrawn in place on stdout.
    Screen,
    /// Lines on stdout.
    Lines,
    /// Lines on stderr: stdout is for the JSON alone.
    LinesOnStderr,
    /// Nothing.
    Quiet,
}

impl Mode {
    /// What fits these options and this terminal.
    pub(crate) fn choose(json: bool, quiet: bool) -> Self {
        match (quiet, json) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::LinesOnStderr,
            (false, false) if io::stdout().is_terminal() && size().is_some() => Mode::Screen,
            (false, false) => Mode::Lines,
        }
    }

    /// Writes a line outside the screen; a reader that is gone is no reason to stop.
    pub(crate) fn line(self, text: &str) {
        match self {
            Mode::Screen | Mode::Lines => drop(writeln!(io::stdout(), "{text}")),
            Mode::LinesOnStderr => drop(writeln!(io::stderr(), "{text}")),
            Mode::Quiet => {}
        }
    }
}

/// Shows until the runtime drops it.
pub(crate) async fn show(shows: Shows, mode: Mode, style: Style) {
    match mode {
        Mode::Screen => screen(&shows, style).await,
        Mode::Lines | Mode::LinesOnStderr => lines(&shows, mode, style).await,
        Mode::Quiet => {}
    }
}

async fn lines(shows: &Shows, mode: Mode, style: Style) {
    let mut told = 0;
    let mut status = Instant::now();
    loop {
        for line in shows.scene.log(told) {
            told += 1;
            mode.line(&format!(
                "{} {line}",
                style.dim(&clock(shows.start.elapsed()))
            ));
        }
        if status.elapsed() >= STATUS_LINE {
            status = Instant::now();
            let recent = shows.traffic.recent();
            let line = traffic_line(shows, &recent, style);
            mode.line(&format!(
                "{} {line}",
                style.dim(&clock(shows.start.elapsed()))
            ));
        }
        tokio::time::sleep(FRAME).await;
    }
}

/// The alternate screen, left again when dropped.
#[derive(Debug)]
struct AlternateScreen;

static ON_SCREEN: AtomicBool = AtomicBool::new(false);

impl AlternateScreen {
    fn enter() -> Self {
        ON_SCREEN.store(true, Ordering::SeqCst);
        let _ = write!(io::stdout(), "\x1b[?1049h\x1b[?25l");
        Self
    }
}

impl Drop for AlternateScreen {
    fn drop(&mut self) {
        leave_screen();
    }
}

/// Gives the terminal back as it was. For the panic hook too: a message on the alternate screen is lost with it.
pub(crate) fn leave_screen() {
    if ON_SCREEN.swap(false, Ordering::SeqCst) {
        let mut out = io::stdout();
        let _ = write!(out, "\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
    }
}

async fn screen(shows: &Shows, style: Style) {
    let _alternate = AlternateScreen::enter();
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (mut answer, mut changed) = (None, Instant::now());
    loop {
        frames.tick().await;
        let (width, height) = size().unwrap_or((80, 24));
        let mut text = String::from("\x1b[H");
        if changed.elapsed() >= READABLE {
            changed = Instant::now();
            answer = shows.traffic.latest();
        }
        let lines = frame(shows, &answer, style, width, height);
        for line in lines.iter().take(height) {
            text.push_str(&fit(line, width));
            // What an earlier, longer line left.
            text.push_str("\x1b[K\r\n");
        }
        // Not after the last line: that would scroll.
        text.truncate(text.trim_end_matches("\r\n").len());
        text.push_str("\x1b[J");
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }
}

fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0)
        .then_some((usize::from(size.ws_col), usize::from(size.ws_row)))
}

fn frame(
    shows: &Shows,
    answer: &Option<Answer>,
    style: Style,
    width: usize,
    height: usize,
) -> Vec<String> {
    let width = width.min(WIDEST);
    let recent = shows.traffic.recent();
    let mut out = vec![title(shows, style, width), String::new()];
    out.push(traffic_line(shows, &recent, style));
    let seconds = shows.traffic.seconds();
    let room = width.saturating_sub(34) / 2;
    out.push(format!(
        "{} {}   {} {}",
        style.dim("req/s"),
        style.accent(&chart(&seconds, room, |s| f64::from(s.answers))),
        style.dim("slowest"),
        style.accent(&chart(&seconds, room, |s| s.slowest.as_secs_f64().sqrt())),
    ));
    out.push(String::new());
    now(shows, style, width, &mut out);
    out.push(String::new());
    // Below: an empty line, an answer, another one, and some of what was.
    let height_of_members = height.saturating_sub(out.len() + 3 + FEWEST_OUTCOMES);
    for section in sections(shows, &recent, style, width, height_of_members) {
        out.extend(section);
    }
    out.push(String::new());
    out.extend(
        answer
            .as_ref()
            .and_then(|answer| answer_line(answer, style)),
    );
    out.push(String::new());
    let outcomes = shows.scene.outcomes();
    // The newest that fit.
    let room = height.saturating_sub(out.len() + 1);
    let skip = outcomes.len().saturating_sub(room);
    for outcome in &outcomes[skip..] {
        let mark = if outcome.is_good() {
            style.good("✓")
        } else {
            style.bad("✗")
        };
        let at = clock(Duration::from_secs_f64(outcome.at_s.max(0.0)));
        out.push(fit(
            &format!(
                "{} {mark} {:<31} {}",
                style.dim(&at),
                outcome.what,
                style.dim(&outcome.result)
            ),
            width,
        ));
    }
    out
}

fn title(shows: &Shows, style: Style, width: usize) -> String {
    let total = shows.deadline.saturating_duration_since(shows.start);
    let now = shows.start.elapsed();
    let left = format!(
        "{} {}",
        style.bold("tidegate demo"),
        style.dim(&format!("{} of {}", clock(now), clock(total)))
    );
    let right = format!(
        "{} {}",
        style.dim("dashboard"),
        style.accent(&shows.dashboard)
    );
    let gap = width
        .saturating_sub(columns(&left) + columns(&right))
        .max(2);
    format!("{left}{}{right}", " ".repeat(gap))
}

fn traffic_line(shows: &Shows, recent: &RecentAll, style: Style) -> String {
    let totals = shows.traffic.totals();
    let failed = match totals.failed {
        0 => style.good("0 failed"),
        n => style.bad(&format!("{} failed", thousands(n))),
    };
    format!(
        "{} req/s  p50 {} p99 {}  {} answered  {failed}  {} retries absorbed",
        style.bold(&format!("{:.0}", recent.rate)),
        latency(recent.p50),
        latency(recent.p99),
        thousands(totals.answered),
        thousands(shows.observer.retries() + shows.observer.failovers() + shows.scene.reruns()),
    )
}

fn now(shows: &Shows, style: Style, width: usize, out: &mut Vec<String>) {
    /// Lines that are kept free for it, so that what is below does not jump.
    const ROOM: usize = 4;
    let now = shows.scene.now();
    out.push(format!("{} {}", style.event("▶"), style.event(&now.title)));
    let mut lines: Vec<String> = now
        .lines
        .iter()
        .flat_map(|line| wrap(line, width.saturating_sub(2)))
        .collect();
    // The newest are the most telling.
    let surplus = lines.len().saturating_sub(ROOM);
    lines.drain(..surplus);
    lines.resize(ROOM, String::new());
    out.extend(lines.into_iter().map(|line| format!("  {line}")));
}

/// A group of members, its headline first.
struct Section {
    lines: Vec<String>,
    /// What happens now concerns one of its members.
    concerned: bool,
}

/// A member as a line shows it.
struct Row {
    name: String,
    address: String,
    state: String,
    cause: String,
    inflight: u64,
}

/// The sections for which there is room; what happens now is seen in any case.
fn sections(
    shows: &Shows,
    recent: &RecentAll,
    style: Style,
    width: usize,
    height: usize,
) -> Vec<Vec<String>> {
    let mut all = instances(shows, recent, style, width);
    all.extend(shows.observer.overview().into_iter().flat_map(|overview| {
        let (keys, workers) = (keys(&overview), workers(&overview));
        let mut others = vec![section(shows, recent, "LLM provider", keys, style, width)];
        if !workers.is_empty() {
            let title = "hosted model (Python)";
            others.push(section(shows, recent, title, workers, style, width));
        }
        others
    }));
    let mut room = height;
    for section in all.iter().filter(|section| section.concerned) {
        room = room.saturating_sub(section.lines.len());
    }
    all.retain(|section| {
        let fits = section.lines.len() <= room;
        if fits && !section.concerned {
            room -= section.lines.len();
        }
        fits || section.concerned
    });
    all.into_iter().map(|section| section.lines).collect()
}

fn instances(shows: &Shows, recent: &RecentAll, style: Style, width: usize) -> Vec<Section> {
    let weights = shows.scene.weights();
    let all: u32 = weights.iter().sum();
    let members = shows.scene.members();
    let rate = |member: &Shown| recent.of(&member.name).rate;
    let total: f64 = members.iter().map(rate).sum();
    let of = |version: Version| {
        let its: Vec<&Shown> = members.iter().filter(|m| m.version == version).collect();
        let seen: f64 = its.iter().map(|member| rate(member)).sum();
        let weight = f64::from(weights[version.index()]) * 100.0 / f64::from(all.max(1));
        let title = format!(
            "{}  weight {weight:.0}%  {}  {}",
            style.bold(&format!("sentiment-{}", version.name())),
            style.dim(&format!("now {:.0}%", seen * 100.0 / total.max(0.1))),
            style.dim(&format!(
                "right about {:.0}% of unseen texts",
                shows.accuracy[version.index()] * 100.0
            )),
        );
        let rows = its.into_iter().map(|member| {
            let (state, cause, inflight) = match shows.observer.member(&member.address) {
                Some(view) => (view.state, view.cause, view.inflight),
                None => ("not listed".to_owned(), String::new(), 0),
            };
            Row {
                name: member.name.clone(),
                address: member.address.clone(),
                state,
                cause,
                inflight,
            }
        });
        section(shows, recent, &title, rows.collect(), style, width)
    };
    Version::ALL.map(of).into()
}

fn keys(overview: &Overview) -> Vec<Row> {
    let keys = overview.providers.iter().flat_map(|p| &p.keys);
    let rows = keys.map(|key| {
        let health = key_health(overview, &key.name).unwrap_or(&key.health);
        Row {
            name: key.name.clone(),
            address: String::new(),
            state: health.state.clone(),
            cause: health.cause.clone(),
            inflight: key.inflight,
        }
    });
    rows.collect()
}

fn workers(overview: &Overview) -> Vec<Row> {
    let instances = overview.services.iter().flat_map(|s| &s.instances);
    let rows = instances.map(|worker| Row {
        name: worker.name.clone(),
        address: worker
            .pid
            .map(|pid| format!("pid {pid}"))
            .unwrap_or_default(),
        state: worker.state.clone(),
        cause: worker.cause.clone(),
        inflight: worker.in_flight,
    });
    rows.collect()
}

fn section(
    shows: &Shows,
    recent: &RecentAll,
    title: &str,
    rows: Vec<Row>,
    style: Style,
    width: usize,
) -> Section {
    let concerned = shows.scene.now().member;
    let rate: f64 = rows.iter().map(|row| recent.of(&row.name).rate).sum();
    let mut lines = vec![style.bold(title)];
    let mut of_now = false;
    for row in rows {
        let marked = concerned.as_deref() == Some(&*row.name);
        of_now |= marked;
        let line = row_line(shows, row, recent, rate, marked, style, width);
        lines.push(fit(&line, width));
    }
    Section {
        lines,
        concerned: of_now,
    }
}

fn row_line(
    shows: &Shows,
    row: Row,
    recent: &RecentAll,
    all: f64,
    marked: bool,
    style: Style,
    width: usize,
) -> String {
    let Recent { rate, p50 } = recent.of(&row.name);
    let (state, cause, inflight) = match shows.observer.is_fresh() {
        false => ("?".to_owned(), "the gateway is away".to_owned(), 0),
        true => (row.state, short(&row.cause), row.inflight),
    };
    let shown = format!("{state:<10}");
    let state = match &*state {
        "healthy" | "ready" => style.good(&format!("● {shown}")),
        "warming" | "starting" => style.warn(&format!("◐ {shown}")),
        "ejected" | "crash_loop" | "failing" => style.bad(&format!("✗ {shown}")),
        "probing" | "draining" => style.warn(&format!("◌ {shown}")),
        _ => style.dim(&format!("○ {shown}")),
    };
    let bar = BAR[usize::from(width < ROOMY)];
    let filled = (rate / all.max(0.1) * bar as f64).round();
    let filled = filled.clamp(0.0, bar as f64) as usize;
    let bar = format!(
        "{}{}",
        style.accent(&"█".repeat(filled)),
        style.dim(&"·".repeat(bar - filled))
    );
    let name = format!("{:<10}", row.name);
    let name = if marked {
        style.event(&format!("▶ {name}"))
    } else {
        format!("  {name}")
    };
    format!(
        "{name} {} {state} {bar} {rate:>4.0}/s {:>7}  {inflight:>2} in flight  {}",
        style.dim(&format!("{:<15}", row.address)),
        latency(p50),
        style.dim(&cause),
    )
}

/// One of the many answers, with the model's reason: this is what it is all about.
fn answer_line(answer: &Answer, style: Style) -> Option<String> {
    let opinion = answer.opinion()?;
    let label = opinion.label.name();
    let verdict = if opinion.hit {
        style.good("rightly")
    } else {
        style.warn("wrongly")
    };
    let reason = opinion
        .reason
        .as_ref()
        .map_or_else(String::new, |(word, weight)| {
            style.dim(&format!(": “{word}” {weight:+.1}"))
        });
    Some(format!(
        "“{}” {} {} says {}, {verdict}{reason}",
        opinion.text,
        style.dim("→"),
        style.accent(&answer.instance),
        style.bold(label)
    ))
}

/// One column a second, the newest at the right.
fn chart(seconds: &[Second], width: usize, value: impl Fn(&Second) -> f64) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &seconds[seconds.len().saturating_sub(width)..];
    let most = shown.iter().map(&value).fold(0.0, f64::max);
    let mut out = " ".repeat(width - shown.len());
    out.extend(shown.iter().map(|second| {
        let level = value(second) / most.max(f64::MIN_POSITIVE) * 7.0;
        LEVELS[(level.round() as usize).min(7)]
    }));
    out
}

fn latency(latency: Duration) -> String {
    let ms = latency.as_secs_f64() * 1000.0;
    if ms < 9.95 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// `1:05`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_as_wide_as_asked_and_scaled_to_its_highest() {
        let seconds: Vec<Second> = (0..10)
            .map(|n| Second {
                answers: n,
                ..Second::default()
            })
            .collect();
        let answers = |s: &Second| f64::from(s.answers);
        assert_eq!(chart(&seconds, 4, answers), "▆▆▇█");
        assert_eq!(chart(&seconds[..2], 4, answers), "  ▁█");
        assert_eq!(chart(&[], 3, answers), "   ");
    }

    #[test]
    fn times_are_short_to_read() {
        assert_eq!(clock(Duration::from_secs(65)), "1:05");
        assert_eq!(latency(Duration::from_micros(840)), "0.8 ms");
        assert_eq!(latency(Duration::from_micros(123_456)), "123 ms");
    }
}
