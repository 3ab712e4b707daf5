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

/// Tells whenever something in the folders of Python models has changed, shortly after the last change.
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
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let counts = !matches!(event.kind, EventKind::Access(_));
        if counts && event.paths.iter().any(|path| is_source(path, &data)) {
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

/// Whether a change of this file is one of the model: not what Python, editors and the model itself write beside it.
fn is_source(path: &Path, data: &[PathBuf]) -> bool {
    if data.iter().any(|folder| path.starts_with(folder)) {
        return false;
    }
    let hidden = |part: Component<'_>| {
        let name = part.as_os_str().as_encoded_bytes();
        name.starts_with(b".") && name != b"." && name != b".." || name == b"__pycache__"
    };
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    // Above the folder itself anything may be hidden: only the last two parts are looked at.
    let near = path.components().rev().take(2).any(hidden);
    !near && !name.ends_with('~') && !name.ends_with(".pyc") && !name.ends_with(".swp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sources_count() {
        let data = [PathBuf::from("/m/appdata")];
        for (path, counts) in [
            ("/m/model.py", true),
            ("/m/pkg/labels.json", true),
            ("/m/__pycache__/model.cpython-311.pyc", false),
            ("/m/.model.py.swp", false),
            ("/m/model.py~", false),
            ("/m/appdata/v1/weights", false),
            ("/m/.git/index", false),
            ("/home/.hidden/a/m/model.py", true),
        ] {
            assert_eq!(is_source(Path::new(path), &data), counts, "{path}");
        }
    }
}
