//! Batches: gathered, sent, sent again, and counted whatever becomes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tidegate_config::model::Tracing;
use tidegate_discovery::jitter::Backoff;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::collector::{Collector, Refused};
use crate::proto::collector::trace::v1::ExportTraceServiceRequest;
use crate::proto::common::v1::{InstrumentationScope, KeyValue};
use crate::proto::resource::v1::Resource;
use crate::proto::trace::v1::{ResourceSpans, ScopeSpans, Span};

/// Records that wait: as many spans wait in OpenTelemetry's SDKs.
const QUEUE: usize = 2048;
/// Spans of one request to the collector, a record's more or less; that of OpenTelemetry's SDKs too.
const BATCH: usize = 512;
/// The first pause before a batch is tried again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// So long a batch is tried; others wait behind it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long spans wait for others once a drain has begun.
const HURRY: Duration = Duration::from_millis(50);
/// The conventions that names of attributes come from.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";

/// What spans are made of, away from whoever recorded it.
pub trait Record: Send + 'static {
    /// How many spans it makes.
    fn spans(&self) -> usize;

    /// Makes them.
    fn write(self, out: &mut Vec<Span>);
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Never sent: too many waited.
    pub dropped: AtomicU64,
    /// Sent in vain.
    pub failed: AtomicU64,
    /// Refused by the collector one by one.
    pub rejected: AtomicU64,
}

/// The way in. Cheap to clone.
#[derive(Debug)]
pub struct Queue<R> {
    records: mpsc::Sender<R>,
    counts: Arc<Counts>,
}

impl<R: Record> Queue<R> {
    /// Hands a record over, or drops it where too many wait. Never waits.
    pub fn give(&self, record: R) {
        if let Err(lost) = self.records.try_send(record) {
            let spans = lost.into_inner().spans() as u64;
            self.counts.dropped.fetch_add(spans, Relaxed);
        }
    }
}

/// How much time there is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Running,
    /// The end is near: nothing waits for company.
    Hurry,
    /// Nothing more is taken, and by then all of it is gone.
    Ending(Instant),
}

/// What sends records until nobody can give it any, or it is told to end.
#[derive(Debug)]
pub struct Exporter {
    phase: watch::Sender<Phase>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts to send what is given to the queue. Must be called inside a tokio runtime. `resource`: attributes of whoever recorded it.
    pub fn start<R: Record>(
        config: &Tracing,
        collector: Collector,
        resource: Vec<KeyValue>,
        counts: Arc<Counts>,
    ) -> (Queue<R>, Self) {
        let (records, waiting) = mpsc::channel(QUEUE);
        let (phase, told) = watch::channel(Phase::Running);
        let sending = Sending {
            collector,
            resource: Resource {
                attributes: resource,
                ..Resource::default()
            },
            delay: config.schedule_delay,
            counts: counts.clone(),
            phase: told,
            away: false,
        };
        let task = tokio::spawn(sending.run(waiting));
        (Queue { records, counts }, Self { phase, task })
    }

    /// Whether all was sent and nobody gives more.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Spans wait for no others any more.
    pub fn hurry(&self) {
        self.phase.send_replace(Phase::Hurry);
    }

    /// Sends what waits, and ends. What is not gone at `end` is counted as failed.
    pub async fn finish(self, end: Instant) {
        self.phase.send_replace(Phase::Ending(end));
        // It looks at the time itself; a moment more is for counting.
        let _ = timeout_at(end + HURRY, self.task).await;
    }
}

struct Sending {
    collector: Collector,
    resource: Resource,
    delay: Duration,
    counts: Arc<Counts>,
    phase: watch::Receiver<Phase>,
    /// The last batch did not arrive, which has been told.
    away: bool,
}

impl Sending {
    async fn run<R: Record>(mut self, mut waiting: mpsc::Receiver<R>) {
        loop {
            let mut batch = Vec::new();
            let more = self.gather(&mut waiting, &mut batch).await;
            if !batch.is_empty() {
                self.deliver(batch).await;
            }
            if !more {
                return;
            }
        }
    }

