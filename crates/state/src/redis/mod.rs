//! A store in Redis (6.0 or newer, or Valkey), for processes on several machines.
//!
//! Operations are scripts (see [`scripts`]) over a connection that is made again whenever it breaks; changes come by
//! publish and subscribe (see [`feed`]). The store is as durable as that Redis is set up to be; what makes the
//! difference is `appendonly`. Redis that forgets writes, because of a restart without a file or a failover, costs what
//! it forgot, but versions and epochs go on growing, for they follow its clock.

mod feed;
mod scripts;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Script};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::key::Key;
use crate::ledger::whole_ms;
use crate::open::OpenError;
use crate::operation::{Answer, Backend, Front, Operation, PATIENCE};
use crate::store::{Add, Entry, Epoch, Expect, Fence, Guard, LeaseView, Listing, Store, Version};
use crate::watch::Feed;

/// Time for a connection to be made, and for one answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Wait before a repeatable operation is tried again.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest wait between two looks for entries that have ended: another process may have written one meanwhile.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);

struct Redis {
    scripts: Scripts,
    connection: ConnectionManager,
    /// What all keys begin with.
    space: String,
    feed: Arc<Feed>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Clone)]
struct Scripts {
    get: Script,
    list: Script,
    put: Script,
    delete: Script,
    acquire: Script,
    renew: Script,
    release: Script,
    lease: Script,
    add: Script,
}

/// The store in this Redis: `redis://[USER:PASSWORD@]HOST[:PORT][/DB]`, or `rediss://` for TLS, in the keys that begin
/// with `{PREFIX}:`. Redis need not be there yet: operations answer that the store is not available until it is.
///
/// # Errors
/// [`OpenError::Url`].
///
/// # Panics
/// Outside of a tokio runtime: tasks follow changes and remove what has ended.
pub fn redis(url: &str, prefix: &str) -> Result<Arc<dyn Store>, OpenError> {
    let bad = |error: redis::RedisError| OpenError::Url {
        // What the crate says of a URL does not hold it.
        reason: format!("the Redis URL cannot be used: {error}"),
    };
    // The client asks for the process' own choice of cryptography, and panics where there is none. One that was made
    // already stays.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::open(url).map_err(bad)?;
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(ANSWER))
        .set_response_timeout(Some(ANSWER))
        .set_min_delay(Duration::from_millis(20))
        .set_max_delay(Duration::from_millis(500))
        .set_number_of_retries(3);
    let connection =
        ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(bad)?;
    let space = format!("{{{prefix}}}:");
    let feed = Arc::new(Feed::new(false));
    let tasks = [
        tokio::spawn(feed::follow(
            client,
            format!("{space}changes"),
            Arc::clone(&feed),
        )),
        tokio::spawn(expire(connection.clone(), space.clone())),
    ];
    Ok(Arc::new(Front(Arc::new(Redis {
        scripts: Scripts::new(),
        connection,
        space,
        feed,
        tasks,
    }))))
}

impl Scripts {
    fn new() -> Self {
        Self {
            get: scripts::script(scripts::GET),
            list: scripts::script(scripts::LIST),
            put: scripts::script(scripts::PUT),
            delete: scripts::script(scripts::DELETE),
            acquire: scripts::script(scripts::ACQUIRE),
            renew: scripts::script(scripts::RENEW),
            release: scripts::script(scripts::RELEASE),
            lease: scripts::script(scripts::LEASE),
            add: scripts::script(scripts::ADD),
        }
    }
}

