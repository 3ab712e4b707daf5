//! How large the receive windows of an HTTP/2 connection are to be.
//!
//! A sender may have no more under way than the window: with 256 KiB at 64 ms of round trip a stream moves 4 MB/s, whatever the line
//! could do. A large window for everybody would cost memory instead, for it is what a slow reader on the other side can make us hold.
//! So windows start small and grow where traffic shows that they are too small, as gRPC and hyper do it: a PING goes out while data
//! flows, and what arrives until its answer is one round trip's worth. If that nearly fills the window, the window is what limits
//! the sender, and it becomes twice the sample; if the throughput did not rise since the last time, more would only fill queues.
//!
//! Nothing shrinks: the bound of what a connection may hold is [`MAX`], towards an endpoint [`ENDPOINT`]'s.

use std::time::{Duration, Instant};

/// Windows of a connection, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Of each stream.
    pub(crate) stream: u32,
    /// Of all streams together. Larger, so that a stream whose reader has stopped does not stop the others.
    pub(crate) connection: u32,
}

/// What a caller's connection begins with: a megabyte of memory, and 40 MB/s a stream at 6 ms.
pub(crate) const CALLER: Windows = Windows {
    stream: 256 * 1024,
    connection: 1024 * 1024,
};

/// What a connection to an endpoint begins with. Many callers share it, and each that stops reading holds a stream's window of it, so
/// that a few would hold up all the others. Therefore its window is large from the start, [`room`] is how many streams may stand still
/// without that, and windows grow only as far as the streams there are leave them. It is memory only while callers stand still.
pub(crate) const ENDPOINT: Windows = Windows {
    stream: CALLER.stream,
    connection: 32 * 1024 * 1024,
};

/// Streams with windows of this size that may all stand still on a connection to an endpoint without holding up another.
pub(crate) fn room(stream: u32) -> usize {
    (ENDPOINT.connection / stream.max(ENDPOINT.stream)) as usize
}

/// What a connection may come to: 40 MB/s a stream at 100 ms.
pub(crate) const MAX: Windows = Windows {
    stream: 4 * 1024 * 1024,
    connection: 8 * 1024 * 1024,
};

/// Streams that may stand still with a full window before the connection's is full, as long as that is below [`MAX`].
const STREAMS: u32 = 4;

/// Data that comes before a measurement is worth a PING.
pub(crate) const WORTH: usize = 64 * 1024;

/// From a measurement to the next one; halved when the window had to grow, four times as long when twice it had not.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Weight of a new round trip in the average (RFC 6298's alpha).
const ALPHA: f64 = 0.125;

/// Decides from samples. Pure: the clock and the pings are the caller's.
#[derive(Debug, Clone)]
pub(crate) struct Estimator {
    windows: Windows,
    /// Seconds, smoothed; 0 before the first sample.
    round_trip: f64,
    /// Highest throughput seen, bytes a second.
    best: f64,
    pause: Duration,
    /// Samples in a row that changed nothing.
    steady: u32,
    next: Option<Instant>,
}

impl Estimator {
    /// For a connection that begins with these windows.
    pub(crate) fn new(windows: Windows) -> Self {
        Self {
            windows,
            round_trip: 0.0,
            best: 0.0,
            pause: PAUSE,
            steady: 0,
            next: None,
        }
    }

    /// Whether nothing more can be learned.
    pub(crate) fn is_done(&self) -> bool {
        self.windows.stream >= MAX.stream && self.windows.connection >= MAX.connection
    }

