//! Lists of models, answered from the configuration: no provider is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_keys::Live;
use tidegate_keys::account::Permit;
use tidegate_llm::models::{Model, list, one};
use tidegate_llm::{Dialect, Fault, FaultKind};
use tidegate_route::ProviderIndex;

use super::{Provider, accounts, talk};
use crate::down::Down;
use crate::exchange::plan::{self, Seen};
use crate::exchange::reply;
use crate::exchange::{Context, Incoming, Running};
use crate::snapshot::RouteState;

/// A list that a caller asked for.
pub(crate) struct Listing {
    pub(crate) state: Arc<RouteState>,
    /// The one model that is asked about.
    pub(crate) model: Option<String>,
    /// Whom it is for: models that its key may not use are left out.
    pub(crate) permit: Option<Permit>,
}

/// Answers with the models of a route.
pub(crate) async fn answer(
    context: Context<'_>,
    listing: Listing,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let Listing {
        state,
        model,
        permit,
    } = listing;
    let wanted: BTreeSet<ProviderIndex> = state.providers().collect();
    let lives = lives(
        wanted
            .iter()
            .map(|at| &context.snapshot.providers[at.get()]),
    );
    let mut models: Vec<Model<'_>> = Vec::new();
    for (owner, live) in &lives {
        for name in &live.models {
            if permit.as_ref().is_none_or(|permit| permit.allows(name)) {
                add(&mut models, name, owner);
            }
        }
    }
    tell(
        context,
        &models,
        model.as_deref(),
        Some(&state),
        down,
        running,
    )
    .await;
}

/// Answers one who asks where the route depends on the model: with those for which this request, whoever makes it, has a route that
/// lets it in.
pub(crate) async fn answer_all(
    context: Context<'_>,
    request: &Incoming,
    seen: &Seen,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let lives = lives(context.snapshot.providers.iter());
    let mut models: Vec<Model<'_>> = Vec::new();
    let mut refused = None;
    for (at, (owner, live)) in lives.iter().enumerate() {
        for name in &live.models {
            let state = plan::route_for(context, request, seen, name);
            let leads_here = |state: &Arc<RouteState>| state.providers().any(|p| p.get() == at);
            let Some(state) = state.filter(leads_here) else {
                continue;
            };
            match accounts::admit(context, &state, request) {
                Ok(permit) if permit.as_ref().is_none_or(|p| p.allows(name)) => {
                    add(&mut models, name, owner);
                }
                Ok(_) => {}
                Err(fault) => refused = Some(fault),
            }
        }
    }
    match refused.filter(|_| models.is_empty()) {
        Some(fault) => talk::fault(context, &fault, down, running).await,
        None => tell(context, &models, None, None, down, running).await,
    }
}

/// Names of providers, and what they are now.
fn lives<'p>(providers: impl Iterator<Item = &'p Arc<Provider>>) -> Vec<(&'p str, Arc<Live>)> {
    providers.map(|p| (&**p.name(), p.keys.live())).collect()
}

/// Adds a model, unless another provider has it already.
fn add<'m>(models: &mut Vec<Model<'m>>, name: &'m str, owner: &'m str) {
    if models.iter().all(|known| known.name != name) {
        models.push(Model { name, owner });
    }
}

/// Tells of all of them, or of the one that was asked about.
async fn tell(
    context: Context<'_>,
    models: &[Model<'_>],
    wanted: Option<&str>,
    state: Option<&RouteState>,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let talk = running.report.talk.as_ref();
    let dialect = talk.map_or(Dialect::OpenAi, |talk| talk.dialect());
    let created = context.snapshot.loaded_at;
    let (status, mut headers, body) = match wanted {
        None => list(dialect, models, created),
        Some(name) => match one(dialect, models, name, created) {
            Some(answer) => answer,
            None => {
                let words = format!("there is no model {name:?}");
                let fault = Fault::new(FaultKind::UnknownModel, words).at("model");
                return talk::fault(context, &fault, down, running).await;
            }
        },
    };
    if let Some(state) = state {
        state.route.response_headers.apply(&mut headers);
    }
    if let Ok(sent) = reply::whole(down, status, headers, body, context.is_head).await {
        running.report.status = status.as_u16();
        running.report.bytes_down = sent;
    }
}
