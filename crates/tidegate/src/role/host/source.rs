//! Changes of models' sources.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher};
use tidegate_config::Config;
use tidegate_config::model::Run;
use tokio::sync::mpsc;

/// An editor that saves makes several events, and several files may be saved together.
const SETTLED: Duration = Duration::from_millis(150);

/// Tells whenever a source in the folders of Python models has changed, shortly after the last change.
pub(super) fn watch(config: &Config) -> mpsc::Receiver<()> {
    let (tell, told) = mpsc::channel(1);
    let folders: BTreeSet<PathBuf> = config
        .services
        .iter()
        .filter_map(|service| match &service.run {
            Run::Python(python) => Some(python.path.clone()),
            Run::Command(_) => None,
        })
        .collect();
    let data: Vec<PathBuf> = config.services.iter().map(|s| s.data.clone()).collect();
    tokio::spawn(follow(folders, data, tell));
    told
}

async fn follow(folders: BTreeSet<PathBuf>, data: Vec<PathBuf>, tell: mpsc::Sender<()>) {
    let (change, mut changes) = mpsc::unbounded_channel();
    let watched = folders.clone();
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let counts = !matches!(event.kind, EventKind::Access(_));
        if counts
            && event
                .paths
                .iter()
                .any(|path| is_source(path, &watched, &data))
        {
            let _ = change.send(());
        }
    });
    let mut watcher = match made {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::error!(%error, "sources are not watched");
            return;
        }
    };
    for folder in &folders {
        if let Err(error) = watcher.watch(folder, RecursiveMode::Recursive) {
            tracing::error!(folder = %folder.display(), %error, "sources are not watched");
        }
    }
    while changes.recv().await.is_some() {
        while let Ok(Some(())) = tokio::time::timeout(SETTLED, changes.recv()).await {}
        tracing::info!("a model's source has changed");
        if tell.send(()).await.is_err() {
            return;
        }
    }
}

/// Whether a change of this file is one of a model's source: Python's files, and folders of them that come or go as one. Whatever else lies
/// there (a log, weights, what the model writes itself) is none, nor what is hidden, nor the models' data.
fn is_source(path: &Path, folders: &BTreeSet<PathBuf>, data: &[PathBuf]) -> bool {
    if data.iter().any(|folder| path.starts_with(folder)) {
        return false;
    }
    // Above the folder itself anything may be hidden.
    let below = folders.iter().find_map(|f| path.strip_prefix(f).ok());
    let hidden = |part: Component<'_>| {
        let name = part.as_os_str().as_encoded_bytes();
        name.starts_with(b".") && name != b"." && name != b".." || name == b"__pycache__"
    };
    if below.unwrap_or(path).components().any(hidden) {
        return false;
    }
    is_python(path) || holds_python(path)
}

fn is_python(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "py")
}

fn holds_python(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| is_python(&entry.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_count() {
        let data = [PathBuf::from("/.h/m/appdata")];
        let folders = BTreeSet::from([PathBuf::from("/.h/m")]);
        for (path, counts) in [
            ("/.h/m/model.py", true),
            ("/.h/m/pkg/inner/labels.py", true),
            ("/.h/m/pkg/labels.json", false),
            ("/.h/m/serve.log", false),
            ("/.h/m/__pycache__/model.cpython-311.pyc", false),
            ("/.h/m/__pycache__/odd.py", false),
            ("/.h/m/.model.py.swp", false),
            ("/.h/m/.#model.py", false),
            ("/.h/m/model.py~", false),
            ("/.h/m/appdata/v1/made.py", false),
            ("/.h/m/.venv/lib/python3.11/site-packages/x.py", false),
        ] {
            assert_eq!(
                is_source(Path::new(path), &folders, &data),
                counts,
                "{path}"
            );
        }
    }

    #[test]
    fn a_folder_counts_that_comes_with_sources_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let folders = BTreeSet::from([folder.path().to_owned()]);
        let part = folder.path().join("part");
        std::fs::create_dir(&part).unwrap();
        assert!(!is_source(&part, &folders, &[]));
        std::fs::write(part.join("new.py"), "").unwrap();
        assert!(is_source(&part, &folders, &[]));
    }
}