/// Removes entries whose time to live is over, so that watchers hear of it.
async fn expire(mut connection: ConnectionManager, space: String) {
    let script = scripts::script(scripts::EXPIRE);
    loop {
        let answer: Result<Vec<String>, _> = script.key(&space).invoke_async(&mut connection).await;
        // `-`: nothing has an end; an error: another look.
        let due = answer
            .ok()
            .and_then(|answer| answer.get(1)?.parse().ok())
            .map_or(EXPIRE_EVERY, Duration::from_millis);
        tokio::time::sleep(due.clamp(Duration::from_millis(1), EXPIRE_EVERY)).await;
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the connection: it knows a password.
        f.debug_struct("Redis")
            .field("space", &self.space)
            .finish_non_exhaustive()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[async_trait]
impl Backend for Redis {
    async fn execute(&self, operation: Operation) -> Result<Answer, Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let failure = match timeout_at(deadline, self.once(&operation)).await {
                Ok(Err(error)) if error.is_unavailable() => error,
                Ok(answer) => return answer,
                Err(_) => return Err(Error::unavailable("Redis does not answer")),
            };
            if !operation.is_repeatable() || Instant::now() + AGAIN >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }
}

/// What a script answered.
type Row = Vec<Bytes>;

impl Redis {
    async fn once(&self, operation: &Operation) -> Result<Answer, Error> {
        match operation {
            Operation::Get { key } => {
                let row = self
                    .call(&self.scripts.get, &[key.as_str().as_bytes()])
                    .await?;
                let mut fields = Fields::unguarded(row)?;
                Ok(Answer::Entry(if fields.is_empty() {
                    None
                } else {
                    Some(fields.entry()?)
                }))
            }
            Operation::List { prefix } => {
                let argument = prefix.as_str().as_bytes();
                let row = self.call(&self.scripts.list, &[argument]).await?;
                let mut fields = Fields::unguarded(row)?;
                let version = Version(fields.number()?);
                let mut entries = Vec::with_capacity(fields.len() / 4);
                while !fields.is_empty() {
                    entries.push((fields.key()?, fields.entry()?));
                }
                Ok(Answer::Listing(Listing { version, entries }))
            }
            Operation::Put {
                key,
                value,
                ttl_ms,
                guard,
            } => {
                let [expect, lease, epoch] = guard_arguments(guard);
                let ttl = ttl_ms.map(|ttl| ttl.to_string()).unwrap_or_default();
                let arguments = [
                    key.as_str().as_bytes(),
                    expect.as_bytes(),
                    lease.as_bytes(),
                    epoch.as_bytes(),
                    value,
                    ttl.as_bytes(),
                ];
                let row = self.call(&self.scripts.put, &arguments).await?;
                Ok(Answer::Written(Version(
                    Fields::of_write(row, key, guard)?.number()?,
                )))
            }
            Operation::Delete { key, guard } => {
                let [expect, lease, epoch] = guard_arguments(guard);
                let arguments = [key.as_str(), &expect, &lease, &epoch].map(str::as_bytes);
                let row = self.call(&self.scripts.delete, &arguments).await?;
                Ok(Answer::Deleted(
                    Fields::of_write(row, key, guard)?.number()? == 1,
                ))
            }
            Operation::Acquire {
                name,
                holder,
                ttl_ms,
            } => {
                let ttl = ttl_ms.to_string();
                let arguments = [name.as_str(), holder, &ttl].map(str::as_bytes);
                let row = self.call(&self.scripts.acquire, &arguments).await?;
                let mut fields = Fields::of_lease(row, name, Epoch(0))?;
                Ok(Answer::Acquired(Epoch(fields.number()?)))
            }
            Operation::Renew {
                name,
                holder,
                epoch,
                ttl_ms,
            } => {
                let (number, ttl) = (epoch.to_string(), ttl_ms.to_string());
                let arguments = [name.as_str(), holder, &number, &ttl].map(str::as_bytes);
                let row = self.call(&self.scripts.renew, &arguments).await?;
                Fields::of_lease(row, name, *epoch).map(|_| Answer::Renewed)
            }
            Operation::Release {
                name,
                holder,
                epoch,
            } => {
                let number = epoch.to_string();
                let arguments = [name.as_str(), holder, &number].map(str::as_bytes);
                let row = self.call(&self.scripts.release, &arguments).await?;
                Fields::of_lease(row, name, *epoch).map(|_| Answer::Released)
            }
            Operation::Lease { name } => {
                let argument = name.as_str().as_bytes();
                let row = self.call(&self.scripts.lease, &[argument]).await?;
                let mut fields = Fields::unguarded(row)?;
                if fields.is_empty() {
                    return Ok(Answer::Lease(None));
                }
                let epoch = Epoch(fields.number()?);
                let held = if fields.is_empty() {
                    None
                } else {
                    Some((fields.text()?, fields.left()?.unwrap_or_default()))
                };
                Ok(Answer::Lease(Some(LeaseView { epoch, held })))
            }
            Operation::Add { adds } => self.add(adds).await,
        }
    }

    async fn add(&self, adds: &[Add]) -> Result<Answer, Error> {
        let mut arguments = Vec::with_capacity(adds.len() * 4);
        for Add {
            key,
            delta,
            ceiling,
            ttl,
        } in adds
        {
            arguments.push(key.to_string());
            arguments.push(delta.to_string());
            arguments.push(
                ceiling
                    .map(|ceiling| ceiling.to_string())
                    .unwrap_or_default(),
            );
            arguments.push(ttl.map(|ttl| whole_ms(ttl).to_string()).unwrap_or_default());
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let row = self.call(&self.scripts.add, &arguments).await?;
        let mut fields = Fields::unguarded(row)?;
        let mut values = Vec::with_capacity(adds.len());
        while !fields.is_empty() {
            values.push(fields.number()?);
        }
        Ok(Answer::Added(values))
    }

    async fn call(&self, script: &Script, arguments: &[&[u8]]) -> Result<Row, Error> {
        let mut invocation = script.key(&self.space);
        for argument in arguments {
            invocation.arg(*argument);
        }
        let mut connection = self.connection.clone();
        // Also what is wrong with the set-up (rights, memory): it is nothing that a caller could do differently.
        invocation
            .invoke_async(&mut connection)
            .await
            .map_err(Error::unavailable)
    }
}

fn guard_arguments(guard: &Guard) -> [String; 3] {
    let expect = match guard.expect {
        Expect::Any => "any".to_owned(),
        Expect::Absent => "absent".to_owned(),
        Expect::Version(version) => version.to_string(),
    };
    let (lease, epoch) = match &guard.fence {
        Some(Fence { lease, epoch }) => (lease.to_string(), epoch.to_string()),
        None => Default::default(),
    };
    [expect, lease, epoch]
}

/// The fields of a script's answer, one after the other.
struct Fields(std::vec::IntoIter<Bytes>);

impl Fields {
    /// The answer to a write.
    fn of_write(row: Row, key: &Key, guard: &Guard) -> Result<Self, Error> {
        let fence = guard.fence.as_ref();
        Self::begin(row, |tag, fields| match tag {
            b"conflict" => Some(Error::Conflict {
                key: key.clone(),
                current: fields.number().ok().map(Version),
            }),
            b"fenced" => fence.map(|fence| fields.fenced(&fence.lease, fence.epoch)),
            _ => None,
        })
    }

    fn of_lease(row: Row, name: &Key, epoch: Epoch) -> Result<Self, Error> {
        Self::begin(row, |tag, fields| match tag {
            b"held" => Some(Error::Held {
                lease: name.clone(),
                holder: fields.text().ok()?,
                remaining: fields.left().ok()??,
            }),
            b"fenced" => Some(fields.fenced(name, epoch)),
            _ => None,
        })
    }

    fn unguarded(row: Row) -> Result<Self, Error> {
        Self::begin(row, |tag, fields| match tag {
            b"ceiling" => Some(Error::Ceiling {
                key: fields.key().ok()?,
                value: fields.number().ok()?,
                ceiling: fields.number().ok()?,
            }),
            _ => None,
        })
    }

    fn begin(
        row: Row,
        refusal: impl FnOnce(&[u8], &mut Self) -> Option<Error>,
    ) -> Result<Self, Error> {
        let mut fields = Self(row.into_iter());
        let tag = fields.next()?;
        if &tag[..] == b"ok" {
            return Ok(fields);
        }
        Err(refusal(&tag, &mut fields).unwrap_or_else(strange))
    }

    fn fenced(&mut self, lease: &Key, epoch: Epoch) -> Error {
        Error::Fenced {
            lease: lease.clone(),
            epoch,
            current: self.number().ok().map(Epoch),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn next(&mut self) -> Result<Bytes, Error> {
        self.0.next().ok_or_else(strange)
    }

    fn text(&mut self) -> Result<String, Error> {
        String::from_utf8(self.next()?.into()).map_err(|_| strange())
    }

    fn number(&mut self) -> Result<u64, Error> {
        self.text()?.parse().map_err(|_| strange())
    }

    fn key(&mut self) -> Result<Key, Error> {
        Key::parse(&self.text()?).map_err(|_| strange())
    }

    /// Time that is left; `-`: no end.
    fn left(&mut self) -> Result<Option<Duration>, Error> {
        let text = self.text()?;
        if text == "-" {
            return Ok(None);
        }
        text.parse()
            .map(|ms| Some(Duration::from_millis(ms)))
            .map_err(|_| strange())
    }

    fn entry(&mut self) -> Result<Entry, Error> {
        Ok(Entry {
            value: self.next()?,
            version: Version(self.number()?),
            expires_in: self.left()?,
        })
    }
}

fn strange() -> Error {
    Error::unavailable("what Redis holds was not written by Tidegate")
}
