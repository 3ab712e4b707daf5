//! Control work of the gateway: reload, discovery, probes, the engine's ticks, drain. It runs on the caller's runtime, never on a worker.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tidegate_config::model::Listener as ListenerConfig;
use tidegate_config::values::ListenAddress;
use tidegate_config::{Loaded, load};
use tidegate_core::{Cause, MemberState, PoolEvent, Scope, Verdict};
use tidegate_discovery::{Health, ListenerFacts, Prober, Registration, Resolver, Update, Watch};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::events::unix_ms;
use crate::listener::accept;
use crate::snapshot::Snapshot;
use crate::upstream::Upstream;
use crate::worker::{Door, Shared};
use crate::{ListenSocket, StartError};

/// How often the engine's clocks are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often certificates are looked at for changes.
const CERTIFICATES: Duration = Duration::from_secs(2);

/// Everything that is not on the request path.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) door: Arc<Door>,
    pub(crate) paths: Vec<PathBuf>,
    resolver: Resolver,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<String, Source>,
    acceptors: HashMap<String, Acceptor>,
    offered: Vec<(String, ListenSocket)>,
    registrations: Vec<Registration>,
    loaded_at_ms: u64,
    refused: Option<String>,
    ticking: Option<JoinHandle<()>>,
}

/// Where an upstream's members come from, at work.
#[derive(Debug)]
struct Source {
    upstream: Arc<Upstream>,
    watch: Watch,
    task: JoinHandle<()>,
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listening socket at work.
#[derive(Debug)]
struct Acceptor {
    address: String,
    socket: Arc<ListenSocket>,
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

/// What the source of an upstream says of itself.
#[derive(Debug, Clone)]
pub(crate) struct SourceStatus {
    pub(crate) kind: &'static str,
    pub(crate) error: Option<String>,
}

impl Control {
    pub(crate) fn new(
        shared: Arc<Shared>,
        door: Arc<Door>,
        resolver: Resolver,
        paths: Vec<PathBuf>,
        sockets: Vec<(String, ListenSocket)>,
    ) -> Arc<Self> {
        let state = State {
            offered: sockets,
            loaded_at_ms: unix_ms(),
            ..State::default()
        };
        Arc::new(Self {
            shared,
            door,
            paths,
            resolver,
            reloading: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts listening, discovery, probes and ticks for the snapshot in place.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<(), StartError> {
        let snapshot = self.shared.snapshot.load_full();
        let sockets = self.bind(&snapshot)?;
        self.follow(&snapshot);
        // Fixed lists and fast sources are known at once; slow ones must not hold up the others.
        self.wait_for_members(&snapshot, Duration::from_secs(1))
            .await;
        self.listen(&snapshot, sockets);
        self.register(&snapshot);
        let control = Arc::downgrade(self);
        self.state().ticking = Some(tokio::spawn(tick(control)));
        Ok(())
    }

    pub(crate) fn offer(&self, sockets: Vec<(String, ListenSocket)>) {
        self.state().offered = sockets;
    }

    /// Sockets for the listeners of `snapshot` that have none yet.
    fn bind(&self, snapshot: &Snapshot) -> Result<Vec<(String, Arc<ListenSocket>)>, StartError> {
        let mut state = self.state();
        let mut offered = std::mem::take(&mut state.offered);
        let mut bound = Vec::new();
        for listener in &snapshot.loaded.config.listeners {
            let address = listener.address.to_string();
            if state
                .acceptors
                .get(&listener.name)
                .is_some_and(|a| a.address == address)
            {
                continue;
            }
            let socket = match offered.iter().position(|(name, _)| *name == listener.name) {
                Some(at) => offered.swap_remove(at).1,
                None => bind(listener).map_err(|source| StartError::Bind {
                    name: listener.name.clone(),
                    address: address.clone(),
                    source,
                })?,
            };
            bound.push((listener.name.clone(), Arc::new(socket)));
        }
        Ok(bound)
    }

    /// Starts accepting on new sockets, stops on those of listeners that are gone or moved.
    fn listen(self: &Arc<Self>, snapshot: &Snapshot, sockets: Vec<(String, Arc<ListenSocket>)>) {
        let mut state = self.state();
        let wanted: HashMap<&str, String> = snapshot
            .loaded
            .config
            .listeners
            .iter()
            .map(|l| (&*l.name, l.address.to_string()))
            .collect();
        state.acceptors.retain(|name, acceptor| {
            let keep = wanted
                .get(&**name)
                .is_some_and(|address| *address == acceptor.address);
            if !keep {
                acceptor.stop.notify_one();
                self.shared
                    .events
                    .push("listener_removed", name, "", &acceptor.address);
            }
            keep
        });
        for (name, socket) in sockets {
            let stop = Arc::new(Notify::new());
            let shared = self.shared.clone();
            let of = name.clone();
            let current = move || shared.snapshot.load().listeners.get(&of).cloned();
            let door = self.door.clone();
            let (listening, stopped) = (socket.clone(), stop.clone());
            let of = name.clone();
            let task = tokio::spawn(async move {
                if let Err(e) = accept(listening, current, door, stopped).await {
                    tracing::error!(listener = %of, cause = %e, "listener failed");
                }
            });
            let address = wanted.get(&*name).cloned().unwrap_or_default();
            self.shared
                .events
                .push("listener_added", &name, "", &address);
            state.acceptors.insert(
                name,
                Acceptor {
                    address,
                    socket,
                    stop,
                    task,
                },
            );
        }
    }

    /// Follows the sources of upstreams that are new or changed; lets go of those that are gone.
    fn follow(self: &Arc<Self>, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.state().sources);
        let mut sources = HashMap::new();
        for upstream in &snapshot.upstreams {
            if let Some(source) = before.remove(&*upstream.name)
                && follows_alike(&source.upstream, upstream)
            {
                sources.insert(upstream.name.to_string(), source);
                continue;
            }
            match self.source(upstream) {
                Ok(source) => {
                    sources.insert(upstream.name.to_string(), source);
                }
                Err(e) => {
                    tracing::error!(upstream = %upstream.name, cause = %e, "discovery could not start");
                    self.shared
                        .events
                        .push("discovery_failed", &upstream.name, "", &e.to_string());
                }
            }
        }
        self.state().sources = sources;
    }

    fn source(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
    ) -> Result<Source, tidegate_discovery::SetupError> {
        let watch = tidegate_discovery::watch(&upstream.config, &self.resolver)?;
        let prober = match &upstream.config.health_check {
            None => None,
            Some(check) => {
                let live = upstream.live.clone();
                let shared = self.shared.clone();
                let unhealthy_after = check.unhealthy_after;
                let on_health = move |id: &Arc<str>, health: &Health| {
                    let Some(member) = live.pool.members().into_iter().find(|m| m.id() == id)
                    else {
                        return;
                    };
                    let verdict = verdict(health, unhealthy_after);
                    live.pool
                        .report(member.key(), &Scope::EMPTY, verdict, shared.now());
                };
                Some(Prober::start(
                    &upstream.config,
                    check,
                    &upstream.settings.resolver,
                    on_health,
                )?)
            }
        };
        let mut updates = watch.updates();
        let control = Arc::downgrade(self);
        let followed = upstream.clone();
        apply(self, upstream, prober.as_ref(), &watch.current());
        let task = tokio::spawn(async move {
            while updates.changed().await.is_ok() {
                let update = updates.borrow_and_update().clone();
                let Some(control) = control.upgrade() else {
                    return;
                };
                apply(&control, &followed, prober.as_ref(), &update);
            }
        });
        Ok(Source {
            upstream: upstream.clone(),
            watch,
            task,
        })
    }

    async fn wait_for_members(&self, snapshot: &Snapshot, at_most: Duration) {
        let receivers: Vec<_> = self
            .state()
            .sources
            .values()
            .map(|s| s.watch.updates())
            .collect();
        let _ = snapshot;
        let _ = tokio::time::timeout(at_most, async {
            for mut updates in receivers {
                let _ = updates.wait_for(|u| u.known || u.error.is_some()).await;
            }
        })
        .await;
    }

    pub(crate) fn source_status(&self, upstream: &str) -> Option<SourceStatus> {
        let state = self.state();
        let source = state.sources.get(upstream)?;
        let error = source.watch.current().error.map(|e| e.to_string());
        Some(SourceStatus {
            kind: source.watch.kind(),
            error,
        })
    }

    /// When the running configuration was accepted, and why the last one was refused.
    pub(crate) fn last_load(&self) -> (u64, Option<String>) {
        let state = self.state();
        (state.loaded_at_ms, state.refused.clone())
    }

    fn register(&self, snapshot: &Snapshot) {
        for listener in &snapshot.loaded.config.listeners {
            let Some(register) = &listener.register else {
                continue;
            };
            let address = self
                .state()
                .acceptors
                .get(&listener.name)
                .and_then(|a| local_address(&a.socket));
            let facts = ListenerFacts {
                name: listener.name.clone(),
                address,
                tls: listener.tls.is_some(),
            };
            match Registration::start(&register.consul, &facts, &self.resolver) {
                Ok(registration) => self.state().registrations.push(registration),
                Err(e) => {
                    tracing::error!(listener = %listener.name, cause = %e, "registration could not start");
                    self.shared.events.push(
                        "registration_failed",
                        &listener.name,
                        "",
                        &e.to_string(),
                    );
                }
            }
        }
    }

    async fn deregister(&self) {
        let registrations = std::mem::take(&mut self.state().registrations);
        let leaving: Vec<_> = registrations
            .into_iter()
            .map(|r| tokio::spawn(r.deregister()))
            .collect();
        for left in leaving {
            if let Ok(Err(e)) = left.await {
                tracing::warn!(cause = %e, "could not deregister");
            }
        }
    }

    /// Reads the configuration again; all of it takes effect, or nothing.
    pub(crate) async fn reload(self: &Arc<Self>) -> Result<(), String> {
        let _one = self.reloading.lock().await;
        let paths = self.paths.clone();
        let read = tokio::task::spawn_blocking(move || load(&paths)).await;
        let result = match read {
            Ok(Ok(loaded)) => self.apply(loaded).await,
            Ok(Err(diagnostics)) => Err(diagnostics.to_string()),
            Err(e) => Err(format!("the configuration could not be read: {e}")),
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

    async fn apply(self: &Arc<Self>, loaded: Loaded) -> Result<(), String> {
        let before = self.shared.snapshot.load_full();
        let shared = &self.shared;
        let next = Snapshot::build(
            Arc::new(loaded),
            Some(&before),
            &shared.stats,
            &self.resolver,
            shared.now(),
        )
        .map_err(|e| e.to_string())?;
        let next = Arc::new(next);
        let sockets = self.bind(&next).map_err(|e| e.to_string())?;
        if let Err(e) = shared
            .access
            .configure(next.loaded.config.access_log.as_ref())
        {
            return Err(format!("access_log: {e}"));
        }
        // New upstreams get their members before a request can be routed to them.
        self.follow(&next);
        shared.snapshot.store(next.clone());
        self.listen(&next, sockets);
        let registered = |s: &Snapshot| -> Vec<_> {
            s.loaded
                .config
                .listeners
                .iter()
                .map(|l| (l.name.clone(), l.address.clone(), l.register.clone()))
                .collect()
        };
        if registered(&before) != registered(&next) {
            self.deregister().await;
            self.register(&next);
        }
        self.state().loaded_at_ms = unix_ms();
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

    /// No new connections; those that are open end after what they are doing. Gives the number that were cut at the end.
    pub(crate) async fn drain(self: &Arc<Self>) -> u64 {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.events.push("draining", "", "", "");
        self.deregister().await;
        let acceptors = std::mem::take(&mut self.state().acceptors);
        for (_, acceptor) in acceptors {
            acceptor.stop.notify_one();
            let _ = acceptor.task.await;
        }
        self.door.look();
        let grace = self.shared.snapshot.load().loaded.config.shutdown.grace;
        let end = Instant::now() + grace;
        while self.door.connections() > 0 && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let cut = self.door.connections() as u64;
        self.door.stop();
        cut
    }

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

/// The sweep of every pool, and what happened in them as events.
async fn tick(control: Weak<Control>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut certificates = HashMap::new();
    let mut looked = Instant::now();
    loop {
        interval.tick().await;
        let Some(control) = control.upgrade() else {
            return;
        };
        let shared = &control.shared;
        let snapshot = shared.snapshot.load_full();
        for upstream in &snapshot.upstreams {
            upstream.live.pool.tick(shared.now());
            for event in upstream.live.pool.drain_events() {
                tell(&control, upstream, &event);
            }
        }
        if certificates.is_empty() || looked.elapsed() >= CERTIFICATES {
            looked = Instant::now();
            control.renew_certificates(&mut certificates);
        }
    }
}

fn tell(control: &Control, upstream: &Upstream, event: &PoolEvent) {
    let shared = &control.shared;
    let cause = event.cause.to_string();
    let kind = match (event.from, event.to) {
        (_, MemberState::Ejected) => {
            shared
                .stats
                .process
                .ejections
                .fetch_add(1, Ordering::Relaxed);
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

/// Puts what a source told into the pool and the prober.
fn apply(control: &Control, upstream: &Upstream, prober: Option<&Prober>, update: &Update) {
    if update.known {
        upstream.set_endpoints(&update.endpoints, control.shared.now());
        if let Some(prober) = prober {
            prober.set(&update.endpoints);
        }
        control.door.look();
    }
    if let Some(error) = &update.error {
        control
            .shared
            .events
            .push("discovery_trouble", &upstream.name, "", error);
    }
}

fn verdict(health: &Health, unhealthy_after: u32) -> Verdict {
    if health.healthy {
        return if health.cause.is_none() {
            Verdict::Ok
        } else {
            Verdict::Neutral
        };
    }
    let why = health.cause.as_deref().unwrap_or("failed");
    let _ = unhealthy_after;
    Verdict::Evidence {
        cause: format!("active check: {why}").into(),
        until: None,
    }
}

/// Whether the same source and the same checks serve both.
fn follows_alike(a: &Upstream, b: &Upstream) -> bool {
    let (x, y) = (&a.config, &b.config);
    x.endpoints == y.endpoints
        && x.discover == y.discover
        && x.health_check == y.health_check
        && (x.health_check.is_none() || (x.tls == y.tls && x.protocol == y.protocol))
        && Arc::ptr_eq(&a.live, &b.live)
}

/// Binds a listener's address: for gateways that run without a supervisor.
fn bind(listener: &ListenerConfig) -> std::io::Result<ListenSocket> {
    match &listener.address {
        ListenAddress::Ip(at) => {
            let domain = if at.is_ipv4() {
                socket2::Domain::IPV4
            } else {
                socket2::Domain::IPV6
            };
            let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&(*at).into())?;
            socket.listen(4096)?;
            socket.set_nonblocking(true)?;
            Ok(ListenSocket::Tcp(socket.into()))
        }
        ListenAddress::Unix(path) => {
            let socket = std::os::unix::net::UnixListener::bind(path)?;
            socket.set_nonblocking(true)?;
            Ok(ListenSocket::Unix(socket))
        }
    }
}

fn local_address(socket: &ListenSocket) -> Option<SocketAddr> {
    match socket {
        ListenSocket::Tcp(l) => l.local_addr().ok(),
        ListenSocket::Unix(_) => None,
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
