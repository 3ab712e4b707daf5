//! What frames mean: answers of a worker as types, calls as bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::call::{Code, Content, Fault, Method, Part, Spooled, Tensor, TensorOf, Value};
use crate::frame::{Frame, Kind};

/// The version of the protocol.
pub(crate) const PROTOCOL: u32 = 1;

/// Who connects.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) token: String,
    pub(crate) epoch: u64,
    pub(crate) pid: Option<u32>,
    /// Versions in memory, of one that connects again.
    pub(crate) loaded: Vec<String>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            protocol: PROTOCOL,
            token: String::new(),
            epoch: 0,
            pid: None,
            loaded: Vec::new(),
        }
    }
}

/// What a worker is told at first.
#[derive(Debug, Serialize)]
pub(crate) struct Welcome<'a> {
    pub(crate) class: &'a str,
    pub(crate) data: &'a Path,
    pub(crate) concurrency: u32,
    pub(crate) files: bool,
    pub(crate) limits: WelcomeLimits,
}

/// Bounds that a worker should know.
#[derive(Debug, Serialize)]
pub(crate) struct WelcomeLimits {
    /// Most bytes of a result.
    pub(crate) message: u64,
}

/// What a worker serves.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ready {
    pub(crate) class: String,
    pub(crate) methods: BTreeMap<String, Method>,
    pub(crate) info: serde_json::Map<String, serde_json::Value>,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: Vec<Tensor>,
}

/// The class can't be had.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Failed {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) traceback: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Loaded {
    pub(crate) version: String,
    pub(crate) info: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A call failed in the worker.
#[derive(Debug, Deserialize)]
#[serde(default)]
pub(crate) struct Raised {
    pub(crate) code: Code,
    pub(crate) reason: String,
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) traceback: String,
}

impl Default for Raised {
    fn default() -> Self {
        Self {
            code: Code::Internal,
            reason: String::new(),
            kind: String::new(),
            message: String::new(),
            traceback: String::new(),
        }
    }
}

impl Raised {
    /// What the caller gets to see of it.
    pub(crate) fn fault(&self) -> Fault {
        Fault {
            code: self.code,
            reason: reason(&self.reason, self.code),
            exception: (!self.kind.is_empty()).then(|| self.kind.clone()),
            message: if self.message.is_empty() {
                format!(
                    "the model failed: {}",
                    if self.kind.is_empty() {
                        "no more is known"
                    } else {
                        &self.kind
                    }
                )
            } else {
                self.message.clone()
            },
        }
    }
}

