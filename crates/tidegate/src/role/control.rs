//! The control role: owns the embedded store, and serves it to the other roles on a socket in the runtime folder.
//!
//! The file has one owner at a time, whoever that is: a control that finds it in use asks the owner to go, by the
//! owner's socket, and waits until the file is free. So an upgrade, and a control that outlived its supervisor, need no
//! protocol of their own: an owner that goes answers what it has taken, and the others' calls wait for the next one.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tidegate_state::{OpenError, Server, StateUrl, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{RoleError, own_channel};
use crate::control::message::{Order, OwnOrder, Report};
use crate::control::{Channel, Received, Wait};
use crate::rundir::RunDir;

/// How long the owner before this one may take to let go.
const TAKE_OVER: Duration = Duration::from_secs(20);
/// Wait before the file is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);
/// How long whoever connects to the owner's socket may take to say what for.
const ASK_TIME: Duration = Duration::from_secs(5);

/// Why the role ends before it serves.
#[derive(Debug, thiserror::Error)]
enum ControlError {
    /// The state file cannot be had.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The system refuses something basic.
    #[error("cannot set up control: {0}")]
    System(#[from] io::Error),
}

/// Runs the role until it is told to go.
pub(crate) fn run() -> ExitCode {
    let (channel, order) = match receive_order() {
        Ok(given) => given,
        Err(error) => {
            tracing::error!(reason = %error, "control not started");
            return ExitCode::FAILURE;
        }
    };
    let reporter = channel.sender();
    let owned = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ControlError::from)
        .and_then(|runtime| runtime.block_on(own(channel, &order)));
    match owned {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let report = Report::Failed {
                reason: error.to_string(),
            };
            // The supervisor tells it; without one, this process does.
            if reporter
                .map(|reporter| reporter.send(&report, None))
                .is_err()
            {
                tracing::error!(reason = %error, "control not started");
            }
            ExitCode::FAILURE
        }
    }
}

fn receive_order() -> Result<(Channel, OwnOrder), RoleError> {
    let mut channel = own_channel()?;
    loop {
        match channel.receive(Wait::Yes)? {
            Received::Message(Order::Own(order), _) => return Ok((channel, order)),
            Received::Message(..) => {}
            Received::Nothing | Received::Closed => return Err(RoleError::NotStartedBySupervisor),
        }
    }
}

async fn own(channel: Channel, order: &OwnOrder) -> Result<(), ControlError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let run = RunDir::open(&order.run).map_err(io::Error::other)?;
    let reporter = channel.sender()?;
    let (told, mut goes) = mpsc::unbounded_channel();
    listen(channel, told.clone())?;
    let go = async {
        tokio::select! {
            _ = goes.recv() => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let serve = async {
        let store = take(&order.folder, &run).await?;
        let server = Server::start(run.listen_store()?, Arc::clone(&store))?;
        admit(run.listen_owner()?, told)?;
        Ok::<_, ControlError>((store, server))
    };
    tokio::pin!(go);
    let (store, server) = tokio::select! {
        served = serve => served?,
        () = &mut go => return Ok(()),
    };
    // A supervisor that is gone already is no reason not to serve.
    let _ = reporter.send(
        &Report::Ready {
            hash: String::new(),
            grace_ms: 0,
        },
        None,
    );
    go.await;
    server.stop().await;
    // Before the file is free: from then on these names are the next owner's.
    run.remove_store();
    drop(store);
    Ok(())
}

/// The store, once whoever has it lets go of it.
async fn take(folder: &Path, run: &RunDir) -> Result<Arc<dyn Store>, OpenError> {
    let url = StateUrl::File(folder.to_owned());
    let deadline = Instant::now() + TAKE_OVER;
    loop {
        match tidegate_state::open(&url) {
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                // One that is just beginning has no socket yet: it is asked again.
                run.dismiss_owner();
                sleep(TRY_AGAIN).await;
            }
            answer => return answer,
        }
    }
}

/// Passes the supervisor's order to go on. A supervisor that dies is none: the store is served on.
fn listen(mut channel: Channel, told: mpsc::UnboundedSender<()>) -> io::Result<()> {
    let listening = move || loop {
        match channel.receive(Wait::Yes) {
            Ok(Received::Message(Order::Drain { .. }, _)) => drop(told.send(())),
            Ok(Received::Message(..) | Received::Nothing) => {}
            Err(crate::control::ChannelError::Unknown { .. }) => {}
            Ok(Received::Closed) | Err(_) => {
                tracing::warn!("the supervisor is gone: serving the store on");
                return;
            }
        }
    };
    thread("link", listening)
}

/// Passes the order to go of the next owner on.
fn admit(owner: UnixListener, told: mpsc::UnboundedSender<()>) -> io::Result<()> {
    let admitting = move || {
        for stream in owner.incoming().flatten() {
            let Ok(mut channel) = Channel::new(stream) else {
                continue;
            };
            let _ = channel.set_read_timeout(Some(ASK_TIME));
            if let Ok(Received::Message(Order::Drain { .. }, _)) = channel.receive(Wait::Yes) {
                tracing::info!("another control takes the store over");
                let _ = told.send(());
            }
        }
    };
    thread("owner", admitting)
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(128 << 10)
        .spawn(body)
        .map(drop)
}
