//! A worker of another machine whose connection may break: it is the same one when it connects again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::model::{Preparing, member, read};
use crate::host::Shared;
use crate::model::Slot;
use crate::state::{InstanceState, State};
use crate::worker::accept::{Awaited, Connection};
use crate::worker::reader::Lost;

/// How long it may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Such a worker.
#[derive(Debug)]
pub(super) struct Remote {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    preparing: Preparing,
    awaited: Awaited,
    id: u64,
    kill: mpsc::UnboundedSender<String>,
    /// A connection that has come.
    next: Option<Connection>,
}

impl Remote {
    pub(super) fn new(
        shared: &Arc<Shared>,
        slot: &Arc<Slot>,
        preparing: Preparing,
        awaited: Awaited,
        id: u64,
        kill: mpsc::UnboundedSender<String>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            slot: Arc::clone(slot),
            preparing,
            awaited,
            id,
            kill,
            next: None,
        }
    }

    /// Resolves when it has connected again. Cancelling loses nothing.
    pub(super) async fn connected(&mut self) {
        if self.next.is_none() {
            self.next = Some(self.awaited.connection().await);
        }
    }

    /// Waits until it has connected again and takes calls. `None`: it has not, in time.
    pub(super) async fn back(&mut self) -> Option<JoinHandle<Lost>> {
        self.show(|state| {
            state.state = State::Starting;
            state.cause = Some("its connection was lost; it may connect again".to_owned());
        });
        let back = tokio::time::timeout(WITHIN, self.joined()).await.ok()?;
        self.show(|state| state.state = State::Ready);
        Some(back)
    }

    async fn joined(&mut self) -> JoinHandle<Lost> {
        loop {
            self.connected().await;
            let Some(mut connection) = self.next.take() else {
                continue;
            };
            // It may break once more.
            self.awaited.again();
            let longest = self.preparing.spec().service.limits.message.bytes();
            connection.reader.set_longest(longest);
            let Ok(prepared) = self.preparing.prepare(&mut connection).await else {
                connection.link.close();
                continue;
            };
            let (kill, pool) = (self.kill.clone(), prepared.pool);
            let joined = member(
                self.id,
                &self.slot,
                &self.preparing,
                &connection,
                pool,
                kill,
            );
            self.slot.group.join(joined);
            let group = Arc::clone(&self.slot.group);
            return tokio::spawn(read(group, self.id, connection.reader));
        }
    }

    /// Tells how its instance stands, unless another worker has taken its place.
    fn show(&self, change: impl FnOnce(&mut InstanceState)) {
        if self.slot.member.load(Ordering::Relaxed) != self.id {
            return;
        }
        let service = Arc::clone(self.slot.group.service());
        self.shared
            .board
            .update(&service, self.slot.number, |state| {
                change(state);
                self.slot.ready.send_replace(state.state == State::Ready);
            });
    }
}
