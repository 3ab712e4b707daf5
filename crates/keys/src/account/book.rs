//! Who may ask for what, answered from memory; and what a request reserves, uses and gives back.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Serialize;
use smallvec::SmallVec;
use tidegate_llm::price::PriceTable;
use tidegate_llm::usage::Usage;
use tokio::sync::Notify;

use super::key::{self, Amount, Hash, VirtualKey};
use super::meter::{LARGEST, Meter, Short, Unit, Window};
use super::window::Span;
use super::words::no_more;
use crate::clock::Clock;

/// Why a caller's key does not open the door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No such key, or it was revoked or ended.
    #[error("the virtual key is not known, revoked or expired")]
    Unknown,
    /// The key may not use this model.
    #[error("the virtual key may not use the model {model:?}")]
    Model {
        /// By the caller's name.
        model: String,
    },
    /// The keys have not been read from the store since this process began.
    #[error("virtual keys are not known yet: the store is away")]
    NotReady,
}

/// Why a request must wait.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A limit is reached, or what is left of it is less than the request may use.
    #[error("{}", no_more(*used, *limit, *wanted, what, *per, currency))]
    UsedUp {
        /// `requests`, `tokens`, or `micros` of the currency.
        what: &'static str,
        /// What counts in this span, reservations of requests under way too.
        used: u64,
        /// What the request would reserve. More than is left, even if something is.
        wanted: u64,
        /// The limit.
        limit: u64,
        /// Its span.
        per: Span,
        /// What money is counted in.
        currency: Arc<str>,
        /// Until the span ends.
        retry_after: Duration,
    },
    /// More than is held here in advance; the store is being asked, which takes a moment.
    #[error("what the virtual key used of its {} per {} is being counted", match *what { "micros" => "budget", what => what }, per.as_str())]
    Unconfirmed {
        /// As above.
        what: &'static str,
        /// As above.
        per: Span,
    },
    /// The key has a budget in money and the model has no price.
    #[error("the model {model:?} has no price, and the virtual key has a budget in money")]
    NoPrice {
        /// By the provider's name.
        model: String,
    },
}

impl Refused {
    /// For `Retry-After`; `None`: trying again does not help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Refused::UsedUp { retry_after, .. } => Some((*retry_after).max(Duration::from_secs(1))),
            Refused::Unconfirmed { .. } => Some(Duration::from_secs(1)),
            Refused::NoPrice { .. } => None,
        }
    }
}

/// What a request may use at most, as far as it is known before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Tokens of the prompt, estimated from its bytes.
    pub input: u64,
    /// Tokens of the answer: what the caller bounds it to, or a guess.
    pub output: u64,
}

/// What is left of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spending {
    /// `requests`, `tokens` or `micros`.
    pub unit: &'static str,
    /// Its span.
    pub per: Span,
    /// The limit.
    pub limit: u64,
    /// What is counted in the current span, as far as this replica knows (other replicas' leases count as used).
    pub used: u64,
    /// What money is counted in (`EUR`); `None`: it is no money.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

/// A virtual key with this replica's part of its limits.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) key: VirtualKey,
    pub(crate) meters: Vec<Arc<Meter>>,
    /// Waits for the task already.
    queued: AtomicBool,
    /// Counted in a store that is no longer used: no business of the task that asks the next one.
    parted: AtomicBool,
}

impl Account {
    /// `old`: what this key was before; limits of the same kind keep their counts. `connected`: whether the store is near.
    pub(crate) fn new(key: VirtualKey, old: Option<&Account>, connected: bool) -> Account {
        let limits = &key.limits;
        let per_minute = [
            limits
                .requests_per_minute
                .map(|n| (Unit::Requests, Span::Minute, n)),
            limits
                .tokens_per_minute
                .map(|n| (Unit::Tokens, Span::Minute, n)),
        ];
        let budgets = limits.budgets.iter().map(|budget| match budget.amount {
            Amount::Tokens(n) => (Unit::Tokens, budget.per, n),
            Amount::Micros(n) => (Unit::Micros, budget.per, n),
        });
        let wanted = per_minute.into_iter().flatten().chain(budgets);
        let meters = wanted
            .map(|(unit, span, limit)| {
                let same = |m: &&Arc<Meter>| (m.unit, m.span) == (unit, span);
                match old.and_then(|old| old.meters.iter().find(same)) {
                    Some(kept) => {
                        kept.set_limit(limit, connected);
                        kept.clone()
                    }
                    None => Arc::new(Meter::new(unit, span, limit)),
                }
            })
            .collect();
        Account {
            key,
            meters,
            queued: AtomicBool::new(false),
            parted: AtomicBool::new(false),
        }
    }

