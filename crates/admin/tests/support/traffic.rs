//! Traffic of the made-up gateway: requests that pass, and what they leave in its numbers.

use super::State;

/// Upper bounds of the histogram, seconds.
pub(crate) const BOUNDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0,
    2.5, 10.0,
];

type Traffic = (&'static str, &'static [(&'static str, f64)], f64, f64);

/// Route, its targets with weights, requests a second, typical latency in milliseconds.
const TRAFFIC: [Traffic; 4] = [
    (
        "ranker",
        &[("ranker-v1", 90.0), ("ranker-v2", 10.0)],
        240.0,
        6.0,
    ),
    ("sentiment", &[("sentiment", 1.0)], 75.0, 18.0),
    ("embeddings", &[("embeddings", 1.0)], 420.0, 2.2),
    ("chat", &[("chat", 1.0)], 3.5, 900.0),
];

impl State {
    /// A number in 0..1.
    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `seconds` of traffic, `at` seconds after the start.
    pub(crate) fn pass(&mut self, at: f64, seconds: f64) {
        for upstream in &mut self.upstreams {
            for member in &mut upstream.members {
                let ms = (seconds * 1e3) as u64;
                member.since_ms += ms;
                member.returns_in_ms = member.returns_in_ms.map(|left| left.saturating_sub(ms));
                member.inflight = 0;
            }
        }
        for (n, (route, targets, per_second, ms)) in TRAFFIC.into_iter().enumerate() {
            let wave = 1.0 + 0.25 * (at / 23.0 + n as f64).sin() + 0.12 * (at / 5.0).cos();
            let requests = (per_second * wave * seconds + self.random()) as u64;
            for _ in 0..requests {
                let whole: f64 = targets.iter().map(|(_, weight)| weight).sum();
                let mut at = self.random() * whole;
                let target = targets
                    .iter()
                    .find(|(_, weight)| {
                        at -= weight;
                        at < 0.0
                    })
                    .map_or(targets[0].0, |t| t.0);
                self.request(route, target, ms);
            }
            let inflight = (per_second * wave * ms / 1e3).round() as u64;
            let found = self
                .routes
                .iter()
                .position(|r| r.name == route)
                .expect("a known route");
            self.routes[found].inflight = inflight;
            for (target, _) in targets {
                let found = self
                    .upstreams
                    .iter()
                    .position(|u| u.name == *target)
                    .expect("a known upstream");
                let fit = self.upstreams[found]
                    .members
                    .iter()
                    .filter(|m| m.state == "healthy")
                    .count() as u64;
                let extra = (self.random() * 3.0) as u64;
                let upstream = &mut self.upstreams[found];
                for (i, member) in upstream
                    .members
                    .iter_mut()
                    .filter(|m| m.state == "healthy")
                    .enumerate()
                {
                    member.inflight = inflight / fit.max(1) + u64::from(i as u64 == extra);
                }
                upstream.inflight = upstream.members.iter().map(|m| m.inflight).sum();
            }
        }
        for (n, provider) in self.providers.iter_mut().enumerate() {
            let made = (seconds * (12.0 + 7.0 * n as f64)).round() as u64;
            provider.input_tokens += made * 900;
            provider.output_tokens += made * 120;
            let fit = provider
                .keys
                .iter_mut()
                .filter(|k| k.health.state == "healthy");
            fit.for_each(|key| {
                key.attempts += made;
                key.inflight = 2;
            });
            for key in &mut provider.keys {
                let ms = (seconds * 1e3) as u64;
                key.health.since_ms += ms;
                let left = key.health.returns_in_ms;
                key.health.returns_in_ms = left.map(|left| left.saturating_sub(ms));
                if key.health.state != "healthy" {
                    key.inflight = 0;
                }
            }
            provider.inflight = provider.keys.iter().map(|k| k.inflight).sum();
        }
        self.listeners[0].connections = (41.0 + 8.0 * (at / 9.0).sin()) as u64;
    }

    fn request(&mut self, route: &str, target: &str, typical_ms: f64) {
        let pool = self
            .upstreams
            .iter()
            .position(|u| u.name == target)
            .expect("a known upstream");
        let fit: Vec<usize> = (0..self.upstreams[pool].members.len())
            .filter(|&i| {
                matches!(
                    self.upstreams[pool].members[i].state.as_str(),
                    "healthy" | "probing"
                )
            })
            .collect();
        let (mut code, mut took) = (503, 0.0004);
        if !fit.is_empty() {
            let pick = fit[(self.random() * fit.len() as f64) as usize];
            let id = self.upstreams[pool].members[pick].id.clone();
            let fault = self
                .faults
                .iter()
                .find(|(m, _, _)| *m == id)
                .map(|(_, slow, fail)| (*slow, *fail));
            let (slow, fail) = fault.unwrap_or((1.0, 0.0005));
            let spread = (self.random() + self.random() + self.random() - 1.5) * 0.9;
            let tail = if self.random() < 0.02 { 4.0 } else { 1.0 };
            took = typical_ms / 1e3 * spread.exp() * tail * slow;
            let failed = self.random() < fail;
            // Most failures are absorbed by another attempt.
            code = if failed && self.random() < 0.15 {
                503
            } else {
                200
            };
            let member = &mut self.upstreams[pool].members[pick];
            member.attempts += 1;
            member.failures += u64::from(failed);
            member.ewma_us = (member.ewma_us as f64 * 0.95 + took * 1e6 * 0.05) as u64;
        }
        self.count(route, target, code, took);
    }

    /// Counts one answered request.
    pub(crate) fn count(&mut self, route: &str, target: &str, code: u16, seconds: f64) {
        match self
            .requests
            .iter_mut()
            .find(|(r, t, c, _)| r == route && t == target && *c == code)
        {
            Some((_, _, _, n)) => *n += 1,
            None => self.requests.push((route.into(), target.into(), code, 1)),
        }
        let found = self
            .durations
            .iter()
            .position(|(r, t, _, _)| r == route && t == target)
            .unwrap_or_else(|| {
                self.durations
                    .push((route.into(), target.into(), [0; 17], 0.0));
                self.durations.len() - 1
            });
        let bucket = BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(16);
        self.durations[found].2[bucket] += 1;
        self.durations[found].3 += seconds;
        if let Some(view) = self.routes.iter_mut().find(|r| r.name == route) {
            view.requests += 1;
            view.errors += u64::from(code >= 500);
            view.p50_us = 6_000;
            view.p99_us = 41_000;
        }
    }
}
