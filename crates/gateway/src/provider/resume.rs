//! Streams that go on: one that broke off after content had begun is taken up by another attempt, with what the caller has as the
//! beginning of the answer, where the route says so and the provider can.

use bytes::Bytes;
use tidegate_llm::Unfinished;
use tidegate_llm::usage::Usage;

use super::relay;
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

/// Relays the answer, and the rest of it from other attempts.
pub(crate) async fn relay(
    context: Context<'_>,
    state: &RouteState,
    mut won: Won,
    again: Again<'_>,
    deadline: Deadline,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let Again {
        targets,
        request,
        mut timer,
    } = again;
    let mut spent = None;
    for last in (0..=MOST).map(|made| made == MOST) {
        let asking = won.asking.as_ref();
        let planned = asking.and_then(|asking| {
            let is_it = |p: &&Planned| p.asked.as_ref().is_some_and(|asked| asked.is_of(asking));
            targets.iter().filter(|_| !last).find(is_it)
        });
        let asked = planned.and_then(|planned| planned.asked.as_deref());
        let part = relay::Part {
            asked,
            before: spent,
            timer: std::mem::take(&mut timer),
        };
        let relayed = relay::relay(context, state, won, part, deadline, down, running);
        let (Some(broken), Some(planned), Some(asked)) = (relayed.await, planned, asked) else {
            return;
        };
        context
            .watch
            .set(state.route.idle_timeout.map(|t| clock::now() + t));
        if let Some(talk) = &mut running.report.talk {
            talk.begun = true;
        }
        asked.go_on_from(broken.unfinished);
        let attempts = Loop {
            worker: context.worker,
            snapshot: context.snapshot,
            down: &mut *down,
            state,
            request: &mut *request,
            source: &mut Source::of_whole(Bytes::new(), None),
            grpc: false,
            deadline,
            watch: context.watch,
            timer: &mut timer,
            beat: &mut asked.heartbeat(state),
            made: &mut running.report.attempts,
        };
        match Box::pin(attempts.run(std::slice::from_ref(planned))).await {
            Ok(next) => won = next,
            Err(_) => {
                asked.settle(&broken.spent);
                relay::give_up(context, broken.told, broken.code, down, running).await;
                return;
            }
        }
        let provider = &asked.provider;
        provider.stats.went_on(context.worker.index);
        spent = Some(broken.spent);
    }
}
