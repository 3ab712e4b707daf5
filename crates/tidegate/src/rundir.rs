//! The folder for what lives only while Tidegate runs: the lock that makes one supervisor the only one, its control
//! socket, one adoption socket a gateway and a host, and the sockets of the embedded store.
//!
//! It is the `run` folder inside the state folder, readable by the owner alone: whoever can open the sockets in it
//! can take the listening sockets.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::control::Channel;
use crate::control::message::Order;

const LOCK: &str = "lock";
const CONTROL: &str = "supervisor.sock";
const OWNER: &str = "owner.sock";
const STORE: &str = "state.sock";
const EPOCH: &str = "epoch";

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunDirError {
    /// It cannot be made or written.
    #[error("cannot use the state folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another supervisor lives.
    #[error(
        "another tidegate{} runs on the state folder {}; stop it, replace it with `tidegate up --upgrade`, or give this \
         one its own `state.url`",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        path.display()
    )]
    Locked {
        /// The state folder's `run`.
        path: PathBuf,
        /// The other's process id, if it could be read.
        pid: Option<u32>,
    },
}

/// A role that outlives its supervisor and is adopted by the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adoptable {
    /// The request path.
    Gateway,
    /// Workers of models.
    Host,
}

impl Adoptable {
    /// In words, and in names of sockets.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Host => "host",
        }
    }

    fn socket(self, pid: u32) -> String {
        format!("{}-{pid}.sock", self.name())
    }

    fn pid(self, socket: &str) -> Option<u32> {
        let pid = socket.strip_prefix(self.name())?.strip_prefix('-')?;
        pid.strip_suffix(".sock")?.parse().ok()
    }
}

/// The folder, with an open descriptor: paths of Unix sockets may have 107 bytes only, and a state folder may be
/// anywhere, so sockets are addressed relative to the descriptor.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    folder: File,
}

/// The supervisor's claim on the folder: released by the system when the last process that holds it ends.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl RunDir {
    /// Opens the folder; it is made when missing.
    ///
    /// # Errors
    /// [`RunDirError::Folder`].
    pub(crate) fn open(path: &Path) -> Result<Self, RunDirError> {
        let failed = |source| RunDirError::Folder {
            path: path.to_owned(),
            source,
        };
        if let Some(state) = path.parent() {
            std::fs::create_dir_all(state).map_err(failed)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
        let folder = File::open(path).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            folder,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Claims the folder for this process.
    ///
    /// # Errors
    /// [`RunDirError::Locked`] when another supervisor lives.
    pub(crate) fn lock(&self) -> Result<Lock, RunDirError> {
        let failed = |source| RunDirError::Folder {
            path: self.path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path.join(LOCK))
            .map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let read = file.read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(RunDirError::Locked {
                    path: self.path.clone(),
                    pid,
                });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        let mut lock = Lock(file);
        lock.sign().map_err(failed)?;
        Ok(lock)
    }

    /// Whether a supervisor lives on the folder that is or would be there.
    pub(crate) fn is_taken(path: &Path) -> bool {
        File::open(path.join(LOCK)).is_ok_and(|file| {
            let free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            free == Err(rustix::io::Errno::WOULDBLOCK)
        })
    }

    /// Listens on the supervisor's control socket. Only the holder of the lock may.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen_control(&self, _: &Lock) -> io::Result<UnixListener> {
        self.listen(CONTROL)
    }

    /// Connects to the running supervisor.
    ///
    /// # Errors
    /// The system's; `ConnectionRefused` or `NotFound` when there is none.
    pub(crate) fn connect_control(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.address(CONTROL))
    }

    /// Removes the control socket's file at the end.
    pub(crate) fn remove_control(&self, _: &Lock) {
        let _ = std::fs::remove_file(self.path.join(CONTROL));
    }

    /// The epoch of whoever has taken charge: above that of whoever was before, and above `seen`, which a role that lives has told.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn next_epoch(&self, _: &Lock, seen: u64) -> io::Result<u64> {
        let path = self.path.join(EPOCH);
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0_u64,
            Err(error) => return Err(error),
        };
        let epoch = before.max(seen).saturating_add(1);
        // Whole or not at all.
        let fresh = self.path.join(format!("{EPOCH}.new"));
        std::fs::write(&fresh, format!("{epoch}\n"))?;
        std::fs::rename(fresh, path)?;
        Ok(epoch)
    }

    /// Listens on the adoption socket of the role with this process id.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen_adoption(&self, role: Adoptable, pid: u32) -> io::Result<UnixListener> {
        self.listen(&role.socket(pid))
    }

    /// Removes a role's adoption socket: it is not to be adopted any more.
    pub(crate) fn remove_adoption(&self, role: Adoptable, pid: u32) {
        let _ = std::fs::remove_file(self.path.join(role.socket(pid)));
    }

    /// Connections to all processes of the role that live, with their ids. The socket files of dead ones are removed.
    pub(crate) fn living(&self, role: Adoptable) -> Vec<(u32, UnixStream)> {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return Vec::new();
        };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut living = Vec::new();
        for name in names {
            let Some(pid) = role.pid(&name) else {
                continue;
            };
            match UnixStream::connect(self.address(&name)) {
                Ok(stream) => living.push((pid, stream)),
                Err(_) => self.remove_adoption(role, pid),
            }
        }
        living.sort_by_key(|(pid, _)| *pid);
        living
    }

    /// Where the embedded store is served.
    pub(crate) fn store_socket(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// [`RunDir::store_socket`] in a form that is short wherever the folder is. Holds as long as this does.
    pub(crate) fn store_address(&self) -> PathBuf {
        self.address(STORE)
    }

    /// Listens where the embedded store is served. Only its owner may.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen_store(&self) -> io::Result<UnixListener> {
        let listener = self.listen(STORE)?;
        std::fs::set_permissions(self.store_socket(), Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Listens where the owner of the embedded store is asked to go. Only that may.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen_owner(&self) -> io::Result<UnixListener> {
        self.listen(OWNER)
    }

    /// Removes the owner's sockets, while it still owns the store.
    pub(crate) fn remove_store(&self) {
        for name in [STORE, OWNER] {
            let _ = std::fs::remove_file(self.path.join(name));
        }
    }

    /// Asks the owner of the embedded store to go, if there is one.
    pub(crate) fn dismiss_owner(&self) {
        if let Ok(stream) = UnixStream::connect(self.address(OWNER))
            && let Ok(owner) = Channel::new(stream)
        {
            let order = Order::Drain {
                keep_admin: false,
                epoch: None,
            };
            let _ = owner.send(&order, None);
        }
    }

    /// A file that only its descriptor leads to; in memory where that can be, for it may hold secrets.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn nameless_file(&self) -> io::Result<File> {
        if let Some(file) = file_in_memory() {
            return Ok(file);
        }
        let path = self.path.join(format!("nameless-{}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(path)?;
        Ok(file)
    }

    fn listen(&self, name: &str) -> io::Result<UnixListener> {
        match std::fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        UnixListener::bind(self.address(name))
    }

    fn address(&self, name: &str) -> PathBuf {
        let plain = self.path.join(name);
        if plain.as_os_str().len() <= 100 {
            return plain;
        }
        // Linux only; elsewhere the long path's error says what is wrong.
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.folder.as_raw_fd()))
    }
}