    pub(crate) fn spending(&self, currency: &str, unix_ms: u64) -> Vec<Spending> {
        let of = |m: &Arc<Meter>| Spending {
            unit: m.unit.as_str(),
            per: m.span,
            limit: m.limit(),
            used: m.used(unix_ms),
            currency: (m.unit == Unit::Micros).then(|| currency.to_owned()),
        };
        self.meters.iter().map(of).collect()
    }
}

/// This replica's copy of all virtual keys. Shared by workers and the task that follows the store ([`run`](super::run)).
#[derive(Debug)]
pub struct Accounts {
    book: ArcSwap<Book>,
    prices: ArcSwap<Prices>,
    pub(crate) connected: AtomicBool,
    low: Mutex<Vec<Arc<Account>>>,
    pub(crate) wake: Notify,
    pub(crate) answered: Notify,
}

/// What tokens cost, and in what.
#[derive(Debug)]
struct Prices {
    table: PriceTable,
    currency: Arc<str>,
}

impl Default for Prices {
    fn default() -> Prices {
        Prices {
            table: PriceTable::default(),
            currency: "USD".into(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    pub(crate) ready: bool,
    pub(crate) keys: HashMap<Hash, Arc<Account>>,
}

impl Default for Accounts {
    fn default() -> Accounts {
        Accounts {
            book: ArcSwap::default(),
            prices: ArcSwap::default(),
            connected: AtomicBool::new(true),
            low: Mutex::default(),
            wake: Notify::new(),
            answered: Notify::new(),
        }
    }
}

impl Accounts {
    /// No keys yet, not ready.
    pub fn new(prices: PriceTable, currency: &str) -> Accounts {
        let accounts = Accounts::default();
        accounts.set_prices(prices, currency);
        accounts
    }

    /// Takes over a price table and what it is in (`EUR`), for requests that begin from now on.
    pub fn set_prices(&self, table: PriceTable, currency: &str) {
        let currency = currency.into();
        self.prices.store(Arc::new(Prices { table, currency }));
    }

    /// What money is counted in.
    pub fn currency(&self) -> Arc<str> {
        self.prices.load().currency.clone()
    }

    /// True once the keys have been read from the store.
    pub fn is_ready(&self) -> bool {
        self.book.load().ready
    }

    /// Whether a text looks like a virtual key at all: where they are optional, others are passed on or ignored.
    pub fn looks_like_one(token: &str) -> bool {
        token.starts_with(key::PREFIX)
    }

    /// Whether the caller with this token may use this model (by the caller's name; `None` for requests without one, such as
    /// lists of models). From memory.
    ///
    /// # Errors
    /// [`Denied`].
    pub fn authorize(
        self: &Arc<Self>,
        token: &str,
        model: Option<&str>,
        unix_ms: u64,
    ) -> Result<Permit, Denied> {
        let book = self.book.load();
        if !book.ready {
            return Err(Denied::NotReady);
        }
        // Looked up by hash: how long it takes tells nothing of the tokens that there are.
        let account = book.keys.get(&key::hash(token)).ok_or(Denied::Unknown)?;
        if account.key.expires_at.is_some_and(|at| at <= unix_ms) {
            return Err(Denied::Unknown);
        }
        let permit = Permit {
            accounts: self.clone(),
            account: account.clone(),
        };
        match model {
            Some(model) if !permit.allows(model) => Err(Denied::Model {
                model: model.to_owned(),
            }),
            _ => Ok(permit),
        }
    }

    /// The keys with what they have used, by name and id.
    pub fn list(&self, unix_ms: u64) -> Vec<(VirtualKey, Vec<Spending>)> {
        let book = self.book.load();
        let currency = self.currency();
        let mut keys: Vec<_> = book
            .keys
            .values()
            .map(|a| (a.key.clone(), a.spending(&currency, unix_ms)))
            .collect();
        keys.sort_by(|a, b| (&a.0.name, &a.0.id).cmp(&(&b.0.name, &b.0.id)));
        keys
    }

    pub(crate) fn book(&self) -> Arc<Book> {
        self.book.load_full()
    }

    pub(crate) fn set_book(&self, book: Book) {
        self.book.store(Arc::new(book));
    }

    /// The same keys with counts that begin anew, for another store; gives those that the store before has to hear of.
    pub(crate) fn part(&self) -> Vec<Arc<Account>> {
        let old = self.book();
        let connected = self.connected.load(Relaxed);
        let anew = |(hash, account): (&Hash, &Arc<Account>)| {
            let account = Account::new(account.key.clone(), None, connected);
            (*hash, Arc::new(account))
        };
        self.set_book(Book {
            ready: old.ready,
            keys: old.keys.iter().map(anew).collect(),
        });
        let parted: Vec<_> = old.keys.values().cloned().collect();
        parted.iter().for_each(|a| a.parted.store(true, Release));
        // Whoever waits for an answer of the store before asks the other.
        self.answered.notify_waiters();
        parted
    }

    pub(crate) fn drain_low(&self) -> Vec<Arc<Account>> {
        let low = std::mem::take(&mut *self.low.lock().unwrap_or_else(PoisonError::into_inner));
        for account in &low {
            account.queued.store(false, Relaxed);
        }
        let mut low = low;
        low.retain(|account| !account.parted.load(Relaxed));
        low
    }

    /// The task should look at an account. Once until it does.
    pub(crate) fn queue(&self, account: &Arc<Account>) {
        if !account.queued.swap(true, Relaxed) {
            let mut low = self.low.lock().unwrap_or_else(PoisonError::into_inner);
            low.push(account.clone());
            drop(low);
            self.wake.notify_one();
        }
    }
}

/// A caller who may ask.
#[derive(Clone)]
pub struct Permit {
    accounts: Arc<Accounts>,
    account: Arc<Account>,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.account.key.id).finish()
    }
}

impl Permit {
    /// The key, for logs and metrics.
    pub fn key(&self) -> &VirtualKey {
        &self.account.key
    }

