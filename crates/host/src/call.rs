//! What passes between the protocols and the workers: a call, its answer, and why there is none.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::progress::Progress;

/// A model as the protocols see it: one instance of a service, behind one socket.
#[async_trait]
pub trait Model: fmt::Debug + Send + Sync + 'static {
    /// What is known of the model; changes when it was loaded anew.
    fn about(&self) -> Arc<About>;

    /// Whether calls are taken: the worker is ready and not draining.
    fn ready(&self) -> bool;

    /// Resolves when [`Self::ready`] is no longer `known`.
    async fn changed(&self, known: bool);

    /// Runs a call. Dropping the future cancels it.
    ///
    /// # Errors
    /// Whatever keeps the call from an answer, told for the caller's eyes.
    async fn call(&self, call: Call) -> Result<Answer, Fault>;

    /// Loads a version (empty: the default one) unless it is; many who ask at once load once.
    ///
    /// # Errors
    /// It is unknown, or does not load.
    async fn load(&self, version: &str) -> Result<(), Fault>;

    /// Gives a version back after the calls that run on it; no error if it is not loaded.
    async fn release(&self, version: &str);

    /// Versions that are loaded, and those that a call could load.
    fn versions(&self) -> Vec<Version>;
}

/// A version of a model in the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its name; empty for the one without a name.
    pub name: String,
    /// Whether a call finds it in memory.
    pub loaded: bool,
}

/// What a worker tells of its model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Name of the service.
    pub service: String,
    /// Name of the instance.
    pub instance: String,
    /// `module:Class`, or the command.
    pub class: String,
    /// Version that a call without one gets.
    pub version: String,
    /// Public methods by name.
    pub methods: BTreeMap<String, Method>,
    /// What the model says of itself (`model_info`).
    pub info: serde_json::Map<String, serde_json::Value>,
    /// Tensors that `predict` takes and gives, where the model declares them (Open Inference Protocol metadata).
    pub inputs: Vec<Tensor>,
    /// See `inputs`.
    pub outputs: Vec<Tensor>,
}

/// A public method of a model.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Method {
    /// Gives items one by one (a generator).
    pub stream: bool,
    /// May be run again when a worker dies before it has answered.
    pub retry: bool,
    /// Names of parameters in order.
    pub parameters: Vec<String>,
    /// The name of the parameter that takes a binary input as a file, bytes or stream, if there is one.
    pub binary: Option<String>,
    /// Takes any keyword (`**kwargs`).
    pub any: bool,
    /// Leaves another model on the disk than is in memory: every worker lets the version go when it has succeeded.
    pub reload: bool,
    /// Calls are gathered into one of at most so many.
    pub batch: Option<Batch>,
    /// First paragraph of its documentation.
    pub doc: String,
}

impl Method {
    /// Whether a parameter of its own takes binary inputs, rather than `**kwargs`.
    #[must_use]
    pub(crate) fn names_binary(&self) -> bool {
        let named = |name: &String| self.parameters.contains(name);
        self.binary.as_ref().is_some_and(named)
    }

    /// Whether it gets a binary input even where the caller has none: aipod gives its models the argument `binary_data` in every call.
    #[must_use]
    pub(crate) fn always_binary(&self) -> bool {
        self.names_binary() && self.binary.as_deref() == Some("binary_data")
    }
}

/// Dynamic batching of a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Most calls in one, from 1.
    pub max_size: u32,
    /// How long the first of them waits for others, in microseconds.
    pub max_delay_us: u64,
}

/// A tensor's description, in the words of the Open Inference Protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// BOOL, UINT8 … FP64, BYTES.
    pub datatype: String,
    /// -1 where any length does.
    pub shape: Vec<i64>,
}

