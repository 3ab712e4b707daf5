//! All instances as they stand, for whoever watches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::state::{InstanceState, State};

/// The states of all instances, by service and number.
#[derive(Debug)]
pub(crate) struct Board {
    states: Mutex<BTreeMap<(Arc<str>, usize), InstanceState>>,
    told: watch::Sender<Arc<Vec<InstanceState>>>,
}

impl Board {
    pub(crate) fn new() -> Self {
        Self {
            states: Mutex::default(),
            told: watch::Sender::new(Arc::default()),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Vec<InstanceState>>> {
        self.told.subscribe()
    }

    /// Changes what is known of an instance, which is made when there is none.
    pub(crate) fn update(
        &self,
        service: &Arc<str>,
        number: usize,
        change: impl FnOnce(&mut InstanceState),
    ) {
        let mut states = self.lock();
        let state = states
            .entry((Arc::clone(service), number))
            .or_insert_with(|| InstanceState {
                service: Arc::clone(service),
                instance: instance_name(service, number),
                address: None,
                revision: 0,
                state: State::Starting,
                since: SystemTime::now(),
                pid: None,
                restarts: 0,
                cause: None,
                certain: false,
                versions: Vec::new(),
                retryable: None,
                in_flight: 0,
                memory: 0,
            });
        let before = state.clone();
        change(state);
        if before.state != state.state {
            state.since = SystemTime::now();
        }
        if before != *state || before.revision == 0 {
            self.tell(&states);
        }
    }

    /// Renews what is known of an instance that there is.
    pub(crate) fn refresh(
        &self,
        service: &Arc<str>,
        number: usize,
        change: impl FnOnce(&mut InstanceState),
    ) {
        let mut states = self.lock();
        if let Some(state) = states.get_mut(&(Arc::clone(service), number)) {
            let before = state.clone();
            change(state);
            if before != *state {
                self.tell(&states);
            }
        }
    }

    pub(crate) fn remove(&self, service: &Arc<str>, number: usize) {
        let mut states = self.lock();
        if states.remove(&(Arc::clone(service), number)).is_some() {
            self.tell(&states);
        }
    }

    /// Whether every instance of a service is in a crash loop.
    pub(crate) fn is_hopeless(&self, service: &Arc<str>) -> bool {
        let states = self.lock();
        states
            .values()
            .filter(|state| state.service == *service)
            .all(|state| state.state == State::CrashLoop)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Arc<str>, usize), InstanceState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, states: &BTreeMap<(Arc<str>, usize), InstanceState>) {
        self.told
            .send_replace(Arc::new(states.values().cloned().collect()));
    }
}

/// The service's name, `-`, and the number.
pub(crate) fn instance_name(service: &str, number: usize) -> Arc<str> {
    format!("{service}-{number}").into()
}