    /// Whether the key may use a model, by the caller's name.
    pub fn allows(&self, model: &str) -> bool {
        let models = &self.account.key.limits.models;
        models.is_empty() || models.iter().any(|pattern| key::glob(pattern, model))
    }

    /// Reserves what a request may use at most. `model`: by the provider's name, for the price.
    ///
    /// # Errors
    /// [`Refused`]; then nothing is reserved.
    pub fn reserve(
        &self,
        estimate: Estimate,
        model: &str,
        unix_ms: u64,
    ) -> Result<Reservation, Refused> {
        let prices = self.accounts.prices.load();
        let usage = Usage {
            input: estimate.input,
            output: estimate.output,
            ..Usage::default()
        };
        let connected = self.accounts.connected.load(Relaxed);
        let mut reservation = Reservation {
            accounts: self.accounts.clone(),
            account: self.account.clone(),
            prices: prices.clone(),
            model: model.to_owned(),
            estimate,
            sent: false,
            held: SmallVec::new(),
        };
        for meter in &self.account.meters {
            let most = match meter.unit {
                Unit::Requests => 1,
                Unit::Tokens => usage.total(),
                Unit::Micros => match prices.table.find(model) {
                    Some(price) => price.cost(&usage).0,
                    None => {
                        reservation.undo();
                        return Err(Refused::NoPrice {
                            model: model.to_owned(),
                        });
                    }
                },
            };
            let amount = meter.amount(most);
            match meter.take(amount, unix_ms, connected) {
                Ok(window) => {
                    if meter.is_low(&window) {
                        self.accounts.queue(&self.account);
                    }
                    reservation.held.push(Held {
                        unit: meter.unit,
                        window,
                        amount,
                    });
                }
                Err(short) => {
                    // What was taken so far goes back, the request's own count too.
                    reservation.undo();
                    self.accounts.queue(&self.account);
                    let (what, per) = (meter.unit.as_str(), meter.span);
                    return Err(match short {
                        Short::Unconfirmed => Refused::Unconfirmed { what, per },
                        Short::UsedUp => Refused::UsedUp {
                            what,
                            used: meter.used(unix_ms),
                            wanted: amount.unsigned_abs(),
                            limit: meter.limit(),
                            per,
                            currency: prices.currency.clone(),
                            retry_after: per.left(unix_ms),
                        },
                    });
                }
            }
        }
        Ok(reservation)
    }

