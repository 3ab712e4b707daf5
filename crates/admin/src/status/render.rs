//! From answers of the admin API to text. Pure: the same answers give the same text.

use tidegate_gateway::view::{EventView, MemberView, UpstreamView};

use super::format::{clock, micros, percent, rate, span};
use super::table::{Cell, Column, clip, lines, printable};
use crate::overview::{Overview, RouteTraffic};

/// What to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Upstreams, providers, services, routes and the newest events.
    #[default]
    All,
    /// Upstreams with their members.
    Upstreams,
    /// Providers with their keys.
    Providers,
    /// Services with their instances.
    Services,
    /// Routes with their traffic.
    Routes,
    /// Listeners with their connections.
    Listeners,
    /// Events, the newest last.
    Events,
}

/// How to show it.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns of the terminal; no line is wider.
    pub width: usize,
    /// ANSI colours.
    pub colour: bool,
}

/// The colours, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
    Other,
}

impl Colour {
    pub(super) fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            _ if !colour => return text.to_owned(),
            Self::Strong => "1",
            Self::Faint => "2",
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Other => "36",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    pub(super) fn of_state(state: &str) -> Self {
        match state {
            "healthy" => Self::Good,
            "ejected" => Self::Bad,
            "probing" | "warming" => Self::Warn,
            _ => Self::Other,
        }
    }

    /// By the words that kinds are made of, so that a new kind has a fitting colour by itself.
    fn of_event(kind: &str) -> Self {
        match kind.rsplit('_').next().unwrap_or_default() {
            _ if kind.contains("_not_") => Self::Bad,
            "ejected" | "refused" | "failed" | "died" | "loop" => Self::Bad,
            "returned" | "loaded" | "renewed" | "ready" => Self::Good,
            "probing" | "warming" | "error" => Self::Warn,
            "added" | "removed" | "draining" | "gone" | "released" => Self::Other,
            _ => Self::Plain,
        }
    }
}

/// Events shown under the other tables.
const FEW_EVENTS: usize = 8;

/// The tables of `view`. With an answer from `earlier` in the same run the columns show rates and recent quantiles,
/// otherwise totals since the start.
#[must_use]
pub fn render(now: &Overview, earlier: Option<&Overview>, view: View, style: &Style) -> String {
    let page = Page {
        now,
        earlier: earlier.filter(|e| e.instance == now.instance && e.uptime_ms < now.uptime_ms),
        style: *style,
    };
    let mut out = vec![page.headline()];
    if let Some(refused) = &now.config.refused {
        let line = format!(
            "last reload refused: {}",
            refused.lines().next().unwrap_or_default()
        );
        out.push(Colour::Bad.paint(&clip(&printable(&line), style.width), style.colour));
    }
    if matches!(view, View::All | View::Upstreams) {
        page.upstreams(&mut out);
    }
    if view == View::Providers && now.providers.is_empty() {
        out.push(String::new());
        out.push(clip("no providers", style.width));
    }
    if matches!(view, View::All | View::Providers) && !now.providers.is_empty() {
        page.providers(&mut out, view);
    }
    if view == View::Services && now.services.is_empty() {
        out.push(String::new());
        out.push(clip("no services", style.width));
    }
    if matches!(view, View::All | View::Services) && !now.services.is_empty() {
        page.services(&mut out);
    }
    if matches!(view, View::All | View::Routes) && !now.routes.is_empty() {
        page.routes(&mut out);
    }
    if view == View::Listeners {
        page.listeners(&mut out);
    }
    match view {
        View::Events => page.events(&mut out, &now.events),
        View::All if !now.events.is_empty() => {
            page.events(
                &mut out,
                &now.events[now.events.len().saturating_sub(FEW_EVENTS)..],
            );
        }
        _ => {}
    }
    out.push(String::new());
    out.join("\n")
}

pub(super) struct Page<'a> {
    pub(super) now: &'a Overview,
    pub(super) earlier: Option<&'a Overview>,
    pub(super) style: Style,
}

