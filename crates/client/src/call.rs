//! A call: what is asked, and the attempts at it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic_prost::ProstCodec;

use crate::balance::Picked;
use crate::error::Failed;
use crate::message;
use crate::upload::{Input, OnUpload};
use crate::{Client, Error, Retry};

/// Told of each heartbeat of the host.
pub type OnHeartbeat = Arc<dyn Fn() + Send + Sync>;

/// Told of what the method says of how far it is.
pub type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// How far a method is that runs (`Model.progress` in Python).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// From 0 to 1; `None` where the method does not say.
    pub progress: Option<f64>,
    /// A sentence.
    pub message: Option<String>,
    /// What of the work it is at.
    pub stage: Option<String>,
    /// `running`, or a word of the method's own.
    pub status: Option<String>,
    /// Whatever else the method tells.
    pub data: Value,
}

/// Methods that may run twice without saying so.
const REPEATABLE: [&str; 2] = ["predict", "log"];

/// A call that is not made yet. Made by [`Client::call`].
#[must_use = "a call does nothing until it is sent"]
pub struct Call {
    pub(crate) client: Client,
    pub(crate) method: String,
    pub(crate) kwargs: Result<Map<String, Value>, Error>,
    pub(crate) version: String,
    pub(crate) metadata: MetadataMap,
    pub(crate) retry: Retry,
    pub(crate) deadline: Option<Duration>,
    pub(crate) repeatable: bool,
    pub(crate) input: Option<Input>,
    pub(crate) resume: bool,
    pub(crate) on_upload: Option<OnUpload>,
    pub(crate) on_heartbeat: Option<OnHeartbeat>,
    pub(crate) on_progress: Option<OnProgress>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.method)
            .field("version", &self.version)
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

impl Call {
    pub(crate) fn new(client: Client, method: String) -> Self {
        let settings = &client.inner.settings;
        Self {
            kwargs: Ok(Map::new()),
            version: settings.version.clone(),
            metadata: MetadataMap::new(),
            retry: settings.retry.clone(),
            deadline: settings.deadline,
            repeatable: REPEATABLE.contains(&method.as_str()),
            input: None,
            resume: true,
            on_upload: None,
            on_heartbeat: None,
            on_progress: None,
            method,
            client,
        }
    }

    /// Keyword arguments: anything that is a JSON object.
    pub fn kwargs<K: Serialize + ?Sized>(mut self, kwargs: &K) -> Self {
        self.kwargs = match serde_json::to_value(kwargs) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(Error::Arguments(
                "keyword arguments are a JSON object".to_owned(),
            )),
            Err(error) => Err(Error::Arguments(error.to_string())),
        };
        self
    }

    /// Version of the model.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// The method's binary argument.
    pub fn input(mut self, input: Input) -> Self {
        self.input = Some(input);
        self
    }

    /// Time for the whole call, all attempts and waits included.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How it is tried again when it fails.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The call may run twice: it is tried again although it may have run, here and at the host. `predict` and `log` always may.
    ///
    /// The key (visible ASCII) names the call, in all its attempts.
    ///
    /// # Errors
    /// [`Error::Arguments`]: no key.
    pub fn idempotency_key(mut self, key: &str) -> Result<Self, Error> {
        self.repeatable = true;
        self.metadata("idempotency-key", key)
    }

    /// Metadata that goes with the call.
    ///
    /// # Errors
    /// [`Error::Arguments`]: not allowed in metadata.
    pub fn metadata(mut self, name: &str, value: &str) -> Result<Self, Error> {
        let wrong = |_| Error::Arguments(format!("no metadata: {name}: {value:?}"));
        let name = AsciiMetadataKey::from_bytes(name.as_bytes())
            .map_err(|_| Error::Arguments(format!("no name of metadata: {name:?}")))?;
        let value = AsciiMetadataValue::try_from(value).map_err(wrong)?;
        self.metadata.insert(name, value);
        Ok(self)
    }

    /// Whether an upload whose connection breaks goes on where it was. Default: yes, from 16 MiB on.
    pub fn resume(mut self, yes: bool) -> Self {
        self.resume = yes;
        self
    }

    /// Is told how far the upload is: bytes sent (before compression), and in all where that is known.
    pub fn on_upload(mut self, told: impl Fn(u64, Option<u64>) + Send + Sync + 'static) -> Self {
        self.on_upload = Some(Arc::new(told));
        self
    }

    /// Is told of each heartbeat.
    pub fn on_heartbeat(mut self, told: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_heartbeat = Some(Arc::new(told));
        self
    }

    /// Is told how far the method is, as often as it says so, before the result. Not of a [`Call::unary`] one.
    pub fn on_progress(mut self, told: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(told));
        self
    }

    /// Calls `initialize`, `train`, `predict` or `log` as one message each way, as aipod does. An input must be [`Input::bytes`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn unary(self) -> Result<Value, Error> {
        let kwargs = self.kwargs?;
        let wrong = |error: serde_json::Error| Error::Arguments(error.to_string());
        let binary = match self.input {
            None => Bytes::new(),
            Some(input) => input.into_bytes().ok_or_else(|| {
                Error::Arguments("a unary call takes its input as bytes".to_owned())
            })?,
        };
        let input = message::Input {
            kwargs_json: serde_json::to_vec(&kwargs).map_err(wrong)?.into(),
            version: self.version,
            binary_data: binary,
        };
        let path = PathAndQuery::try_from(format!("/ai.AI/{}", self.method))
            .map_err(|error| Error::Arguments(error.to_string()))?;
        let mut attempts = Attempts::new(&self.client, self.retry, self.deadline, self.repeatable);
        loop {
            let picked = attempts.pick(None).await?;
            let mut request = tonic::Request::new(input.clone());
            *request.metadata_mut() = self.metadata.clone();
            attempts.stamp(&mut request);
            let limit = self.client.inner.settings.limit;
            let attempt = unary::<_, message::Output>(&picked, request, path.clone(), limit);
            match attempts.within(attempt).await? {
                Ok(output) => {
                    attempts.succeeded();
                    return serde_json::from_slice(&output.data_json)
                        .map_err(|error| Error::Answer(error.to_string()));
                }
                Err(failed) => attempts.failed(&picked, failed, false).await?,
            }
        }
    }
}

