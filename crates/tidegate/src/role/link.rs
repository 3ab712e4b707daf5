//! A role's side of the control socket, and how it is adopted.
//!
//! One thread reads: what the supervisor says as long as there is one, and who knocks at the adoption socket. Only a supervisor that holds the
//! state folder's lock does that; mostly ours is gone by then. Where it is not (it was replaced and does not know yet), the higher epoch is
//! in charge: the one before is told so, and not heard any more.
//!
//! ```text
//! supervised ── the supervisor dies ─→ alone: serves on ── `adopt` ─→ supervised
//!     └──────────── `adopt` of a higher epoch: the one before is outranked ──→┘
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use crate::control::message::{Hello, Order, Report};
use crate::control::{Channel, ChannelError, Received, Wait};

/// How long a supervisor may take to say who it is when it adopts.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Pause after a supervisor could not be let in.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a role is to its link. Called on the link's thread.
pub(super) trait Linked: Send + Sync + 'static {
    /// Takes an order of the supervisor in charge.
    fn ordered(&self, order: Order, fd: Option<OwnedFd>);

    /// Tells a supervisor that adopts this role what it is: `hello`, completed, after what belongs before it and before what comes behind it.
    ///
    /// # Errors
    /// The supervisor is gone again.
    fn introduce(&self, to: &Channel, hello: Hello) -> Result<(), ChannelError>;
}

#[derive(Debug)]
struct Shared {
    /// `None` while there is no supervisor.
    supervisor: Mutex<Option<Channel>>,
    /// The highest that was seen.
    epoch: AtomicU64,
}

/// The role's way to its supervisor, whoever that is by now.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<Shared>);

impl Link {
    /// Starts the thread that reads. `epoch`: of the supervisor that started this role, 0 where it has none.
    ///
    /// # Errors
    /// When no thread or descriptor can be had.
    pub(super) fn start(
        channel: Channel,
        adoption: UnixListener,
        epoch: u64,
        role: Arc<impl Linked>,
    ) -> io::Result<Self> {
        adoption.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            supervisor: Mutex::new(Some(channel.sender()?)),
            epoch: AtomicU64::new(epoch),
        });
        let reader = Reader {
            shared: Arc::clone(&shared),
            role,
            adoption,
        };
        std::thread::Builder::new()
            .name("link".into())
            .stack_size(128 << 10)
            .spawn(move || reader.run(channel))?;
        Ok(Self(shared))
    }

    /// Tells the supervisor, if there is one. Returns whether it was sent.
    pub(super) fn report(&self, report: &Report) -> bool {
        self.report_with(report, None)
    }

    /// The same with a descriptor beside it.
    pub(super) fn report_with(&self, report: &Report, fd: Option<&OwnedFd>) -> bool {
        let sent = lock(&self.0.supervisor)
            .as_ref()
            .map(|supervisor| supervisor.send(report, fd.map(AsFd::as_fd)));
        if let Some(Err(error)) = &sent {
            tracing::debug!(%error, "a report did not reach the supervisor");
        }
        matches!(sent, Some(Ok(())))
    }

    /// The highest epoch that was seen.
    pub(super) fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Relaxed)
    }
}

struct Reader<R> {
    shared: Arc<Shared>,
    role: Arc<R>,
    adoption: UnixListener,
}

