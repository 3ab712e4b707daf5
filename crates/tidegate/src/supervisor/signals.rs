//! Signals as something to poll: each sets its flag and writes a byte into one pipe.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR2};

/// What was signalled since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signalled {
    /// SIGTERM or SIGINT: drain and end.
    pub(super) stop: bool,
    /// SIGHUP: read the configuration again.
    pub(super) reload: bool,
    /// SIGUSR2: start the executable that lies at our path now, as `up --upgrade`. For service managers, which can
    /// send a signal but not run a process that stays.
    pub(super) upgrade: bool,
    /// SIGCHLD: a child ended.
    pub(super) child: bool,
}

/// The signals that a supervisor listens to.
#[derive(Debug)]
pub(super) struct Signals {
    pipe: UnixStream,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    upgrade: Arc<AtomicBool>,
    child: Arc<AtomicBool>,
}

impl Signals {
    /// Begins to listen; from now on none of them ends the process.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(super) fn listen() -> io::Result<Self> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let signals = Self {
            pipe,
            stop: Arc::default(),
            reload: Arc::default(),
            upgrade: Arc::default(),
            child: Arc::default(),
        };
        let flags = [
            (SIGTERM, &signals.stop),
            (SIGINT, &signals.stop),
            (SIGHUP, &signals.reload),
            (SIGUSR2, &signals.upgrade),
            (SIGCHLD, &signals.child),
        ];
        for (signal, flag) in flags {
            // The flag first: when the byte is read, the flag is set.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(signals)
    }

    /// What came since the last call.
    pub(super) fn take(&mut self) -> Signalled {
        let mut bytes = [0; 64];
        // Emptied before the flags are read: a signal in between leaves its byte for the next poll.
        while matches!(self.pipe.read(&mut bytes), Ok(count) if count > 0) {}
        let taken = |flag: &AtomicBool| flag.swap(false, Ordering::SeqCst);
        Signalled {
            stop: taken(&self.stop),
            reload: taken(&self.reload),
            upgrade: taken(&self.upgrade),
            child: taken(&self.child),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
