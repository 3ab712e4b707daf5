//! One limit of one virtual key at one replica: what it took from the store in advance, and what it has spent of it.
//!
//! Requests touch atomics only. The books with the store are kept by the sync task: [`Meter::ask`] says what to ask for,
//! [`Meter::answered`] takes the answer.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use arc_swap::ArcSwap;

use super::window::Span;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Requests,
    Tokens,
    Micros,
}

impl Unit {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
            Unit::Micros => "micros",
        }
    }
}

/// The largest amount that is counted: what the store can.
pub(crate) const LARGEST: u64 = 1 << 53;
/// How long a lease may lie unused before it is given back, in milliseconds.
const IDLE_MS: u64 = 30_000;
/// How often a lease is tried to be given back that is being spent at the same time.
const LAST_TRIES: usize = 8;
/// A store that said "used up" is asked again after so long, if somebody wants more.
const ASK_AGAIN_MS: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) unit: Unit,
    pub(crate) span: Span,
    limit: AtomicI64,
    window: ArcSwap<Window>,
}

/// A limit in one span of the calendar.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) index: u64,
    /// Reserved and settled here. Falls when a request used less than it reserved.
    spent: AtomicI64,
    /// Taken from the store.
    granted: AtomicI64,
    /// Counted in the store beyond that and beyond the limit, as a debt. Nothing is admitted on it; what a settled request gives
    /// back of it goes back to the store.
    noted: AtomicI64,
    /// How far `spent` may be beyond `granted` when a request begins.
    ahead: AtomicI64,
    /// The store's count when it last answered: leases of all replicas, and debts.
    total: AtomicI64,
    /// The largest reservation that was refused since the store was asked.
    wanted: AtomicI64,
    /// The store said that nothing is left.
    used_up: AtomicBool,
    /// Taken for a limit that was higher: goes back at the next look.
    surplus: AtomicBool,
    /// Milliseconds since 1970.
    last_spent: AtomicU64,
    last_answer: AtomicU64,
}

/// What the store should be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// More: within the limit.
    Grant(i64),
    /// To note what was spent beyond what was granted, limit or not.
    Debt(i64),
    /// To take back what lies unused. It is no longer ours from the moment that this is asked.
    Return(i64),
}

/// Why there is nothing for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// The limit is reached.
    UsedUp,
    /// The lease is used up, and the store has not been heard yet.
    Unconfirmed,
}

impl Meter {
    pub(crate) fn new(unit: Unit, span: Span, limit: u64) -> Meter {
        Meter {
            unit,
            span,
            limit: AtomicI64::new(limit.min(LARGEST) as i64),
            window: ArcSwap::from_pointee(Window::new(0, 0)),
        }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.at_most().unsigned_abs()
    }

    fn at_most(&self) -> i64 {
        self.limit.load(Relaxed)
    }

    /// Another limit from now on. What was spent in the window stays spent.
    pub(crate) fn set_limit(&self, limit: u64, connected: bool) {
        let limit = limit.min(LARGEST) as i64;
        let before = self.limit.swap(limit, Relaxed);
        if before == limit {
            return;
        }
        let window = self.window.load();
        let used_up = window.total.load(Relaxed) >= limit;
        window.used_up.store(used_up, Relaxed);
        if !used_up {
            window.grant_noted();
        }
        // Nothing was heard for this limit yet: asked at once.
        window.last_answer.store(0, Relaxed);
        self.set_ahead(&window, connected);
        // What was taken of the higher limit goes back before anything is taken of the lower one.
        window.surplus.store(limit < before, Relaxed);
    }

    /// How far this replica may run ahead of its lease while the store is near: a tenth of a limit per minute, a hundredth of a
    /// budget, at least 1.
    pub(crate) fn slack(&self) -> i64 {
        let part = if self.span == Span::Minute { 10 } else { 100 };
        (self.at_most() / part).max(1)
    }

    /// What is taken in advance.
    fn lease(&self) -> i64 {
        let part = if self.span == Span::Minute { 10 } else { 50 };
        (self.at_most() / part).max(1)
    }

    /// The window of a moment, made if it is a new one. `connected`: whether the store is near.
    pub(crate) fn current(&self, unix_ms: u64, connected: bool) -> Arc<Window> {
        let index = self.span.index(unix_ms);
        let current = self.window.load();
        if current.index == index {
            return Arc::clone(&current);
        }
        let ahead = if connected {
            self.slack()
        } else {
            self.at_most()
        };
        let fresh = Arc::new(Window::new(index, ahead));
        // Two threads at once: one of the new windows is everybody's. A clock that lags by a moment keeps to the newer one.
        self.window.rcu(|old| {
            if old.index < index {
                fresh.clone()
            } else {
                old.clone()
            }
        });
        self.window.load_full()
    }

