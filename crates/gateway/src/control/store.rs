//! Durable state: the store that the configuration names, and the tasks that keep keys and accounts in step with it.
//!
//! Only providers and services need a store. One that is away delays nothing, neither the start nor a request: keys go by what this process
//! knows, and the tasks catch up when it is there. Another `state.url` is another store: the tasks begin anew with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::values::StateUrl;
use tidegate_config::{Config, model};
use tidegate_keys::account::Parted;
use tidegate_keys::share::{self, Sharing};
use tidegate_keys::{Clock, account, probe};
use tidegate_llm::price::{Micros, Price, PriceTable};
use tidegate_state::{OpenError, Store};
use tokio::task::JoinHandle;

use super::{Control, instances};
use crate::StoreOpener;
use crate::provider::access;
use crate::provider::probe::Prober;
use crate::view::StoreView;

/// How often the virtual keys are looked for at the start.
const LOOK: Duration = Duration::from_millis(5);

/// How long a gateway that is going tries to tell the store what it found out of keys, and then what was spent.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long requests that began with a store that is left may settle with it.
const REST: Duration = Duration::from_secs(300);

/// A store at work.
pub(crate) struct Kept {
    url: StateUrl,
    pub(super) store: Arc<dyn Store>,
    /// Follows instances of services; ended when this is dropped.
    instances: JoinHandle<()>,
    /// What keeps keys and accounts in step, where there are providers; ended when this is dropped.
    of_keys: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.instances.abort();
        self.of_keys.iter().for_each(JoinHandle::abort);
    }
}

/// What a configuration wants of the store, opened where it was not.
pub(super) enum Wanted {
    /// None.
    Nothing,
    /// The one that is there.
    Same,
    /// Another one.
    Other(StateUrl, Arc<dyn Store>),
}

impl Control {
    /// Opens what `config` names, unless it is open. Everything that may fail; nothing is asked of the store.
    pub(super) fn open_store(&self, config: &Config) -> Result<Wanted, OpenError> {
        if config.providers.is_empty() && config.services.is_empty() {
            return Ok(Wanted::Nothing);
        }
        let url = &config.state.url;
        if self
            .state()
            .kept
            .as_ref()
            .is_some_and(|kept| kept.url == *url)
        {
            return Ok(Wanted::Same);
        }
        Ok(Wanted::Other(url.clone(), self.opener.open(url)?))
    }

    /// Keeps keys and accounts in step with it from now on. What virtual keys spent is settled with the store that is left, which
    /// takes no longer than [`LAST_WORDS`].
    pub(super) async fn use_store(&self, wanted: Wanted, config: &Config) {
        self.shared
            .providers
            .accounts
            .set_prices(prices(&config.prices), &config.prices.currency);
        let keys = !config.providers.is_empty();
        if let Wanted::Same = wanted {
            let parted = {
                let mut state = self.state();
                let Some(kept) = &mut state.kept else { return };
                match (keys, kept.of_keys.is_empty()) {
                    (true, true) => {
                        kept.of_keys = self.keep_keys(&kept.url, &kept.store);
                        return;
                    }
                    (false, false) => (std::mem::take(&mut kept.of_keys), kept.store.clone()),
                    _ => return,
                }
            };
            let (tasks, store) = parted;
            end(tasks).await;
            return self.settle(self.part_from(store)).await;
        }
        // The tasks of the one before end first: what they count is not the next one's.
        let before = self.state().kept.take();
        let parted = match before {
            Some(mut before) if !before.of_keys.is_empty() => {
                end(std::mem::take(&mut before.of_keys)).await;
                Some(self.part_from(before.store.clone()))
            }
            _ => None,
        };
        if let Wanted::Other(url, store) = wanted {
            let kept = self.keep(url, store, keys);
            self.state().kept = Some(kept);
        }
        if let Some(parted) = parted {
            self.settle(parted).await;
        }
    }

    fn part_from(&self, store: Arc<dyn Store>) -> Parted {
        let accounts = &self.shared.providers.accounts;
        accounts.part_from(store, self.shared.clone())
    }

    /// Settles what was spent with a store that is left, and in the background what requests under way use of it.
    async fn settle(&self, parted: Parted) {
        if tokio::time::timeout(LAST_WORDS, parted.settle())
            .await
            .is_err()
        {
            tracing::warn!("the store before did not take what virtual keys spent last");
        }
        tokio::spawn(tokio::time::timeout(REST, parted.settle_the_rest()));
    }

    fn keep(&self, url: StateUrl, store: Arc<dyn Store>, keys: bool) -> Kept {
        let of_keys = match keys {
            true => self.keep_keys(&url, &store),
            false => Vec::new(),
        };
        let node = self.opener.node().to_owned();
        let instances = instances::follow(
            store.clone(),
            node,
            self.instances.clone(),
            self.shared.clone(),
        );
        tracing::info!(%url, "state kept");
        Kept {
            url,
            store,
            instances: tokio::spawn(instances),
            of_keys,
        }
    }

