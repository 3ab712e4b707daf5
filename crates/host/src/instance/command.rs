//! A program of any kind that listens on `$PORT`.

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tidegate_config::model::Service;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Spec;
use super::live::{Death, Live, Tell, Unstarted};
use super::model::Teller;
use crate::events::What;
use crate::group::Group;
use crate::host::Shared;
use crate::model::Slot;
use crate::state::Unwell;
use crate::worker::memory;
use crate::worker::process::Process;

/// Between two looks whether it accepts connections yet.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at its memory.
const WEIGH: Duration = Duration::from_millis(500);

/// What is ended for its checks has so long to do it by itself.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Between two checks at first; then as often as `health_check` says.
const FIRST_CHECK: Duration = Duration::from_millis(50);

/// Why a program that accepts connections is not ready, as it was told last.
pub(super) type Unfit = Mutex<Option<String>>;

/// Starts a program, and resolves when it accepts connections and passes its checks.
///
/// # Errors
/// Why it does not; nothing is left of it.
pub(super) async fn start(
    shared: &Arc<Shared>,
    slot: &Arc<Slot>,
    spec: &Arc<Spec>,
    words: &[String],
    epoch: u64,
    unfit: &Unfit,
) -> Result<Live, Unstarted> {
    let started = Instant::now();
    let port = free_port().map_err(|error| format!("no port is free: {error}"))?;
    let words: Vec<String> = words.iter().map(|word| with_port(word, port)).collect();
    let Some((program, arguments)) = words.split_first() else {
        return Err(Unstarted::certain("`command` is empty".to_owned()));
    };
    // A path is relative to the configuration's folder, where the program runs, too.
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&shared.base_dir);
    for (name, value) in &spec.service.env {
        command.env(name, value.expose());
    }
    command
        .env("PORT", port.to_string())
        .env("TIDEGATE_SERVICE", &spec.service.name)
        .env("TIDEGATE_INSTANCE", &*slot.instance)
        .env("TIDEGATE_REVISION", spec.revision.to_string())
        .env("TIDEGATE_EPOCH", epoch.to_string());
    let teller = Teller::new(shared, slot, &spec.service.name);
    let lines = teller.clone();
    let spawned = shared
        .spawner
        .spawn(command, move |pid, stream, text| {
            lines.line(pid, stream, text)
        })
        .await;
    let mut process = spawned
        .map_err(|error| Unstarted::certain(format!("cannot start `{program}`: {error}")))?;
    let pid = process.pid();
    teller.tell(
        pid,
        What::Started {
            revision: spec.revision,
        },
    );
    loop {
        tokio::select! {
            status = process.exited() => return Err(process.cause(status).into()),
            accepted = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) => if accepted.is_ok() {
                break;
            },
        }
        tokio::select! {
            status = process.exited() => return Err(process.cause(status).into()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    tokio::select! {
        status = process.exited() => return Err(process.cause(status).into()),
        () = fit(shared, slot, &spec.service, port, unfit) => {}
    }
    let (tell, told) = mpsc::unbounded_channel();
    let (dead, death) = oneshot::channel();
    let watched = Watched {
        process,
        group: Arc::clone(&slot.group),
        told,
    };
    let watched_by = Watch {
        shared: Arc::clone(shared),
        slot: Arc::clone(slot),
        spec: Arc::clone(spec),
        pid,
        port,
    };
    tokio::spawn(watched.run(watched_by.unwell(), dead));
    let mut live = Live::new(spec.revision, started, tell, death);
    live.pid = Some(pid);
    live.port = Some(port);
    Ok(live)
}

/// Resolves when the program has passed the checks that its service wants, as often in a row as it wants.
async fn fit(shared: &Shared, slot: &Slot, service: &Service, port: u16, unfit: &Unfit) {
    let Some(check) = &service.health_check else {
        return;
    };
    let (mut passed, mut pause) = (0, FIRST_CHECK);
    loop {
        match shared.checks.check(service, check, port).await {
            Ok(()) => passed += 1,
            Err(cause) => {
                passed = 0;
                let name = slot.group.service();
                shared.board.refresh(name, slot.number, |state| {
                    if state.state != crate::state::State::Ready {
                        state.cause = Some(cause.clone());
                    }
                });
                *unfit.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
            }
        }
        if passed >= check.healthy_after {
            return;
        }
        tokio::time::sleep(pause.min(check.interval)).await;
        pause *= 2;
    }
}

/// A port of 127.0.0.1 that nobody listens on.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn with_port(word: &str, port: u16) -> String {
    let port = port.to_string();
    word.replace("${PORT}", &port).replace("$PORT", &port)
}

