//! Lists of models, answered from the configuration: no provider is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_keys::account::Permit;
use tidegate_llm::models::{Model, list, one};
use tidegate_llm::{Dialect, Fault, FaultKind};

use super::{Provider, talk};
use crate::down::Down;
use crate::exchange::reply;
use crate::exchange::{Context, Running};
use crate::snapshot::RouteState;

/// A list that a caller asked for.
pub(crate) struct Listing {
    pub(crate) state: Arc<RouteState>,
    /// The one model that is asked about.
    pub(crate) model: Option<String>,
    /// Whom it is for: models that its key may not use are left out.
    pub(crate) permit: Option<Permit>,
}

/// Answers with the models of a route, or of all of them.
pub(crate) async fn answer(
    context: Context<'_>,
    listing: Option<Listing>,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let talk = running.report.talk.as_ref();
    let dialect = talk.map_or(Dialect::OpenAi, |talk| talk.dialect());
    let snapshot = context.snapshot;
    let routes = match &listing {
        Some(listing) => std::slice::from_ref(&listing.state),
        None => &snapshot.routes[..],
    };
    let mut wanted = BTreeSet::new();
    wanted.extend(routes.iter().flat_map(|route| route.providers()));
    let providers: Vec<&Arc<Provider>> = wanted
        .into_iter()
        .map(|index| &snapshot.providers[index.get()])
        .collect();
    let lives: Vec<_> = providers
        .iter()
        .map(|p| (p.name(), p.keys.live()))
        .collect();
    let permit = listing.as_ref().and_then(|l| l.permit.as_ref());
    let mut models: Vec<Model<'_>> = Vec::new();
    for (owner, live) in &lives {
        for name in &live.models {
            let allowed = permit.is_none_or(|permit| permit.allows(name));
            if allowed && models.iter().all(|known| known.name != name) {
                models.push(Model { name, owner });
            }
        }
    }
    let created = snapshot.loaded_at;
    let model = listing.as_ref().and_then(|l| l.model.as_deref());
    let (status, mut headers, body) = match model {
        None => list(dialect, &models, created),
        Some(name) => match one(dialect, &models, name, created) {
            Some(answer) => answer,
            None => {
                let words = format!("there is no model {name:?}");
                let fault = Fault::new(FaultKind::UnknownModel, words).at("model");
                return talk::fault(context, &fault, down, running).await;
            }
        },
    };
    if let Some(listing) = &listing {
        listing.state.route.response_headers.apply(&mut headers);
    }
    if reply::whole(down, status, headers, body, context.is_head)
        .await
        .is_ok()
    {
        running.report.status = status.as_u16();
    }
}