    /// Takes records until there are enough, or the first has waited long enough. False when no more will come.
    async fn gather<R: Record>(
        &mut self,
        waiting: &mut mpsc::Receiver<R>,
        batch: &mut Vec<Span>,
    ) -> bool {
        let mut due = None;
        while batch.len() < BATCH {
            let phase = *self.phase.borrow_and_update();
            let wait = match phase {
                Phase::Running => self.delay,
                Phase::Hurry => self.delay.min(HURRY),
                Phase::Ending(_) => {
                    // What is there is taken still; nothing comes behind it.
                    waiting.close();
                    Duration::ZERO
                }
            };
            let until = due.map(|since: Instant| since + wait);
            tokio::select! {
                biased;
                record = waiting.recv() => match record {
                    Some(record) => {
                        due.get_or_insert_with(Instant::now);
                        record.write(batch);
                    }
                    None => return false,
                },
                // Who told is gone when the process ends: then there is only the queue.
                Ok(()) = self.phase.changed() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
            }
        }
        true
    }

    /// Sends a batch until it has arrived, or there is no sense in it any more.
    async fn deliver(&mut self, spans: Vec<Span>) {
        let n = spans.len() as u64;
        let body = self.encode(spans);
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let begun = Instant::now();
        loop {
            let end = match *self.phase.borrow_and_update() {
                Phase::Ending(end) => Some(end),
                Phase::Running | Phase::Hurry => None,
            };
            let mut phase = self.phase.clone();
            let sent = tokio::select! {
                sent = self.collector.send(body.clone()) => Some(sent),
                // The end may be told while a collector keeps silent.
                () = ending(&mut phase, end) => None,
            };
            let refused = match sent {
                Some(Ok(rejected)) => {
                    let rejected = rejected.min(n);
                    self.counts.rejected.fetch_add(rejected, Relaxed);
                    self.counts.exported.fetch_add(n - rejected, Relaxed);
                    return self.tell(None);
                }
                Some(Err(refused)) => refused,
                None => Refused {
                    cause: "no answer before the end".into(),
                    again: false,
                    after: None,
                },
            };
            self.tell(Some(&refused));
            let pause = refused.after.unwrap_or_else(|| backoff.wait());
            let last = end.unwrap_or(begun + PATIENCE).min(begun + PATIENCE);
            // A collector may name a time that no clock reaches.
            let next = Instant::now().checked_add(pause);
            let Some(next) = next.filter(|next| refused.again && *next <= last) else {
                self.counts.failed.fetch_add(n, Relaxed);
                return;
            };
            tokio::select! {
                () = sleep_until(next) => {}
                // One more try at once, then it is over.
                Ok(_) = phase.wait_for(|phase| matches!(phase, Phase::Ending(_))), if end.is_none() => {}
            }
        }
    }

    fn encode(&self, spans: Vec<Span>) -> Bytes {
        let scope = InstrumentationScope {
            name: "tidegate".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans,
                    schema_url: SCHEMA.into(),
                }],
                schema_url: SCHEMA.into(),
            }],
        };
        request.encode_to_vec().into()
    }

    /// Says once that the collector takes nothing, and once that it does again.
    fn tell(&mut self, refused: Option<&Refused>) {
        let collector = &self.collector.name;
        match refused {
            Some(refused) if !self.away => {
                tracing::warn!(collector, cause = refused.cause, "traces are not taken");
            }
            None if self.away => tracing::info!(collector, "traces are taken again"),
            _ => {}
        }
        self.away = refused.is_some();
    }
}

/// Waits until there is no time left: until `end`, or the end that is told meanwhile.
async fn ending(phase: &mut watch::Receiver<Phase>, end: Option<Instant>) {
    let is_end = |phase: &Phase| matches!(phase, Phase::Ending(_));
    let end = match end {
        Some(end) => end,
        None => match phase.wait_for(is_end).await.map(|told| *told) {
            Ok(Phase::Ending(end)) => end,
            // Nobody is left who could tell.
            _ => return std::future::pending().await,
        },
    };
    sleep_until(end).await;
}

#[cfg(test)]
mod tests;
