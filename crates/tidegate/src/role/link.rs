//! The gateway's side of the control socket, and the sockets that it could hand on.
//!
//! One thread reads: from the supervisor as long as there is one, and from then on from whoever connects to the
//! adoption socket. Only a supervisor that holds the state folder's lock does that, and then ours is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_gateway::ListenSocket;
use tokio::sync::mpsc;

use crate::control::message::{Hello, Order, Report, StartOrder};
use crate::control::{Channel, ChannelError, Received, Wait};
use crate::sockets::{self, HeldSocket, SocketId, Use};

/// How long a supervisor may take to bind a socket, or to say who it is when it adopts.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Pause after a supervisor could not be let in.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Duplicates of the listening sockets, for a supervisor that adopts this gateway.
#[derive(Debug)]
pub(super) struct Held(Vec<HeldSocket>);

impl Held {
    pub(super) fn new(sockets: Vec<HeldSocket>) -> Self {
        Self(sockets)
    }

    /// Those of `wanted` that are not here.
    pub(super) fn missing(&self, wanted: &[SocketId]) -> Vec<SocketId> {
        wanted
            .iter()
            .filter(|id| self.0.iter().all(|held| held.id != **id))
            .cloned()
            .collect()
    }

    pub(super) fn add(&mut self, socket: HeldSocket) {
        self.0.push(socket);
    }

    /// Closes those that are not wanted any more.
    pub(super) fn retain(&mut self, wanted: &[SocketId]) {
        self.0.retain(|held| wanted.contains(&held.id));
    }

    /// Duplicates of the listeners' sockets, by listener name.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(super) fn listeners(&self) -> io::Result<Vec<(String, ListenSocket)>> {
        let listeners = self.0.iter().filter(|held| held.id.usage == Use::Listener);
        listeners
            .map(|held| Ok((held.id.name.clone(), held.listen_socket()?)))
            .collect()
    }

    /// A duplicate of one socket.
    pub(super) fn get(&self, id: &SocketId) -> Option<io::Result<ListenSocket>> {
        self.0
            .iter()
            .find(|held| held.id == *id)
            .map(HeldSocket::listen_socket)
    }
}

/// What the role is told.
#[derive(Debug)]
pub(super) enum Told {
    /// Read the configuration again.
    Reload,
    /// Drain and end.
    Drain {
        /// Whether the admin port stays answered meanwhile.
        keep_admin: bool,
    },
}

type Answer = (SocketId, Result<HeldSocket, String>);

/// What this gateway is, as an adopting supervisor is told.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) start: StartOrder,
    pub(super) hash: String,
    pub(super) grace_ms: u64,
    /// The sockets of the running configuration.
    pub(super) running: Vec<SocketId>,
    /// Those, and while a reload is under way those of the next one.
    pub(super) held: Held,
    /// The running configuration as it was written down, see [`super::accepted`].
    pub(super) accepted: Option<OwnedFd>,
}

#[derive(Debug)]
struct Shared {
    /// `None` while there is no supervisor.
    supervisor: Mutex<Option<Channel>>,
    identity: Mutex<Identity>,
}

/// Tells the supervisor things, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Reporter(Arc<Shared>);

impl Reporter {
    /// Tells it. Returns whether it was sent.
    pub(super) fn report(&self, report: &Report) -> bool {
        let sent = lock(&self.0.supervisor)
            .as_ref()
            .map(|supervisor| supervisor.send(report, None));
        if let Some(Err(error)) = &sent {
            tracing::debug!(%error, "a report did not reach the supervisor");
        }
        matches!(sent, Some(Ok(())))
    }
}

