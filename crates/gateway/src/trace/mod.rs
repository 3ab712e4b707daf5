//! Distributed traces: which requests are recorded, and the spans of those that are.
//!
//! A request that is not recorded costs the decision. One that is has a [`Trace`] in its [record](crate::record): the caller's span, ours,
//! and one for each attempt, which the endpoint sees as its parent. When it is over, what is known of it goes to the control runtime
//! as facts; spans are made of them there ([`finished`]) and sent by `tidegate-otlp`.
//!
//! ```text
//! Tracing::begin: recorded? → next/begin/sent/settle: attempts → end: facts → queue ┈┈> finished: spans by OpenTelemetry's conventions
//! ```

mod attempt;
mod finished;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::HeaderMap;
use tidegate_config::model;
use tidegate_core::{Member, MemberKey, Rng};
use tidegate_discovery::Resolver;
use tidegate_discovery::tls::Material;
use tidegate_llm::usage::Usage;
use tidegate_otlp::{Collector, Counts, Exporter, Queue, SetupError};
use tidegate_wire::headers::{
    TRACEPARENT, TRACESTATE, TraceContext, TracePolicy, propagate_trace, trace_parent,
};

use crate::exchange::Report;
use crate::exchange::attempt::Planned;
use crate::limits::secret;
use crate::provider::attempt::Asking;
use crate::record::Record;
use crate::up::OutRequest;
use crate::upstream::Target;
use crate::worker::Worker;

use attempt::Attempt;
use finished::Finished;

pub(crate) use attempt::{Settled, class};

/// All of a random number's bits that a float holds exactly: what shares are compared with.
const UNIT: f64 = (1u64 << 53) as f64;

/// Attempts of one request that are told: one that waits for an instance of a service may make any number.
const ATTEMPTS: usize = 64;

/// The spans of one request.
#[derive(Debug)]
pub(crate) struct Trace {
    /// The caller's span.
    parent: Option<TraceContext>,
    own: TraceContext,
    /// What tracing vendors added.
    state: String,
    /// The span of the attempt that is about to begin.
    next: Option<u64>,
    attempts: Vec<Attempt>,
    /// Attempts so far, told or not.
    made: usize,
}

impl Trace {
    /// The trace's id as others write it.
    pub(crate) fn id(&self) -> String {
        format!("{:032x}", self.own.trace_id)
    }

    /// Another attempt will be made with these headers: it is the parent of what the endpoint does.
    pub(crate) fn next(&mut self, worker: &Worker, headers: &mut HeaderMap) {
        let span = worker.random().max(1);
        self.next = Some(span);
        headers.insert(&TRACEPARENT, self.own.child(span).to_value());
    }

    /// The attempt begins.
    pub(crate) fn begin(
        &mut self,
        worker: &Worker,
        planned: &Planned,
        member: &Member<Arc<Target>>,
        asking: Option<&Asking>,
    ) {
        let span = self.next.take().unwrap_or_else(|| worker.random().max(1));
        self.made += 1;
        if self.attempts.len() >= ATTEMPTS {
            // How it began and how it went in the end say most.
            self.attempts.remove(ATTEMPTS / 2);
        }
        self.attempts
            .push(Attempt::new(span, planned, member, asking));
    }

    /// Its request goes out.
    pub(crate) fn sent(&mut self, member: MemberKey, request: &mut OutRequest, h2: bool) {
        let own = self.own;
        if let Some(attempt) = self.open(member) {
            // A hedge beside it may have written its own. What a provider is sent was made, and perhaps signed, with it.
            if !attempt.is_asking() {
                let context = own.child(attempt.span);
                request.headers.insert(&TRACEPARENT, context.to_value());
            }
            attempt.sent(request, h2);
        }
    }

    /// It is over.
    pub(crate) fn settle(&mut self, member: MemberKey, settled: Settled) {
        if let Some(attempt) = self.open(member) {
            attempt.end(settled);
        }
    }

    /// It has become a tunnel, and lasts as long as the exchange.
    pub(crate) fn switched(&mut self, member: MemberKey, status: u16) {
        if let Some(attempt) = self.open(member) {
            attempt.switched(status);
        }
    }

    /// A model's answer is over.
    pub(crate) fn told(
        &mut self,
        asking: &mut Asking,
        used: Usage,
        cause: (&'static str, &'static str),
    ) {
        // Attempts at providers have no hedges.
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.told(asking, used, cause);
        }
    }

    /// The attempt at this member that is under way.
    fn open(&mut self, member: MemberKey) -> Option<&mut Attempt> {
        let is_it = |attempt: &&mut Attempt| attempt.member == member && !attempt.is_over();
        self.attempts.iter_mut().rev().find(is_it)
    }
}

