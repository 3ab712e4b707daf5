//! Listens to what hosts tell of themselves, for the admin port.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_gateway::Handle;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::hostdir::{self, Place};

/// How often new hosts are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Listens to every host of this folder, as long as there are services.
pub(super) async fn follow(handle: Handle, run: PathBuf) {
    let mut followed: HashMap<String, JoinHandle<()>> = HashMap::new();
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        followed.retain(|_, task| !task.is_finished());
        if !handle.has_services() {
            continue;
        }
        for place in hostdir::places(&run) {
            followed
                .entry(place.id.clone())
                .or_insert_with(|| tokio::spawn(listen(handle.clone(), place)));
        }
    }
}

async fn listen(handle: Handle, place: Place) {
    let Ok(stream) = UnixStream::connect(place.report_socket()).await else {
        return;
    };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(report) => handle.host_told(report),
            Err(error) => tracing::debug!(%error, "a host's report can't be read"),
        }
    }
    handle.host_gone(&place.id);
}
