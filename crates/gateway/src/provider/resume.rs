//! Streams that go on: one that broke off after content had begun is taken up by another attempt, with what the caller has as the
//! beginning of the answer, where the route says so and the provider can.

use bytes::Bytes;
use tidegate_llm::Unfinished;
use tidegate_llm::usage::Usage;

use super::relay::{self, Part};
use crate::clock;
use crate::down::Down;
use crate::exchange::attempt::{Deadline, Loop, Planned, Won};
use crate::exchange::source::Source;
use crate::exchange::timer::Timer;
use crate::exchange::{Context, Running};
use crate::snapshot::RouteState;
use crate::up::OutRequest;

/// So often an answer goes on: a provider that breaks off again and again is not asked for ever.
const MOST: usize = 8;

/// An answer that broke off and could go on.
pub(crate) struct Broken {
    pub(crate) unfinished: Unfinished,
    /// What ends the stream if it does not.
    pub(crate) told: Bytes,
    /// How that is called.
    pub(crate) code: &'static str,
    /// What the answer used so far.
    pub(crate) spent: Usage,
}

/// What another attempt is made with: nothing where no answer goes on.
pub(crate) struct Again<'a> {
    pub(crate) targets: &'a [Planned],
    pub(crate) request: &'a mut OutRequest,
    /// That of the attempts before.
    pub(crate) timer: Timer,
}

impl<'a> Again<'a> {
    /// What the attempt that won was planned as, if it may go on.
    fn planned(&self, won: &Won) -> Option<&'a Planned> {
        let asking = won.asking.as_ref()?;
        let is_it = |p: &&Planned| p.asked.as_ref().is_some_and(|asked| asked.is_of(asking));
        self.targets.iter().find(is_it)
    }
}

/// Relays the answer, and the rest of it from other attempts.
///
/// Not an `async fn`: that keeps its arguments twice. What goes on is rare, and boxed.
pub(crate) fn relay<'a>(
    context: Context<'a>,
    state: &'a RouteState,
    won: Won,
    mut again: Again<'a>,
    deadline: Deadline,
    down: &'a mut Down<'_>,
    running: &'a mut Running<'_>,
) -> impl Future<Output = ()> {
    let planned = again.planned(&won);
    let part = Part {
        asked: planned.and_then(|planned| planned.asked.as_deref()),
        before: None,
        timer: std::mem::take(&mut again.timer),
    };
    let begun = relay::begin(context, state, won, part, down, running);
    async move {
        let Some(begun) = begun else { return };
        let broken = relay::rest(context, state, begun, deadline, down, running).await;
        if let (Some(broken), Some(planned)) = (broken, planned) {
            Box::pin(go_on(
                context, state, broken, planned, again, deadline, down, running,
            ))
            .await;
        }
    }
}

/// Has the rest of an answer that broke off from other attempts.
#[allow(
    clippy::too_many_arguments,
    reason = "what an answer is relayed with, and what broke off"
)]
async fn go_on(
    context: Context<'_>,
    state: &RouteState,
    mut broken: Broken,
    mut planned: &Planned,
    mut again: Again<'_>,
    deadline: Deadline,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    for made in 1..=MOST {
        let Some(asked) = &planned.asked else { return };
        context
            .watch
            .set(state.route.idle_timeout.map(|t| clock::now() + t));
        if let Some(talk) = &mut running.report.talk {
            talk.begun = true;
        }
        asked.go_on_from(broken.unfinished);
        let mut attempts = Loop {
            worker: context.worker,
            snapshot: context.snapshot,
            down: &mut *down,
            state,
            request: &mut *again.request,
            source: &mut Source::of_whole(Bytes::new(), None),
            grpc: false,
            deadline,
            watch: context.watch,
            timer: &mut again.timer,
            beat: &mut asked.heartbeat(state),
            report: &mut running.report,
        };
        let won = match attempts.run(std::slice::from_ref(planned)).await {
            Ok(won) => won,
            Err(_) => {
                asked.settle(&broken.spent);
                relay::give_up(context, broken.told, broken.code, down, running).await;
                return;
            }
        };
        asked.provider.stats.went_on(context.worker.index);
        let next = again.planned(&won).filter(|_| made < MOST);
        let part = Part {
            asked: next.and_then(|planned| planned.asked.as_deref()),
            before: Some(broken.spent),
            timer: std::mem::take(&mut again.timer),
        };
        let Some(begun) = relay::begin(context, state, won, part, down, running) else {
            return;
        };
        let rest = relay::rest(context, state, begun, deadline, down, running);
        let (Some(further), Some(next)) = (rest.await, next) else {
            return;
        };
        (broken, planned) = (further, next);
    }
}
