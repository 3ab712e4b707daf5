//! What the tests share: a clock and dice in one hand, providers from YAML, outcomes by name.

#![allow(dead_code)] // each test program uses a part

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use async_trait::async_trait;
use tidegate_core::{HealthStatus, MemberState, Scope, SmallRng, Time};
use tidegate_keys::account::{Accounts, Span, run};
use tidegate_keys::*;
use tidegate_llm::classify::{Class, Evidence, LimitScope};
use tidegate_state::{
    Add, Entry, Error, Guard, Key, Lease, LeaseView, Listing, Prefix, Store, Version, Watch,
};

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

pub(crate) const SECRET: [u8; 32] = [7; 32];

pub(crate) fn token(i: usize) -> String {
    format!("sk-test-abcdefghijkl{i:04}")
}

/// Settings of provider `p` with keys `0..keys`, and further lines of its section.
pub(crate) fn settings(keys: &[usize], more: &str) -> Settings {
    named("p", "http://127.0.0.1:1", keys, more)
}

pub(crate) fn named(name: &str, base_url: &str, keys: &[usize], more: &str) -> Settings {
    let tokens: Vec<String> = keys.iter().map(|i| format!("\"{}\"", token(*i))).collect();
    let mut text = format!(
        "providers:\n  - name: {name}\n    type: openai\n    base_url: {base_url}\n    api_tokens: [{}]\n",
        tokens.join(", ")
    );
    for line in more.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text.push_str("listeners: [{ name: main, address: 127.0.0.1:8080 }]\n");
    text.push_str(&format!(
        "routes: [{{ name: r, to: [{{ provider: {name} }}] }}]\n"
    ));
    let loaded = match tidegate_config::load_str("test.yaml", &text) {
        Ok(loaded) => loaded,
        Err(wrong) => panic!("{wrong}\n{text}"),
    };
    Settings::of(&loaded.config.providers[0]).unwrap()
}

/// The failover of the reference, as an import from Higress writes it.
pub(crate) const HIGRESS: &str = "failover: { failure_threshold: 3, success_threshold: 1, health_check_interval: 5s, \
     health_check_timeout: 5s, health_check_model: gpt-3, cooldown: 0s, on_status: [\"4..\", \"5..\"], when_exhausted: error }";

pub(crate) struct Bench {
    pub(crate) keys: Keys,
    pub(crate) now: Time,
    pub(crate) rng: SmallRng,
}

impl Bench {
    pub(crate) fn new(settings: Vec<Settings>) -> Bench {
        let now = Time::from_secs(10_000);
        let keys = Keys::new("one", Identity::new(SECRET));
        keys.apply(settings, now);
        Bench {
            keys,
            now,
            rng: SmallRng::new(5),
        }
    }

    pub(crate) fn of(keys: usize, more: &str) -> Bench {
        let keys: Vec<usize> = (0..keys).collect();
        Bench::new(vec![settings(&keys, more)])
    }

    pub(crate) fn provider(&self) -> Arc<Provider> {
        self.keys.provider("p").unwrap()
    }