    /// What a request reserves that says that it may use so much: no more than the whole limit. Whatever a caller writes, what
    /// others spent is not lost in the sum, and the store can count it.
    pub(crate) fn amount(&self, most: u64) -> i64 {
        most.min(self.limit()) as i64
    }

    /// Reserves an amount.
    pub(crate) fn take(
        &self,
        amount: i64,
        unix_ms: u64,
        connected: bool,
    ) -> Result<Arc<Window>, Short> {
        let window = self.current(unix_ms, connected);
        let admitted = window.spent.fetch_update(Relaxed, Relaxed, |spent| {
            let granted = window.granted.load(Acquire);
            let within = spent.saturating_add(amount) <= granted;
            let ahead = window.ahead.load(Relaxed);
            // Once the limit is known to be reached not even one request may cross it: what settled requests give back would let
            // another one across again and again.
            let may_cross = ahead > 0 && spent - granted < ahead;
            (within || may_cross).then(|| spent.saturating_add(amount))
        });
        match admitted {
            Ok(_) => {
                window.last_spent.store(unix_ms, Relaxed);
                Ok(window)
            }
            Err(_) => {
                window.wanted.fetch_max(amount, Relaxed);
                let used_up = window.used_up.load(Relaxed);
                Err(if used_up {
                    Short::UsedUp
                } else {
                    Short::Unconfirmed
                })
            }
        }
    }

    /// Whether the task should look at it soon.
    pub(crate) fn is_low(&self, window: &Window) -> bool {
        let free = window.taken() - window.spent.load(Relaxed);
        free < self.lease() / 2 || window.wanted.load(Relaxed) > 0
    }

    /// What to ask the store for, and in which window; at most one question a window at a time.
    pub(crate) fn ask(&self, unix_ms: u64, connected: bool) -> Option<(Arc<Window>, Ask)> {
        let window = self.window.load_full();
        let over = window.index != self.span.index(unix_ms);
        let (spent, granted) = (window.spent.load(Relaxed), window.granted.load(Relaxed));
        let free = window.taken() - spent;
        if over {
            // Only its debt still matters, for those who read the counter.
            return (free < 0).then_some((window, Ask::Debt(-free)));
        }
        let noted = window.noted.load(Relaxed).min(free);
        if noted > 0 && connected {
            window.noted.fetch_sub(noted, Relaxed);
            return Some((window, Ask::Return(noted)));
        }
        let used_up = window.used_up.load(Relaxed);
        let answered = window.last_answer.load(Relaxed);
        // Asked again at times: somebody may have given something back.
        if used_up && unix_ms.saturating_sub(answered) < ASK_AGAIN_MS {
            return None;
        }
        if used_up && free < 0 {
            return Some((window, Ask::Debt(-free)));
        }
        if free > 0 && connected && window.surplus.load(Relaxed) {
            return give_back(window, spent, granted);
        }
        let wanted = window.wanted.swap(0, Relaxed);
        let idle = unix_ms.saturating_sub(window.last_spent.load(Relaxed)) >= IDLE_MS;
        let low = !used_up && spent > 0 && !idle && free < (self.lease() / 2).max(1);
        if wanted > 0 || low {
            let lease = if used_up { 0 } else { self.lease() };
            let more = (lease - free).max(wanted - free).max(1);
            return Some((window, Ask::Grant(more)));
        }
        if free < 0 {
            return Some((window, Ask::Grant(-free)));
        }
        if idle && free > 0 && connected {
            return give_back(window, spent, granted);
        }
        None
    }

    /// What the store must hear before this replica ends: what was spent beyond the lease, or what is left of it. `None`: they
    /// agree.
    pub(crate) fn last_word(&self) -> Option<(Arc<Window>, Ask)> {
        let window = self.window.load_full();
        window.grant_noted();
        // Requests that are still under way may settle meanwhile.
        for _ in 0..LAST_TRIES {
            let (spent, granted) = (window.spent.load(Relaxed), window.granted.load(Relaxed));
            if spent == granted {
                return None;
            }
            if spent > granted {
                return Some((window, Ask::Debt(spent - granted)));
            }
            if let Some(last) = give_back(window.clone(), spent, granted) {
                return Some(last);
            }
        }
        None
    }

