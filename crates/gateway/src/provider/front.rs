//! The beginning of a request about a model: its body is read whole, because the route or the provider depends on what it says and
//! because another key may need it again.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::EXPECT;
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};
use tidegate_llm::{Call, Endpoint, Fault, FaultKind, Front};
use tidegate_route::Model;
use tidegate_wire::grpc::GrpcStatus;
use tidegate_wire::h1::BodyLength;

use super::bodies::Kept;
use super::said::Said;
use super::talk::Talk;
use super::{access, accounts, listing, talk};
use crate::clock;
use crate::down::{Down, DownError, Part};
use crate::exchange::instead::{self, Instead};
use crate::exchange::plan::{self, Plan, Seen};
use crate::exchange::reply::Problem;
use crate::exchange::source::Source;
use crate::exchange::timer::Timer;
use crate::exchange::{Context, Incoming, Running};
use crate::snapshot::RouteState;

/// Up to here room for a body is made as its length says; a longer one gets it as it comes.
const AT_ONCE: usize = 1024 * 1024;

/// What was read of a request.
pub(crate) struct Read {
    /// None: no endpoint of any dialect.
    front: Option<Front>,
    /// It would be one if it was a POST.
    wants_post: bool,
    /// What it asks. None where there is nothing to be read (lists of models), or nobody to read it.
    call: OnceCell<Result<Rc<Call>, Fault>>,
    /// None: the body is still with the caller.
    body: Option<Body>,
}

struct Body {
    bytes: Bytes,
    trailers: Option<HeaderMap>,
    kept: Kept,
}

impl Read {
    /// Whether it asks for a list of models, and then for which one of them.
    pub(crate) fn listing(&self) -> Option<Option<&str>> {
        let front = self.front.as_ref()?;
        (front.endpoint == Endpoint::Models).then_some(front.model.as_deref())
    }

    /// What routes may match.
    pub(crate) fn model(&self) -> Model<'_> {
        match (self.call.get(), &self.front) {
            (Some(Ok(call)), _) => Model::Named(call.model()),
            (
                None,
                Some(Front {
                    model: Some(model), ..
                }),
            ) => Model::Named(model),
            _ => Model::Absent,
        }
    }

    /// A request that no dialect knows goes to the provider as it stands here, if the route has one that takes such.
    pub(crate) fn pass_on(&self, request: &Incoming, path: &PathAndQuery) {
        if let (None, Some(body)) = (&self.front, &self.body) {
            let dialect = Front::dialect_of(request.target.path(), &request.headers);
            let method = request.method.clone();
            let call = Call::original(method, path.as_str(), dialect, body.bytes.clone());
            self.call.get_or_init(|| Ok(Rc::new(call)));
        }
    }

    /// What a provider is asked.
    ///
    /// # Errors
    /// The request is none that a provider could be asked.
    pub(crate) fn call(&self) -> Result<&Rc<Call>, Fault> {
        match self.call.get() {
            Some(Ok(call)) => Ok(call),
            Some(Err(fault)) => Err(fault.clone()),
            None if self.wants_post => Err(Fault::new(
                FaultKind::WrongMethod,
                "this endpoint takes POST and no other method",
            )),
            None => Err(Fault::new(
                FaultKind::UnsupportedEndpoint,
                "this path is no endpoint of OpenAI's, Anthropic's or Gemini's API",
            )),
        }
    }

    /// The body for attempts, with its share of the memory; `None` if it is still with the caller.
    pub(crate) fn source(self) -> Option<(Source, Kept)> {
        let Body {
            bytes,
            trailers,
            kept,
        } = self.body?;
        Some((Source::of_whole(bytes, trailers), kept))
    }
}

/// Why there is no body.
enum Stop {
    Fault(Fault),
    Problem(Problem),
    Gone,
}

/// Plans an exchange whose body has to be read before. `None`: it has been answered. What is rare is boxed, so that this takes no more
/// room than what follows.
pub(crate) async fn plan(
    context: Context<'_>,
    mut seen: Seen,
    request: &mut Incoming,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) -> Option<Plan> {
    let state = seen.state().cloned()?;
    if running.report.talk.is_none() {
        // In front of a provider whatever is wrong is told in a dialect, also to one who asks what no dialect has.
        running.report.talk = match state.providers().len() {
            0 => Talk::of_known(request),
            _ => Some(Talk::of(request)),
        };
    }
    let front = running.report.talk.as_mut().and_then(|t| t.front.take());
    let lists = front
        .as_ref()
        .is_some_and(|front| front.endpoint == Endpoint::Models);
    if lists && seen.needs_model() && front.as_ref().is_some_and(|f| f.model.is_none()) {
        // Which of the routes it would be depends on the model.
        Box::pin(listing::answer_all(context, request, &seen, down, running)).await;
        return None;
    }
    let mut read = Read {
        wants_post: front.is_none() && Front::wants_post(request.target.path()),
        front,
        call: OnceCell::new(),
        body: None,
    };
    if !lists && (read.front.is_some() || !seen.needs_model() && takes_any(context, &state)) {
        match body(context, &state, request, down).await {
            Ok(body) => {
                running.report.bytes_up = body.bytes.len() as u64;
                if running.is_recorded()
                    && context.worker.shared.access.holds_bodies()
                    && let Some(talk) = &mut running.report.talk
                {
                    talk.said = Some(Said::of(&body.bytes));
                }
                if let Some(front) = &read.front {
                    let call = Call::read(front, &request.headers, body.bytes.clone());
                    read.call.get_or_init(|| call.map(Rc::new));
                }
                read.body = Some(body);
            }
            Err(stop) => {
                Box::pin(stopped(context, *stop, down, running)).await;
                return None;
            }
        }
    }
    seen.read(read);
    let planned = match plan::resume(context, request, running, seen) {
        Ok(mut plan) if plan.permit.is_some() => {
            let reserved = Box::pin(accounts::reserve(context, &mut plan, running)).await;
            reserved.map(|()| plan).map_err(Box::from)
        }
        planned => planned,
    };
    match planned {
        Ok(plan) => {
            for asked in plan.targets.iter().filter_map(|t| t.asked.as_ref()) {
                if asked.provider.keys.has_accounts() {
                    Box::pin(access::first(&asked.provider.keys)).await;
                }
            }
            Some(plan)
        }
        Err(instead) => {
            Box::pin(answered(context, *instead, down, running)).await;
            None
        }
    }
}

