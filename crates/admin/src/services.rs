//! Services that Tidegate runs, with their instances.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use tidegate_gateway::view::ServiceView;

use crate::api::{Shared, Stamp, path};
use crate::problem::Problem;

/// The answer of `/api/v1/services`.
#[derive(Serialize)]
pub(crate) struct Services {
    #[serde(flatten)]
    stamp: Stamp,
    services: Vec<ServiceView>,
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Json<Services> {
    Json(Services {
        stamp: shared.stamp(),
        services: shared.source.services(),
    })
}

pub(crate) async fn one(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ServiceView>, Problem> {
    let name = path(name)?;
    let found = shared
        .source
        .services()
        .into_iter()
        .find(|s| s.name == name);
    found.map(Json).ok_or_else(|| {
        let detail = format!("no service is named {name:?}");
        Problem::new(StatusCode::NOT_FOUND, "no_such_service", detail)
    })
}
