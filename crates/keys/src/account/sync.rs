//! Keeps the copy of the virtual keys, and the books of what is spent, with the store.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tidegate_state::{Entry, Error, Event, Key, Store};
use tokio::time::Instant;

use super::book::{Account, Accounts, Book};
use super::key::{self, Hash};
use super::manage::{parse, prefix};
use super::meter::{Ask, Meter, Unit, Window};
use super::window::Span;
use crate::clock::Clock;
use crate::working::Working;

/// How often every account is looked at: leases that lie unused, windows that ended in debt.
const SWEEP: Duration = Duration::from_secs(5);
/// How often a store that is no longer used hears what requests under way used.
const REST: Duration = Duration::from_millis(500);
/// Pause after a question that the store did not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Last questions under way at a time.
const LAST_AT_ONCE: usize = 64;
/// A lease of which there is less and less is asked for in so many steps at most.
const STEPS: usize = 4;

impl Accounts {
    pub(crate) fn event(&self, event: Event) {
        let old = self.book();
        let connected = self.connected.load(Relaxed);
        let mut book = Book {
            ready: true,
            keys: old.keys.clone(),
        };
        let put = |book: &mut Book, path: &Key, entry: &Entry| {
            if let Some((hash, key)) = parse(path, entry) {
                let before = old.keys.get(&hash);
                if before.is_none_or(|before| before.key != key) {
                    let account = Arc::new(Account::new(key, before.map(|a| &**a), connected));
                    book.keys.insert(hash, account.clone());
                    // A limit that was changed may want more, or give back what it took of the old one.
                    self.queue(&account);
                }
            }
        };
        match event {
            Event::Resync(entries) => {
                let there: HashSet<Hash> = entries
                    .iter()
                    .filter_map(|(path, e)| parse(path, e))
                    .map(|(h, _)| h)
                    .collect();
                book.keys.retain(|hash, _| there.contains(hash));
                entries
                    .iter()
                    .for_each(|(path, entry)| put(&mut book, path, entry));
            }
            Event::Put(path, entry) => put(&mut book, &path, &entry),
            Event::Delete(path, _) => {
                key::parse_hash(path.last()).map(|hash| book.keys.remove(&hash));
            }
        }
        self.set_book(book);
    }

    fn set_connected(&self, connected: bool) {
        if self.connected.swap(connected, Relaxed) == connected {
            return;
        }
        tracing::info!(connected, "the store of virtual keys");
        for account in self.book().keys.values() {
            account
                .meters
                .iter()
                .for_each(|meter| meter.set_connected(connected));
        }
    }
}

/// Asks the store what a meter asks, until that is answered.
pub(crate) async fn settle(
    store: &dyn Store,
    id: &str,
    meter: &Meter,
    window: &Window,
    ask: Ask,
    clock: &dyn Clock,
) -> bool {
    let counter = format!("{}.{}", meter.unit.as_str(), meter.span.as_str());
    let path = ["accounts", "spent", id, &counter, &window.index.to_string()];
    let Ok(key) = Key::of(&path) else { return true };
    let mut next = Some(ask);
    for _ in 0..STEPS {
        let Some(ask) = next else { return true };
        let (delta, ceiling) = match ask {
            Ask::Grant(more) => (more, Some(meter.limit())),
            Ask::Debt(more) => (more, None),
            Ask::Return(less) => (-less, None),
        };
        let answer = match store
            .add(&key, delta, ceiling, Some(meter.span.kept()))
            .await
        {
            Ok(total) => Ok(total),
            Err(Error::Ceiling { value, .. }) => Err(Some(value)),
            Err(error) => {
                tracing::debug!(%key, %error, "not counted");
                Err(None)
            }
        };
        next = meter.answered(window, ask, answer, clock.unix_ms());
        if answer == Err(None) {
            return false;
        }
    }
    true
}

/// One limit of one key: at most one question at a time is asked of it.
type Slot = (String, Unit, Span);