    /// The store's answer. `Ok`: done, with the count after it. `Err(Some(count))`: it would have gone past the limit, and
    /// nothing was added. `Err(None)`: the store did not answer. Returns what to ask next at once.
    pub(crate) fn answered(
        &self,
        window: &Window,
        ask: Ask,
        answer: Result<u64, Option<u64>>,
        unix_ms: u64,
    ) -> Option<Ask> {
        match answer {
            Ok(total) => {
                let total = total.min(LARGEST) as i64;
                window.total.store(total, Relaxed);
                match ask {
                    Ask::Grant(more) => {
                        window.granted.fetch_add(more, Release);
                    }
                    Ask::Debt(more) => {
                        window.noted.fetch_add(more, Relaxed);
                    }
                    Ask::Return(_) => {}
                }
                if total <= self.at_most() {
                    window.grant_noted();
                }
                window.last_answer.store(unix_ms, Relaxed);
                window.used_up.store(total >= self.at_most(), Relaxed);
                self.set_ahead(window, true);
                None
            }
            Err(Some(total)) => {
                let total = total.min(LARGEST) as i64;
                window.total.store(total, Relaxed);
                window.last_answer.store(unix_ms, Relaxed);
                let left = self.at_most() - total;
                if left > 0 {
                    return Some(Ask::Grant(left));
                }
                window.used_up.store(true, Relaxed);
                self.set_ahead(window, true);
                let debt = window.spent.load(Relaxed) - window.taken();
                (debt > 0).then_some(Ask::Debt(debt))
            }
            Err(None) => {
                if let Ask::Grant(more) = ask {
                    // Asked again as soon as the store is back. What may have been granted unheard is lost until the
                    // window ends: too little is spent rather than too much.
                    window.wanted.fetch_max(more.min(1), Relaxed);
                }
                self.set_ahead(window, false);
                None
            }
        }
    }

    /// How far to run ahead: near the store by the slack, away from it by all that was left when it was last heard.
    fn set_ahead(&self, window: &Window, connected: bool) {
        let left = (self.at_most() - window.total.load(Relaxed)).max(0);
        let ahead = if connected {
            self.slack().min(left)
        } else {
            left
        };
        window.ahead.store(ahead, Relaxed);
    }

    /// The store came near, or went away.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.set_ahead(&self.window.load(), connected);
    }

    /// Whether the store should hear of it soon: more was used than was granted, or less than was noted there as a debt.
    pub(crate) fn is_off(&self) -> bool {
        let window = self.window.load();
        let (spent, taken) = (window.spent.load(Relaxed), window.taken());
        spent > taken || spent < taken && window.noted.load(Relaxed) > 0
    }

    /// What is counted in this window, as far as this replica knows: the store's count when it last answered, without its own
    /// lease, and what it has spent.
    pub(crate) fn used(&self, unix_ms: u64) -> u64 {
        let window = self.window.load();
        if window.index != self.span.index(unix_ms) {
            return 0;
        }
        let others = (window.total.load(Relaxed) - window.taken()).max(0);
        u64::try_from(others + window.spent.load(Relaxed)).unwrap_or(0)
    }
}

/// Takes what lies unused like a reservation first: no request can be admitted on what is about to go.
fn give_back(window: Arc<Window>, spent: i64, granted: i64) -> Option<(Arc<Window>, Ask)> {
    let free = granted - spent;
    let taken = window
        .spent
        .compare_exchange(spent, granted, Relaxed, Relaxed);
    taken.ok()?;
    window.granted.fetch_sub(free, Release);
    window.spent.fetch_sub(free, Release);
    window.surplus.store(false, Relaxed);
    Some((window, Ask::Return(free)))
}

impl Window {
    fn new(index: u64, ahead: i64) -> Window {
        Window {
            index,
            spent: AtomicI64::new(0),
            granted: AtomicI64::new(0),
            noted: AtomicI64::new(0),
            ahead: AtomicI64::new(ahead),
            total: AtomicI64::new(0),
            wanted: AtomicI64::new(0),
            used_up: AtomicBool::new(false),
            surplus: AtomicBool::new(false),
            last_spent: AtomicU64::new(0),
            last_answer: AtomicU64::new(0),
        }
    }

    /// What the store counts of this replica.
    fn taken(&self) -> i64 {
        self.granted.load(Relaxed) + self.noted.load(Relaxed)
    }

    /// All that the store counts is within the limit after all: what was noted as a debt is a lease like any.
    fn grant_noted(&self) {
        let noted = self.noted.swap(0, Relaxed);
        self.granted.fetch_add(noted, Release);
    }

    /// Corrects a reservation by what was really used.
    pub(crate) fn correct(&self, by: i64) {
        self.spent.fetch_add(by, Relaxed);
    }
}
