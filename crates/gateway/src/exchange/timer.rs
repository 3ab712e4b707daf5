//! Precise timers that cost nothing until a deadline is near.
//!
//! Most never are: a bound of thirty seconds for an answer that takes one would be put into the runtime's wheel and taken out again for
//! every request. Until it is near, the [watch](crate::watch) of the exchange looks after it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::clock;
use crate::down::Down;
use crate::watch::Watch;

/// Nearer deadlines have a timer of their own. Several times as long as a watch may be late.
const NEAR: Duration = Duration::from_secs(1);

/// Made with the first deadline that is near, moved with the next.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Timer {
    /// True when `deadline` has passed; otherwise the task is woken then.
    pub(crate) fn is_over(
        &mut self,
        deadline: Option<Instant>,
        watch: &Watch,
        cx: &mut Context<'_>,
    ) -> bool {
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
                if let Some(near) = deadline.checked_sub(NEAR)
                    && clock::now() < near
                {
                    watch.remind(near, cx);
                    return false;
                }
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
    let mut sleep = pin!(tokio::time::sleep_until(over.into()));
    poll_fn(|cx| {
        if sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        down.poll_gone(cx).map(|()| Err(Gone))
    })
    .await
}
