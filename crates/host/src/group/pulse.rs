//! Whether a worker whose call takes long lives at all.
//!
//! A call may take hours, and a model may hold the interpreter all that time, so silence alone proves nothing. A worker hangs when it neither
//! answers a `PING` nor uses the processor: one that was stopped, or whose threads wait for each other.

use std::time::Duration;

use tokio::time::Instant;

/// Age of a call from which its worker is asked.
const LONG: Duration = Duration::from_secs(30);
/// Between two questions.
const EACH: Duration = Duration::from_secs(10);
/// A worker hangs that has done nothing for so long.
pub(super) const DEAF: Duration = Duration::from_secs(60);

/// What is known of a worker's life.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    asked: Option<Instant>,
    /// Since when nothing was seen of it, and the processor's time that it had used by then.
    silent: Option<(Instant, Option<u64>)>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    Nothing,
    /// It is asked for an answer.
    Ping,
    /// It hangs.
    Dead,
}

impl Pulse {
    /// It has sent something.
    pub(super) fn heard(&mut self) {
        self.silent = None;
    }

    /// `oldest`: when the oldest of its calls began. `spent`: the processor's time that it has used so far, in any unit.
    pub(super) fn look(
        &mut self,
        now: Instant,
        oldest: Option<Instant>,
        spent: impl FnOnce() -> Option<u64>,
    ) -> Beat {
        if oldest.is_none_or(|oldest| now.duration_since(oldest) < LONG) {
            *self = Self::default();
            return Beat::Nothing;
        }
        if self
            .asked
            .is_some_and(|asked| now.duration_since(asked) < EACH)
        {
            return Beat::Nothing;
        }
        self.asked = Some(now);
        let spent = spent();
        match self.silent {
            Some((since, before)) if spent.is_some() && spent == before => {
                if now.duration_since(since) >= DEAF {
                    return Beat::Dead;
                }
            }
            _ => self.silent = Some((now, spent)),
        }
        Beat::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of ten minutes of a call, looked at each second.
    fn watched(answers: bool, spent: impl Fn(u64) -> Option<u64>) -> (usize, Option<u64>) {
        let start = Instant::now();
        let mut pulse = Pulse::default();
        let mut pings = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            match pulse.look(now, Some(start), || spent(second)) {
                Beat::Nothing => {}
                Beat::Ping => {
                    pings += 1;
                    if answers {
                        pulse.heard();
                    }
                }
                Beat::Dead => return (pings, Some(second)),
            }
        }
        (pings, None)
    }

    #[test]
    fn only_a_worker_that_neither_answers_nor_computes_hangs() {
        // Seconds 30, 40 … 80 ask; at 90 a minute has passed.
        assert_eq!(watched(false, |_| Some(7)), (6, Some(90)));
        assert_eq!(watched(true, |_| Some(7)), (57, None));
        assert_eq!(watched(false, Some), (57, None));
        assert_eq!(watched(false, |_| None), (57, None));
        // One that has ceased to compute after five minutes.
        assert_eq!(watched(false, |second| Some(second.min(300))).1, Some(360));
    }

    #[test]
    fn a_worker_without_a_call_or_with_short_ones_is_not_asked() {
        let start = Instant::now();
        let mut pulse = Pulse::default();
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            let oldest = (second % 2 == 0).then(|| now - Duration::from_secs(29).min(now - start));
            assert_eq!(pulse.look(now, oldest, || Some(1)), Beat::Nothing);
        }
    }
}
