//! Endpoints from a file `{ endpoints: [ … ] }`, JSON or YAML, read again whenever it changes.
//!
//! The folder is watched, not the file: editors and tools replace files by renaming, and Kubernetes swaps a symbolic link
//! (`..data`) beside them; a watch on the file itself would look at the old one for ever. Because links may lead to folders
//! that are not watched, and watches can be lost, the file is also looked at every two seconds.
//!
//! An empty list in a well-formed file is the truth. A file that is missing, unreadable or wrong keeps the last good list.
//! Write such files elsewhere and rename them into place: half of a YAML file can be a well-formed shorter list. As a
//! defence a changed file is read only when it has been still for a moment.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::resolve::Resolver;
use crate::source::{Publisher, Watch};

/// Without any event, the file is looked at this often.
const POLL: Duration = Duration::from_secs(2);
/// A changed file must be still for this long…
const STILL: Duration = Duration::from_millis(50);
/// …but a file that never is gets read after this.
const RESTLESS: Duration = Duration::from_millis(500);
/// Far beyond any real list.
const MAX_BYTES: u64 = 16 << 20;

/// Follows a file.
pub(crate) fn follow(path: &Path, resolver: &Resolver) -> Watch {
    let what = path.display().to_string();
    let path = path.to_owned();
    Watch::start("file", &what, resolver.runtime(), |publisher| {
        run(path, publisher)
    })
}

/// What distinguishes one state of the file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    There {
        inode: u64,
        device: u64,
        length: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
    Away(String),
}

async fn look(path: &Path) -> Look {
    match tokio::fs::metadata(path).await {
        Ok(meta) => Look::There {
            inode: meta.ino(),
            device: meta.dev(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        },
        Err(error) => Look::Away(error.to_string()),
    }
}

async fn run(path: PathBuf, publisher: Publisher) {
    let (sender, mut events) = mpsc::channel::<()>(1);
    // Dropped with this task. Events are only a reason to look: a full channel already says so.
    let mut watcher = notify::recommended_watcher(move |_| {
        let _ = sender.try_send(());
    })
    .inspect_err(
        |error| tracing::warn!(file = %path.display(), %error, "cannot watch, polling instead"),
    )
    .ok();
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut watched = false;
    let mut seen = None;
    loop {
        if !watched && let Some(watcher) = &mut watcher {
            // Fails while the folder does not exist; tried again at every poll.
            watched = watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok();
        }
        let now = settle(&path, seen.as_ref()).await;
        if seen.as_ref() != Some(&now) {
            match load(&path).await {
                Ok(endpoints) => {
                    publisher.good(endpoints.iter().map(Endpoint::from).collect(), None)
                }
                Err(error) => publisher.trouble(format!("file {}: {error}", path.display())),
            }
            seen = Some(now);
        }
        if watched && matches!(tokio::fs::try_exists(&folder).await, Ok(false)) {
            // The watch went with the folder.
            watched = false;
        }
        let _ = tokio::time::timeout(POLL, events.recv()).await;
    }
}

/// Waits until the file is still. The first look at a file does not wait: at start nobody should.
async fn settle(path: &Path, seen: Option<&Look>) -> Look {
    let give_up = Instant::now() + RESTLESS;
    let mut last = look(path).await;
    if seen.is_none() || seen == Some(&last) {
        return last;
    }
    loop {
        tokio::time::sleep(STILL).await;
        let now = look(path).await;
        if now == last || Instant::now() >= give_up {
            return now;
        }
        last = now;
    }
}

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("{0}")]
    Wrong(tidegate_config::Diagnostics),
}

async fn load(path: &Path) -> Result<Vec<tidegate_config::model::Endpoint>, FileError> {
    if tokio::fs::metadata(path).await?.len() > MAX_BYTES {
        return Err(FileError::TooLong);
    }
    let text = tokio::fs::read_to_string(path).await?;
    tidegate_config::load_endpoints(path, &text).map_err(FileError::Wrong)
}