/// Keeps an [`Accounts`] with its store until it is dropped. One task a process.
pub async fn run(accounts: Arc<Accounts>, store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let Ok(prefix) = prefix() else { return };
    let mut watch = store.watch(&prefix);
    let mut asking: Working<(Arc<Account>, Slot), bool> = Working::default();
    let mut busy: HashSet<Slot> = HashSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut away_until = Instant::now();
    loop {
        let mut all = false;
        tokio::select! {
            event = watch.next() => accounts.event(event),
            () = accounts.wake.notified() => {}
            Some(((account, slot), answered)) = asking.next() => {
                busy.remove(&slot);
                if answered == Some(false) {
                    away_until = Instant::now() + AGAIN;
                }
                // What came while it was busy. After a panic the next sweep is early enough.
                if answered.is_some() {
                    accounts.queue(&account);
                }
                accounts.answered.notify_waiters();
            }
            _ = sweep.tick() => all = true,
            () = tokio::time::sleep_until(away_until), if Instant::now() < away_until => all = true,
        }
        let near = store.connected() && Instant::now() >= away_until;
        accounts.set_connected(near);
        let low = accounts.drain_low();
        if Instant::now() < away_until {
            continue;
        }
        let look = match all {
            true => accounts.book().keys.values().cloned().collect(),
            false => low,
        };
        for account in look {
            for meter in &account.meters {
                let slot = (account.key.id.clone(), meter.unit, meter.span);
                if busy.contains(&slot) {
                    continue;
                }
                let Some((window, ask)) = meter.ask(clock.unix_ms(), near) else {
                    continue;
                };
                busy.insert(slot.clone());
                let (store, clock, meter) = (store.clone(), clock.clone(), meter.clone());
                let id = account.key.id.clone();
                asking.begin((account.clone(), slot), async move {
                    settle(&*store, &id, &meter, &window, ask, &*clock).await
                });
            }
        }
    }
}

/// Settles with the store before a process ends: what lies unused of the leases goes back, what was spent beyond them is noted.
/// To be called when [`run`] has ended and no request is served any more; give it a bound of time, a store that is away answers
/// late.
pub async fn leave(accounts: &Accounts, store: &Arc<dyn Store>, clock: &Arc<dyn Clock>) {
    let book = accounts.book();
    last_words(book.keys.values(), store, clock).await;
}

/// Has the store hear the last word of every limit.
async fn last_words(
    accounts: impl Iterator<Item = &Arc<Account>>,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
) {
    let of = |account: &Arc<Account>| {
        let id = account.key.id.clone();
        let meters = account.meters.clone();
        meters.into_iter().map(move |meter| (id.clone(), meter))
    };
    let meters: Vec<(String, Arc<Meter>)> = accounts.flat_map(of).collect();
    let mut words = meters.into_iter().filter_map(|(id, meter)| {
        let last = meter.last_word()?;
        Some((id, meter, last))
    });
    let mut asking = Working::default();
    loop {
        for (id, meter, (window, ask)) in words.by_ref().take(LAST_AT_ONCE - asking.len()) {
            let (store, clock) = (store.clone(), clock.clone());
            asking.begin((), async move {
                settle(&*store, &id, &meter, &window, ask, &*clock).await
            });
        }
        if asking.next().await.is_none() {
            return;
        }
    }
}

/// What was counted in a store that is no longer used. See [`Accounts::part_from`].
pub struct Parted {
    accounts: Vec<Arc<Account>>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Parted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = self.accounts.len();
        f.debug_struct("Parted")
            .field("accounts", &accounts)
            .finish_non_exhaustive()
    }
}

impl Accounts {
    /// Goes on without a store, while requests are served: its keys stay known and their counts begin anew, as they do in another
    /// store. To be called when [`run`] has ended for the one and before it begins for the other.
    pub fn part_from(&self, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Parted {
        Parted {
            accounts: self.part(),
            store,
            clock,
        }
    }
}

impl Parted {
    /// Settles with the store as [`leave`] does. Give it a bound of time.
    pub async fn settle(&self) {
        last_words(self.accounts.iter(), &self.store, &self.clock).await;
    }

    /// Settles again what requests that were under way used in the end, until none of them is left. Give it a bound of time.
    pub async fn settle_the_rest(mut self) {
        loop {
            // Whoever holds one may still settle. Looked at before the last word, so that nobody settles after it unseen.
            let is_held = |account| Arc::strong_count(account) > 1;
            let mut held: Vec<bool> = self.accounts.iter().map(is_held).collect();
            self.settle().await;
            held.reverse();
            self.accounts.retain(|_| held.pop() == Some(true));
            if self.accounts.is_empty() {
                return;
            }
            tokio::time::sleep(REST).await;
        }
    }
}
