//! Providers with their keys, as tables: what is out, why, and when it is back.

use tidegate_gateway::view::{KeyHealth, KeyModelView, KeyView, ProviderView};

use super::format::{amount, percent, rate, span};
use super::render::{Colour, Page, View};
use super::table::{Cell, Column, clip, lines, printable};

impl Page<'_> {
    /// One layout for the keys of all providers, as for the members of upstreams.
    pub(super) fn providers(&self, out: &mut Vec<String>, view: View) {
        let traffic = match self.earlier.is_some() {
            true => "RATE/S",
            false => "REQUESTS",
        };
        let columns = [
            Column::flexible("KEY", 14, 0),
            Column::text("STATE", 0),
            Column::flexible("CAUSE", 12, 1),
            Column::number("RETURNS IN", 2),
            Column::number("SINCE", 5),
            Column::number("IN FLIGHT", 6),
            Column::number(traffic, 3),
            Column::number("FAILED", 3),
            Column::number("SPARED", 4),
            Column::number("WEIGHT", 7),
        ];
        let mut rows = Vec::new();
        let mut counts = Vec::new();
        for provider in &self.now.providers {
            let before = self
                .earlier
                .and_then(|e| e.providers.iter().find(|p| p.name == provider.name));
            let first = rows.len();
            for key in &provider.keys {
                let before = before.and_then(|p| p.keys.iter().find(|k| k.name == key.name));
                rows.push(self.key(key, before));
                rows.extend(key.models.iter().map(model));
            }
            counts.push(rows.len() - first);
        }
        let width = self.style.width.saturating_sub(2);
        let table = lines(&columns, &rows, width, self.style.colour);
        let mut table = table.into_iter().map(|line| format!("  {line}"));
        let title = table.next().unwrap_or_default();
        for (provider, rows) in self.now.providers.iter().zip(counts) {
            self.provider(out, provider);
            out.push(title.clone());
            out.extend(table.by_ref().take(rows));
            if view == View::Providers {
                self.evidence(out, provider);
            }
        }
        let store = &self.now.store;
        if !store.connected {
            let line = format!(
                "the store at {} is away: this process goes by what it knows",
                store.url
            );
            out.push(String::new());
            let line = clip(&printable(&line), self.style.width);
            out.push(Colour::Warn.paint(&line, self.style.colour));
        }
    }

    /// What stands over a provider's keys.
    fn provider(&self, out: &mut Vec<String>, provider: &ProviderView) {
        let mut facts = vec![
            provider.kind.clone(),
            provider.choose.clone(),
            tally(&provider.keys),
            format!("{} in flight", provider.inflight),
        ];
        let failovers: u64 = provider.failovers.iter().map(|f| f.count).sum();
        match failovers {
            0 => {}
            1 => facts.push("1 failover".into()),
            many => facts.push(format!("{} failovers", amount(many))),
        }
        if provider.exhausted > 0 {
            facts.push(format!("{} found no key", amount(provider.exhausted)));
        }
        if provider.input_tokens + provider.output_tokens > 0 {
            facts.push(format!(
                "{} + {} tokens",
                amount(provider.input_tokens),
                amount(provider.output_tokens)
            ));
        }
        // Last, for it is long and no news.
        facts.push(provider.origin.clone());
        out.push(String::new());
        let name = clip(&printable(&provider.name), self.style.width);
        let room = self.style.width.saturating_sub(name.chars().count());
        let facts = clip(&printable(&format!("  {}", facts.join(" · "))), room);
        let colour = self.style.colour;
        out.push(Colour::Strong.paint(&name, colour) + &Colour::Faint.paint(&facts, colour));
    }

    fn key(&self, key: &KeyView, before: Option<&KeyView>) -> Vec<Cell> {
        let since = |of: fn(&KeyView) -> u64| of(key).saturating_sub(before.map_or(0, of)) as f64;
        let (made, failed) = (since(|k| k.attempts), since(|k| k.failures));
        let traffic = match self.seconds() {
            Some(seconds) if before.is_some() => rate(made / seconds),
            Some(_) => "–".into(),
            None => key.attempts.to_string(),
        };
        let bad = match failed > 0.0 {
            true => Colour::Bad,
            false => Colour::Plain,
        };
        let mut cells = vec![Cell::from(key.name.as_str())];
        cells.extend(health(&key.health));
        cells.extend([
            key.inflight.to_string().into(),
            traffic.into(),
            Cell::new(&percent(failed, made), bad),
            key.ejections.to_string().into(),
            key.weight.to_string().into(),
        ]);
        cells
    }

    /// What providers said of keys that are out.
    fn evidence(&self, out: &mut Vec<String>, provider: &ProviderView) {
        for key in &provider.keys {
            let whole = (key.name.clone(), &key.health);
            let models = key
                .models
                .iter()
                .map(|m| (format!("{} {}", key.name, m.model), &m.health));
            for (name, health) in std::iter::once(whole).chain(models) {
                let Some(evidence) = &health.evidence else {
                    continue;
                };
                if health.state == "healthy" || evidence.excerpt.is_empty() {
                    continue;
                }
                let mut line = format!("  {name}: {}", evidence.excerpt);
                line.push_str(&format!(" ({} ago", span(evidence.ago_ms)));
                if let Some(replica) = &evidence.seen_by {
                    line.push_str(&format!(", seen by {replica}"));
                }
                line.push(')');
                let line = clip(&printable(&line), self.style.width);
                out.push(Colour::Faint.paint(&line, self.style.colour));
            }
        }
    }
}

