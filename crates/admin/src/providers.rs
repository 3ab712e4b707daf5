//! Providers of language models with their keys.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use tidegate_gateway::RestoreError;
use tidegate_gateway::view::{ProviderView, StoreView};

use crate::api::{Shared, Stamp, path};
use crate::problem::Problem;

/// The answer of `/api/v1/providers`.
#[derive(Serialize)]
pub(crate) struct Providers {
    #[serde(flatten)]
    stamp: Stamp,
    store: StoreView,
    providers: Vec<ProviderView>,
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Json<Providers> {
    Json(Providers {
        stamp: shared.stamp(),
        store: shared.source.store(),
        providers: shared.source.providers(),
    })
}

pub(crate) async fn one(
    State(shared): State<Arc<Shared>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<ProviderView>, Problem> {
    find(&shared, &path(name)?).map(Json)
}

/// A key is used again. The answer shows what came of it.
pub(crate) async fn restore(
    State(shared): State<Arc<Shared>>,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ProviderView>, Problem> {
    let (provider, key) = path(names)?;
    shared
        .source
        .restore_key(&provider, &key)
        .map_err(|error| {
            let (status, code) = match error {
                RestoreError::Provider(_) => (StatusCode::NOT_FOUND, "no_such_provider"),
                RestoreError::Key { .. } => (StatusCode::NOT_FOUND, "no_such_key"),
                RestoreError::Ambiguous { .. } => (StatusCode::CONFLICT, "ambiguous_key"),
            };
            Problem::new(status, code, error.to_string())
        })?;
    find(&shared, &provider).map(Json)
}

fn find(shared: &Shared, name: &str) -> Result<ProviderView, Problem> {
    let found = shared
        .source
        .providers()
        .into_iter()
        .find(|p| p.name == name);
    found.ok_or_else(|| {
        let detail = format!("no provider has the name {name:?}; /api/v1/providers lists them");
        Problem::new(StatusCode::NOT_FOUND, "no_such_provider", detail)
    })
}
