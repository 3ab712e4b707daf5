//! How far a running call is, on its way from its worker to whoever called.
//!
//! A model may tell more than its caller takes, and must not wait for it: what is too much goes, the oldest first.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// What may wait for a caller.
const MOST: usize = 256;
/// Bytes of it; the last one is kept whatever it has.
const BYTES: usize = 1 << 20;

/// What one call tells of itself. Clones are the same one; one of them is read.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Told>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Told {
    texts: VecDeque<Bytes>,
    bytes: usize,
}

impl Progress {
    /// The call told something: a JSON object.
    pub fn tell(&self, told: &serde_json::Value) {
        let text = Bytes::from(serde_json::to_vec(told).unwrap_or_default());
        {
            let mut told = self.lock();
            told.bytes += text.len();
            told.texts.push_back(text);
            while told.texts.len() > MOST || (told.bytes > BYTES && told.texts.len() > 1) {
                told.pop();
            }
        }
        self.0.news.notify_one();
    }

    /// What was told and not taken yet, the oldest first.
    pub(crate) fn take(&self) -> Option<Bytes> {
        self.lock().pop()
    }

    /// Waits for the next one. Cancelling loses nothing.
    async fn next(&self) -> Bytes {
        loop {
            if let Some(text) = self.take() {
                return text;
            }
            self.0.news.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn pop(&mut self) -> Option<Bytes> {
        let text = self.texts.pop_front()?;
        self.bytes -= text.len();
        Some(text)
    }
}

/// What came next of a call.
#[derive(Debug)]
pub(crate) enum Step<T> {
    /// How far it is, as JSON.
    Told(Bytes),
    /// What was waited for. All that was told before can be taken now.
    Done(T),
}

/// Waits for some work of a call, and for what the call tells meanwhile.
pub(crate) async fn step<T>(
    progress: Option<&Progress>,
    work: Pin<&mut (impl Future<Output = T> + ?Sized)>,
) -> Step<T> {
    let Some(progress) = progress else {
        return Step::Done(work.await);
    };
    tokio::select! {
        biased;
        told = progress.next() => Step::Told(told),
        done = work => Step::Done(done),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_is_told_is_taken_in_its_order_and_the_oldest_goes_when_there_is_too_much() {
        let progress = Progress::default();
        for number in 0..MOST + 3 {
            progress.tell(&json!({ "progress": number }));
        }
        assert_eq!(progress.next().await, r#"{"progress":3}"#);
        let rest: Vec<_> = std::iter::from_fn(|| progress.take()).collect();
        assert_eq!(rest.len(), MOST - 1);
        assert_eq!(
            rest[rest.len() - 1],
            format!(r#"{{"progress":{}}}"#, MOST + 2)
        );
    }

    #[tokio::test]
    async fn one_that_is_too_long_is_kept_until_the_next_comes() {
        let progress = Progress::default();
        progress.tell(&json!({ "data": "x".repeat(BYTES) }));
        assert!(progress.take().unwrap().len() > BYTES);
        progress.tell(&json!({ "data": "x".repeat(BYTES) }));
        progress.tell(&json!({}));
        assert_eq!(progress.take().unwrap(), "{}");
        assert_eq!(progress.take(), None);
        assert_eq!(progress.lock().bytes, 0);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_result_hears_first_what_was_told_before_it() {
        let progress = Progress::default();
        progress.tell(&json!({ "progress": 0.5 }));
        let mut work = std::pin::pin!(std::future::ready(7));
        assert!(matches!(
            step(Some(&progress), work.as_mut()).await,
            Step::Told(_)
        ));
        assert!(matches!(
            step(Some(&progress), work.as_mut()).await,
            Step::Done(7)
        ));
    }
}