impl Page<'_> {
    /// Seconds between the two answers.
    pub(super) fn seconds(&self) -> Option<f64> {
        self.earlier
            .map(|earlier| (self.now.uptime_ms - earlier.uptime_ms) as f64 / 1e3)
    }

    fn headline(&self) -> String {
        let now = self.now;
        let (state, colour) = if now.readiness.ready {
            ("ready".to_owned(), Colour::Good)
        } else {
            (format!("not ready: {}", now.readiness.reason), Colour::Bad)
        };
        let mut facts = vec![
            format!("generation {}", now.config.generation),
            format!("up {}", span(now.uptime_ms)),
        ];
        let sum = |of: fn(&RouteTraffic) -> u64, overview: &Overview| {
            overview.routes.iter().map(of).sum::<u64>()
        };
        let requests = sum(|r| r.route.requests, now);
        let errors = sum(|r| r.route.errors, now);
        match (self.seconds(), self.earlier) {
            (Some(seconds), Some(earlier)) => {
                let made = requests.saturating_sub(sum(|r| r.route.requests, earlier)) as f64;
                let failed = errors.saturating_sub(sum(|r| r.route.errors, earlier)) as f64;
                facts.push(format!("{} req/s", rate(made / seconds)));
                facts.push(format!("errors {}", percent(failed, made)));
            }
            _ => {
                facts.push(format!("{requests} requests"));
                facts.push(format!(
                    "errors {}",
                    percent(errors as f64, requests as f64)
                ));
            }
        }
        facts.push(format!("{} in flight", sum(|r| r.route.inflight, now)));
        let connections: u64 = now
            .listeners
            .iter()
            .map(|listener| listener.connections)
            .sum();
        facts.push(format!("{connections} connections"));
        let state = clip(&printable(&state), self.style.width.saturating_sub(9));
        let room = self.style.width.saturating_sub(9 + state.chars().count());
        let facts = clip(&format!(" · {}", facts.join(" · ")), room);
        let name = clip("tidegate ", self.style.width);
        let paint = |colour: Colour, text: &str| colour.paint(text, self.style.colour);
        format!(
            "{}{}{facts}",
            paint(Colour::Strong, &name),
            paint(colour, &state)
        )
    }

    /// One layout for the members of all upstreams: the eye runs down over all of them, and a cause that comes up in one
    /// does not shift the others' columns against it.
    fn upstreams(&self, out: &mut Vec<String>) {
        let traffic = if self.earlier.is_some() {
            "RATE/S"
        } else {
            "ATTEMPTS"
        };
        let columns = [
            Column::flexible("MEMBER", 14, 0),
            Column::text("STATE", 0),
            Column::flexible("CAUSE", 12, 1),
            Column::number("RETURNS IN", 4),
            Column::number("IN FLIGHT", 5),
            Column::number(traffic, 2),
            Column::number("FAILED", 2),
            Column::number("EWMA", 3),
            Column::number("CONNS", 6),
            Column::number("WEIGHT", 7),
            Column::text("ZONE", 8),
        ];
        let mut rows = Vec::new();
        for upstream in &self.now.upstreams {
            let earlier = self
                .earlier
                .and_then(|e| e.upstreams.iter().find(|u| u.name == upstream.name));
            rows.extend(upstream.members.iter().map(|member| {
                let before = earlier.and_then(|u| u.members.iter().find(|m| m.id == member.id));
                self.member(member, before)
            }));
        }
        let table = lines(
            &columns,
            &rows,
            self.style.width.saturating_sub(2),
            self.style.colour,
        );
        let mut table = table.into_iter().map(|line| format!("  {line}"));
        let title = table.next().unwrap_or_default();
        for upstream in &self.now.upstreams {
            self.upstream(out, upstream);
            if !upstream.members.is_empty() {
                out.push(title.clone());
                out.extend(table.by_ref().take(upstream.members.len()));
            }
        }
    }

    /// What stands over an upstream's members.
    fn upstream(&self, out: &mut Vec<String>, upstream: &UpstreamView) {
        let colour = self.style.colour;
        out.push(String::new());
        let mut facts = vec![
            upstream.balance.clone(),
            upstream.source.clone(),
            tally(&upstream.members),
        ];
        facts.push(format!("{} in flight", upstream.inflight));
        let name = clip(&printable(&upstream.name), self.style.width);
        let facts = format!("  {}", facts.join(" · "));
        let facts = clip(
            &printable(&facts),
            self.style.width.saturating_sub(name.chars().count()),
        );
        out.push(Colour::Strong.paint(&name, colour) + &Colour::Faint.paint(&facts, colour));
        if upstream.panic {
            let line = "  panic: too few members are healthy, all of them are used";
            out.push(Colour::Bad.paint(&clip(line, self.style.width), colour));
        }
        if let Some(error) = &upstream.source_error {
            let line = printable(&format!(
                "  {}: {error} (the last good list is used)",
                upstream.source
            ));
            out.push(Colour::Warn.paint(&clip(&line, self.style.width), colour));
        }
        if upstream.members.is_empty() {
            out.push(Colour::Warn.paint(&clip("  no members", self.style.width), colour));
        }
    }

    fn member(&self, member: &MemberView, before: Option<&MemberView>) -> Vec<Cell> {
        let made = member
            .attempts
            .saturating_sub(before.map_or(0, |b| b.attempts)) as f64;
        let failed = member
            .failures
            .saturating_sub(before.map_or(0, |b| b.failures)) as f64;
        let traffic = match self.seconds() {
            Some(seconds) if before.is_some() => rate(made / seconds),
            Some(_) => "–".into(),
            None => member.attempts.to_string(),
        };
        let failures = percent(failed, made);
        let bad = if failed > 0.0 {
            Colour::Bad
        } else {
            Colour::Plain
        };
        vec![
            member.id.as_str().into(),
            Cell::new(&member.state, Colour::of_state(&member.state)),
            member.cause.as_str().into(),
            member.returns_in_ms.map(span).unwrap_or_default().into(),
            member.inflight.to_string().into(),
            traffic.into(),
            Cell::new(&failures, bad),
            micros(member.ewma_us as f64).into(),
            member.connections.to_string().into(),
            member.weight.to_string().into(),
            member.zone.as_str().into(),
        ]
    }

    fn routes(&self, out: &mut Vec<String>) {
        let columns = [
            Column::flexible("ROUTE", 10, 0),
            Column::flexible("MATCHES", 10, 4),
            Column::flexible("TO", 10, 3),
            Column::number(
                if self.earlier.is_some() {
                    "RATE/S"
                } else {
                    "REQUESTS"
                },
                0,
            ),
            Column::number("ERRORS", 0),
            Column::number("P50", 2),
            Column::number("P99", 1),
            Column::number("IN FLIGHT", 5),
        ];
        let rows: Vec<_> = self
            .now
            .routes
            .iter()
            .map(|traffic| self.route(traffic))
            .collect();
        out.push(String::new());
        out.extend(lines(&columns, &rows, self.style.width, self.style.colour));
    }

    fn route(&self, traffic: &RouteTraffic) -> Vec<Cell> {
        let route = &traffic.route;
        let before = self
            .earlier
            .and_then(|e| e.routes.iter().find(|r| r.route.name == route.name));
        let made = route
            .requests
            .saturating_sub(before.map_or(0, |b| b.route.requests)) as f64;
        let failed = route
            .errors
            .saturating_sub(before.map_or(0, |b| b.route.errors)) as f64;
        let requests = match self.seconds() {
            Some(seconds) if before.is_some() => rate(made / seconds),
            Some(_) => "–".into(),
            None => route.requests.to_string(),
        };
        let quantile = |q: f64, since_start: u64| match (&traffic.latency, before) {
            (Some(latency), Some(before)) => latency
                .quantile_since(before.latency.as_ref(), q)
                .unwrap_or(0.0),
            _ => since_start as f64,
        };
        let bad = if failed > 0.0 {
            Colour::Bad
        } else {
            Colour::Plain
        };
        vec![
            Cell::new(&route.name, Colour::Strong),
            Cell::new(&route.matches, Colour::Faint),
            route.to.as_str().into(),
            requests.into(),
            Cell::new(&percent(failed, made), bad),
            micros(quantile(0.5, route.p50_us)).into(),
            micros(quantile(0.99, route.p99_us)).into(),
            route.inflight.to_string().into(),
        ]
    }

    fn listeners(&self, out: &mut Vec<String>) {
        let columns = [
            Column::text("LISTENER", 0),
            Column::flexible("ADDRESS", 12, 0),
            Column::text("TLS", 1),
            Column::number("CONNECTIONS", 0),
        ];
        let row = |l: &tidegate_gateway::view::ListenerView| {
            let tls = if l.tls { "yes" } else { "no" };
            vec![
                l.name.as_str().into(),
                l.address.as_str().into(),
                Cell::from(tls),
                l.connections.to_string().into(),
            ]
        };
        let rows: Vec<_> = self.now.listeners.iter().map(row).collect();
        out.push(String::new());
        out.extend(lines(&columns, &rows, self.style.width, self.style.colour));
    }

    fn events(&self, out: &mut Vec<String>, events: &[EventView]) {
        let columns = [
            Column::text("TIME (UTC)", 0),
            Column::text("EVENT", 0),
            Column::flexible("WHERE", 12, 0),
            Column::flexible("CAUSE", 12, 1),
        ];
        let row = |event: &EventView| {
            let place = [event.subject.as_str(), event.member.as_str()];
            let place: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
            vec![
                Cell::new(&clock(event.at_ms), Colour::Faint),
                Cell::new(&event.kind.replace('_', " "), Colour::of_event(&event.kind)),
                place.join(" ").into(),
                // `member added` needs no `added` beside it.
                if event.kind.ends_with(&event.cause) {
                    ""
                } else {
                    event.cause.lines().next().unwrap_or_default()
                }
                .into(),
            ]
        };
        let rows: Vec<_> = events.iter().map(row).collect();
        out.push(String::new());
        out.extend(lines(&columns, &rows, self.style.width, self.style.colour));
    }
}

/// `4 members: 3 healthy, 1 ejected`, or `3 healthy members` when all are alike.
fn tally(members: &[MemberView]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for member in members {
        match counts.iter_mut().find(|(state, _)| *state == member.state) {
            Some((_, n)) => *n += 1,
            None => counts.push((&member.state, 1)),
        }
    }
    let noun = if members.len() == 1 {
        "member"
    } else {
        "members"
    };
    match counts.as_slice() {
        [] => "no members".into(),
        [(state, n)] => format!("{n} {state} {noun}"),
        _ => {
            let parts: Vec<String> = counts
                .iter()
                .map(|(state, n)| format!("{n} {state}"))
                .collect();
            format!("{} {noun}: {}", members.len(), parts.join(", "))
        }
    }
}
