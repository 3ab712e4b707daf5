//! Items of a generator on their way from a worker to a door: the worker sends as many as it has credit for, and gets
//! more as the door takes them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Group;
use crate::call::{Code, Fault, Items, Value};

/// Items that may be under way between a worker and the door.
pub(super) const CREDIT: usize = 32;
/// Credit is given back in portions of so many items.
const PORTION: usize = CREDIT / 2;

/// What a worker says of a stream.
#[derive(Debug)]
pub(super) enum Flow {
    Item(Value),
    Fault(Fault),
    /// There are no more.
    End,
}

/// Opens the way of a call's items. What comes in is bounded by the credit.
pub(super) fn open(
    group: Arc<Group>,
    ticket: u64,
    deadline: Option<Instant>,
) -> (mpsc::UnboundedSender<Flow>, Items) {
    let (flow, received) = mpsc::unbounded_channel();
    let (items, receiver) = mpsc::channel(1);
    tokio::spawn(pass(group, ticket, deadline, received, items));
    (flow, Items { receiver })
}

async fn pass(
    group: Arc<Group>,
    ticket: u64,
    deadline: Option<Instant>,
    mut received: mpsc::UnboundedReceiver<Flow>,
    items: mpsc::Sender<Result<Value, Fault>>,
) {
    let mut cancel = CancelOnDrop {
        group: &group,
        ticket,
        armed: true,
    };
    let mut taken = 0;
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(late);
    loop {
        let flow = tokio::select! {
            biased;
            flow = received.recv() => flow,
            () = items.closed() => return,
            () = &mut late => {
                // The worker is told at once, the caller when it takes what there is.
                drop(cancel);
                let fault = Fault::new(Code::DeadlineExceeded, "deadline", "the deadline passed before the last item");
                let _ = items.send(Err(fault)).await;
                return;
            }
        };
        match flow {
            Some(Flow::Item(value)) => {
                tokio::select! {
                    sent = items.send(Ok(value)) => {
                        if sent.is_err() {
                            return;
                        }
                    }
                    () = &mut late => {
                        drop(cancel);
                        let fault = Fault::new(Code::DeadlineExceeded, "deadline", "the deadline passed before the last item");
                        let _ = items.send(Err(fault)).await;
                        return;
                    }
                }
                taken += 1;
                if taken == PORTION {
                    group.credit(ticket, PORTION);
                    taken = 0;
                }
            }
            Some(Flow::Fault(fault)) => {
                cancel.armed = false;
                let _ = items.send(Err(fault)).await;
                return;
            }
            Some(Flow::End) | None => {
                cancel.armed = false;
                return;
            }
        }
    }
}

/// Cancels a call unless it has ended.
pub(crate) struct CancelOnDrop<'a> {
    pub(crate) group: &'a Group,
    pub(crate) ticket: u64,
    pub(crate) armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.group.cancel(self.ticket);
        }
    }
}
