//! Waiting for an instance of a service when none is ready.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use smallvec::SmallVec;
use tidegate_core::{MemberKey, NoPick};

use super::attempt::{Loop, Lost, Planned};
use super::race::Contender;
use crate::clock;

impl Loop<'_, '_> {
    /// Begins an attempt as soon as there is an instance to try: told by the change of members, or when one that was spared is tried again.
    /// `patience` is the end of it all, set by the first wait of the request.
    ///
    /// # Errors
    /// [`Lost::NotReady`] when it is over, [`Lost::Deadline`], [`Lost::Idle`], [`Lost::Gone`], and what keeps an attempt from beginning.
    pub(super) async fn await_instance(
        &mut self,
        planned: &Planned,
        tried: &mut SmallVec<[MemberKey; 4]>,
        patience: &mut Option<Instant>,
    ) -> Result<Contender, Lost> {
        let Some(service) = &planned.service else {
            return Err(Lost::NoneFit(NoPick::Empty));
        };
        let end = *patience.get_or_insert_with(|| clock::now() + service.patience);
        let changed = Arc::clone(&service.changed);
        // Whoever was tried before has had the time to come back.
        tried.clear();
        loop {
            let mut told = pin!(changed.notified());
            // From here on no change is missed.
            told.as_mut().enable();
            let returns = match self.begin(planned, tried) {
                Err(Lost::NoneFit(NoPick::NoneFit { returns_at })) => returns_at,
                Err(Lost::NoneFit(_)) => None,
                begun => return begun,
            };
            let now = clock::now();
            if now >= end {
                return Err(Lost::NotReady);
            }
            let returns = returns.map(|at| now + self.worker.now().until(at));
            let wake = returns
                .into_iter()
                .chain([end])
                .chain(self.deadline.at)
                .min();
            let over = poll_fn(|cx| {
                if told.as_mut().poll(cx).is_ready() || self.timer.is_over(wake, self.watch, cx) {
                    return Poll::Ready(None);
                }
                if self.watch.poll_over(cx).is_ready() {
                    return Poll::Ready(Some(Lost::Idle));
                }
                self.down.poll_gone(cx).map(|()| Some(Lost::Gone))
            })
            .await;
            if let Some(over) = over {
                return Err(over);
            }
            if self.deadline.at.is_some_and(|at| at <= clock::now()) {
                return Err(Lost::Deadline);
            }
        }
    }
}