    pub(crate) fn rotation(&self, model: &str) -> Rotation {
        self.provider().rotation(model, None, 0)
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + Duration::from_millis(100)).min(end);
            self.keys.turn(self.now);
        }
    }

    /// One attempt for a model with a key chosen by number, with its outcome.
    pub(crate) fn attempt(&mut self, key: usize, model: &str, outcome: Outcome<'_>) -> Next {
        for _ in 0..2_000 {
            let mut rotation = self.rotation(model);
            let pick = rotation.next(self.now, &mut self.rng).unwrap();
            if number(&pick) == key {
                return pick.finish(outcome, None, self.now);
            }
        }
        panic!("key {key} is never chosen");
    }

    /// A whole request: what each key answers is told by `answer`; returns the key that served it, and all tried.
    pub(crate) fn request(
        &mut self,
        model: &str,
        retries: usize,
        mut answer: impl FnMut(usize) -> Evidence,
    ) -> (Result<usize, AllOut>, Vec<usize>) {
        let mut rotation = self.rotation(model);
        let (mut tried, mut retries) = (Vec::new(), retries);
        loop {
            let pick = match rotation.next(self.now, &mut self.rng) {
                Ok(pick) => pick,
                Err(out) => return (Err(out), tried),
            };
            let key = number(&pick);
            tried.push(key);
            let evidence = answer(key);
            match rotation.finish(pick, Outcome::Answer(&evidence), None, self.now) {
                Next::Done => return (Ok(key), tried),
                Next::Rotate | Next::Another => {}
                Next::Retry | Next::Elsewhere if retries > 0 => retries -= 1,
                Next::Retry | Next::Elsewhere => return (Ok(key), tried),
            }
        }
    }

    pub(crate) fn health(&self, key: usize, model: &str) -> Option<HealthStatus> {
        health(&self.provider(), key, model, self.now)
    }

    pub(crate) fn state(&self, key: usize, model: &str) -> MemberState {
        self.health(key, model)
            .map_or(MemberState::Healthy, |h| h.state)
    }

    /// Keys that serve a model now.
    pub(crate) fn fit(&mut self, model: &str) -> Vec<usize> {
        fit(&self.provider(), model, self.now)
    }
}

pub(crate) fn number(pick: &KeyPick) -> usize {
    let token = pick.key().token.expose();
    token[token.len() - 4..].parse().unwrap()
}

pub(crate) fn health(
    provider: &Provider,
    key: usize,
    model: &str,
    now: Time,
) -> Option<HealthStatus> {
    let statuses = provider.pool().status(now);
    let members = provider.pool().members();
    let member = members
        .iter()
        .find(|m| m.payload().token.expose() == token(key))?;
    let status = statuses.into_iter().find(|s| s.key == member.key())?;
    if model.is_empty() {
        return Some(status.health);
    }
    let scoped = status.scopes.into_iter().find(|(s, _)| s.as_str() == model);
    scoped.map(|(_, health)| health)
}

/// Keys that neither as a whole nor for this model are out.
pub(crate) fn fit(provider: &Provider, model: &str, now: Time) -> Vec<usize> {
    let mut fit: Vec<usize> = provider
        .pool()
        .members()
        .iter()
        .map(|m| m.payload().token.expose().to_owned())
        .map(|t| t[t.len() - 4..].parse().unwrap())
        .collect();
    fit.retain(|key| {
        ["", model].iter().all(|scope| {
            health(provider, *key, scope, now).is_none_or(|h| h.state == MemberState::Healthy)
        })
    });
    fit.sort_unstable();
    fit
}

pub(crate) fn evidence(class: Class, status: u16) -> Evidence {
    Evidence {
        class,
        try_other: !matches!(class, Class::Ok | Class::CallerFault),
        status,
        code: Some("test_code".into()),
        excerpt: "what it said".into(),
        rule: "test",
    }
}

pub(crate) fn good() -> Evidence {
    evidence(Class::Ok, 200)
}

pub(crate) fn dead() -> Evidence {
    evidence(Class::KeyDead, 401)
}

pub(crate) fn down() -> Evidence {
    evidence(Class::ProviderDown, 503)
}