    /// Where its key is counted in another store by now, it is so for this permit too.
    fn follow(&mut self) {
        if !self.account.parted.load(Acquire) {
            return;
        }
        let book = self.accounts.book();
        let mut known = book.keys.values();
        if let Some(account) = known.find(|account| account.key.id == self.account.key.id) {
            self.account = account.clone();
        }
    }

    /// As [`Permit::reserve`]; where the store is just being asked, its answer is waited for, at most `patience`.
    ///
    /// # Errors
    /// As [`Permit::reserve`].
    pub async fn reserve_within(
        &self,
        estimate: Estimate,
        model: &str,
        clock: &dyn Clock,
        patience: Duration,
    ) -> Result<Reservation, Refused> {
        match self.reserve(estimate, model, clock.unix_ms()) {
            Err(Refused::Unconfirmed { .. }) => {}
            answer => return answer,
        }
        // Only who has to wait joins those that wait: they are in a list behind a lock that all workers share.
        let deadline = tokio::time::Instant::now() + patience;
        let mut permit = self.clone();
        loop {
            let answered = self.accounts.answered.notified();
            tokio::pin!(answered);
            // Before the attempt: an answer that comes in between is not missed.
            answered.as_mut().enable();
            permit.follow();
            match permit.reserve(estimate, model, clock.unix_ms()) {
                Err(Refused::Unconfirmed { what, per }) => {
                    if tokio::time::timeout_at(deadline, answered).await.is_err() {
                        return Err(Refused::Unconfirmed { what, per });
                    }
                }
                answer => return answer,
            }
        }
    }
}

#[derive(Debug)]
struct Held {
    unit: Unit,
    window: Arc<Window>,
    amount: i64,
}

/// What a request has reserved. It is settled in the spans in which it was made, also when it is dropped: a caller who leaves
/// pays for the prompt, once a provider has it.
pub struct Reservation {
    accounts: Arc<Accounts>,
    account: Arc<Account>,
    /// As they were when the request began.
    prices: Arc<Prices>,
    model: String,
    estimate: Estimate,
    sent: bool,
    held: SmallVec<[Held; 4]>,
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("key", &self.account.key.id)
            .field("held", &self.held)
            .finish()
    }
}

/// An amount as it is counted. A provider's word of what was used is bounded too.
fn whole(amount: u64) -> i64 {
    amount.min(LARGEST) as i64
}

impl Reservation {
    /// A provider has the request, and will count its prompt. Fallbacks tell again, with their model.
    pub fn sent(&mut self, model: &str) {
        self.sent = true;
        if self.model != model {
            model.clone_into(&mut self.model);
        }
    }

    /// The provider told the usage, or it was estimated from what went by.
    pub fn settle(mut self, usage: &Usage) {
        self.charge(Some(usage));
    }

    fn charge(&mut self, usage: Option<&Usage>) {
        let price = self.prices.table.find(&self.model);
        for held in self.held.drain(..) {
            let used = match (held.unit, usage) {
                (Unit::Requests, _) => held.amount,
                (_, None) => 0,
                (Unit::Tokens, Some(usage)) => whole(usage.total()),
                // A fallback without a price: what was reserved for the first choice.
                (Unit::Micros, Some(usage)) => {
                    price.map_or(held.amount, |p| whole(p.cost(usage).0))
                }
            };
            held.window.correct(used - held.amount);
        }
        self.tell();
    }

    /// Has the store asked where its count is off.
    fn tell(&self) {
        if self.account.meters.iter().any(|m| m.is_off()) {
            self.accounts.queue(&self.account);
        }
    }

    fn undo(&mut self) {
        for held in self.held.drain(..) {
            held.window.correct(-held.amount);
        }
        self.tell();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let usage = self.sent.then(|| Usage {
            input: self.estimate.input,
            ..Usage::default()
        });
        self.charge(usage.as_ref());
    }
}
