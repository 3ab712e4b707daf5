//! Virtual keys in the store: made, changed, revoked. What replicas know of them follows by the watch.
//!
//! No two keys have the same name. So that this holds for two who make a key at the same moment, a name is claimed in an entry of
//! its own before the key is written.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_state::{Entry, Error, Guard, InvalidKey, Key, Prefix, Store};

use super::book::Accounts;
use super::key::{self, Hash, Secret, VirtualKey};
use super::request::{KeyRequest, KeyUpdate};

/// A claim without its key is somebody who is just making it, or who failed; after so long it is the latter.
const SETTLED_MS: u64 = 10_000;
/// How often a change that met another one is tried again.
const TRIES: usize = 8;

/// Why a key was not made, changed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The request is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Another key has the name.
    #[error(
        "another virtual key has the name {0:?}: choose another name, or revoke that key first"
    )]
    NameTaken(String),
    /// There is no such key.
    #[error("there is no virtual key {0:?}")]
    Unknown(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] Error),
}

pub(super) fn prefix() -> Result<Prefix, InvalidKey> {
    Prefix::of(&["accounts", "keys"])
}

fn path(hash: &Hash) -> Result<Key, InvalidKey> {
    Key::of(&["accounts", "keys", &key::hash_text(hash)])
}

/// Names are of any letters and paths are not: the name's hash.
fn name_path(name: &str) -> Result<Key, InvalidKey> {
    Key::of(&["accounts", "names", &key::hash_text(&key::hash(name))])
}

pub(super) fn parse(path: &Key, entry: &Entry) -> Option<(Hash, VirtualKey)> {
    let hash = key::parse_hash(path.last())?;
    Some((hash, serde_json::from_slice(&entry.value).ok()?))
}

/// Who has a name.
#[derive(Serialize, Deserialize)]
struct Claim {
    id: String,
    /// Milliseconds since 1970.
    at: u64,
}

/// The keys that there are, with where they lie.
async fn all(store: &dyn Store) -> Result<Vec<(Key, Entry, VirtualKey)>, KeyError> {
    let listing = store.list(&prefix().map_err(Error::from)?).await?;
    let mut keys = Vec::new();
    for (path, entry) in listing.entries {
        if let Some((_, key)) = parse(&path, &entry) {
            keys.push((path, entry, key));
        }
    }
    Ok(keys)
}

fn json(value: &impl Serialize) -> Result<bytes::Bytes, KeyError> {
    let text = serde_json::to_vec(value).map_err(|e| KeyError::Invalid(e.to_string()))?;
    Ok(text.into())
}

/// Time until a key ends.
fn left(key: &VirtualKey, unix_ms: u64) -> Option<Duration> {
    let left = |at: u64| Duration::from_millis(at.saturating_sub(unix_ms).max(1));
    key.expires_at.map(left)
}

/// Makes a name the key's, as long as the key is there.
async fn claim(store: &dyn Store, key: &VirtualKey, unix_ms: u64) -> Result<(), KeyError> {
    let taken = || KeyError::NameTaken(key.name.clone());
    let path = name_path(&key.name).map_err(Error::from)?;
    let id = key.id.clone();
    let value = json(&Claim { id, at: unix_ms })?;
    for _ in 0..TRIES {
        let before = store.get(&path).await?;
        let has_it =
            |(_, _, other): &(Key, Entry, VirtualKey)| other.name == key.name && other.id != key.id;
        if all(store).await?.iter().any(has_it) {
            return Err(taken());
        }
        let guard = match before {
            None => Guard::absent(),
            Some(entry) => {
                let young = |claim: &Claim| {
                    claim.id != key.id && unix_ms.saturating_sub(claim.at) < SETTLED_MS
                };
                if serde_json::from_slice(&entry.value).is_ok_and(|claim| young(&claim)) {
                    return Err(taken());
                }
                Guard::version(entry.version)
            }
        };
        match store
            .put(&path, value.clone(), left(key, unix_ms), &guard)
            .await
        {
            Err(Error::Conflict { .. }) => {}
            answer => return Ok(answer.map(drop)?),
        }
    }
    Err(taken())
}

/// Gives a name free that the key had.
async fn disclaim(store: &dyn Store, name: &str, id: &str) {
    let Ok(path) = name_path(name) else { return };
    let Ok(Some(entry)) = store.get(&path).await else {
        return;
    };
    if serde_json::from_slice(&entry.value).is_ok_and(|claim: Claim| claim.id == id) {
        // Left behind, it is taken by the next one who wants the name.
        let _ = store.delete(&path, &Guard::version(entry.version)).await;
    }
}

impl Accounts {
    /// Makes a virtual key. Its token is shown here and never again: the store has its hash.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn create(
        store: &dyn Store,
        request: &KeyRequest,
        unix_ms: u64,
    ) -> Result<(VirtualKey, Secret), KeyError> {
        request.check().map_err(KeyError::Invalid)?;
        let (key, secret, hash) = VirtualKey::new(request, unix_ms);
        let value = json(&key)?;
        let path = path(&hash).map_err(Error::from)?;
        claim(store, &key, unix_ms).await?;
        let guard = Guard::absent();
        if let Err(error) = store.put(&path, value, request.expires(), &guard).await {
            disclaim(store, &key.name, &key.id).await;
            return Err(error.into());
        }
        Ok((key, secret))
    }

    /// Changes a key by its id, on every replica as soon as it hears of it. What was spent stays spent: limits count on as the
    /// same. Returns what it was and what it is.
    ///
    /// # Errors
    /// [`KeyError`]; then nothing is changed.
    pub async fn update(
        store: &dyn Store,
        id: &str,
        update: &KeyUpdate,
        unix_ms: u64,
    ) -> Result<(VirtualKey, VirtualKey), KeyError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let found = all(store).await?.into_iter().find(|(.., key)| key.id == id);
            let (path, entry, before) = found.ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
            let after = update.apply(&before, unix_ms).map_err(KeyError::Invalid)?;
            if after == before {
                return Ok((before, after));
            }
            let renamed = after.name != before.name;
            // The claim of a name ends with the key.
            if renamed || after.expires_at != before.expires_at {
                claim(store, &after, unix_ms).await?;
            }
            let guard = Guard::version(entry.version);
            let value = json(&after)?;
            match store.put(&path, value, left(&after, unix_ms), &guard).await {
                Ok(_) => {
                    if renamed {
                        disclaim(store, &before.name, id).await;
                    }
                    return Ok((before, after));
                }
                Err(error) => {
                    if renamed {
                        disclaim(store, &after.name, id).await;
                    }
                    // Somebody else changed it meanwhile: their change stays, and this one comes on top.
                    if !matches!(error, Error::Conflict { .. }) || tries == TRIES {
                        return Err(error.into());
                    }
                }
            }
        }
    }

    /// Revokes a key by its id: replicas refuse it as soon as they hear of it. Nothing of it stays in the store but counters,
    /// which end with their span.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn revoke(store: &dyn Store, id: &str) -> Result<VirtualKey, KeyError> {
        let found = all(store).await?.into_iter().find(|(.., key)| key.id == id);
        let (path, _, key) = found.ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
        store.delete(&path, &Guard::NONE).await?;
        disclaim(store, &key.name, id).await;
        Ok(key)
    }
}