pub(crate) fn limited(seconds: u64) -> Evidence {
    let class = Class::Limited {
        scope: LimitScope::Model,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    evidence(class, 429)
}

pub(crate) fn limited_whole(seconds: u64) -> Evidence {
    let class = Class::Limited {
        scope: LimitScope::Key,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    evidence(class, 429)
}

pub(crate) fn scope(name: &str) -> Scope {
    Scope::new(name)
}

/// A store that is away at will. Watches go on: what they feed is the memory's.
#[derive(Debug)]
pub(crate) struct Fickle {
    inner: Arc<dyn Store>,
    away: AtomicBool,
    mute: AtomicBool,
    panics: AtomicBool,
}

impl Fickle {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Fickle {
        Fickle {
            inner,
            away: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            panics: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Relaxed);
    }

    /// Whoever uses it ends without a word: no lease is given back.
    pub(crate) fn mute(&self) {
        self.mute.store(true, Relaxed);
    }

    /// The next write or count panics.
    pub(crate) fn panic_once(&self) {
        self.panics.store(true, Relaxed);
    }

    fn check_write(&self) -> Result<(), Error> {
        assert!(!self.panics.swap(false, Relaxed), "as the test wants");
        self.check()
    }

    fn check(&self) -> Result<(), Error> {
        match self.away.load(Relaxed) {
            true => Err(Error::Unavailable {
                cause: "test".into(),
            }),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for Fickle {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, Error> {
        self.check()?;
        self.inner.get(key).await
    }
    async fn list(&self, prefix: &Prefix) -> Result<Listing, Error> {
        self.check()?;
        self.inner.list(prefix).await
    }
    async fn put(
        &self,
        key: &Key,
        value: bytes::Bytes,
        ttl: Option<Duration>,
        guard: &Guard,
    ) -> Result<Version, Error> {
        self.check_write()?;
        self.inner.put(key, value, ttl, guard).await
    }
    async fn delete(&self, key: &Key, guard: &Guard) -> Result<bool, Error> {
        self.check()?;
        self.inner.delete(key, guard).await
    }
    fn watch(&self, prefix: &Prefix) -> Watch {
        self.inner.watch(prefix)
    }
    async fn acquire(&self, name: &Key, holder: &str, ttl: Duration) -> Result<Lease, Error> {
        self.check()?;
        self.inner.acquire(name, holder, ttl).await
    }
    async fn renew(&self, lease: &Lease) -> Result<Lease, Error> {
        self.check()?;
        self.inner.renew(lease).await
    }
    async fn release(&self, lease: &Lease) -> Result<(), Error> {
        self.check()?;
        if self.mute.load(Relaxed) {
            return Ok(());
        }
        self.inner.release(lease).await
    }
    async fn lease(&self, name: &Key) -> Result<Option<LeaseView>, Error> {
        self.check()?;
        self.inner.lease(name).await
    }
    async fn add_all(&self, adds: &[Add]) -> Result<Vec<u64>, Error> {
        self.check_write()?;
        self.inner.add_all(adds).await
    }
    fn connected(&self) -> bool {
        !self.away.load(Relaxed)
    }
}

thread_local! {
    /// A test has one thread: where its calendar began.
    static BEGAN: Instant = Instant::now();
}

/// The fifteenth of a month, twelve o'clock: no day ends while a test runs.
const NOON: u64 = 1_768_478_400_000;

/// One calendar for all replicas of a test, whatever the day is. It follows tokio's clock.
#[derive(Debug)]
pub(crate) struct Calendar(Instant);

impl Calendar {
    pub(crate) fn here() -> Self {
        Self(BEGAN.with(|began| *began))
    }
}

impl Clock for Calendar {
    fn now(&self) -> Time {
        Time::ZERO + self.0.elapsed()
    }

    fn unix_ms(&self) -> u64 {
        NOON + u64::try_from(self.0.elapsed().as_millis()).unwrap()
    }
}

/// A replica's virtual keys; its task ends with it.
pub(crate) struct Replica {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) clock: Arc<Calendar>,
    pub(crate) task: JoinHandle<()>,
}

impl Replica {
    pub(crate) async fn with(store: &Arc<dyn Store>, accounts: Accounts) -> Self {
        let accounts = Arc::new(accounts);
        let clock = Arc::new(Calendar::here());
        let task = tokio::spawn(run(accounts.clone(), store.clone(), clock.clone()));
        // To the beginning of a minute: windows end when the test says.
        sleep(Span::Minute.left(clock.unix_ms())).await;
        Self {
            accounts,
            clock,
            task,
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}