impl<R: Linked> Reader<R> {
    fn run(&self, channel: Channel) {
        let mut supervisor = Some(channel);
        loop {
            if let Some(channel) = &mut supervisor
                && !self.read(channel)
            {
                *lock(&self.shared.supervisor) = None;
                supervisor = None;
                tracing::warn!("the supervisor is gone: serving on");
            }
            self.wait(supervisor.as_ref());
            match self.adoption.accept() {
                Ok((stream, _)) => match self.admit(stream) {
                    Ok(Some(channel)) => {
                        tracing::info!(epoch = self.epoch(), "adopted by a supervisor");
                        supervisor = Some(channel);
                    }
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%error, "adoption failed"),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    // Out of descriptors, most likely: others close theirs, and until then there is no use in asking.
                    tracing::warn!(%error, "the adoption socket failed: trying again");
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn epoch(&self) -> u64 {
        self.shared.epoch.load(Ordering::Relaxed)
    }

    /// Waits until the supervisor says something or somebody knocks.
    fn wait(&self, supervisor: Option<&Channel>) {
        let mut sources: Vec<PollFd<'_>> = supervisor
            .into_iter()
            .map(AsFd::as_fd)
            .chain([self.adoption.as_fd()])
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        match poll(&mut sources, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                tracing::warn!(error = %io::Error::from(errno), "cannot wait for the supervisor: trying again");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }

    /// Passes on what the supervisor has said. Returns whether it lives.
    fn read(&self, channel: &mut Channel) -> bool {
        loop {
            match channel.receive(Wait::No) {
                Ok(Received::Message(order, fd)) => self.role.ordered(order, fd),
                Ok(Received::Nothing) => return true,
                Ok(Received::Closed) => return false,
                Err(error @ ChannelError::Unknown { .. }) => {
                    tracing::warn!(%error, "order ignored")
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket failed");
                    return false;
                }
            }
        }
    }

    /// Answers whoever knocked; `None` if it did not want to adopt, or must not.
    fn admit(&self, stream: UnixStream) -> Result<Option<Channel>, ChannelError> {
        let mut channel = Channel::new(stream)?;
        channel.set_read_timeout(Some(ANSWER_TIME))?;
        let Received::Message(Order::Adopt { epoch }, log) = channel.receive(Wait::Yes)? else {
            return Ok(None);
        };
        channel.set_read_timeout(None)?;
        let highest = self.epoch();
        // Reports wait meanwhile: what changes now is told behind the introduction.
        let mut supervisor = lock(&self.shared.supervisor);
        if !may_adopt(epoch, highest, supervisor.is_some()) {
            tracing::warn!(
                epoch,
                highest,
                "a supervisor that is not in charge is refused"
            );
            channel.send(&Report::Outranked { epoch: highest }, None)?;
            return Ok(None);
        }
        let sender = channel.sender()?;
        self.role
            .introduce(&channel, Hello::of_this_process(highest))?;
        if let Some(epoch) = epoch {
            self.shared.epoch.store(epoch, Ordering::Relaxed);
        }
        if let Some(before) = supervisor.replace(sender) {
            let epoch = self.epoch();
            let _ = before.send(&Report::Outranked { epoch }, None);
        }
        drop(supervisor);
        if let Some(Err(error)) = log.map(rustix::stdio::dup2_stderr) {
            tracing::warn!(error = %io::Error::from(error), "the log stays where it was");
        }
        Ok(Some(channel))
    }
}

/// Whether a supervisor of that epoch is in charge. One that knows of none is a build from before: it adopts what has no supervisor.
fn may_adopt(epoch: Option<u64>, highest: u64, supervised: bool) -> bool {
    match epoch {
        Some(epoch) => epoch >= highest,
        None => !supervised,
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::rundir::{Adoptable, RunDir};

    struct Role(Mutex<mpsc::Sender<Order>>);

    impl Linked for Role {
        fn ordered(&self, order: Order, _: Option<OwnedFd>) {
            let _ = lock(&self.0).send(order);
        }

        fn introduce(&self, to: &Channel, hello: Hello) -> Result<(), ChannelError> {
            to.send(&Report::Hello(hello), None)
        }
    }

    /// A role with the supervisor that started it.
    struct Started {
        link: Link,
        orders: mpsc::Receiver<Order>,
        supervisor: Channel,
        run: RunDir,
        _state: tempfile::TempDir,
    }

    fn start(epoch: u64) -> Started {
        let state = tempfile::tempdir().unwrap();
        let run = RunDir::open(&state.path().join("run")).unwrap();
        let (supervisor, theirs) = Channel::pair().unwrap();
        let adoption = run.listen_adoption(Adoptable::Host, 7).unwrap();
        let (tell, orders) = mpsc::channel();
        let role = Arc::new(Role(Mutex::new(tell)));
        let link = Link::start(Channel::new(theirs).unwrap(), adoption, epoch, role).unwrap();
        Started {
            link,
            orders,
            supervisor,
            run,
            _state: state,
        }
    }

    impl Started {
        fn adopt(&self, epoch: Option<u64>) -> (Channel, Report) {
            let (_, stream) = self.run.living(Adoptable::Host).remove(0);
            let mut channel = Channel::new(stream).unwrap();
            channel.send(&Order::Adopt { epoch }, None).unwrap();
            let answer = told(&mut channel);
            (channel, answer)
        }
    }

    fn told(channel: &mut Channel) -> Report {
        match channel.receive(Wait::Yes).unwrap() {
            Received::Message(report, _) => report,
            other => panic!("{other:?}"),
        }
    }

    fn is_closed(channel: &mut Channel) -> bool {
        matches!(
            channel.receive::<Report>(Wait::Yes).unwrap(),
            Received::Closed
        )
    }

    #[test]
    fn a_role_whose_supervisor_died_obeys_the_one_that_adopts_it() {
        let started = start(1);
        started.supervisor.send(&Order::Reload, None).unwrap();
        assert!(matches!(started.orders.recv().unwrap(), Order::Reload));
        let Started {
            link,
            orders,
            supervisor,
            run,
            _state,
        } = started;
        drop(supervisor);
        let (_, stream) = run.living(Adoptable::Host).remove(0);
        let mut next = Channel::new(stream).unwrap();
        next.send(&Order::Adopt { epoch: Some(2) }, None).unwrap();
        let Report::Hello(hello) = told(&mut next) else {
            panic!("no hello");
        };
        assert_eq!((hello.pid, hello.epoch), (std::process::id(), 1));
        next.send(&Order::Reload, None).unwrap();
        assert!(matches!(orders.recv().unwrap(), Order::Reload));
        assert!(link.report(&Report::Beat));
        assert!(matches!(told(&mut next), Report::Beat));
        assert_eq!(link.epoch(), 2);
    }

    #[test]
    fn the_higher_epoch_is_in_charge_and_the_one_before_is_told_and_not_heard_any_more() {
        let mut started = start(1);
        let (mut next, answer) = started.adopt(Some(3));
        assert!(matches!(answer, Report::Hello(_)));
        assert!(matches!(
            told(&mut started.supervisor),
            Report::Outranked { epoch: 3 }
        ));
        assert!(is_closed(&mut started.supervisor));
        let (mut stale, answer) = started.adopt(Some(2));
        assert!(matches!(answer, Report::Outranked { epoch: 3 }));
        assert!(is_closed(&mut stale));
        next.send(&Order::Reload, None).unwrap();
        assert!(matches!(started.orders.recv().unwrap(), Order::Reload));
        assert!(started.link.report(&Report::Beat));
        assert!(matches!(told(&mut next), Report::Beat));
    }

    #[test]
    fn a_supervisor_without_an_epoch_adopts_only_what_has_none() {
        assert!(may_adopt(None, 5, false));
        assert!(!may_adopt(None, 0, true));
        assert!(may_adopt(Some(5), 5, true));
        assert!(!may_adopt(Some(4), 5, false));
    }

    #[test]
    fn who_knocks_and_says_nothing_changes_nothing() {
        let mut started = start(1);
        drop(started.run.living(Adoptable::Host));
        assert!(started.link.report(&Report::Beat));
        assert!(matches!(told(&mut started.supervisor), Report::Beat));
    }
}
