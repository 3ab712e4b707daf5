//! The places of host processes: a lock file each in the runtime folder, which says that it lives and where its sockets are.
//!
//! During an upgrade two hosts live, so nothing has a fixed name. Sockets of instances must have short paths, whoever connects to them: where
//! the runtime folder's is too long they are in a private folder of their own at one of the system's places for such things.

use std::collections::hash_map::RandomState;
use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::control::Channel;
use crate::control::message::Order;

/// Longest path of a Unix socket.
const LONGEST: usize = 107;
const PREFIX: &str = "host-";
const SUFFIX: &str = ".lock";
const OWNER: &str = "owner.sock";
const REPORT: &str = "report.sock";
const NODE: &str = "node";

/// A host's own place, gone with [`HostDir::remove`]; after a crash the next host removes it.
#[derive(Debug)]
pub(crate) struct HostDir {
    id: String,
    sockets: PathBuf,
    lock: PathBuf,
    _held: File,
}

/// A host process that may live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Names the host in the store.
    pub(crate) id: String,
    /// The folder with its sockets.
    pub(crate) sockets: PathBuf,
}

impl HostDir {
    /// Makes a place for this process. `longest_name`: of its sockets, in bytes.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn make(run: &Path, longest_name: usize) -> io::Result<Self> {
        let id = format!("{:08x}", random() as u32);
        let lock = run.join(format!("{PREFIX}{id}{SUFFIX}"));
        let mut held = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&lock)?;
        rustix::fs::flock(&held, FlockOperation::LockExclusive)?;
        let sockets = match folder(&run.join(format!("h-{id}")), &short_places(), longest_name) {
            Ok(sockets) => sockets,
            Err(error) => {
                let _ = std::fs::remove_file(&lock);
                return Err(error);
            }
        };
        held.write_all(sockets.as_os_str().as_encoded_bytes())?;
        Ok(Self {
            id,
            sockets,
            lock,
            _held: held,
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Listens where this host is asked to go.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen_owner(&self) -> io::Result<UnixListener> {
        UnixListener::bind(self.sockets.join(OWNER))
    }

    /// Listens where this host tells what is under way.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn listen_report(&self) -> io::Result<UnixListener> {
        let listener = UnixListener::bind(self.sockets.join(REPORT))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Leaves nothing behind.
    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.sockets);
        let _ = std::fs::remove_file(&self.lock);
    }
}

impl Place {
    /// Where the host tells what is under way.
    pub(crate) fn report_socket(&self) -> PathBuf {
        self.sockets.join(REPORT)
    }

    /// Asks the host to go, in the name of a supervisor's epoch. One that has a supervisor of a higher one stays.
    pub(crate) fn dismiss(&self, epoch: u64) {
        if let Ok(stream) = UnixStream::connect(self.sockets.join(OWNER))
            && let Ok(host) = Channel::new(stream)
        {
            let order = Order::Drain {
                keep_admin: false,
                epoch: Some(epoch),
            };
            let _ = host.send(&order, None);
        }
    }
}

/// Where a private folder may be made for sockets that fit nowhere else.
fn short_places() -> Vec<PathBuf> {
    let of_user = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let fixed = ["/tmp", "/run", "/dev/shm", "/var/tmp"].map(PathBuf::from);
    let places = of_user.into_iter().chain([std::env::temp_dir()]);
    places
        .chain(fixed)
        .filter(|place| place.is_absolute())
        .collect()
}

/// Makes the folder for sockets: `own`, or where their paths would be too long, one that nobody else can enter at the first of `places`
/// that has room for it.
fn folder(own: &Path, places: &[PathBuf], longest_name: usize) -> io::Result<PathBuf> {
    let length = |folder: &Path| folder.as_os_str().len() + 1 + longest_name;
    let made = |folder: &Path| DirBuilder::new().mode(0o700).create(folder);
    if length(own) <= LONGEST {
        return made(own).map(|()| own.to_owned());
    }
    let mut refused = String::new();
    for place in places {
        let folder = place.join(format!("tidegate-{:016x}", random()));
        if length(&folder) > LONGEST {
            continue;
        }
        match made(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) => refused.push_str(&format!("; {}: {error}", place.display())),
        }
    }
    Err(io::Error::other(format!(
        "the path of a socket may have {LONGEST} bytes, those in {} would have {}, and no shorter folder can be made for them: give \
         `state.url` a shorter path, or set XDG_RUNTIME_DIR or TMPDIR to a short one that can be written{refused}",
        own.display(),
        length(own),
    )))
}

/// Places of hosts, of those that live and of those that died without leaving.
pub(crate) fn places(run: &Path) -> Vec<Place> {
    each(run, |id, file, _| {
        Some(Place {
            id: id.to_owned(),
            sockets: sockets_in(file)?,
        })
    })
}

