//! What time moves: the sweeps of the pools, what they tell as events, certificates that changed.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::{Duration, Instant};

use tidegate_core::{Cause, MemberState, PoolEvent};

use super::Control;
use crate::upstream::Upstream;

/// How often the engine's clocks are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often certificates are looked at for changes, and replaced configurations for their end.
const CERTIFICATES: Duration = Duration::from_secs(2);

impl Control {
    fn renew_certificates(&self, seen: &mut HashMap<String, Vec<Option<std::time::SystemTime>>>) {
        let snapshot = self.shared.snapshot.load_full();
        for (name, listener) in &snapshot.listeners {
            let changed = listener.tls_changed();
            match seen.insert(name.clone(), changed.clone()) {
                Some(before) if before != changed => match listener.renew_tls() {
                    Ok(()) => {
                        tracing::info!(listener = %name, "certificate renewed");
                        self.shared.events.push("certificate_renewed", name, "", "");
                    }
                    Err(e) => {
                        tracing::warn!(listener = %name, cause = %e, "certificate not renewed, the old one stays in use");
                        self.shared
                            .events
                            .push("certificate_refused", name, "", &e.to_string());
                    }
                },
                _ => {}
            }
        }
    }
}

impl Control {
    /// Drops the counters of what is gone, after the last request of an earlier configuration. `again`: whether to look once more, for
    /// what a request held is not dropped at one stroke.
    fn forget_replaced(&self, again: &mut bool) {
        let over = {
            let replaced = &mut self.state().replaced;
            let before = replaced.len();
            replaced.retain(|snapshot| snapshot.strong_count() > 0);
            replaced.len() < before
        };
        if over || *again {
            self.shared.stats.prune();
        }
        *again = over;
    }
}

/// The sweep of every pool, and what happened in them as events.
pub(super) async fn tick(control: Weak<Control>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut certificates = HashMap::new();
    let mut looked = Instant::now();
    let mut unneeded = false;
    loop {
        interval.tick().await;
        let Some(control) = control.upgrade() else {
            return;
        };
        let shared = &control.shared;
        let snapshot = shared.snapshot.load_full();
        for upstream in snapshot.pools() {
            upstream.live.pool.tick(shared.now());
            for event in upstream.live.pool.drain_events() {
                tell(&control, upstream, &event);
            }
        }
        crate::provider::view::tell_events(shared);
        if certificates.is_empty() || looked.elapsed() >= CERTIFICATES {
            looked = Instant::now();
            control.renew_certificates(&mut certificates);
            control.forget_replaced(&mut unneeded);
        }
    }
}

fn tell(control: &Control, upstream: &Upstream, event: &PoolEvent) {
    let shared = &control.shared;
    let cause = event.cause.to_string();
    let kind = match (event.from, event.to) {
        (_, MemberState::Ejected) => {
            tracing::warn!(upstream = %upstream.name, member = %event.member, %cause, "member ejected");
            "member_ejected"
        }
        _ if event.cause == Cause::Added => "member_added",
        (_, MemberState::Gone) => "member_removed",
        (_, MemberState::Draining) => "member_draining",
        (_, MemberState::Probing) => "member_probing",
        (_, MemberState::Warming) => "member_warming",
        (_, MemberState::Healthy) => {
            tracing::info!(upstream = %upstream.name, member = %event.member, %cause, "member returned");
            "member_returned"
        }
    };
    // The engine's time counts from the Unix epoch as it was at the start.
    let at_ms = event.at.0 / 1_000_000;
    shared
        .events
        .push_at(at_ms, kind, &upstream.name, &event.member, &cause);
}
