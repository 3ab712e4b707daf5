//! Events of workers for a person who looks at a terminal: what the model writes, as it writes it.

use std::io::Write;

use tidegate_host::{Event, Events, Traced, What};

use crate::lines::Lines;

/// Lines of workers and tracebacks as they are, with the instance's name before them; the rest as log events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain;

impl Events for Plain {
    fn event(&self, event: Event) {
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
