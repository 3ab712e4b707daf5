//! What a gateway has for its supervisor: what it is, the sockets that it could hand on, and the sockets that it asks for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidegate_gateway::ListenSocket;
use tokio::sync::mpsc;

use super::link::{Link, Linked, lock};
use crate::control::message::{Hello, Order, Report, StartOrder};
use crate::control::{Channel, ChannelError};
use crate::sockets::{self, HeldSocket, SocketId, Use};

/// How long a supervisor may take to bind a socket.
const ANSWER_TIME: Duration = Duration::from_secs(5);

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

impl Identity {
    /// From now on it is of use to nobody: no supervisor takes it for what it wants. The admin port's socket, which it may keep until it has
    /// drained, it hands on.
    pub(super) fn drains(&mut self, keep_admin: bool) {
        self.hash.clear();
        self.accepted = None;
        let keep = |held: &HeldSocket| keep_admin && held.id.usage == Use::Admin;
        self.held.0.retain(keep);
    }
}

/// The gateway as its link sees it.
#[derive(Debug)]
struct Gateway {
    identity: Mutex<Identity>,
    told: mpsc::UnboundedSender<Told>,
    answer: mpsc::UnboundedSender<Answer>,
}

impl Linked for Gateway {
    fn ordered(&self, order: Order, fd: Option<OwnedFd>) {
        // The receiving side ends only with the process.
        match (order, fd) {
            (Order::Reload, _) => drop(self.told.send(Told::Reload)),
            (Order::Drain { keep_admin, .. }, _) => {
                drop(self.told.send(Told::Drain { keep_admin }));
            }
            (Order::Socket { id }, Some(fd)) => {
                let held = HeldSocket::received(id.clone(), fd);
                drop(self.answer.send((id, Ok(held))));
            }
            (Order::SocketRefused { id, reason }, _) => {
                drop(self.answer.send((id, Err(reason))));
            }
            _ => {}
        }
    }

    fn introduce(&self, to: &Channel, hello: Hello) -> Result<(), ChannelError> {
        let identity = lock(&self.identity);
        for held in &identity.held.0 {
            let id = held.id.clone();
            to.send(&Report::Socket { id }, Some(held.as_fd()))?;
        }
        let hello = Hello {
            start: Some(identity.start.clone()),
            hash: identity.hash.clone(),
            grace_ms: identity.grace_ms,
            ..hello
        };
        to.send(&Report::Hello(hello), None)?;
        if let Some(texts) = &identity.accepted {
            let hash = identity.hash.clone();
            to.send(&Report::Accepted { hash }, Some(texts.as_fd()))?;
        }
        Ok(())
    }
}

/// The link to the supervisor, while there is one.
#[derive(Debug)]
pub(super) struct GatewayLink {
    link: Link,
    gateway: Arc<Gateway>,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl GatewayLink {
    /// Starts it. What the supervisor orders comes out of the receiver.
    ///
    /// # Errors
    /// When no thread or descriptor can be had.
    pub(super) fn start(
        channel: Channel,
        adoption: UnixListener,
        identity: Identity,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Told>)> {
        let (told, told_receiver) = mpsc::unbounded_channel();
        let (answer, answers) = mpsc::unbounded_channel();
        let gateway = Arc::new(Gateway {
            identity: Mutex::new(identity),
            told,
            answer,
        });
        // One that begins beside a running one is started by a supervisor that is not in charge yet.
        let link = Link::start(channel, adoption, 0, Arc::clone(&gateway))?;
        let this = Self {
            link,
            gateway,
            answers,
        };
        Ok((this, told_receiver))
    }

    /// Tells the supervisor something, if there is one. Returns whether it was sent.
    pub(super) fn report(&self, report: &Report) -> bool {
        self.link.report(report)
    }

    /// For tasks that tell the supervisor things.
    pub(super) fn reporter(&self) -> Link {
        self.link.clone()
    }

    /// Hands the supervisor the accepted configuration, and keeps it for one that adopts this gateway.
    pub(super) fn accept(&self, hash: &str, texts: OwnedFd) {
        let hash = hash.to_owned();
        self.link
            .report_with(&Report::Accepted { hash }, Some(&texts));
        self.identity().accepted = Some(texts);
    }

    /// A look at, or a change of, what this gateway is. Not to be held while something is reported.
    pub(super) fn identity(&self) -> MutexGuard<'_, Identity> {
        lock(&self.gateway.identity)
    }

    /// A socket that a new configuration wants: bound by the supervisor, so that it outlives this process, or here
    /// if there is none.
    ///
    /// # Errors
    /// Why it cannot be bound, in words.
    pub(super) async fn obtain(&mut self, wanted: &SocketId) -> Result<HeldSocket, String> {
        if !self.report(&Report::Need { id: wanted.clone() }) {
            let held = &self.identity().held;
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
