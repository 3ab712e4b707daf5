//! The access log: one JSON line for every exchange, made only when it is configured.
//!
//! The worker formats the line (the exchange is over by then) and hands it to one thread that writes; a full queue drops lines and
//! counts them, it never holds up traffic.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tidegate_config::model::AccessLog as Config;
use tidegate_config::values::LogTarget;

use crate::exchange::Report;
use crate::record::{Record, text};

/// Lines waiting for the writer.
const QUEUE: usize = 8192;

/// The log, on or off.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    sink: ArcSwapOption<Sink>,
    pub(crate) dropped: AtomicU64,
    sequence: AtomicU64,
}

#[derive(Debug)]
struct Sink {
    config: Config,
    lines: SyncSender<String>,
}

fn file(path: &Path, create: bool) -> Result<File, OpenError> {
    let options = OpenOptions::new().create(create).append(true).open(path);
    options.map_err(|source| OpenError::File {
        path: path.to_owned(),
        source,
    })
}

/// A log that can't be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("access_log: cannot write {path}: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("access_log: its writer cannot be started: {0}")]
    Writer(std::io::Error),
}

/// A log that is ready to take the place of the running one; none is off.
#[derive(Debug)]
pub(crate) struct Ready(Option<Arc<Sink>>);

impl AccessLog {
    /// Opens what `config` wants; [`AccessLog::switch`] turns it on. A file is opened anew each time: it may have been moved away
    /// because it had grown large.
    pub(crate) fn open(&self, config: Option<&Config>) -> Result<Ready, OpenError> {
        let Some(config) = config else {
            return Ok(Ready(None));
        };
        let out: Box<dyn Write + Send> = match &config.to {
            LogTarget::File(path) => Box::new(file(path, true)?),
            stream => {
                let running = self.sink.load_full();
                if running.as_ref().is_some_and(|s| s.config == *config) {
                    return Ok(Ready(running));
                }
                match stream {
                    LogTarget::Stderr => Box::new(std::io::stderr()),
                    _ => Box::new(std::io::stdout()),
                }
            }
        };
        let (lines, queue) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(queue, BufWriter::new(out)))
            .map_err(OpenError::Writer)?;
        Ok(Ready(Some(Arc::new(Sink {
            config: config.clone(),
            lines,
        }))))
    }

    /// Lines go there from now on. Those that the log before has taken are still written.
    pub(crate) fn switch(&self, ready: Ready) {
        self.sink.store(ready.0);
    }

    /// Whether `config` could be opened, without making a file.
    pub(crate) fn check(config: &Config) -> Result<(), OpenError> {
        let LogTarget::File(path) = &config.to else {
            return Ok(());
        };
        match file(path, false) {
            // It will be made.
            Err(OpenError::File { path, source }) if source.kind() == ErrorKind::NotFound => {
                let folder = match path.parent() {
                    Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
                    Some(folder) => folder,
                    None => return Err(OpenError::File { path, source }),
                };
                match folder.metadata() {
                    Ok(folder) if folder.is_dir() => Ok(()),
                    _ => Err(OpenError::File { path, source }),
                }
            }
            other => other.map(drop),
        }
    }

    /// Whether there is a log.
    pub(crate) fn is_on(&self) -> bool {
        self.sink.load().is_some()
    }

    /// Whether lines are to hold what was said to models, and what they said.
    pub(crate) fn holds_bodies(&self) -> bool {
        self.sink
            .load()
            .as_ref()
            .is_some_and(|sink| sink.config.log_bodies)
    }

    /// Writes the line of a request that is over.
    pub(crate) fn end(&self, record: &Record, report: &Report, took: Duration) {
        let sink = self.sink.load();
        let Some(sink) = sink.as_ref() else { return };
        let failed = report.error || report.status == 0 || report.status >= 500;
        if !failed && !self.sampled(sink.config.sample.percent()) {
            return;
        }
        if sink.lines.try_send(format(record, report, took)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Every n-th, without randomness: the share is exact.
    fn sampled(&self, percent: f64) -> bool {
        if percent >= 100.0 {
            return true;
        }
        let n = self.sequence.fetch_add(1, Relaxed) as f64;
        ((n + 1.0) * percent / 100.0).floor() > (n * percent / 100.0).floor()
    }
}

fn format(record: &Record, report: &Report, took: Duration) -> String {
    let mut json = serde_json::json!({
        "time_ms": record.at.as_millis() as u64,
        "listener": record.listener,
        "peer": record.peer,
        "protocol": format!("{:?}", record.version),
        "method": record.method.as_str(),
        "host": record.authority(),
        "path": record.target.path(),
        "status": report.status,
        "duration_us": took.as_micros() as u64,
        "bytes_received": report.bytes_up,
        "bytes_sent": report.bytes_down,
        "attempts": report.attempts,
        "route": report.route.as_deref(),
        "upstream": report.upstream.as_deref(),
        "member": report.member.as_deref(),
        "request_id": text(&report.request_id).or_else(|| text(&record.request_id)),
        "user_agent": text(&record.agent),
    });
    if let Some(trace) = &record.trace {
        json["trace_id"] = trace.id().into();
    }
    if let Some(talk) = &report.talk {
        talk.log(&mut json);
    }
    if let Some(code) = report.grpc {
        json["grpc_status"] = code.into();
    }
    if !report.code.is_empty() {
        json["error"] = report.code.into();
    }
    let mut out = json.to_string();
    out.push('\n');
    out
}

/// Writes until the log is turned off; flushed whenever nothing waits.
fn write(queue: Receiver<String>, mut out: impl Write) {
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(line) = next.take() {
            // A full disk must not end the log for good.
            let _ = out.write_all(line.as_bytes());
            next = queue.try_recv().ok();
        }
        let _ = out.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_ten_percent_takes_every_tenth() {
        let log = AccessLog::default();
        assert_eq!((0..1000).filter(|_| log.sampled(10.0)).count(), 100);
        assert_eq!((0..10).filter(|_| log.sampled(100.0)).count(), 10);
        assert_eq!((0..10).filter(|_| log.sampled(0.0)).count(), 0);
    }

    #[test]
    fn checking_a_log_makes_no_file_and_names_the_path_that_cannot_be_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let check = |path: PathBuf| {
            AccessLog::check(&Config {
                to: LogTarget::File(path),
                ..Config::default()
            })
            .map_err(|e| e.to_string())
        };
        let new = folder.path().join("new.log");
        assert_eq!(check(new.clone()), Ok(()));
        assert!(!new.exists());
        std::fs::write(&new, "line\n").expect("a file");
        assert_eq!(check(new.clone()), Ok(()));
        assert_eq!(std::fs::read(&new).expect("kept"), b"line\n");
        let lost = check(folder.path().join("no/where.log")).expect_err("no such folder");
        assert!(lost.contains("no/where.log"), "{lost}");
        let folder = check(folder.path().to_owned()).expect_err("a folder");
        assert!(folder.contains("cannot write"), "{folder}");
    }
}
