//! Work that holds up its thread for a moment: files, decompression.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does it at once, and has another thread take over what else this one would do meanwhile. For what is seldom, and can't well be given away
/// ([`tokio::task::spawn_blocking`]): what else this very task does waits.
#[expect(
    clippy::disallowed_methods,
    reason = "which runtime it is, is looked at before: that of the host role has several threads"
)]
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

/// Work on more bytes than this leaves the runtime's threads: decompression, JSON.
pub(crate) const HEAVY: usize = 256 << 10;

/// As [`in_place`] where there is much to do, else as it is.
pub(crate) fn in_place_if_heavy<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes < HEAVY {
        work()
    } else {
        in_place(work)
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn others_go_on_while_a_task_blocks_the_only_thread() {
        let (tell, told) = std::sync::mpsc::channel();
        let (begun, begins) = tokio::sync::oneshot::channel();
        let blocked = tokio::spawn(async move {
            let _ = begun.send(());
            super::in_place(|| told.recv())
        });
        begins.await.unwrap();
        tokio::spawn(async move { tell.send(7).unwrap() });
        assert_eq!(blocked.await.unwrap(), Ok(7));
    }
}
