//! The gateway role: wires the gateway, its admin port, and the supervisor's control socket together.
//!
//! It is started with the control socket as its standard input, gets its sockets there, and serves until it is told
//! to drain. When the supervisor dies it goes on; the next supervisor finds it by its adoption socket.

mod accepted;
mod admin;
pub(crate) mod control;
mod gateway;
mod gateway_link;
pub(crate) mod host;
mod link;
mod reports;
mod watch;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use tidegate_config::values::StateUrl;
use tidegate_config::{Diagnostics, Loaded};
use tidegate_state::{OpenError, Store};

use self::accepted::{Reading, Texts};
use self::gateway_link::Held;
use crate::control::message::{Order, Report, StartOrder};
use crate::control::{Channel, ChannelError, Received, Wait};
use crate::plan;
use crate::rundir::RunDir;
use crate::sockets::{HeldSocket, SocketId};

/// Why the role ends before it serves.
#[derive(Debug, thiserror::Error)]
enum RoleError {
    /// It was not started by a supervisor.
    #[error("`tidegate role` is started by `tidegate up` only")]
    NotStartedBySupervisor,
    /// The supervisor went away or sends what this build does not understand.
    #[error("the supervisor cannot be understood: {0}")]
    Control(#[from] ChannelError),
    /// The configuration is bad.
    #[error("{0}")]
    Config(#[from] Diagnostics),
    /// A socket is missing.
    #[error("{0}")]
    Socket(String),
    /// The gateway does not start.
    #[error(transparent)]
    Gateway(#[from] tidegate_gateway::StartError),
    /// The admin port is not served.
    #[error(transparent)]
    Admin(#[from] tidegate_admin::ServeError),
    /// The system refuses something basic.
    #[error("cannot set up the gateway: {0}")]
    System(#[from] io::Error),
}

/// What the role has when it begins.
struct Beginning {
    channel: Channel,
    start: StartOrder,
    held: Held,
    run: RunDir,
    /// What the files looked like before they were read.
    stamps: watch::Stamps,
    loaded: Loaded,
    /// The texts of that.
    texts: Option<Texts>,
    /// Whether the files are bad and `loaded` is what an earlier gateway accepted.
    recalled: bool,
}

/// What the supervisor gave before it said start.
struct Given {
    channel: Channel,
    start: StartOrder,
    sockets: Vec<HeldSocket>,
    /// The accepted configuration of the gateway before this one.
    accepted: Option<OwnedFd>,
}

/// Runs the role until it has drained.
pub(crate) fn run() -> ExitCode {
    let given = match receive_start() {
        Ok(given) => given,
        Err(error) => {
            tracing::error!(reason = %error, "gateway not started");
            return ExitCode::FAILURE;
        }
    };
    let reporter = given.channel.sender();
    let served = begin(given).and_then(gateway::serve);
    match served {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_cut) => ExitCode::FAILURE,
        Err(error) => {
            let report = Report::Failed {
                reason: error.to_string(),
            };
            // The supervisor tells it; without one, this process does.
            if reporter
                .map(|reporter| reporter.send(&report, None))
                .is_err()
            {
                tracing::error!(reason = %error, "gateway not started");
            }
            ExitCode::FAILURE
        }
    }
}

/// The store that a configuration names: the embedded one has the control role for its owner. `run` must stay as long as the store does:
/// its descriptor is a part of the socket's address.
fn open_store(run: &RunDir, url: &StateUrl) -> Result<Arc<dyn Store>, OpenError> {
    match url {
        StateUrl::File(_) => Ok(tidegate_state::remote(&run.store_address())),
        StateUrl::Redis(url) => tidegate_state::open(&url.expose().parse()?),
    }
}

/// The control socket, which is the standard input.
fn own_channel() -> Result<Channel, RoleError> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    Channel::new(UnixStream::from(stdin)).map_err(|_| RoleError::NotStartedBySupervisor)
}

fn receive_start() -> Result<Given, RoleError> {
    let mut channel = own_channel()?;
    let (mut sockets, mut accepted) = (Vec::new(), None);
    loop {
        match channel.receive(Wait::Yes) {
            Ok(Received::Message(Order::Socket { id }, Some(fd))) => {
                sockets.push(HeldSocket::received(id, fd))
            }
            Ok(Received::Message(Order::Accepted { .. }, fd)) => accepted = fd,
            Ok(Received::Message(Order::Start(start), _)) => {
                return Ok(Given {
                    channel,
                    start,
                    sockets,
                    accepted,
                });
            }
            Ok(Received::Message(..)) => {}
            Ok(Received::Nothing | Received::Closed) | Err(ChannelError::Socket(_)) => {
                return Err(RoleError::NotStartedBySupervisor);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn begin(given: Given) -> Result<Beginning, RoleError> {
    let Given {
        mut channel,
        start,
        sockets,
        accepted,
    } = given;
    let run = RunDir::open(&start.run).map_err(|error| RoleError::Socket(error.to_string()))?;
    let Reading { stamps, content } = accepted::read(&start.paths);
    let (loaded, texts, recalled) = match content {
        Ok((loaded, texts)) => (loaded, texts, false),
        // The supervisor has their texts already.
        Err(problems) => (recall(problems, accepted)?, None, true),
    };
    let mut held = Held::new(sockets);
    // The file may have changed since the supervisor read it.
    let wanted = plan::sockets(&loaded.config);
    for id in held.missing(&wanted) {
        channel.send(&Report::Need { id: id.clone() }, None)?;
        held.add(answer(&mut channel, &id)?);
    }
    held.retain(&wanted);
    Ok(Beginning {
        channel,
        start,
        held,
        run,
        stamps,
        loaded,
        texts,
        recalled,
    })
}

/// What was accepted before, for the files are bad by now.
fn recall(problems: Diagnostics, accepted: Option<OwnedFd>) -> Result<Loaded, RoleError> {
    let Some(accepted) = accepted else {
        return Err(problems.into());
    };
    let cause = match accepted::recall(accepted) {
        Ok(Ok(loaded)) => {
            let hash = &loaded.hash;
            tracing::warn!(
                hash,
                "the configuration is bad: going on with what was accepted before"
            );
            return Ok(loaded);
        }
        Ok(Err(problems)) => problems.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(cause, "what was accepted before cannot be used either");
    Err(problems.into())
}

fn answer(channel: &mut Channel, wanted: &SocketId) -> Result<HeldSocket, RoleError> {
    loop {
        match channel.receive(Wait::Yes)? {
            Received::Message(Order::Socket { id }, Some(fd)) if id == *wanted => {
                return Ok(HeldSocket::received(id, fd));
            }
            Received::Message(Order::SocketRefused { id, reason }, _) if id == *wanted => {
                return Err(RoleError::Socket(reason));
            }
            Received::Message(Order::Drain { .. }, _) | Received::Nothing | Received::Closed => {
                return Err(RoleError::Socket("the supervisor ended".into()));
            }
            Received::Message(..) => {}
        }
    }
}