/// A call of a method.
#[derive(Debug, Clone)]
pub struct Call {
    /// Name of the method; whether it exists and is public is the model's to say.
    pub method: String,
    /// Version of the model; empty: the default one.
    pub version: String,
    /// Keyword arguments: a JSON object.
    pub kwargs: Bytes,
    /// Arguments that are no JSON; they are added to the keyword arguments by their names.
    pub parts: Vec<Part>,
    /// When nobody waits any longer.
    pub deadline: Option<Instant>,
    /// Overrides the method's own `retry`.
    pub retry: Option<bool>,
    /// Names the call in log events; the caller's `x-request-id`.
    pub id: String,
    /// Takes what the call tells of how far it is, where the caller wants to know.
    pub progress: Option<Progress>,
}

/// An argument or a result that is no JSON.
#[derive(Debug, Clone)]
pub struct Part {
    /// Name of the argument; empty: the method's binary argument.
    pub name: String,
    /// The bytes, or where they are.
    pub content: Content,
    /// What a tensor is; `None`: plain bytes.
    pub tensor: Option<TensorOf>,
}

/// Where bytes are.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory: for what is small.
    Inline(Bytes),
    /// In a file that lives as long as this handle and its clones.
    File(Arc<dyn Spooled>),
}

/// A file that holds an upload, removed with its last handle unless it is kept for somebody.
pub trait Spooled: fmt::Debug + Send + Sync + 'static {
    /// Where it is.
    fn path(&self) -> &Path;
    /// Its length in bytes.
    fn len(&self) -> u64;
    /// Whether it is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Type and shape of raw tensor bytes (little-endian, row-major; BYTES: each element behind its length as a `u32`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorOf {
    /// As in [`Tensor`].
    pub datatype: String,
    /// Lengths of the axes.
    pub shape: Vec<u64>,
}

/// What a method gave.
#[derive(Debug)]
pub enum Answer {
    /// One value.
    Value(Value),
    /// Items of a generator.
    Items(Items),
}

/// One value: a result, or an item of a stream.
#[derive(Debug, Clone, Default)]
pub struct Value {
    /// JSON text; `null` where the value is made of parts alone.
    pub json: Bytes,
    /// Bytes and tensors beside it, by name. A result that is one `bytes` object is one part without a name or type.
    pub parts: Vec<Part>,
}

/// Items of a generator as they come; the next one is asked for when this one was taken. Dropping it cancels the call.
#[derive(Debug)]
pub struct Items {
    /// Ends after the last item, or with a fault.
    pub receiver: mpsc::Receiver<Result<Value, Fault>>,
}

/// Why a call has no answer, in the words of gRPC's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The caller left.
    Cancelled,
    /// Nothing better is known.
    Unknown,
    /// The arguments do not fit.
    InvalidArgument,
    /// The deadline passed, or the model's time for a call.
    DeadlineExceeded,
    /// No such model or version.
    NotFound,
    /// There is one of that name.
    AlreadyExists,
    /// Not for this caller.
    PermissionDenied,
    /// A bound is reached: queue, memory, disk, size.
    ResourceExhausted,
    /// The model is not in the state for it.
    FailedPrecondition,
    /// Given up, may be tried again.
    Aborted,
    /// Beyond the valid range.
    OutOfRange,
    /// No such public method.
    Unimplemented,
    /// The model failed: an exception, a result that can't be written.
    Internal,
    /// No worker: not started, draining, crashed; may be tried again.
    Unavailable,
    /// Bytes were lost.
    DataLoss,
    /// Who is it?
    Unauthenticated,
}

/// A failed call, told for the caller's eyes. The traceback goes to the log, never to the caller.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind.
    pub code: Code,
    /// Short and stable, for programs: `model_error`, `worker_crashed`, `bad_arguments`, `unknown_method`, `queue_full`, ….
    pub reason: &'static str,
    /// Type of the exception, where the model raised one.
    pub exception: Option<String>,
    /// A clear sentence.
    pub message: String,
}

impl Fault {
    /// A fault without an exception.
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            exception: None,
            message: message.into(),
        }
    }
}

/// A file that nobody removes: an input that is not ours.
#[derive(Debug)]
pub struct Foreign {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub len: u64,
}

impl Spooled for Foreign {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }
}