    fn keep_keys(&self, url: &StateUrl, store: &Arc<dyn Store>) -> Vec<JoinHandle<()>> {
        let shared = &self.shared;
        let keys = &shared.providers.keys;
        let clock: Arc<dyn Clock> = shared.clone();
        // The embedded file is this machine's alone; a Redis may have other gateways' keys in it.
        let sole = matches!(url, StateUrl::File(_));
        let sharing = share::share(keys.clone(), store.clone(), clock.clone(), Sharing { sole });
        let prober = Arc::new(Prober(shared.clone()));
        let holder = format!("{}-{:016x}", keys.replica(), crate::limits::secret());
        let probing = probe::probe(keys.clone(), store.clone(), clock.clone(), prober, holder);
        let accounts = account::run(shared.providers.accounts.clone(), store.clone(), clock);
        vec![
            tokio::spawn(sharing),
            tokio::spawn(probing),
            tokio::spawn(accounts),
            tokio::spawn(access::keep(shared.clone())),
        ]
    }

    /// Waits for the virtual keys, where there are routes that want one: before they are read every caller would be turned away.
    pub(super) async fn wait_for_accounts(&self, config: &Config, at_most: Duration) {
        let wanted = |route: &model::Route| route.virtual_keys != model::VirtualKeys::Off;
        if !config.routes.iter().any(wanted) {
            return;
        }
        let accounts = &self.shared.providers.accounts;
        let read = async {
            let mut looks = tokio::time::interval(LOOK);
            while !accounts.is_ready() {
                looks.tick().await;
            }
        };
        let _ = tokio::time::timeout(at_most, read).await;
    }

    /// The store that is used; `None`: nothing needs one.
    pub(crate) fn store(&self) -> Option<Arc<dyn Store>> {
        self.state().kept.as_ref().map(|kept| kept.store.clone())
    }

    /// Whether keys and accounts are kept in it.
    pub(crate) fn keeps_keys(&self) -> bool {
        let state = self.state();
        state
            .kept
            .as_ref()
            .is_some_and(|kept| !kept.of_keys.is_empty())
    }

    /// What is shown of it.
    pub(crate) fn store_view(&self) -> StoreView {
        match &self.state().kept {
            Some(kept) => StoreView {
                url: kept.url.to_string(),
                connected: kept.store.connected(),
            },
            None => StoreView {
                url: String::new(),
                connected: true,
            },
        }
    }

    /// Tells what was found out last, then ends the tasks: what a gateway that is going finds out is no longer asked for, and another one takes the probing over at once.
    pub(super) async fn leave_store(&self) {
        let Some(mut kept) = self.state().kept.take() else {
            return;
        };
        let told = self.shared.providers.keys.told();
        if !kept.of_keys.is_empty() && tokio::time::timeout(LAST_WORDS, told).await.is_err() {
            tracing::warn!(url = %kept.url, "the store did not take what was found out of keys last");
        }
        end(std::mem::take(&mut kept.of_keys)).await;
        let clock: Arc<dyn Clock> = self.shared.clone();
        let settled = account::leave(&self.shared.providers.accounts, &kept.store, &clock);
        if tokio::time::timeout(LAST_WORDS, settled).await.is_err() {
            tracing::warn!(url = %kept.url, "the store did not take what virtual keys spent last");
        }
    }
}

/// Ends tasks. What they held, a lease among it, is given back when they are dropped.
async fn end(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
}

/// The configuration's price table.
fn prices(prices: &model::Prices) -> PriceTable {
    let row = |(name, price): (&String, &model::Price)| {
        let price = Price {
            input: Micros::from_units(price.input),
            output: Micros::from_units(price.output),
            cached_input: price.cached_input.map(Micros::from_units),
        };
        (name.clone(), price)
    };
    PriceTable::new(prices.models.iter().map(row))
}

impl fmt::Debug for StoreOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreOpener")
    }
}

impl StoreOpener {
    /// Opens stores with this function.
    pub fn new(
        open: impl Fn(&StateUrl) -> Result<Arc<dyn Store>, OpenError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            open: Arc::new(open),
            node: String::new(),
        }
    }

    /// Instances of services that run on this node are members.
    #[must_use]
    pub fn on_node(self, node: String) -> Self {
        Self { node, ..self }
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// In memory, whatever the URL: what is found out ends with the process.
    pub fn in_memory() -> Self {
        Self::new(|_| Ok(tidegate_state::memory()))
    }

    fn open(&self, url: &StateUrl) -> Result<Arc<dyn Store>, OpenError> {
        (self.open)(url)
    }
}
