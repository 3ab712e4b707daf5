//! One exchange, from the request's head to the verdict.
//!
//! route → limits → fault → split → attempt loop → relay → verdict. What stands for callers' connections ([`crate::serve`]) calls
//! [`handle`] with a request and the caller's side of it; everything below sees members, parts and verdicts.

pub(crate) mod attempt;
mod await_instance;
mod deliver;
pub(crate) mod forward;
pub(crate) mod head;
pub(crate) mod instead;
pub(crate) mod load;
pub(crate) mod mirror;
pub(crate) mod outcome;
pub(crate) mod plan;
pub(crate) mod race;
pub(crate) mod relay;
pub(crate) mod reply;
pub(crate) mod source;
pub(crate) mod timer;
pub(crate) mod tunnel;
pub(crate) mod websocket;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method, Uri, Version};
use tidegate_wire::grpc;
use tidegate_wire::h1::BodyLength;
use tidegate_wire::headers::{Peer, Scheme};

use self::forward::Ready;
use crate::clock;
use crate::down::Down;
use crate::listener::ListenerState;
use crate::provider::front;
use crate::provider::talk::Talk;
use crate::record::Record;
use crate::snapshot::Snapshot;
use crate::stats::{Ended, Traffic};
use crate::trace::Trace;
use crate::watch::Watch;
use crate::worker::Worker;

/// Who is on the other end of a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) listener: Arc<ListenerState>,
    /// The peer's address; none on a Unix socket.
    pub(crate) peer: Option<Peer>,
    pub(crate) scheme: Scheme,
    /// Port that the caller connected to.
    pub(crate) port: Option<u16>,
}

/// A request's head, whatever protocol it came by.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) method: Method,
    pub(crate) target: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: BodyLength,
    pub(crate) upgrade: bool,
}

/// What an exchange runs with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) snapshot: &'a Arc<Snapshot>,
    pub(crate) caller: &'a Caller,
    pub(crate) watch: &'a Watch,
    pub(crate) started: Instant,
    /// A gRPC call: errors are told as gRPC status.
    pub(crate) is_grpc: bool,
    /// A HEAD request: no answer has a body.
    pub(crate) is_head: bool,
}

/// How the exchange ended, for counting and the log.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Status that the caller got; 0 when it left before.
    pub(crate) status: u16,
    pub(crate) grpc: Option<u16>,
    /// Ended badly, by our doing or the endpoint's.
    pub(crate) error: bool,
    /// Code of an answer of our own.
    pub(crate) code: &'static str,
    pub(crate) route: Option<Arc<str>>,
    pub(crate) upstream: Option<Arc<str>>,
    pub(crate) member: Option<Arc<str>>,
    pub(crate) attempts: u32,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
    /// Given by the caller or made here; none when nothing went on or nobody wants to know.
    pub(crate) request_id: Option<http::HeaderValue>,
    /// How a caller of a model is spoken to. None for all others.
    pub(crate) talk: Option<Box<Talk>>,
    /// What is remembered of the request, where somebody wants to know how it went.
    pub(crate) record: Option<Box<Record>>,
}

impl Report {
    /// The spans of an exchange that is traced.
    pub(crate) fn trace(&mut self) -> Option<&mut Trace> {
        self.record.as_mut()?.trace.as_mut()
    }
}

/// An exchange while it runs: in flight from its making to its drop, then counted as its report says.
pub(crate) struct Running<'a> {
    context: Context<'a>,
    traffic: Option<Arc<Traffic>>,
    pub(crate) report: Report,
}

impl<'a> Running<'a> {
    fn new(context: Context<'a>) -> Self {
        Self {
            context,
            traffic: None,
            report: Report::default(),
        }
    }

    /// Whether somebody wants to know how it went.
    pub(crate) fn is_recorded(&self) -> bool {
        self.report.record.is_some()
    }

    /// Counts the exchange here from now on.
    pub(crate) fn count_as(&mut self, traffic: &Arc<Traffic>) {
        if self
            .traffic
            .as_ref()
            .is_some_and(|t| Arc::ptr_eq(t, traffic))
        {
            return;
        }
        if let Some(before) = self.traffic.replace(traffic.clone()) {
            before.leave(self.context.worker.index);
        }
        traffic.begin(self.context.worker.index);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let worker = self.context.worker;
        let report = &self.report;
        let ended = Ended {
            // 499 is nginx's number for a caller that left.
            status: if report.status == 0 {
                499
            } else {
                report.status
            },
            grpc: report.grpc,
            error: report.error,
            took: self.context.started.elapsed(),
        };
        if let Some(traffic) = &self.traffic {
            traffic.end(worker.index, ended);
        }
    }
}

/// Runs the exchange; afterwards the answer is with the caller or the caller has seen it cut.
pub(crate) async fn handle(
    worker: &Rc<Worker>,
    caller: &Caller,
    request: &mut Incoming,
    down: &mut Down<'_>,
    watch: &Watch,
) {
    let snapshot = worker.snapshot();
    let is_grpc = down.is_h2() && grpc::is_grpc(&request.headers);
    let context = Context {
        worker,
        snapshot: &snapshot,
        caller,
        watch,
        started: clock::now(),
        is_grpc,
        is_head: request.method == Method::HEAD,
    };
    let mut running = Running::new(context);
    running.report.record = Record::begin(context, request);
    let plan = match plan::plan(context, request, &mut running) {
        Ok(plan) => Some(plan),
        Err(instead) => match *instead {
            instead::Instead::Unread(seen) => {
                front::plan(context, seen, request, down, &mut running).await
            }
            instead => {
                Box::pin(instead::answer(context, instead, down, &mut running)).await;
                None
            }
        },
    };
    let ready = match plan {
        Some(plan) => {
            let waited = match plan.delay {
                Some(delay) => {
                    let headers = &request.headers;
                    Box::pin(forward::injected(
                        context,
                        &plan.state,
                        delay,
                        headers,
                        down,
                    ))
                    .await
                }
                None => Ok(()),
            };
            let is_h2 = down.is_h2();
            Some(waited.and_then(|()| Ready::new(context, plan, request, is_h2, &mut running)))
        }
        None => None,
    };
    match ready {
        Some(Ok(mut ready)) => forward::forward(context, &mut ready, down, &mut running).await,
        Some(Err(lost)) => {
            Box::pin(forward::lose(context, lost, down, &mut running)).await;
        }
        None => {}
    }
    if running.is_recorded() {
        tell(context, &mut running.report);
    }
}

/// Tells those who want to know how an exchange went.
#[cold]
fn tell(context: Context<'_>, report: &mut Report) {
    let Some(mut record) = report.record.take() else {
        return;
    };
    let took = context.started.elapsed();
    context.worker.shared.access.end(&record, report, took);
    if let (Some(tracing), Some(trace)) = (&context.snapshot.tracing, record.trace.take()) {
        tracing.end(trace, &record, report, context.started);
    }
}