/// Places of the hosts that live. What dead ones left is removed.
pub(crate) fn living(run: &Path) -> Vec<Place> {
    each(run, |id, file, path| {
        let sockets = sockets_in(file);
        // One that begins has made the file and not locked it yet: it is new, empty, and not looked at.
        let young = file
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 1));
        match rustix::fs::flock(&*file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Some(Place {
                id: id.to_owned(),
                sockets: sockets?,
            }),
            Ok(()) if sockets.is_some() || !young => {
                if let Some(sockets) = sockets {
                    let _ = std::fs::remove_dir_all(sockets);
                }
                let _ = std::fs::remove_file(path);
                None
            }
            Ok(()) | Err(_) => None,
        }
    })
}

/// Asks every host that lives to go, see [`Place::dismiss`].
pub(crate) fn dismiss_all(run: &Path, epoch: u64) {
    living(run).iter().for_each(|place| place.dismiss(epoch));
}

fn each<T>(run: &Path, mut look: impl FnMut(&str, &mut File, &Path) -> Option<T>) -> Vec<T> {
    let Ok(entries) = std::fs::read_dir(run) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
        if let (Some(id), Ok(mut file)) = (id, File::open(entry.path())) {
            found.extend(look(id, &mut file, &entry.path()));
        }
    }
    found
}

fn sockets_in(file: &mut File) -> Option<PathBuf> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then(|| PathBuf::from(text))
}

/// The name of this state folder's node: random, made once.
///
/// # Errors
/// The system's.
pub(crate) fn node(run: &Path) -> io::Result<String> {
    let state = run.parent().unwrap_or(run);
    let path = state.join(NODE);
    let read = || -> io::Result<Option<String>> {
        match std::fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => Ok(Some(text.trim().to_owned())),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    };
    if let Some(node) = read()? {
        return Ok(node);
    }
    // Whole or not at all, and the first one's: a link fails where there is a file.
    let fresh = state.join(format!("{NODE}-{:016x}", random()));
    std::fs::write(&fresh, format!("{:016x}\n", random()))?;
    let linked = std::fs::hard_link(&fresh, &path);
    let _ = std::fs::remove_file(&fresh);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => read()?.ok_or_else(|| io::Error::other(format!("{} is empty", path.display()))),
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_found_while_it_lives_and_its_leavings_are_removed_after_its_death() {
        let state = tempfile::tempdir().unwrap();
        let run = state.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let host = HostDir::make(&run, 20).unwrap();
        let listener = host.listen_owner().unwrap();
        assert_eq!(living(&run)[0].id, host.id());
        living(&run)[0].dismiss(1);
        listener.accept().unwrap();
        let (lock, sockets) = (host.lock.clone(), host.sockets.clone());
        drop(host);
        assert_eq!(living(&run), []);
        assert!(!lock.exists() && !sockets.exists());
    }

    #[test]
    fn a_host_that_has_made_its_file_and_not_locked_it_yet_is_left_alone_for_a_moment() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join(format!("{PREFIX}x{SUFFIX}"));
        let file = File::create(&path).unwrap();
        assert_eq!(living(run.path()), []);
        assert!(path.exists());
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        file.set_modified(old).unwrap();
        assert_eq!(living(run.path()), []);
        assert!(!path.exists());
    }

    #[test]
    fn sockets_have_short_paths_wherever_the_state_is() {
        let state = tempfile::tempdir().unwrap();
        let run = state.path().join("n".repeat(90));
        std::fs::create_dir(&run).unwrap();
        let host = HostDir::make(&run, 40).unwrap();
        assert!(host.sockets().as_os_str().len() + 41 <= LONGEST);
        let _listener = host.listen_report().unwrap();
        assert!(living(&run)[0].report_socket().exists());
        host.remove();
        assert!(!host.sockets().exists() && living(&run).is_empty());
    }

    #[test]
    fn a_place_that_is_too_long_or_closed_is_passed_over_and_where_none_is_left_that_is_told() {
        let state = tempfile::tempdir().unwrap();
        let own = state.path().join("n".repeat(90));
        let long = state.path().join("m".repeat(90));
        std::fs::create_dir(&long).unwrap();
        let short = tempfile::Builder::new()
            .prefix("s")
            .tempdir_in("/tmp")
            .unwrap();
        let missing = short.path().join("x");
        let places = [long, missing, short.path().to_owned()];
        let made = folder(&own, &places, 40).unwrap();
        assert!(made.starts_with(short.path()));
        let mode = std::fs::metadata(&made).unwrap().permissions();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
            0o700
        );
        let told = folder(&own, &places[..2], 40).unwrap_err().to_string();
        let length = (own.as_os_str().len() + 41).to_string();
        for word in [own.to_str().unwrap(), &length, "107 bytes", "`state.url`"] {
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn a_node_keeps_its_name() {
        let state = tempfile::tempdir().unwrap();
        let run = state.path().join("run");
        std::fs::create_dir(&run).unwrap();
        let first = node(&run).unwrap();
        assert_eq!((first.len(), node(&run).unwrap()), (16, first));
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 2);
    }
}
