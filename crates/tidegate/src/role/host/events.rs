//! Events of workers: log events, or for a person who looks at a terminal what the model writes, as it writes it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_host::{Event, Events, Traced, What};

use crate::lines::Lines;

/// Where events go.
#[derive(Debug)]
pub(super) struct Log {
    /// Lines of workers and tracebacks as they are, with the instance's name before them; the rest as log events.
    plain: AtomicBool,
}

impl Log {
    pub(super) fn new(plain: bool) -> Self {
        Self {
            plain: plain.into(),
        }
    }

    /// Whether a person looks, from now on.
    pub(super) fn set_plain(&self, plain: bool) {
        self.plain.store(plain, Ordering::Relaxed);
    }
}

impl Events for Log {
    fn event(&self, event: Event) {
        if !self.plain.load(Ordering::Relaxed) {
            return Traced.event(event);
        }
        match &event.what {
            What::Line { text, .. } => lines(&event.instance, text),
            What::LoadFailed { traceback, .. } | What::Raised { traceback, .. }
                if !traceback.is_empty() =>
            {
                lines(&event.instance, traceback);
                Traced.event(event);
            }
            _ => Traced.event(event),
        }
    }
}

fn lines(instance: &str, text: &str) {
    for line in text.lines() {
        // What cannot be written is dropped and counted there.
        let _ = Lines.write_all(format!("{instance} | {line}\n").as_bytes());
    }
}