#[cfg(target_os = "linux")]
fn file_in_memory() -> Option<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let made = memfd_create("tidegate-accepted", MemfdFlags::CLOEXEC);
    made.ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn file_in_memory() -> Option<File> {
    None
}

impl Lock {
    /// Takes over a lock that its holder handed on, and signs it with this process's id.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn received(fd: OwnedFd) -> io::Result<Self> {
        let mut lock = Self(File::from(fd));
        lock.sign()?;
        Ok(lock)
    }

    fn sign(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        writeln!(self.0, "{}", std::process::id())
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_supervisor_is_told_who_the_first_is() {
        let state = tempfile::tempdir().unwrap();
        let folder = RunDir::open(&state.path().join("run")).unwrap();
        let first = folder.lock().unwrap();
        let refusal = folder.lock().unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("(pid {})", std::process::id())),
            "{refusal}"
        );
        drop(first);
        folder.lock().unwrap();
    }

    #[test]
    fn a_lock_that_was_handed_on_stays_held_when_its_first_holder_lets_go() {
        let state = tempfile::tempdir().unwrap();
        let folder = RunDir::open(&state.path().join("run")).unwrap();
        let first = folder.lock().unwrap();
        let second = Lock::received(first.as_fd().try_clone_to_owned().unwrap()).unwrap();
        drop(first);
        assert!(matches!(folder.lock(), Err(RunDirError::Locked { .. })));
        drop(second);
        folder.lock().unwrap();
    }

    #[test]
    fn only_the_owner_can_enter() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("run");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        RunDir::open(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_state_folder_may_have_a_long_path() {
        let state = tempfile::tempdir().unwrap();
        let path = state
            .path()
            .join("n".repeat(60))
            .join("m".repeat(60))
            .join("run");
        let folder = RunDir::open(&path).unwrap();
        let lock = folder.lock().unwrap();
        let _listener = folder.listen_control(&lock).unwrap();
        folder.connect_control().unwrap();
    }

    #[test]
    fn dead_roles_leave_nothing_behind_and_each_is_found_among_its_own() {
        let state = tempfile::tempdir().unwrap();
        let folder = RunDir::open(&state.path().join("run")).unwrap();
        let gateway = folder.listen_adoption(Adoptable::Gateway, 7).unwrap();
        let host = folder.listen_adoption(Adoptable::Host, 9).unwrap();
        drop(folder.listen_adoption(Adoptable::Gateway, 8).unwrap());
        let pids = |role| -> Vec<u32> {
            let living = folder.living(role).into_iter();
            living.map(|(pid, _)| pid).collect()
        };
        assert_eq!(pids(Adoptable::Gateway), [7]);
        assert_eq!(pids(Adoptable::Host), [9]);
        assert!(!state.path().join("run/gateway-8.sock").exists());
        drop((gateway, host));
    }

    #[test]
    fn whoever_takes_charge_has_a_higher_epoch_than_whoever_did_before() {
        let state = tempfile::tempdir().unwrap();
        let folder = RunDir::open(&state.path().join("run")).unwrap();
        for expected in 1..4 {
            let lock = folder.lock().unwrap();
            assert_eq!(folder.next_epoch(&lock, 0).unwrap(), expected);
        }
        // The file is gone, and the roles are not.
        std::fs::remove_file(folder.path().join(EPOCH)).unwrap();
        assert_eq!(folder.next_epoch(&folder.lock().unwrap(), 7).unwrap(), 8);
    }
}