/// Traces as a configuration wants them.
#[derive(Debug)]
pub(crate) struct Tracing {
    config: model::Tracing,
    node: model::Node,
    /// What the files of its TLS held.
    files: Option<[u8; 32]>,
    /// Of 2^53.
    share: u64,
    queue: Queue<Box<Finished>>,
}

impl Tracing {
    /// Decides on a request. One that is recorded is within our span from here on.
    pub(crate) fn begin(&self, headers: &mut HeaderMap, worker: &Worker) -> Option<Trace> {
        let parent = trace_parent(headers);
        let mut rng = worker.rng.borrow_mut();
        let sampled = match parent {
            Some(parent) if self.config.parent_based => parent.is_sampled(),
            _ => rng.next_u64() >> 11 < self.share,
        };
        if !sampled {
            // There is no span of ours that could be a parent: it goes on as it came, with whatever its caller says of it.
            return None;
        }
        let policy = TracePolicy {
            trace_id: u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()),
            span_id: rng.next_u64(),
            sampled,
        };
        let step = propagate_trace(headers, policy);
        let state = headers.get_all(&TRACESTATE).iter();
        let state: Vec<_> = state.filter_map(|value| value.to_str().ok()).collect();
        Some(Trace {
            parent: step.parent,
            own: step.own,
            state: state.join(","),
            next: None,
            attempts: Vec::new(),
            made: 0,
        })
    }

    /// The request is over: what is known of it goes to where spans are made of it.
    pub(crate) fn end(&self, trace: Trace, record: &Record, report: &Report, started: Instant) {
        self.queue
            .give(Box::new(Finished::new(trace, record, report, started)));
    }
}

/// What is to be put to work: the running one, or another.
#[derive(Debug)]
pub(crate) enum Draft {
    Off,
    Same(Arc<Tracing>),
    Another(Box<Another>),
}

#[derive(Debug)]
pub(crate) struct Another {
    config: model::Tracing,
    node: model::Node,
    files: Option<[u8; 32]>,
    collector: Collector,
}

impl Draft {
    /// Does what may fail.
    ///
    /// # Errors
    /// The collector's TLS can't be set up.
    pub(crate) fn new(
        config: &tidegate_config::Config,
        running: Option<&Arc<Tracing>>,
        resolver: &Resolver,
    ) -> Result<Self, SetupError> {
        let Some(wanted) = &config.tracing else {
            return Ok(Self::Off);
        };
        // Renewed files are another section, although it reads the same.
        let material = wanted.tls.as_ref().map(Material::read).transpose()?;
        let files = material.map(|material| material.digest());
        let is_same =
            |t: &&Arc<Tracing>| t.config == *wanted && t.node == config.node && t.files == files;
        if let Some(same) = running.filter(is_same) {
            return Ok(Self::Same(same.clone()));
        }
        Ok(Self::Another(Box::new(Another {
            config: wanted.clone(),
            node: config.node.clone(),
            files,
            collector: Collector::new(wanted, resolver)?,
        })))
    }

    /// Puts it to work. Spans of the one before are sent all the same.
    pub(crate) fn commit(self, exports: &Exports) -> Option<Arc<Tracing>> {
        let Another {
            config,
            node,
            files,
            collector,
        } = match self {
            Self::Off => return None,
            Self::Same(same) => return Some(same),
            Self::Another(another) => *another,
        };
        let resource = finished::resource(&config, &node, &exports.instance);
        let (queue, exporter) =
            Exporter::start(&config, collector, resource, exports.counts.clone());
        let mut running = exports.running();
        running.retain(|exporter| !exporter.is_over());
        running.push(exporter);
        Some(Arc::new(Tracing {
            share: (config.sample.fraction() * UNIT) as u64,
            config,
            node,
            files,
            queue,
        }))
    }
}

/// Everything that is sent to collectors, over all configurations.
#[derive(Debug)]
pub(crate) struct Exports {
    pub(crate) counts: Arc<Counts>,
    running: Mutex<Vec<Exporter>>,
    /// This process among those of the same name.
    instance: String,
}

impl Exports {
    pub(crate) fn new() -> Self {
        Self {
            counts: Arc::default(),
            running: Mutex::default(),
            instance: format!("{:016x}{:016x}", secret(), secret()),
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Exporter>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A drain has begun: spans wait for no others.
    pub(crate) fn hurry(&self) {
        self.running().iter().for_each(Exporter::hurry);
    }

    /// Sends what is left until `end`.
    pub(crate) async fn finish(&self, end: tokio::time::Instant) {
        let running = std::mem::take(&mut *self.running());
        for exporter in running {
            exporter.finish(end).await;
        }
    }
}
