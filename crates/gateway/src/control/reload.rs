//! Another configuration in place of the running one: all of it, or nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_config::Loaded;

use super::{Control, MEMBERS};
use crate::ListenSocket;
use crate::events::unix_ms;
use crate::snapshot::Draft;

impl Control {
    /// Takes what was read, all of it or nothing; where that cannot be used, what is wrong with it is told and kept.
    pub(crate) async fn reload(
        self: &Arc<Self>,
        wanted: Result<Loaded, String>,
    ) -> Result<(), String> {
        let _one = self.reloading.lock().await;
        let offered = self.take_offered();
        let result = match wanted {
            Ok(loaded) => self.apply(loaded, offered).await,
            Err(why) => Err(why),
        };
        match &result {
            Ok(()) => {
                self.shared
                    .stats
                    .process
                    .reloads
                    .fetch_add(1, Ordering::Relaxed);
                self.state().refused = None;
            }
            Err(why) => {
                self.shared
                    .stats
                    .process
                    .reloads_refused
                    .fetch_add(1, Ordering::Relaxed);
                self.shared
                    .events
                    .push("config_refused", "", "", first_line(why));
                tracing::warn!(cause = %first_line(why), "configuration refused, the running one stays");
                self.state().refused = Some(why.clone());
            }
        }
        result
    }

    async fn apply(
        self: &Arc<Self>,
        loaded: Loaded,
        offered: Vec<(String, ListenSocket)>,
    ) -> Result<(), String> {
        let before = self.shared.snapshot.load_full();
        let shared = &self.shared;
        // First everything that may fail; a refused configuration leaves no trace.
        let draft = Draft::new(Arc::new(loaded), Some(&before), &self.resolver)
            .map_err(|problems| lines(&problems))?;
        let config = &draft.loaded.config;
        let log = shared
            .access
            .open(config.access_log.as_ref())
            .map_err(|e| e.to_string())?;
        let store = self.open_store(config).map_err(|e| e.to_string())?;
        let sockets = self.bind(config, offered).map_err(|e| e.to_string())?;
        // Then all at once.
        let next = Arc::new(draft.commit(
            Some(&before),
            &shared.stats,
            &shared.providers.keys,
            &shared.exports,
            shared.now(),
        ));
        // New upstreams get their members before a request can be routed to them.
        self.follow(&next);
        self.wait_for_members(MEMBERS).await;
        let memory = next.loaded.config.request_bodies.memory;
        shared.providers.bodies.set_max(memory.bytes());
        self.use_store(store, &next.loaded.config).await;
        shared.snapshot.store(next.clone());
        shared.access.switch(log);
        self.listen(&next, sockets);
        self.reregister();
        let mut state = self.state();
        state.loaded_at_ms = unix_ms();
        state.replaced.push(Arc::downgrade(&before));
        drop(state);
        self.door.look();
        shared.events.push(
            "config_loaded",
            "",
            "",
            &format!("generation {}", next.generation),
        );
        tracing::info!(generation = next.generation, hash = %next.loaded.hash, "configuration loaded");
        Ok(())
    }
}

/// Problems as text, one a line.
pub(crate) fn lines(problems: &[impl ToString]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
