//! How roles that outlived their supervisor are found, and which host may be adopted.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::Seat;
use super::process::RoleProcess;
use crate::control::message::{HOST_PROTOCOL, Hello, Order, Report};
use crate::control::{Channel, ChannelError, Received, Wait};
use crate::rundir::{Adoptable, RunDir};
use crate::sockets::HeldSocket;

/// How long a role may take to introduce itself: it answers on a thread of its own.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// A role that outlived its supervisor. Dropping it leaves it alone again.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) process: RoleProcess,
    pub(super) hello: Hello,
    /// A gateway's listening sockets.
    pub(super) sockets: Vec<HeldSocket>,
}

/// Why a role that is there is not adopted.
#[derive(Debug, thiserror::Error)]
enum NotIntroduced {
    /// It ended, or is stopped.
    #[error("it does not answer")]
    Silent,
    /// The conversation failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// Who answers is not who it says: the process id is another's.
    #[error("process {said} answers as process {is}")]
    Imposter {
        /// In its hello.
        said: u32,
        /// As the system knows it.
        is: u32,
    },
    /// It has seen a supervisor of a higher epoch.
    #[error("it obeys epoch {0}")]
    Outranked(u64),
}

impl From<std::io::Error> for NotIntroduced {
    fn from(error: std::io::Error) -> Self {
        Self::Channel(error.into())
    }
}

/// Why a host is not adopted but replaced by one beside it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// What it is told would mean something else to it.
    #[error("it speaks version {0} of the hosts' protocol, this build {HOST_PROTOCOL}")]
    Protocol(u32),
    /// It runs other code, and is not to be kept.
    #[error("it is of another build")]
    Build,
    /// New code is to run, whoever has left it.
    #[error("an upgrade starts models anew")]
    Upgrade,
}

/// What a supervisor wants of the hosts that it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// The same code goes on, also in a host that runs: an ordinary start.
    Same,
    /// The host goes on, whatever build it is of.
    Keep,
    /// Everything runs anew.
    Anew,
}

impl Wish {
    /// Of a command with these flags.
    pub(super) const fn of(upgrade: bool, keep_hosts: bool) -> Self {
        match (upgrade, keep_hosts) {
            (_, true) => Self::Keep,
            (true, false) => Self::Anew,
            (false, false) => Self::Same,
        }
    }
}

/// Whether a host may be adopted by the build with this identity.
pub(super) fn fits(hello: &Hello, exe: &str, wish: Wish) -> Result<(), Unfit> {
    if hello.protocol != HOST_PROTOCOL {
        return Err(Unfit::Protocol(hello.protocol));
    }
    match wish {
        Wish::Anew => Err(Unfit::Upgrade),
        Wish::Same if hello.exe != exe => Err(Unfit::Build),
        Wish::Same | Wish::Keep => Ok(()),
    }
}

/// All processes of the role that live and answer but for its `own`, the one of the highest epoch first. They are this supervisor's from
/// then on, until they are dropped.
pub(super) fn introductions(
    run: &RunDir,
    role: Adoptable,
    seat: &mut Seat,
    own: &[u32],
) -> Vec<Introduced> {
    let mut found = Vec::new();
    let living = run.living(role).into_iter();
    for (pid, stream) in living.filter(|(pid, _)| !own.contains(pid)) {
        let mut introduced = introduce(stream, seat.epoch);
        if let Err(NotIntroduced::Outranked(seen)) = introduced {
            // The number was lost. Who holds the lock is in charge, and says so.
            if let Err(error) = seat.rise_above(run, seen) {
                tracing::warn!(%error, "no higher epoch can be kept");
            }
            let again = run.living(role).into_iter().find(|(one, _)| *one == pid);
            introduced = again.map_or(Err(NotIntroduced::Silent), |(_, stream)| {
                introduce(stream, seat.epoch)
            });
        }
        match introduced {
            Ok(introduced) => found.push(introduced),
            Err(reason) => tracing::warn!(
                pid,
                role = role.name(),
                %reason,
                "a process of an earlier run is left alone"
            ),
        }
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.hello.epoch));
    found
}

fn introduce(stream: UnixStream, epoch: u64) -> Result<Introduced, NotIntroduced> {
    // Before anything is said: who answers afterwards lived then, so the handle is on no other that got its number later.
    let peer = Peer::of(&stream);
    let mut channel = Channel::new(stream)?;
    channel.set_read_timeout(Some(HELLO_TIME))?;
    // Its log goes where this one's does.
    let order = Order::Adopt { epoch: Some(epoch) };
    channel.send(&order, Some(std::io::stderr().as_fd()))?;
    let mut sockets = Vec::new();
    loop {
        match channel.receive(Wait::Yes)? {
            Received::Message(Report::Socket { id }, Some(fd)) => {
                sockets.push(HeldSocket::received(id, fd))
            }
            Received::Message(Report::Hello(hello), _) => {
                if let Some(is) = peer.pid.filter(|pid| *pid != hello.pid) {
                    let said = hello.pid;
                    return Err(NotIntroduced::Imposter { said, is });
                }
                return Ok(Introduced {
                    process: RoleProcess::adopted(channel, &hello, peer.handle),
                    hello,
                    sockets,
                });
            }
            Received::Message(Report::Outranked { epoch }, _) => {
                return Err(NotIntroduced::Outranked(epoch));
            }
            Received::Message(..) => {}
            Received::Nothing | Received::Closed => return Err(NotIntroduced::Silent),
        }
    }
}

