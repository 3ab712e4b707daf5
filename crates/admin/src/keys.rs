//! Virtual keys: made, listed, changed and revoked.

use std::fmt;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_gateway::view::VirtualKeyView;
use tidegate_gateway::{KeyError, KeyRequest, KeyUpdate, StoreError};

use crate::api::{Shared, Stamp, path};
use crate::problem::Problem;

/// A virtual key that was just made: the one answer that holds its token.
#[derive(Clone, Serialize, Deserialize)]
pub struct CreatedKey {
    /// The key.
    #[serde(flatten)]
    pub key: VirtualKeyView,
    /// What callers show. The store has only its hash: nobody can tell it again.
    pub token: String,
}

/// Without the token.
impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CreatedKey").field(&self.key).finish()
    }
}

/// The answer of `/api/v1/keys`.
#[derive(Serialize)]
pub(crate) struct Keys {
    #[serde(flatten)]
    stamp: Stamp,
    keys: Vec<VirtualKeyView>,
}

pub(crate) async fn list(State(shared): State<Arc<Shared>>) -> Result<Json<Keys>, Problem> {
    let keys = shared
        .source
        .virtual_keys()
        .map_err(|error| store(&error))?;
    let stamp = shared.stamp();
    Ok(Json(Keys { stamp, keys }))
}

pub(crate) async fn one(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<VirtualKeyView>, Problem> {
    let id = path(id)?;
    let keys = shared
        .source
        .virtual_keys()
        .map_err(|error| store(&error))?;
    let found = keys.into_iter().find(|key| key.id == id);
    found
        .map(Json)
        .ok_or_else(|| problem(&KeyError::Unknown(id)))
}

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    body: Body,
) -> Result<(StatusCode, Json<CreatedKey>), Problem> {
    let request: KeyRequest = read(&shared, body, "request for a key").await?;
    // In a task of its own: a caller that hangs up does not stop the write half way. Its key is made all the same; nobody has the
    // token, and the list shows it, to be revoked.
    let source = Arc::clone(&shared.source);
    let made = tokio::spawn(async move { source.create_virtual_key(&request).await });
    let made = made.await.map_err(|_| lost())?;
    made.map(|key| (StatusCode::CREATED, Json(key)))
        .map_err(|error| problem(&error))
}

/// What is not named stays; `null` removes.
pub(crate) async fn update(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<VirtualKeyView>, Problem> {
    let id = path(id)?;
    let update: KeyUpdate = read(&shared, body, "change of a key").await?;
    let source = Arc::clone(&shared.source);
    let changed = tokio::spawn(async move { source.update_virtual_key(&id, &update).await });
    let changed = changed.await.map_err(|_| lost())?;
    changed.map(Json).map_err(|error| problem(&error))
}

pub(crate) async fn revoke(
    State(shared): State<Arc<Shared>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<VirtualKeyView>, Problem> {
    let id = path(id)?;
    let source = Arc::clone(&shared.source);
    let gone = tokio::spawn(async move { source.revoke_virtual_key(&id).await });
    let gone = gone.await.map_err(|_| lost())?;
    gone.map(Json).map_err(|error| problem(&error))
}

/// A body in JSON; `what` it should be.
async fn read<T: DeserializeOwned>(shared: &Shared, body: Body, what: &str) -> Result<T, Problem> {
    let most = usize::try_from(shared.options.limits.body_bytes).unwrap_or(usize::MAX);
    let body = to_bytes(body, most).await.map_err(|_| {
        let detail = format!("a body here has at most {most} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is no {what}: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "bad_body", detail)
    })
}

fn problem(error: &KeyError) -> Problem {
    match error {
        KeyError::Invalid(detail) => {
            Problem::new(StatusCode::BAD_REQUEST, "bad_key", detail.as_str())
        }
        KeyError::NameTaken(_) => {
            Problem::new(StatusCode::CONFLICT, "name_taken", error.to_string())
        }
        KeyError::Unknown(_) => {
            Problem::new(StatusCode::NOT_FOUND, "no_such_key", error.to_string())
        }
        KeyError::Store(error) => store(error),
    }
}

fn store(error: &StoreError) -> Problem {
    let detail = error.to_string();
    match error.is_unavailable() {
        true => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail),
        false => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", detail),
    }
}

fn lost() -> Problem {
    let detail = "the operation ended without an answer; the log says why";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", detail)
}
