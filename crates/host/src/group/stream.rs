//! Items of a generator on their way from a worker to a door: the worker sends as many as it has credit for, and gets
//! more as the door takes them.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Group;
use crate::call::{Code, Content, Fault, Items, Value};

/// Items that may be under way between a worker and the door before it is known how large they are.
pub(super) const FIRST: usize = 2;
/// Items that may be when they are small.
const CREDIT: usize = 32;
/// Bytes that may be, by what the last items had.
const BYTES: usize = 8 << 20;

/// How many items a worker may send.
#[derive(Debug)]
struct Window {
    /// Items that may still come, or are here and not taken.
    open: usize,
    /// Bytes of a large one of the last items.
    large: usize,
}

impl Window {
    const fn new() -> Self {
        Self {
            open: FIRST,
            large: 0,
        }
    }

    /// The door has taken an item of so many bytes. Returns how many more the worker may send.
    fn taken(&mut self, bytes: usize) -> usize {
        self.open = self.open.saturating_sub(1);
        self.large = bytes.max(self.large - self.large / 4);
        let wanted = (BYTES / self.large.max(1)).clamp(1, CREDIT);
        let more = wanted.saturating_sub(self.open);
        // In portions: each is a message.
        if more < wanted.div_ceil(2) {
            return 0;
        }
        self.open = wanted;
        more
    }
}

/// Bytes of memory that an item takes.
fn size(value: &Value) -> usize {
    let parts = value.parts.iter().map(|part| match &part.content {
        Content::Inline(bytes) => bytes.len(),
        Content::File(_) => 0,
    });
    value.json.len() + parts.sum::<usize>()
}

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
    let mut window = Window::new();
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
                let bytes = size(&value);
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
                let more = window.taken(bytes);
                if more > 0 {
                    group.credit(ticket, more);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_items_get_the_whole_window_after_the_first_one() {
        let mut window = Window::new();
        assert_eq!(window.taken(100), CREDIT - FIRST + 1);
        let more: usize = (0..CREDIT / 2).map(|_| window.taken(100)).sum();
        assert_eq!(more, CREDIT / 2);
    }

    proptest! {
        #[test]
        fn what_is_under_way_is_bounded_in_bytes_and_never_stands_still(
            bytes in 0_usize..300 << 20, count in 1_usize..200,
        ) {
            let mut window = Window::new();
            let mut may_come = FIRST;
            for _ in 0..count {
                prop_assert!(may_come > 0, "nothing may come any more");
                may_come -= 1;
                may_come += window.taken(bytes);
                prop_assert!(may_come <= CREDIT);
                prop_assert!(may_come == 1 || may_come * bytes <= BYTES);
            }
        }
    }
}