/// Reasons are a fixed set: programs depend on them. What a worker says beyond is told by the code.
fn reason(said: &str, code: Code) -> &'static str {
    const KNOWN: [&str; 15] = [
        "model_error",
        "bad_arguments",
        "bad_result",
        "bad_version",
        "unknown_method",
        "unknown_version",
        "load_failed",
        "cancelled",
        "deadline",
        "memory",
        "disk_full",
        "result_too_large",
        "not_ready",
        "reserved_argument",
        "not_found",
    ];
    match KNOWN.iter().find(|known| **known == said) {
        Some(known) => known,
        None => match code {
            Code::InvalidArgument => "bad_arguments",
            Code::Unimplemented => "unknown_method",
            Code::NotFound => "not_found",
            Code::Cancelled => "cancelled",
            Code::DeadlineExceeded => "deadline",
            _ => "model_error",
        },
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Log {
    pub(crate) level: String,
    pub(crate) message: String,
    pub(crate) logger: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Want {
    bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResultMeta {
    json: Option<usize>,
    parts: Vec<PartMeta>,
}

/// How a part is told in a meta.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct PartMeta {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    remove: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    datatype: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<u64>>,
}

/// What a worker sends once it is ready.
#[derive(Debug)]
pub(crate) enum Incoming {
    Result {
        call: u64,
        value: Result<Value, Fault>,
    },
    Item {
        call: u64,
        value: Result<Value, Fault>,
    },
    Done {
        call: u64,
    },
    Error {
        call: u64,
        raised: Raised,
    },
    Loaded {
        call: u64,
        loaded: Loaded,
    },
    Log(Log),
    Progress {
        call: u64,
        progress: serde_json::Value,
    },
    Want {
        call: u64,
        bytes: u64,
    },
    /// Nothing to do: `RELEASED`, `PONG`.
    Nothing,
}

/// A worker broke the protocol; its connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("the meta of a {kind:?} frame is wrong: {why}")]
    Meta { kind: Kind, why: String },
    #[error("a {0:?} frame is not for a worker to send here")]
    Unexpected(Kind),
    #[error(transparent)]
    Frame(#[from] crate::frame::FrameError),
}

/// Reads a frame's meta.
pub(crate) fn meta<'a, T: Deserialize<'a> + Default>(frame: &'a Frame) -> Result<T, Broken> {
    if frame.meta.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&frame.meta).map_err(|error| Broken::Meta {
        kind: frame.kind,
        why: error.to_string(),
    })
}

impl Incoming {
    /// Reads a message. `files`: its worker sees the same files, so that a result may be one.
    ///
    /// # Errors
    /// The worker must not send this. Values that are wrong are faults of their call alone.
    pub(crate) fn read(frame: Frame, files: bool) -> Result<Self, Broken> {
        let call = frame.call;
        Ok(match frame.kind {
            Kind::Result => Self::Result {
                call,
                value: value(&frame, files)?,
            },
            Kind::Item => Self::Item {
                call,
                value: value(&frame, files)?,
            },
            Kind::Done => Self::Done { call },
            Kind::Error => Self::Error {
                call,
                raised: meta(&frame)?,
            },
            Kind::Loaded => Self::Loaded {
                call,
                loaded: meta(&frame)?,
            },
            Kind::Log => Self::Log(meta(&frame)?),
            Kind::Progress => Self::Progress {
                call,
                progress: meta(&frame)?,
            },
            Kind::Want => Self::Want {
                call,
                bytes: meta::<Want>(&frame)?.bytes,
            },
            Kind::Released | Kind::Pong => Self::Nothing,
            other => return Err(Broken::Unexpected(other)),
        })
    }
}

fn value(frame: &Frame, files: bool) -> Result<Result<Value, Fault>, Broken> {
    if frame.meta.is_empty() {
        return Ok(Ok(Value {
            json: frame.data.clone(),
            parts: Vec::new(),
        }));
    }
    let meta: ResultMeta = meta(frame)?;
    let data = &frame.data;
    let json = meta.json.unwrap_or(data.len());
    let mut wrong = (json > data.len()).then(|| "its JSON is longer than its data".to_owned());
    let json = json.min(data.len());
    let mut at = json;
    let mut parts = Vec::with_capacity(meta.parts.len());
    // All files are owned before the result is refused: those of a wrong one are removed, too.
    for part in meta.parts {
        let tensor = match (part.datatype, part.shape) {
            (Some(datatype), shape) => Some(TensorOf {
                datatype,
                shape: shape.unwrap_or_default(),
            }),
            _ => None,
        };
        let content = if let Some(path) = part.file {
            if !files {
                // The name of a file here, which is none of that worker's business.
                wrong.get_or_insert("it names a file of another machine".to_owned());
                continue;
            }
            let file = WorkerFile {
                path,
                len: part.size,
                remove: part.remove,
                open: None,
            };
            let file = file.held();
            match std::fs::metadata(&file.path) {
                Ok(found) if found.len() == part.size => Content::File(Arc::new(file)),
                Ok(found) => {
                    let (is, said) = (found.len(), part.size);
                    wrong.get_or_insert_with(|| format!("its file has {is} bytes, not {said}"));
                    continue;
                }
                Err(error) => {
                    wrong.get_or_insert_with(|| format!("its file cannot be read: {error}"));
                    continue;
                }
            }
        } else {
            let end = usize::try_from(part.size)
                .ok()
                .and_then(|size| at.checked_add(size));
            let Some(end) = end.filter(|end| *end <= data.len()) else {
                wrong.get_or_insert("its parts are longer than its data".to_owned());
                continue;
            };
            let bytes = data.slice(at..end);
            at = end;
            Content::Inline(bytes)
        };
        parts.push(Part {
            name: part.name,
            content,
            tensor,
        });
    }
    if let Some(why) = wrong {
        return Ok(Err(wrong_result(&why)));
    }
    Ok(Ok(Value {
        json: data.slice(..json),
        parts,
    }))
}

fn wrong_result(why: &str) -> Fault {
    Fault::new(
        Code::Internal,
        "bad_result",
        format!("the worker's result is broken: {why}"),
    )
}

/// A file that a worker gave as a result.
#[derive(Debug)]
struct WorkerFile {
    path: PathBuf,
    len: u64,
    remove: bool,
    /// What its path leads to, where it has no name any more.
    open: Option<std::fs::File>,
}

impl WorkerFile {
    /// Without a name from here on, where the system can do so: nothing is left behind, however worker and host end.
    fn held(mut self) -> Self {
        if cfg!(target_os = "linux")
            && self.remove
            && let Ok(open) = std::fs::File::open(&self.path)
        {
            let _ = std::fs::remove_file(&self.path);
            self.path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open)).into();
            self.remove = false;
            self.open = Some(open);
        }
        self
    }
}

