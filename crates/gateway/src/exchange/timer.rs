//! Precise timers that cost nothing until a deadline exists.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use crate::down::Down;

/// Made with the first deadline, moved with the next.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Timer {
    /// True when `deadline` has passed; otherwise the task is woken then.
    pub(crate) fn is_over(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else {
            return false;
        };
        match &mut self.sleep {
            Some((at, _)) if *at == deadline => {}
            Some((at, sleep)) => {
                *at = deadline;
                sleep.as_mut().reset(deadline.into());
            }
            None => {
                self.sleep = Some((
                    deadline,
                    Box::pin(tokio::time::sleep_until(deadline.into())),
                ))
            }
        }
        self.sleep
            .as_mut()
            .is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready())
    }
}

/// The caller left while it was to wait.
#[derive(Debug)]
pub(crate) struct Gone;

/// Lets the caller wait until `over`.
///
/// # Errors
/// The caller has left.
pub(crate) async fn rest(over: Instant, down: &mut Down<'_>) -> Result<(), Gone> {
    let mut timer = Timer::default();
    poll_fn(|cx| {
        if timer.is_over(Some(over), cx) {
            return Poll::Ready(Ok(()));
        }
        down.poll_gone(cx).map(|()| Err(Gone))
    })
    .await
}