/// Answers a request whose body did not come.
async fn stopped(context: Context<'_>, stop: Stop, down: &mut Down<'_>, running: &mut Running<'_>) {
    match stop {
        Stop::Fault(fault) => talk::fault(context, &fault, down, running).await,
        Stop::Problem(problem) => instead::fail(context, &problem, down, running).await,
        Stop::Gone => {
            if let Down::H1(d) = down {
                d.close_after();
            }
        }
    }
}

/// Answers a request that does not go on.
async fn answered(
    context: Context<'_>,
    instead: Instead,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    match instead {
        Instead::Listing(listing) => {
            listing::answer(context, *listing, down, running).await;
        }
        other => instead::answer(context, other, down, running).await,
    }
}

/// Whether the route has a provider that gets any request as it is.
fn takes_any(context: Context<'_>, state: &RouteState) -> bool {
    let providers = &context.snapshot.providers;
    state
        .providers()
        .any(|index| providers[index.get()].keys.live().spec.original)
}

/// Reads the body to its end.
async fn body(
    context: Context<'_>,
    state: &RouteState,
    request: &mut Incoming,
    down: &mut Down<'_>,
) -> Result<Body, Box<Stop>> {
    let limit = limit(context, state);
    let too_large = || {
        Box::new(Stop::Fault(Fault::new(
            FaultKind::BodyTooLarge,
            format!("the request body is longer than {limit} bytes"),
        )))
    };
    let full = || {
        let fault = Fault::new(
            FaultKind::Overloaded,
            "too many request bodies are held in memory",
        );
        let fault = fault.after(Some(std::time::Duration::from_secs(1)));
        Box::new(Stop::Fault(fault))
    };
    let bodies = &context.worker.shared.providers.bodies;
    let mut kept = bodies.keep();
    let mut room = 0;
    if let BodyLength::Exact(length) = request.body {
        if length > limit {
            return Err(too_large());
        }
        // Taken as it comes: what is only promised keeps nobody else out.
        if !bodies.has_room(length) {
            return Err(full());
        }
        room = usize::try_from(length).unwrap_or(AT_ONCE).min(AT_ONCE);
    }
    if request.headers.remove(EXPECT).is_some() {
        down.informational(StatusCode::CONTINUE, &HeaderMap::new());
        if poll_fn(|cx| down.poll_flush(cx)).await.is_err() {
            return Err(Box::new(Stop::Gone));
        }
    }
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    let mut trailers = None;
    let mut timer = Timer::default();
    let deadline = state
        .route
        .timeout
        .and_then(|timeout| context.started.checked_add(timeout));
    let watch = context.watch;
    let mut over = request.body == BodyLength::None;
    while !over {
        let idle = state.route.idle_timeout;
        watch.set(idle.map(|t| clock::now() + t));
        let part = poll_fn(|cx| {
            if watch.poll_over(cx).is_ready() || timer.is_over(deadline, watch, cx) {
                return Poll::Ready(None);
            }
            down.poll_part(cx).map(Some)
        });
        match part.await {
            Some(Ok(Part::Data(data))) => {
                over = down.body_done();
                let sum = (first.len() + more.len() + data.len()) as u64;
                if sum > limit {
                    return Err(too_large());
                }
                if !kept.grow_to(sum) {
                    return Err(full());
                }
                // A body that comes in one piece is not copied.
                if first.is_empty() && more.is_empty() {
                    first = data;
                    continue;
                }
                if more.is_empty() {
                    more.reserve(room);
                    more.extend_from_slice(&std::mem::take(&mut first));
                }
                more.extend_from_slice(&data);
            }
            Some(Ok(Part::Trailers(found))) => {
                trailers = Some(found);
                over = true;
            }
            Some(Ok(Part::End)) => over = true,
            Some(Err(DownError::Gone)) => return Err(Box::new(Stop::Gone)),
            Some(Err(DownError::Malformed(detail))) => {
                let problem = Problem::bad_request("bad-body", detail);
                return Err(Box::new(Stop::Problem(problem)));
            }
            None => {
                let problem = Problem::new(
                    StatusCode::REQUEST_TIMEOUT,
                    GrpcStatus::DeadlineExceeded,
                    "body-timeout",
                    "the request's body did not come in time",
                );
                return Err(Box::new(Stop::Problem(problem)));
            }
        }
    }
    Ok(Body {
        bytes: if more.is_empty() {
            first
        } else {
            more.freeze()
        },
        trailers,
        kept,
    })
}

/// Longest body: the smallest of the bounds that apply.
fn limit(context: Context<'_>, state: &RouteState) -> u64 {
    let all = context.snapshot.loaded.config.request_bodies.max.bytes();
    let own = state
        .route
        .body_bytes
        .unwrap_or(context.caller.listener.body_bytes);
    if own > 0 { all.min(own) } else { all }
}