/// What a program that was ready is ended for.
struct Useless {
    cause: String,
    /// Since its last check that it passed.
    since: Instant,
}

/// Asks a program that is ready as its service wants it.
struct Watch {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    spec: Arc<Spec>,
    pid: u32,
    port: u16,
}

impl Watch {
    /// Resolves when it has failed too often in a row, and only then.
    ///
    /// Gateways ask by themselves, and send no requests to what fails. That helps nobody for long: what does not come back by itself is
    /// started anew.
    async fn unwell(self) -> Useless {
        let service = &self.spec.service;
        let Some(check) = &service.health_check else {
            return std::future::pending().await;
        };
        let most = service.restarts();
        let mut since = Instant::now();
        let (mut passed, mut failed) = (0, 0);
        loop {
            tokio::time::sleep(check.interval).await;
            match self.shared.checks.check(service, check, self.port).await {
                Ok(()) => {
                    since = Instant::now();
                    (passed, failed) = (passed + 1, 0);
                    if passed >= check.healthy_after {
                        self.show(None);
                    }
                }
                Err(cause) => {
                    (passed, failed) = (0, failed + 1);
                    if most.is_some_and(|most| failed >= most) {
                        let cause = format!("it failed {failed} checks in a row: {cause}");
                        return Useless { cause, since };
                    }
                    if failed >= check.unhealthy_after {
                        self.show(Some(&cause));
                    }
                }
            }
        }
    }

    /// Tells how its instance stands, unless another program has taken its place.
    fn show(&self, failing: Option<&str>) {
        let service = self.slot.group.service();
        self.shared
            .board
            .refresh(service, self.slot.number, |state| {
                if state.pid != Some(self.pid) {
                    return;
                }
                let since = state.unwell.as_ref().map(|unwell| unwell.since);
                state.unwell = failing.map(|cause| Unwell {
                    cause: cause.to_owned(),
                    since: since.unwrap_or_else(SystemTime::now),
                });
            });
    }
}

/// A program that is ready.
struct Watched {
    process: Process,
    group: Arc<Group>,
    told: mpsc::UnboundedReceiver<Tell>,
}

impl Watched {
    /// Waits for its end, however it comes, and tells it.
    async fn run(self, unwell: impl Future<Output = Useless>, dead: oneshot::Sender<Death>) {
        let Self {
            mut process,
            group,
            mut told,
        } = self;
        tokio::pin!(unwell);
        let (mut killed, mut ending, mut last) = (None, false, None);
        let mut useless = Duration::ZERO;
        let started = Instant::now();
        let cause = loop {
            tokio::select! {
                status = process.exited() => break killed.unwrap_or_else(|| process.cause(status)),
                order = told.recv() => match order {
                    Some(Tell::Terminate | Tell::Expect) => {
                        ending = true;
                        process.terminate();
                    }
                    Some(Tell::Kill) => process.kill(),
                    None => {
                        process.kill();
                        process.exited().await;
                        break "the host is ending".to_owned();
                    }
                },
                failed = &mut unwell, if killed.is_none() && !ending => {
                    useless = failed.since.elapsed();
                    killed = Some(failed.cause);
                    process.terminate();
                    last = Some(Instant::now() + END_WITHIN);
                }
                () = tokio::time::sleep_until(last.unwrap_or_else(Instant::now)), if last.is_some() => {
                    last = None;
                    process.kill();
                }
                () = tokio::time::sleep(WEIGH), if killed.is_none() => {
                    let over = group.settings().memory.and_then(|bound| {
                        memory::resident(process.pid()).filter(|resident| *resident > bound).map(|resident| (bound, resident))
                    });
                    if let Some((bound, resident)) = over {
                        killed = Some(format!("it took {resident} bytes of memory; `limits.memory` allows {bound}"));
                        process.kill();
                    }
                }
            }
        };
        // Its calls are not seen here: one that was ready for a while has been of use.
        let served = started.elapsed().saturating_sub(useless) > Duration::from_secs(10);
        let _ = dead.send(Death {
            cause,
            served,
            unwell: useless,
        });
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_port_is_put_in_both_ways_of_writing_it() {
        assert_eq!(
            super::with_port("--listen=127.0.0.1:$PORT", 81),
            "--listen=127.0.0.1:81"
        );
        assert_eq!(super::with_port("${PORT}", 81), "81");
    }
}
