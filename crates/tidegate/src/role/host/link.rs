//! What a host has for its supervisor, and what it is told: by that, and by a host that takes over.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::super::link::{Link, Linked, lock};
use crate::control::message::{Hello, HostOrder, Order, Report};
use crate::control::{Channel, ChannelError, Received, Wait};

/// How long whoever connects to the owner's socket may take to say what for.
const ASK_TIME: Duration = Duration::from_secs(5);

/// What the role is told.
pub(super) enum Told {
    /// A configuration was accepted.
    Accepted(OwnedFd),
    /// Another supervisor has adopted this host: so it is from now on.
    Adopted(HostOrder),
    /// Load the models anew.
    Reload,
    /// End. `last`: there is no other host that goes on.
    Drain { last: bool },
}

/// What this host is, as an adopting supervisor is told.
#[derive(Debug, Default)]
struct Identity {
    hash: String,
    grace_ms: u64,
    /// Whether an instance ever was ready.
    proven: bool,
}

struct Host {
    identity: Mutex<Identity>,
    told: mpsc::UnboundedSender<Told>,
}

impl Linked for Host {
    fn ordered(&self, order: Order, fd: Option<OwnedFd>) {
        let tell = match (order, fd) {
            (Order::Accepted { .. }, Some(texts)) => Told::Accepted(texts),
            (Order::Host(order), _) => Told::Adopted(order),
            (Order::Reload, _) => Told::Reload,
            (Order::Drain { .. }, _) => Told::Drain { last: true },
            _ => return,
        };
        // The receiving side ends only with the process.
        let _ = self.told.send(tell);
    }

    fn introduce(&self, to: &Channel, hello: Hello) -> Result<(), ChannelError> {
        let identity = lock(&self.identity);
        let hello = Hello {
            hash: identity.hash.clone(),
            grace_ms: identity.grace_ms,
            ..hello
        };
        to.send(&Report::Hello(hello), None)?;
        if identity.proven {
            to.send(&Report::Proven, None)?;
        }
        Ok(())
    }
}

/// The link to the supervisor, while there is one.
#[derive(Clone)]
pub(super) struct HostLink {
    link: Link,
    host: Arc<Host>,
}

impl HostLink {
    /// Starts it. What this host is told comes out of the receiver; so does what [`HostLink::admit`] hears.
    ///
    /// # Errors
    /// When no thread or descriptor can be had.
    pub(super) fn start(
        channel: Channel,
        adoption: UnixListener,
        epoch: u64,
    ) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Told>)> {
        let (told, receiver) = mpsc::unbounded_channel();
        let host = Arc::new(Host {
            identity: Mutex::default(),
            told,
        });
        let link = Link::start(channel, adoption, epoch, Arc::clone(&host))?;
        Ok((Self { link, host }, receiver))
    }

    /// Tells the supervisor something, if there is one.
    pub(super) fn report(&self, report: &Report) {
        self.link.report(report);
    }

    /// The highest epoch that was seen.
    pub(super) fn epoch(&self) -> u64 {
        self.link.epoch()
    }

    /// It hosts what a configuration says, and needs so long to drain.
    pub(super) fn hosts(&self, hash: &str, grace: Duration) {
        let hash = hash.to_owned();
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        {
            let mut identity = lock(&self.host.identity);
            (identity.hash, identity.grace_ms) = (hash.clone(), grace_ms);
        }
        self.report(&Report::Ready { hash, grace_ms });
    }

    /// It can't host what was accepted: the supervisor takes another one.
    pub(super) fn cannot_follow(&self, reason: &str) {
        self.report(&Report::Refused {
            reason: reason.to_owned(),
            sockets: Vec::new(),
        });
    }

    /// An instance is ready for the first time.
    pub(super) fn proven(&self) {
        lock(&self.host.identity).proven = true;
        self.report(&Report::Proven);
    }

    /// Passes the order to go of the next host on. Not of one whose supervisor is not in charge any more.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(super) fn admit(&self, owner: UnixListener) -> std::io::Result<()> {
        let this = self.clone();
        let admitting = move || {
            for stream in owner.incoming().flatten() {
                let Ok(mut channel) = Channel::new(stream) else {
                    continue;
                };
                let _ = channel.set_read_timeout(Some(ASK_TIME));
                if let Ok(Received::Message(Order::Drain { epoch, .. }, _)) =
                    channel.receive(Wait::Yes)
                {
                    let highest = this.epoch();
                    if epoch.is_some_and(|epoch| epoch < highest) {
                        tracing::warn!(
                            epoch,
                            highest,
                            "asked to go in vain: not by who is in charge"
                        );
                        continue;
                    }
                    tracing::info!("another host takes over");
                    let _ = this.host.told.send(Told::Drain { last: false });
                }
            }
        };
        std::thread::Builder::new()
            .name("owner".into())
            .stack_size(128 << 10)
            .spawn(admitting)
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostdir::{self, HostDir};
    use crate::rundir::{Adoptable, RunDir};

    #[test]
    fn a_host_goes_when_the_one_in_charge_or_a_later_one_asks_and_not_for_one_before() {
        let state = tempfile::tempdir().unwrap();
        let run = RunDir::open(&state.path().join("run")).unwrap();
        let dir = HostDir::make(run.path(), 20).unwrap();
        let (_supervisor, theirs) = Channel::pair().unwrap();
        let adoption = run.listen_adoption(Adoptable::Host, 7).unwrap();
        let (link, mut told) = HostLink::start(Channel::new(theirs).unwrap(), adoption, 5).unwrap();
        link.admit(dir.listen_owner().unwrap()).unwrap();
        let place = hostdir::living(run.path()).remove(0);
        // In this order they are heard: only the second one counts.
        place.dismiss(4);
        place.dismiss(5);
        assert!(matches!(
            told.blocking_recv(),
            Some(Told::Drain { last: false })
        ));
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_host_that_ever_was_ready_says_so_to_whoever_adopts_it() {
        let state = tempfile::tempdir().unwrap();
        let run = RunDir::open(&state.path().join("run")).unwrap();
        let (supervisor, theirs) = Channel::pair().unwrap();
        let adoption = run.listen_adoption(Adoptable::Host, 7).unwrap();
        let (link, _told) = HostLink::start(Channel::new(theirs).unwrap(), adoption, 1).unwrap();
        link.hosts("h", Duration::from_secs(3));
        link.proven();
        drop(supervisor);
        let mut next = Channel::new(run.living(Adoptable::Host).remove(0).1).unwrap();
        next.send(&Order::Adopt { epoch: Some(2) }, None).unwrap();
        let mut report = || match next.receive(Wait::Yes).unwrap() {
            Received::Message(report, _) => report,
            other => panic!("{other:?}"),
        };
        let Report::Hello(hello) = report() else {
            panic!("no hello");
        };
        assert_eq!((hello.hash.as_str(), hello.grace_ms), ("h", 3000));
        assert!(matches!(report(), Report::Proven));
    }
}