/// Who listens at the other end.
#[derive(Default)]
struct Peer {
    /// `None` where the system does not tell.
    pid: Option<u32>,
    /// A handle on the process, which no other ever has.
    handle: Option<OwnedFd>,
}

impl Peer {
    #[cfg(target_os = "linux")]
    fn of(stream: &UnixStream) -> Self {
        use rustix::process::{PidfdFlags, pidfd_open};
        let Ok(peer) = rustix::net::sockopt::socket_peercred(stream) else {
            return Self::default();
        };
        Self {
            pid: u32::try_from(peer.pid.as_raw_nonzero().get()).ok(),
            handle: pidfd_open(peer.pid, PidfdFlags::empty()).ok(),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn of(_: &UnixStream) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn hello(protocol: u32, exe: &str) -> Hello {
        Hello {
            exe: exe.to_owned(),
            protocol,
            ..Hello::of_this_process(0)
        }
    }

    #[test]
    fn a_host_of_this_build_is_adopted_one_of_another_only_to_be_kept_and_none_in_an_upgrade_or_of_another_protocol()
     {
        let mine = hello(HOST_PROTOCOL, "mine");
        assert_eq!(fits(&mine, "mine", Wish::of(false, false)), Ok(()));
        let other = hello(HOST_PROTOCOL, "other");
        assert_eq!(fits(&other, "mine", Wish::Same), Err(Unfit::Build));
        for host in [&mine, &other] {
            assert_eq!(fits(host, "mine", Wish::of(true, true)), Ok(()));
            let anew = Wish::of(true, false);
            assert_eq!(fits(host, "mine", anew), Err(Unfit::Upgrade));
        }
        for protocol in [0, HOST_PROTOCOL + 1] {
            let strange = hello(protocol, "mine");
            for wish in [Wish::Same, Wish::Keep, Wish::Anew] {
                assert_eq!(fits(&strange, "mine", wish), Err(Unfit::Protocol(protocol)));
            }
        }
    }

    struct Folder {
        run: RunDir,
        seat: Seat,
        _state: tempfile::TempDir,
    }

    fn folder() -> Folder {
        let state = tempfile::tempdir().unwrap();
        let run = RunDir::open(&state.path().join("run")).unwrap();
        let seat = Seat::take(&run, run.lock().unwrap()).unwrap();
        Folder {
            run,
            seat,
            _state: state,
        }
    }

    /// Answers each of those who knock with the next of these.
    fn answer(
        listener: UnixListener,
        answers: Vec<Report>,
    ) -> std::thread::JoinHandle<Vec<Channel>> {
        std::thread::spawn(move || {
            let one = |report: Report| {
                let mut channel = Channel::new(listener.accept().unwrap().0).unwrap();
                let Received::Message(Order::Adopt { epoch: Some(_) }, Some(_)) =
                    channel.receive(Wait::Yes).unwrap()
                else {
                    panic!("not adopted, with a place for its log");
                };
                channel.send(&report, None).unwrap();
                channel
            };
            answers.into_iter().map(one).collect()
        })
    }

    #[test]
    fn who_answers_for_another_process_is_left_alone() {
        let Folder {
            run,
            mut seat,
            _state,
        } = folder();
        let listener = run.listen_adoption(Adoptable::Host, 7).unwrap();
        let mut wrong = hello(HOST_PROTOCOL, "mine");
        wrong.pid += 1;
        let answering = answer(listener, vec![Report::Hello(wrong)]);
        assert!(introductions(&run, Adoptable::Host, &mut seat, &[]).is_empty());
        answering.join().unwrap();
    }

    #[test]
    fn an_epoch_that_got_lost_is_found_again_by_the_roles_that_saw_it() {
        let Folder {
            run,
            mut seat,
            _state,
        } = folder();
        let listener = run.listen_adoption(Adoptable::Host, 7).unwrap();
        let right = Report::Hello(hello(HOST_PROTOCOL, "mine"));
        let answering = answer(listener, vec![Report::Outranked { epoch: 41 }, right]);
        let found = introductions(&run, Adoptable::Host, &mut seat, &[]);
        assert_eq!(found.len(), 1);
        assert_eq!(seat.epoch, 42);
        answering.join().unwrap();
    }
}
