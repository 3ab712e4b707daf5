//! Notices that the configuration's files changed.
//!
//! The folders are watched, not the files: editors and Kubernetes replace files and links. An event only says "look":
//! what counts is whether the files' stamps differ. The stamps are looked at every few seconds as well, for file
//! systems that tell nobody (NFS, some container mounts).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

/// A change is taken when nothing has changed for this long: several files are saved one after the other.
const QUIET: Duration = Duration::from_millis(150);
/// Files that change all the time are read at least this often.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// How often to look without being told.
const LOOK: Duration = Duration::from_secs(5);

/// What the files looked like at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<(PathBuf, Option<[i64; 5]>)>);

impl Stamps {
    /// The same files, those that `before` knows as they were then.
    fn aged_to(mut self, before: &Self) -> Self {
        for (file, stamp) in &mut self.0 {
            if let Some((_, then)) = before.0.iter().find(|(known, _)| known == file) {
                *stamp = *then;
            }
        }
        self
    }
}

/// Looks at the files, and at the YAML files in the folders.
pub(super) fn stamps(paths: &[PathBuf]) -> Stamps {
    let mut files = Vec::new();
    for path in paths {
        match std::fs::read_dir(path) {
            Ok(entries) => {
                let yaml = |path: &PathBuf| {
                    path.extension()
                        .is_some_and(|end| end == "yaml" || end == "yml")
                };
                let mut inside: Vec<PathBuf> = entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(yaml)
                    .collect();
                inside.sort();
                files.append(&mut inside);
            }
            Err(_) => files.push(path.clone()),
        }
    }
    Stamps(
        files
            .into_iter()
            .map(|file| (stamp(&file), file))
            .map(|(stamp, file)| (file, stamp))
            .collect(),
    )
}

fn stamp(file: &Path) -> Option<[i64; 5]> {
    let data = std::fs::metadata(file).ok()?;
    // Device and inode tell a replaced file with the same time and size.
    Some([
        data.dev() as i64,
        data.ino() as i64,
        data.size() as i64,
        data.mtime(),
        data.mtime_nsec(),
    ])
}

/// Starts to watch these files and folders, which may become others later. A value comes out whenever they differ from
/// what they were before, `before` at first.
pub(super) fn start(
    mut paths: watch::Receiver<Vec<PathBuf>>,
    before: Stamps,
) -> mpsc::Receiver<()> {
    let (changed, receiver) = mpsc::channel(1);
    let watched = paths.borrow_and_update().clone();
    let mut eye = Eye::open(&watched);
    let mut last = stamps(&watched).aged_to(&before);
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let others = tokio::select! {
                _ = look.tick() => false,
                _ = eye.events.recv() => {
                    quiet(&mut eye.events).await;
                    false
                }
                others = paths.changed() => match others {
                    Ok(()) => true,
                    // The role ends.
                    Err(_) => return,
                },
            };
            let watched = paths.borrow_and_update().clone();
            if others {
                eye = Eye::open(&watched);
                last = stamps(&watched).aged_to(&last);
            }
            let now = stamps(&watched);
            if now != last {
                last = now;
                if changed.send(()).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// The system's watch over the folders.
struct Eye {
    events: mpsc::Receiver<()>,
    /// Without a sender the events would end, which is not the same as silence.
    _sender: mpsc::Sender<()>,
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Eye {
    fn open(paths: &[PathBuf]) -> Self {
        let (sender, events) = mpsc::channel(1);
        Self {
            events,
            _watcher: watch_folders(paths, sender.clone()),
            _sender: sender,
        }
    }
}

fn watch_folders(paths: &[PathBuf], event: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let told = move |result: notify::Result<notify::Event>| {
        // Reading the files is an event of its own kind; it must not cause another look.
        if result.map_or(true, |event| !event.kind.is_access()) {
            // Full: a look is due already.
            let _ = event.try_send(());
        }
    };
    let mut watcher = match notify::recommended_watcher(told) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "files are looked at every few seconds: the system does not tell of changes");
            return None;
        }
    };
    let folders: BTreeSet<&Path> = paths
        .iter()
        .filter_map(|path| {
            if path.is_dir() {
                Some(path.as_path())
            } else {
                path.parent()
            }
        })
        .collect();
    for folder in folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(folder = %folder.display(), %error, "folder not watched, looked at every few seconds");
        }
    }
    Some(watcher)
}

async fn quiet(events: &mut mpsc::Receiver<()>) {
    let until_quiet = async { while tokio::time::timeout(QUIET, events.recv()).await.is_ok() {} };
    let _ = tokio::time::timeout(LONGEST_WAIT, until_quiet).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn noticed(changes: &mut mpsc::Receiver<()>) {
        tokio::time::timeout(Duration::from_secs(20), changes.recv())
            .await
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_replaced_file_a_new_file_in_a_folder_and_a_moved_link_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("conf.d")).unwrap();
        std::fs::create_dir(at("v1")).unwrap();
        std::fs::create_dir(at("v2")).unwrap();
        std::fs::write(at("a.yaml"), "a").unwrap();
        std::fs::write(at("v1/b.yaml"), "b").unwrap();
        std::fs::write(at("v2/b.yaml"), "b").unwrap();
        // As a Kubernetes config map is mounted: a link to a link that is replaced.
        std::os::unix::fs::symlink("v1", at("data")).unwrap();
        std::os::unix::fs::symlink("data/b.yaml", at("b.yaml")).unwrap();
        let paths = vec![at("a.yaml"), at("b.yaml"), at("conf.d")];
        let (_files, watched) = watch::channel(paths.clone());
        let mut changes = start(watched, stamps(&paths));

        std::fs::write(at("a.new"), "A").unwrap();
        std::fs::rename(at("a.new"), at("a.yaml")).unwrap();
        noticed(&mut changes).await;
        std::fs::write(at("conf.d/c.yml"), "c").unwrap();
        noticed(&mut changes).await;
        std::os::unix::fs::symlink("v2", at("data.new")).unwrap();
        std::fs::rename(at("data.new"), at("data")).unwrap();
        noticed(&mut changes).await;
    }

    #[tokio::test]
    async fn a_change_before_the_watch_began_is_noticed_and_other_files_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        std::fs::write(&file, "a").unwrap();
        let paths = vec![file.clone()];
        let before = stamps(&paths);
        std::fs::write(&file, "changed").unwrap();
        let (_files, watched) = watch::channel(paths.clone());
        let mut changes = start(watched, before);
        noticed(&mut changes).await;
        std::fs::write(folder.path().join("other.yaml"), "x").unwrap();
        tokio::time::timeout(QUIET * 4, changes.recv())
            .await
            .unwrap_err();
    }

    #[tokio::test]
    async fn a_file_that_is_watched_later_is_noticed_and_nothing_before_it_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (file, secret) = (
            folder.path().join("a.yaml"),
            folder.path().join("secrets/key"),
        );
        std::fs::create_dir(folder.path().join("secrets")).unwrap();
        std::fs::write(&file, "a").unwrap();
        std::fs::write(&secret, "1").unwrap();
        let paths = vec![file.clone()];
        let (files, watched) = watch::channel(paths.clone());
        let mut changes = start(watched, stamps(&paths));
        // Both before the task has a chance to run.
        std::fs::write(&file, "changed").unwrap();
        files.send(vec![file, secret.clone()]).unwrap();
        noticed(&mut changes).await;
        std::fs::write(&secret, "changed").unwrap();
        noticed(&mut changes).await;
    }
}
