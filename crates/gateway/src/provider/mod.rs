//! Providers of language models as targets of requests.
//!
//! What an endpoint is to an upstream, a key is to a provider: the attempt loop of [`crate::exchange`] asks [`target::Asked`] for the
//! next one, runs the attempt over the provider's implicit upstream, and leaves the reading of the answer to [`attempt::Asking`].
//!
//! ```text
//! front: the body is read whole, the caller's dialect told → plan → target: key, model, request
//!    → attempt: nothing goes out before content has begun → relay: what llm gives out, to the caller
//! ```

pub(crate) mod access;
pub(crate) mod accounts;
pub(crate) mod attempt;
pub(crate) mod bodies;
pub(crate) mod front;
pub(crate) mod heartbeat;
pub(crate) mod listing;
pub(crate) mod metrics;
pub(crate) mod probe;
pub(crate) mod relay;
pub(crate) mod resume;
pub(crate) mod said;
pub(crate) mod setup;
pub(crate) mod stats;
pub(crate) mod talk;
pub(crate) mod target;
pub(crate) mod view;

use std::sync::Arc;

use tidegate_config::model;
use tidegate_keys::account::Accounts;
use tidegate_keys::{Identity, Keys};
use tidegate_route::{HashKey, RequestView};

use crate::upstream::Upstream;
use bodies::Bodies;
use stats::ProviderStats;

/// What all workers share about providers.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Every provider's keys with their health; it outlives reloads.
    pub(crate) keys: Arc<Keys>,
    /// Virtual keys with what they use.
    pub(crate) accounts: Arc<Accounts>,
    /// Memory that bodies of requests take.
    pub(crate) bodies: Arc<Bodies>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            // Named anew when a store is known.
            keys: Arc::new(Keys::new(&replica_name(), Identity::random())),
            accounts: Arc::default(),
            bodies: Arc::default(),
        }
    }
}

impl tidegate_keys::Clock for crate::worker::Shared {
    fn now(&self) -> tidegate_core::Time {
        crate::worker::Shared::now(self)
    }

    fn unix_ms(&self) -> u64 {
        crate::events::unix_ms()
    }
}

/// This machine and process, for causes that other replicas see: several of them may run on one machine.
fn replica_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match name.trim() {
        "" => "tidegate",
        name => name,
    };
    format!("{host}/{}", std::process::id())
}

/// One provider of the running configuration.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) keys: Arc<tidegate_keys::Provider>,
    /// Where it is and how it is spoken to. No route names it.
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) sticky: Option<Sticky>,
    pub(crate) stats: Arc<ProviderStats>,
}

/// What makes callers the same where keys stick to them.
#[derive(Debug, Clone)]
pub(crate) enum Sticky {
    Request(HashKey),
    Body(model::StickyField),
}

impl Provider {
    pub(crate) fn name(&self) -> &Arc<str> {
        self.keys.name()
    }

    /// The hash of what makes this caller the same as before; `None` where keys don't stick, or it says nothing.
    pub(crate) fn session(&self, view: &RequestView<'_>, call: &tidegate_llm::Call) -> Option<u64> {
        let hash = |text: &str| tidegate_route::stable_hash(text.as_bytes(), 0);
        match self.sticky.as_ref()? {
            Sticky::Request(key) => key.extract(view),
            Sticky::Body(model::StickyField::User) => call.user().map(hash),
            Sticky::Body(model::StickyField::PromptCacheKey) => call.prompt_cache_key().map(hash),
            Sticky::Body(model::StickyField::Prefix) => Some(call.prefix_hash()),
        }
    }
}