/// The link to the supervisor, while there is one.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl Link {
    /// Starts the thread that reads. Its messages come out of the receiver.
    ///
    /// # Errors
    /// When no thread or descriptor can be had.
    pub(super) fn start(
        channel: Channel,
        adoption: UnixListener,
        identity: Identity,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Told>)> {
        let shared = Arc::new(Shared {
            supervisor: Mutex::new(Some(channel.sender()?)),
            identity: Mutex::new(identity),
        });
        let (told, told_receiver) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let reader = Reader {
            shared: Arc::clone(&shared),
            told,
            answer,
        };
        std::thread::Builder::new()
            .name("link".into())
            .stack_size(128 << 10)
            .spawn(move || reader.run(channel, &adoption))?;
        Ok((Self { shared, answers }, told_receiver))
    }

    /// Tells the supervisor something, if there is one. Returns whether it was sent.
    pub(super) fn report(&self, report: &Report) -> bool {
        self.reporter().report(report)
    }

    /// For tasks that tell the supervisor things.
    pub(super) fn reporter(&self) -> Reporter {
        Reporter(Arc::clone(&self.shared))
    }

    /// Hands the supervisor the accepted configuration, and keeps it for one that adopts this gateway.
    pub(super) fn accept(&self, hash: &str, texts: OwnedFd) {
        if let Some(supervisor) = &*lock(&self.shared.supervisor) {
            send_accepted(supervisor, hash, &texts);
        }
        lock(&self.shared.identity).accepted = Some(texts);
    }

    /// A look at, or a change of, what this gateway is.
    pub(super) fn identity(&self) -> MutexGuard<'_, Identity> {
        lock(&self.shared.identity)
    }

    /// A socket that a new configuration wants: bound by the supervisor, so that it outlives this process, or here
    /// if there is none.
    ///
    /// # Errors
    /// Why it cannot be bound, in words.
    pub(super) async fn obtain(&mut self, wanted: &SocketId) -> Result<HeldSocket, String> {
        let asked = match &*lock(&self.shared.supervisor) {
            Some(supervisor) => supervisor
                .send(&Report::Need { id: wanted.clone() }, None)
                .is_ok(),
            None => false,
        };
        if !asked {
            let held = &lock(&self.shared.identity).held;
            return sockets::bind_or_share(&held.0, wanted).map_err(|error| error.to_string());
        }
        let answered = async {
            loop {
                match self.answers.recv().await {
                    Some((id, answer)) if id == *wanted => return answer,
                    // Of an earlier reload that did not wait for it.
                    Some(_) => {}
                    None => return Err("the control thread ended".to_owned()),
                }
            }
        };
        tokio::time::timeout(ANSWER_TIME, answered)
            .await
            .unwrap_or_else(|_| Err(format!("{wanted}: the supervisor does not answer")))
    }
}

struct Reader {
    shared: Arc<Shared>,
    told: mpsc::UnboundedSender<Told>,
    answer: mpsc::UnboundedSender<Answer>,
}

impl Reader {
    fn run(&self, mut channel: Channel, adoption: &UnixListener) {
        loop {
            self.read(&mut channel);
            *lock(&self.shared.supervisor) = None;
            tracing::warn!("the supervisor is gone: serving on");
            channel = loop {
                match adoption.accept().map(|(stream, _)| self.introduce(stream)) {
                    Ok(Ok(Some(channel))) => break channel,
                    Ok(Ok(None)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "adoption failed"),
                    Err(error) => {
                        // Out of descriptors, most likely: others close theirs, and until then there is no use in asking.
                        tracing::warn!(%error, "the adoption socket failed: trying again");
                        std::thread::sleep(ACCEPT_PAUSE);
                    }
                }
            };
            tracing::info!("adopted by a supervisor");
        }
    }

    fn read(&self, channel: &mut Channel) {
        loop {
            // The receiving side ends only with the process.
            match channel.receive(Wait::Yes) {
                Ok(Received::Message(Order::Reload, _)) => drop(self.told.send(Told::Reload)),
                Ok(Received::Message(Order::Drain { keep_admin }, _)) => {
                    drop(self.told.send(Told::Drain { keep_admin }));
                }
                Ok(Received::Message(Order::Socket { id }, Some(fd))) => {
                    let held = HeldSocket::received(id.clone(), fd);
                    drop(self.answer.send((id, Ok(held))));
                }
                Ok(Received::Message(Order::SocketRefused { id, reason }, _)) => {
                    drop(self.answer.send((id, Err(reason))));
                }
                Ok(Received::Message(..) | Received::Nothing) => {}
                Ok(Received::Closed) => return,
                Err(error @ ChannelError::Unknown { .. }) => {
                    tracing::warn!(%error, "order ignored")
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket failed");
                    return;
                }
            }
        }
    }

    /// Answers whoever connected to the adoption socket; `None` if it did not want to adopt.
    fn introduce(&self, stream: UnixStream) -> Result<Option<Channel>, ChannelError> {
        let mut channel = Channel::new(stream)?;
        channel.set_read_timeout(Some(ANSWER_TIME))?;
        let Received::Message(Order::Adopt, _) = channel.receive(Wait::Yes)? else {
            return Ok(None);
        };
        channel.set_read_timeout(None)?;
        let identity = lock(&self.shared.identity);
        for held in &identity.held.0 {
            channel.send(
                &Report::Socket {
                    id: held.id.clone(),
                },
                Some(held.as_fd()),
            )?;
        }
        let hello = Hello {
            pid: std::process::id(),
            exe: crate::exe::identity(),
            start: identity.start.clone(),
            hash: identity.hash.clone(),
            grace_ms: identity.grace_ms,
        };
        channel.send(&Report::Hello(hello), None)?;
        if let Some(texts) = &identity.accepted {
            send_accepted(&channel, &identity.hash, texts);
        }
        drop(identity);
        *lock(&self.shared.supervisor) = Some(channel.sender()?);
        Ok(Some(channel))
    }
}

fn send_accepted(supervisor: &Channel, hash: &str, texts: &OwnedFd) {
    let report = Report::Accepted {
        hash: hash.to_owned(),
    };
    if let Err(error) = supervisor.send(&report, Some(texts.as_fd())) {
        tracing::debug!(%error, "a report did not reach the supervisor");
    }
}

/// Nothing is left half done under these locks, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