/// A model's row, below its key's.
fn model(view: &KeyModelView) -> Vec<Cell> {
    let mut cells = vec![Cell::new(&format!("└ {}", view.model), Colour::Faint)];
    cells.extend(health(&view.health));
    cells.extend(std::iter::repeat_n(Cell::from(""), 5));
    cells
}

/// State, cause, return and since.
fn health(health: &KeyHealth) -> [Cell; 4] {
    let returns = match (health.returns_in_ms, health.state.as_str()) {
        (Some(ms), _) => span(ms),
        (None, "ejected") => "probed".into(),
        (None, _) => String::new(),
    };
    [
        Cell::new(&health.state, Colour::of_state(&health.state)),
        cause(health).into(),
        returns.into(),
        span(health.since_ms).into(),
    ]
}

/// Why, with what the provider answered last, unless the cause says it: `3 consecutive 5xx (503)`.
fn cause(health: &KeyHealth) -> String {
    let mut cause = health.cause.clone();
    if let Some(evidence) = health.evidence.as_ref().filter(|_| !cause.is_empty()) {
        let status = evidence.status.map(|status| status.to_string());
        let told: Vec<&str> = [status.as_deref(), evidence.code.as_deref()]
            .into_iter()
            .flatten()
            .filter(|part| !cause.contains(part))
            .collect();
        if !told.is_empty() {
            cause.push_str(&format!(" ({})", told.join(" ")));
        }
    }
    cause
}

/// `3 keys: 1 healthy, 2 ejected`; a key that is out for a model alone counts as healthy.
fn tally(keys: &[KeyView]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for key in keys {
        match counts
            .iter_mut()
            .find(|(state, _)| *state == key.health.state)
        {
            Some((_, n)) => *n += 1,
            None => counts.push((&key.health.state, 1)),
        }
    }
    let noun = if keys.len() == 1 { "key" } else { "keys" };
    match counts.as_slice() {
        [] => "no keys".into(),
        [(state, n)] => format!("{n} {state} {noun}"),
        _ => {
            let parts: Vec<String> = counts.iter().map(|(s, n)| format!("{n} {s}")).collect();
            format!("{} {noun}: {}", keys.len(), parts.join(", "))
        }
    }
}