    /// Whether the next measurement may begin.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        !self.is_done() && self.next.is_none_or(|at| now >= at)
    }

    /// Takes one measurement: so many bytes came in one round trip, which ended now, on a connection that different callers have so
    /// many streams on. Gives the windows if they have to grow.
    pub(crate) fn sample(
        &mut self,
        bytes: usize,
        round_trip: Duration,
        callers: usize,
        now: Instant,
    ) -> Option<Windows> {
        let grown = self.judge(bytes, round_trip, callers);
        if grown.is_some() {
            self.steady = 0;
            self.pause /= 2;
        } else {
            self.steady += 1;
            if self.steady >= 2 {
                self.steady = 0;
                self.pause = (self.pause * 4).min(LONGEST_PAUSE);
            }
        }
        self.next = Some(now + self.pause);
        grown
    }

    fn judge(&mut self, bytes: usize, round_trip: Duration, callers: usize) -> Option<Windows> {
        // A clock that does not tell two moments apart must not make the throughput infinite.
        let seconds = round_trip.max(Duration::from_micros(1)).as_secs_f64();
        if self.round_trip == 0.0 {
            self.round_trip = seconds;
        } else {
            self.round_trip += (seconds - self.round_trip) * ALPHA;
        }
        // Half as long again: the sample began before its first byte was sent for.
        let throughput = bytes as f64 / (self.round_trip * 1.5);
        if throughput < self.best {
            return None;
        }
        self.best = throughput;
        if self.is_done() || bytes < self.windows.stream as usize / 3 * 2 {
            return None;
        }
        let wanted = u32::try_from(bytes.saturating_mul(2)).unwrap_or(u32::MAX);
        let most = self.windows.connection.max(MAX.connection);
        let share = u32::try_from(callers).map_or(0, |callers| most / callers.max(1));
        let stream = wanted.min(MAX.stream).min(share).max(self.windows.stream);
        let connection = stream
            .saturating_mul(STREAMS)
            .clamp(self.windows.connection, most);
        let windows = Windows { stream, connection };
        (windows != self.windows).then(|| {
            self.windows = windows;
            windows
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// A sender on a line of `rate` bytes a second and this round trip, with always more to send; gives the windows in the end.
    fn settle(rate: f64, round_trip: Duration) -> (Windows, u32) {
        let mut estimator = Estimator::new(CALLER);
        let mut windows = CALLER;
        let mut now = Instant::now();
        let mut samples = 0;
        for _ in 0..200 {
            now += round_trip;
            if !estimator.is_due(now) {
                continue;
            }
            samples += 1;
            let line = rate * round_trip.as_secs_f64();
            let bytes = line.min(f64::from(windows.stream)) as usize;
            if let Some(grown) = estimator.sample(bytes, round_trip, 1, now) {
                windows = grown;
            }
        }
        (windows, samples)
    }

    #[test]
    fn a_long_fast_line_gets_the_largest_windows() {
        assert_eq!(settle(125e6, 64 * MS).0, MAX);
    }

    #[test]
    fn a_window_grows_to_what_the_line_holds_and_no_further() {
        // 10 MB/s at 64 ms: 640 kB are under way.
        let (windows, samples) = settle(10e6, 64 * MS);
        assert!(
            (640_000..=1_300_000).contains(&windows.stream),
            "{windows:?}"
        );
        assert!(windows.connection >= windows.stream);
        // 200 round trips are 13 seconds: measuring gives way to traffic.
        assert!(samples < 15, "{samples}");
    }

    #[test]
    fn a_short_line_keeps_the_windows_it_began_with() {
        assert_eq!(settle(1e6, 10 * MS).0, CALLER);
    }

    #[test]
    fn no_more_is_asked_for_when_throughput_does_not_rise() {
        let mut estimator = Estimator::new(CALLER);
        let now = Instant::now();
        let full = CALLER.stream as usize;
        let grown = estimator
            .sample(full, 10 * MS, 1, now)
            .expect("it was full");
        assert_eq!(grown.stream, CALLER.stream * 2);
        // Twice the bytes, but in many times the time: they wait in queues.
        assert_eq!(estimator.sample(full * 2, 500 * MS, 1, now), None);
    }

    #[test]
    fn windows_towards_an_endpoint_leave_room_for_every_caller_to_stand_still() {
        let grown = |callers: usize| {
            let mut estimator = Estimator::new(ENDPOINT);
            let now = Instant::now();
            let grown = estimator.sample(1 << 30, MS, callers, now);
            grown.map_or(ENDPOINT.stream, |windows| {
                assert_eq!(windows.connection, ENDPOINT.connection);
                windows.stream
            })
        };
        assert_eq!(grown(1), MAX.stream);
        assert_eq!(grown(1000), ENDPOINT.stream);
        for callers in 1..=room(ENDPOINT.stream) {
            assert!(callers <= room(grown(callers)), "{callers}");
        }
    }

    #[test]
    fn measurements_get_rarer_while_nothing_changes() {
        let mut estimator = Estimator::new(CALLER);
        let start = Instant::now();
        assert!(estimator.is_due(start));
        let mut now = start;
        for _ in 0..20 {
            assert_eq!(estimator.sample(1000, MS, 1, now), None);
            assert!(!estimator.is_due(now + PAUSE / 2));
            now += LONGEST_PAUSE;
            assert!(estimator.is_due(now));
        }
        assert!(!estimator.is_due(now - LONGEST_PAUSE + LONGEST_PAUSE / 2));
    }

    proptest! {
        #[test]
        fn windows_never_shrink_and_never_pass_their_bound(
            samples in prop::collection::vec((0usize..1 << 40, 0u64..10_000_000), 0..200)
        ) {
            let mut estimator = Estimator::new(CALLER);
            let mut before = CALLER;
            let now = Instant::now();
            for (bytes, micros) in samples {
                if let Some(grown) = estimator.sample(bytes, Duration::from_micros(micros), 1, now) {
                    prop_assert!(grown.stream >= before.stream && grown.connection >= before.connection);
                    prop_assert!(grown != before);
                    prop_assert!(grown.stream <= MAX.stream && grown.connection <= MAX.connection);
                    prop_assert!(grown.stream <= grown.connection);
                    before = grown;
                }
            }
        }
    }
}
