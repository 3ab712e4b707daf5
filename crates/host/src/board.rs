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
        let key = (Arc::clone(service), number);
        let new = !states.contains_key(&key);
        let state = states.entry(key).or_insert_with(|| InstanceState {
            service: Arc::clone(service),
            instance: instance_name(service, number),
            address: None,
            revision: 0,
            state: State::Starting,
            since: SystemTime::now(),
            pid: None,
            restarts: 0,
            cause: None,
            unwell: None,
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
        if new || before != *state {
            self.tell(&states);
        }
    }

    /// Renews what is known of an instance that there is.
    pub(crate) fn refresh(
        &self,
        service: &Arc<str>,
        number: usize,
        change: impl Fn(&mut InstanceState),
    ) {
        let one = [(Arc::clone(service), number, ())];
        self.refresh_all(one, |state, ()| change(state));
    }

    /// Renews what is known of instances that there are, and tells of it once.
    pub(crate) fn refresh_all<T>(
        &self,
        found: impl IntoIterator<Item = (Arc<str>, usize, T)>,
        change: impl Fn(&mut InstanceState, T),
    ) {
        let mut states = self.lock();
        let mut changed = false;
        for (service, number, what) in found {
            if let Some(state) = states.get_mut(&(service, number)) {
                let before = state.clone();
                change(state, what);
                changed |= before != *state;
            }
        }
        if changed {
            self.tell(&states);
        }
    }

    /// An instance has drained, and is gone. What stands there now may be another: of a service that went and came back meanwhile.
    pub(crate) fn leave(&self, service: &Arc<str>, number: usize) {
        let mut states = self.lock();
        let key = (Arc::clone(service), number);
        if states
            .get(&key)
            .is_some_and(|state| state.state == State::Draining)
        {
            states.remove(&key);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_all_instances_is_told_once_and_only_if_something_has_changed() {
        let board = Board::new();
        let service: Arc<str> = "m".into();
        let mut seen = board.watch();
        for number in 0..3 {
            board.update(&service, number, |_| {});
            assert!(seen.has_changed().unwrap(), "a new instance is news");
            assert_eq!(seen.borrow_and_update().len(), number + 1);
        }
        let look = |memory: u64| {
            let found = (0..4).map(|number| (Arc::clone(&service), number, memory));
            board.refresh_all(found, |state, memory| state.memory = memory);
        };
        look(7);
        // One that is not there is not made.
        assert_eq!(seen.borrow_and_update().len(), 3);
        assert!(seen.borrow().iter().all(|state| state.memory == 7));
        look(7);
        assert!(!seen.has_changed().unwrap());
    }
}
