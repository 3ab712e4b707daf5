//! What every source tells, and how it is told: the last good list, and the trouble if there is one.

use std::sync::Arc;

use tokio::sync::watch;

use crate::endpoint::EndpointSet;

/// The state of a source of endpoints.
///
/// Trouble never takes endpoints away: the last good list stays until the source itself says otherwise. An empty list is
/// taken for the truth only where it is one (see each source's module).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// The last good list.
    pub endpoints: EndpointSet,
    /// Whether there ever was one; until then the empty list means "not known yet".
    pub known: bool,
    /// What is wrong with the source since its last good answer, in words; an answer that could be used in part says here
    /// which part could not.
    pub error: Option<Arc<str>>,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct Task(tokio::task::JoinHandle<()>);

impl Task {
    pub(crate) fn spawn(
        runtime: &tokio::runtime::Handle,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self(runtime.spawn(work))
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A source at work. Dropping it ends the work.
#[derive(Debug)]
pub struct Watch {
    kind: &'static str,
    updates: watch::Receiver<Update>,
    _work: Work,
}

/// What keeps the receivers' channel open.
#[derive(Debug)]
enum Work {
    Fed,
    Task { _task: Task },
    Fixed { _sender: watch::Sender<Update> },
}

impl Watch {
    /// `what` is asked for: the path, name or service, for the log.
    pub(crate) fn start<F>(
        kind: &'static str,
        what: &str,
        runtime: &tokio::runtime::Handle,
        work: impl FnOnce(Publisher) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, updates) = watch::channel(Update::default());
        let publisher = Publisher {
            kind,
            what: what.to_owned(),
            sender,
        };
        let task = Task::spawn(runtime, work(publisher));
        Self {
            kind,
            updates,
            _work: Work::Task { _task: task },
        }
    }

    /// A list that never changes.
    pub fn fixed(endpoints: EndpointSet) -> Self {
        let (sender, updates) = watch::channel(Update {
            endpoints,
            known: true,
            error: None,
        });
        Self {
            kind: "static",
            updates,
            _work: Work::Fixed { _sender: sender },
        }
    }

    /// A list that somebody else keeps.
    pub fn fed(kind: &'static str, updates: watch::Receiver<Update>) -> Self {
        Self {
            kind,
            updates,
            _work: Work::Fed,
        }
    }

    /// Where the endpoints come from: `static`, `file`, `dns` or `consul`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The present state.
    pub fn current(&self) -> Update {
        self.updates.borrow().clone()
    }

    /// A receiver that wakes at every change, on any runtime. Its `changed()` fails once this handle is dropped; for a fixed
    /// list it waits until then.
    pub fn updates(&self) -> watch::Receiver<Update> {
        self.updates.clone()
    }
}

/// The source's end: tells and logs only what is new.
#[derive(Debug)]
pub(crate) struct Publisher {
    kind: &'static str,
    what: String,
    sender: watch::Sender<Update>,
}

impl Publisher {
    /// A good answer, whole (`error` none) or usable in part.
    pub(crate) fn good(&self, endpoints: EndpointSet, error: Option<String>) {
        self.change(Update {
            endpoints,
            known: true,
            error: error.map(Into::into),
        });
    }

    /// Trouble: the last good list stays.
    pub(crate) fn trouble(&self, error: String) {
        let before = self.sender.borrow().clone();
        self.change(Update {
            error: Some(error.into()),
            ..before
        });
    }

    pub(crate) fn known(&self) -> bool {
        self.sender.borrow().known
    }

    fn change(&self, update: Update) {
        self.sender.send_if_modified(|current| {
            if *current == update {
                return false;
            }
            let (source, what, endpoints) = (self.kind, &*self.what, update.endpoints.len());
            match &update.error {
                Some(error) if current.error != update.error => {
                    tracing::warn!(source, what, endpoints, %error, "source of endpoints in trouble");
                }
                None if current.error.is_some() => tracing::info!(source, what, endpoints, "source of endpoints recovered"),
                _ => tracing::debug!(source, what, endpoints, "endpoints changed"),
            }
            *current = update;
            true
        });
    }
}
