//! Lines on their way to stderr: whoever has one goes on at once, a thread writes them.
//!
//! stderr may be a pipe whose reader stalls, or a terminal that somebody has stopped. A write would hold up whoever logs, and these are the
//! threads that serve calls. So lines wait in a queue of bounded size; what finds it full is dropped, counted, and told when the
//! reader goes on.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that may wait.
const MOST: usize = 4 << 20;

/// What waits for stderr.
static STDERR: Queue = Queue::new();

/// stderr, without waiting for it: each `write` is one line or more, kept together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines;

impl Lines {
    /// Starts the thread that writes. Before, and where there can't be one, whoever has a line writes it himself.
    pub(crate) fn start() {
        let started = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(|| STDERR.write_to(&mut io::stderr(), tell_of_lost));
        STDERR.lock().apart = started.is_ok();
    }

    /// Waits until all is written, not longer than `within`.
    pub(crate) fn flush(within: Duration) {
        STDERR.flush(within);
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        STDERR.put(text, &mut io::stderr());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

fn tell_of_lost(lines: u64) {
    tracing::warn!(
        lines,
        "lines of the log were dropped: nobody read them in time"
    );
}

#[derive(Debug)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// Something waits, or nothing does any more.
    changed: Condvar,
}

#[derive(Debug)]
struct Waiting {
    lines: VecDeque<Box<[u8]>>,
    /// Of these lines, and of the one that is being written.
    bytes: usize,
    dropped: u64,
    /// Whether a thread writes them.
    apart: bool,
}

impl Queue {
    const fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                lines: VecDeque::new(),
                bytes: 0,
                dropped: 0,
                apart: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, text: &[u8], direct: &mut impl Write) {
        let mut waiting = self.lock();
        if !waiting.apart {
            drop(waiting);
            // A terminal that is gone is no reason to end.
            let _ = direct.write_all(text);
            return;
        }
        if waiting.bytes + text.len() > MOST {
            waiting.dropped += 1;
            return;
        }
        waiting.bytes += text.len();
        waiting.lines.push_back(text.into());
        drop(waiting);
        self.changed.notify_all();
    }

    /// Writes what comes, for as long as the process lives.
    fn write_to(&self, out: &mut impl Write, tell_of_lost: impl Fn(u64)) {
        let mut waiting = self.lock();
        loop {
            while let Some(line) = waiting.lines.pop_front() {
                drop(waiting);
                // A write for each: other processes' lines come between whole ones.
                let _ = out.write_all(&line);
                waiting = self.lock();
                waiting.bytes -= line.len();
            }
            let dropped = std::mem::take(&mut waiting.dropped);
            if dropped > 0 {
                drop(waiting);
                tell_of_lost(dropped);
                waiting = self.lock();
                continue;
            }
            self.changed.notify_all();
            waiting = self
                .changed
                .wait_while(waiting, |waiting| waiting.lines.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn flush(&self, within: Duration) {
        let waiting = self.lock();
        let _ = self.changed.wait_timeout_while(waiting, within, |waiting| {
            waiting.apart && waiting.bytes > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    /// Takes a line only when it is asked to.
    struct Stalled {
        go: mpsc::Receiver<()>,
        lines: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Stalled {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
            self.go.recv().map_err(gone)?;
            let sent = self.lines.send(text.to_vec());
            sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stalls_and_what_was_lost_is_counted() {
        let queue = Arc::new(Queue::new());
        queue.lock().apart = true;
        let (tell, lost) = mpsc::channel();
        let (go, wait) = mpsc::channel();
        let (lines, written) = mpsc::channel();
        let writer = Arc::clone(&queue);
        std::thread::spawn(move || {
            let mut out = Stalled { go: wait, lines };
            writer.write_to(&mut out, |dropped| {
                let _ = tell.send(dropped);
            });
        });
        let line = [b'x'; 1 << 10];
        let fit = MOST / line.len();
        // Twice what fits, while not one line is taken.
        for _ in 0..2 * fit {
            queue.put(&line, &mut io::sink());
        }
        queue.flush(Duration::from_millis(1));
        assert_eq!(queue.lock().bytes, MOST);
        for _ in 0..fit {
            go.send(()).unwrap();
        }
        queue.flush(Duration::from_secs(60));
        assert_eq!(written.try_iter().count(), fit);
        assert_eq!(lost.recv().unwrap(), fit as u64);
        // And it goes on.
        queue.put(b"next", &mut io::sink());
        go.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), b"next");
    }
}