impl Spooled for WorkerFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl Drop for WorkerFile {
    fn drop(&mut self) {
        if self.remove {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// How the parts of a call travel.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// `,"json":N,"parts":[…]`, or nothing where there are none.
    pub(crate) meta: String,
    /// Bytes behind the JSON in the frame.
    pub(crate) inline: Vec<Bytes>,
    /// A file that goes as `DATA` frames.
    pub(crate) stream: Option<Arc<dyn Spooled>>,
}

impl Parts {
    /// `files`: the worker sees the same files.
    ///
    /// # Errors
    /// Two files for a worker that sees none.
    pub(crate) fn of(json: usize, parts: &[Part], files: bool) -> Result<Self, Fault> {
        let mut out = Self::default();
        if parts.is_empty() {
            return Ok(out);
        }
        let mut metas = Vec::with_capacity(parts.len());
        for part in parts {
            let mut meta = PartMeta {
                name: part.name.clone(),
                ..PartMeta::default()
            };
            if let Some(tensor) = &part.tensor {
                meta.datatype = Some(tensor.datatype.clone());
                meta.shape = Some(tensor.shape.clone());
            }
            match &part.content {
                Content::Inline(bytes) => {
                    meta.size = bytes.len() as u64;
                    out.inline.push(bytes.clone());
                }
                Content::File(file) if files => {
                    meta.size = file.len();
                    meta.file = Some(file.path().to_owned());
                }
                Content::File(_) if out.stream.is_some() => {
                    return Err(Fault::new(
                        Code::InvalidArgument,
                        "bad_arguments",
                        "a worker of another machine takes one large argument a call",
                    ));
                }
                Content::File(file) => {
                    meta.size = file.len();
                    meta.stream = true;
                    out.stream = Some(Arc::clone(file));
                }
            }
            metas.push(meta);
        }
        let metas = serde_json::to_string(&metas).unwrap_or_default();
        out.meta = format!(",\"json\":{json},\"parts\":{metas}");
        Ok(out)
    }
}

/// Writes a JSON string.
pub(crate) fn put_json_text(out: &mut BytesMut, text: &str) {
    let plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        out.put_slice(serde_json::to_string(text).unwrap_or_default().as_bytes());
    }
}

#[cfg(test)]
mod tests;