/// One unary call at one member.
pub(crate) async fn unary<I, O>(
    picked: &Picked,
    request: tonic::Request<I>,
    path: PathAndQuery,
    limit: usize,
) -> Result<O, Failed>
where
    I: prost::Message + 'static,
    O: prost::Message + Default + 'static,
{
    let member = &picked.0;
    let mut grpc = Grpc::new(member.channel.clone())
        .max_decoding_message_size(limit)
        .max_encoding_message_size(usize::MAX);
    let made = async {
        grpc.ready()
            .await
            .map_err(|error| tonic::Status::from_error(error.into()))?;
        grpc.unary(request, path, ProstCodec::<I, O>::default())
            .await
    };
    let answer = made
        .await
        .map_err(|status| Failed::of(&member.address, &status))?;
    member.answered();
    Ok(answer.into_inner())
}

/// The attempts at one call.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    client: &'a Client,
    retry: Retry,
    deadline: Option<Instant>,
    repeatable: bool,
    pub(crate) made: u32,
    tried: Vec<Arc<str>>,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(
        client: &'a Client,
        retry: Retry,
        deadline: Option<Duration>,
        repeatable: bool,
    ) -> Self {
        Self {
            client,
            retry,
            deadline: deadline.map(|time| Instant::now() + time),
            repeatable,
            made: 0,
            tried: Vec::new(),
        }
    }

    /// Where the next attempt goes: to `wanted` if that can be reached. Waits for an address as for another attempt.
    pub(crate) async fn pick(&mut self, wanted: Option<&str>) -> Result<Picked, Error> {
        let members = &self.client.inner.members;
        let picked = loop {
            self.made += 1;
            let now = std::time::Instant::now();
            match wanted
                .and_then(|address| members.at(address, now))
                .or_else(|| members.pick(&self.tried, now))
            {
                Some(picked) => break picked,
                None => self.wait(Failed::unknown(), true).await?,
            }
        };
        if self.tried.contains(&picked.0.address) {
            self.tried.clear();
        }
        self.tried.push(Arc::clone(&picked.0.address));
        Ok(picked)
    }

    /// Tells the host what is left of the deadline, and how many attempts there were.
    pub(crate) fn stamp<T>(&self, request: &mut tonic::Request<T>) {
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        if self.made > 1 {
            request.metadata_mut().insert(
                "grpc-previous-rpc-attempts",
                AsciiMetadataValue::from(self.made - 1),
            );
        }
    }

    /// Bounds an attempt by the deadline.
    pub(crate) async fn within<T>(&self, attempt: impl Future<Output = T>) -> Result<T, Error> {
        match self.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, attempt)
                .await
                .map_err(|_| Error::Deadline),
            None => Ok(attempt.await),
        }
    }

    pub(crate) fn succeeded(&self) {
        self.client.inner.tokens().succeeded();
    }

    /// Waits for the next attempt, or gives the failure back. `safe`: the method can't have run.
    pub(crate) async fn failed(
        &mut self,
        picked: &Picked,
        failed: Failed,
        safe: bool,
    ) -> Result<(), Error> {
        if failed.connection {
            picked.0.failed(std::time::Instant::now());
        } else {
            picked.0.answered();
        }
        if failed.connection
            && failed.unsent
            && self.tried.len() < self.client.inner.members.list().len()
        {
            // Nobody was asked yet: another one is, at once.
            self.made -= 1;
            return Ok(());
        }
        let safe = self.repeatable || safe || failed.unsent;
        self.wait(failed, safe).await
    }

    async fn wait(&self, failed: Failed, safe: bool) -> Result<(), Error> {
        if self
            .deadline
            .is_some_and(|deadline| deadline <= Instant::now())
        {
            return Err(Error::Deadline);
        }
        let code = failed.code();
        let wait = self.retry.next(
            self.made,
            code,
            failed.pushback,
            !safe || failed.certain,
            fastrand::f64(),
        );
        let allowed = !self.retry.codes.contains(&code) || self.client.inner.tokens().failed();
        let Some(wait) = wait.filter(|_| allowed) else {
            return Err(failed.error);
        };
        let wake = Instant::now() + wait;
        if self.deadline.is_some_and(|deadline| deadline <= wake) {
            // No attempt fits into what is left: the failure says more than "too late".
            return Err(failed.error);
        }
        tokio::time::sleep_until(wake).await;
        Ok(())
    }
}
