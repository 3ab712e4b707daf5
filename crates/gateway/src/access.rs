//! The access log: one JSON line for every exchange, made only when it is configured.
//!
//! The worker formats the line (the exchange is over by then) and hands it to one thread that writes; a full queue drops lines and
//! counts them, it never holds up traffic.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tidegate_config::model::AccessLog as Config;
use tidegate_config::values::LogTarget;

use crate::events::unix_ms;
use crate::exchange::{Caller, Incoming, Report};

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

/// What is remembered of a request for its line.
#[derive(Debug)]
pub(crate) struct Line {
    at_ms: u64,
    method: http::Method,
    target: http::Uri,
    host: Option<http::HeaderValue>,
    agent: Option<http::HeaderValue>,
    request_id: Option<http::HeaderValue>,
    version: http::Version,
    listener: String,
    peer: Option<std::net::IpAddr>,
}

impl AccessLog {
    /// Turns the log on, off or over to another file.
    ///
    /// # Errors
    /// The file can't be opened; what was before stays.
    pub(crate) fn configure(&self, config: Option<&Config>) -> std::io::Result<()> {
        let Some(config) = config else {
            self.sink.store(None);
            return Ok(());
        };
        if self
            .sink
            .load()
            .as_ref()
            .is_some_and(|s| s.config == *config)
        {
            return Ok(());
        }
        let out: Box<dyn Write + Send> = match &config.to {
            LogTarget::Stdout => Box::new(std::io::stdout()),
            LogTarget::Stderr => Box::new(std::io::stderr()),
            LogTarget::File(path) => {
                Box::new(OpenOptions::new().create(true).append(true).open(path)?)
            }
        };
        let (lines, queue) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(queue, BufWriter::new(out)))?;
        self.sink.store(Some(Arc::new(Sink {
            config: config.clone(),
            lines,
        })));
        Ok(())
    }

    pub(crate) fn begin(&self, request: &Incoming, caller: &Caller) -> Option<Box<Line>> {
        // A null pointer when the log is off: that is all that traffic pays.
        self.sink.load().as_ref()?;
        Some(Box::new(Line {
            at_ms: unix_ms(),
            method: request.method.clone(),
            target: request.target.clone(),
            host: request.headers.get(http::header::HOST).cloned(),
            agent: request.headers.get(http::header::USER_AGENT).cloned(),
            request_id: request.headers.get("x-request-id").cloned(),
            version: request.version,
            listener: caller.listener.name.clone(),
            peer: caller.peer.as_ref().map(|p| p.address()),
        }))
    }

    pub(crate) fn end(&self, line: Box<Line>, report: &Report, took: Duration) {
        let sink = self.sink.load();
        let Some(sink) = sink.as_ref() else { return };
        let failed = report.error || report.status == 0 || report.status >= 500;
        if !failed && !self.sampled(sink.config.sample.percent()) {
            return;
        }
        if sink.lines.try_send(format(&line, report, took)).is_err() {
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

fn format(line: &Line, report: &Report, took: Duration) -> String {
    let text = |v: &Option<http::HeaderValue>| {
        v.as_ref()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
    };
    let mut json = serde_json::json!({
        "time_ms": line.at_ms,
        "listener": line.listener,
        "peer": line.peer,
        "protocol": format!("{:?}", line.version),
        "method": line.method.as_str(),
        "host": line.target.authority().map(|a| a.as_str().to_owned()).or_else(|| text(&line.host)),
        "path": line.target.path(),
        "status": report.status,
        "duration_us": took.as_micros() as u64,
        "bytes_received": report.bytes_up,
        "bytes_sent": report.bytes_down,
        "attempts": report.attempts,
        "route": report.route.as_deref(),
        "upstream": report.upstream.as_deref(),
        "member": report.member.as_deref(),
        "request_id": text(&report.request_id).or_else(|| text(&line.request_id)),
        "user_agent": text(&line.agent),
    });
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
}
