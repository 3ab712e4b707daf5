//! Lists of models, answered from the configuration: no provider is asked.

use std::sync::Arc;

use tidegate_llm::{Fault, FaultKind};

use super::talk;
use crate::down::Down;
use crate::exchange::{Context, Running};
use crate::snapshot::RouteState;

/// Answers with the models of a route, or of all of them.
pub(crate) async fn answer(
    context: Context<'_>,
    _state: Option<&Arc<RouteState>>,
    down: &mut Down<'_>,
    running: &mut Running<'_>,
) {
    let fault = Fault::new(FaultKind::UnsupportedEndpoint, "models are not listed");
    talk::fault(context, &fault, down, running).await;
}
