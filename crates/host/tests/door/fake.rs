//! A model that does what a test needs, and a door before it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tidegate_host::door::{DoorOptions, serve};
use tidegate_host::spool::{Spool, SpoolLimits};
use tidegate_host::{
    About, Answer, Call, Code, Content, Fault, Items, Method, Model, Part, Tensor, TensorOf, Value,
    Version,
};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// The made-up model.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) ready: watch::Sender<bool>,
    /// The worker has not told yet what it serves.
    pub(crate) blank: AtomicBool,
    /// Lets `slow` and `hang` go.
    pub(crate) release: Notify,
    /// Calls that run.
    pub(crate) running: AtomicUsize,
    /// Calls that were given up before they had answered.
    pub(crate) cancelled: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    /// How many inputs of the last call were files.
    pub(crate) files: AtomicUsize,
    /// Whether `crash` crashes.
    pub(crate) crashes: AtomicBool,
    pub(crate) loaded: std::sync::Mutex<Vec<String>>,
    about: Arc<About>,
}

fn method(stream: bool, binary: Option<&str>) -> Method {
    Method {
        stream,
        parameters: binary.map(str::to_owned).into_iter().collect(),
        binary: binary.map(str::to_owned),
        any: true,
        ..Method::default()
    }
}

impl Default for Fake {
    fn default() -> Self {
        let mut methods = BTreeMap::new();
        for name in [
            "train",
            "log",
            "initialize",
            "nothing",
            "large",
            "fail",
            "slow",
            "bytes",
            "huge",
            "tensor",
            "crash",
            "file",
            "rows",
            "hang",
            "steps",
        ] {
            methods.insert(name.to_owned(), method(false, None));
        }
        for name in ["items", "fail_late", "item_steps"] {
            methods.insert(name.to_owned(), method(true, None));
        }
        methods.insert("predict".to_owned(), method(false, Some("binary_data")));
        methods.insert("read".to_owned(), method(false, Some("data")));
        methods.insert(
            "strict".to_owned(),
            Method {
                parameters: vec!["x".to_owned()],
                ..Method::default()
            },
        );
        let tensor = |name: &str, datatype: &str| Tensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![-1],
        };
        let about = About {
            service: "fake".to_owned(),
            instance: "fake-0".to_owned(),
            class: "model:Fake".to_owned(),
            version: "v1".to_owned(),
            methods,
            inputs: vec![tensor("x", "FP32")],
            outputs: vec![tensor("y", "FP32")],
            ..About::default()
        };
        Self {
            ready: watch::Sender::new(true),
            blank: AtomicBool::new(false),
            release: Notify::new(),
            running: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            files: AtomicUsize::new(0),
            crashes: AtomicBool::new(true),
            loaded: std::sync::Mutex::new(vec!["v1".to_owned()]),
            about: Arc::new(about),
        }
    }
}

/// Counts a call that is dropped before its end.
struct Running<'a>(&'a Fake, bool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        if !self.1 {
            self.0.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn value(json: &Json) -> Answer {
    Answer::Value(Value {
        json: Bytes::from(json.to_string()),
        parts: Vec::new(),
    })
}

pub(crate) fn content(part: &Part) -> Vec<u8> {
    match &part.content {
        Content::Inline(bytes) => bytes.to_vec(),
        Content::File(file) => {
            let bytes = std::fs::read(file.path()).unwrap();
            assert_eq!(bytes.len() as u64, file.len());
            bytes
        }
    }
}

/// A short digest that a test can compute too.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

fn items(list: Vec<Result<Value, Fault>>) -> Answer {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for item in list {
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    Answer::Items(Items { receiver })
}

/// How far a call is, step by step.
fn tell(call: &Call, steps: &[f64]) {
    for step in steps {
        if let Some(progress) = &call.progress {
            progress.tell(&json!({"progress": step}));
        }
    }
}

fn item(i: u64) -> Result<Value, Fault> {
    Ok(Value {
        json: Bytes::from(i.to_string()),
        parts: Vec::new(),
    })
}

pub(crate) fn model_error() -> Fault {
    let mut fault = Fault::new(Code::Internal, "model_error", "no key 'x'\nsecond line");
    fault.exception = Some("KeyError".to_owned());
    fault
}

#[async_trait]
impl Model for Fake {
    fn about(&self) -> Arc<About> {
        if self.blank.load(Ordering::SeqCst) {
            return Arc::new(About {
                service: self.about.service.clone(),
                instance: self.about.instance.clone(),
                ..About::default()
            });
        }
        self.about.clone()
    }

    fn ready(&self) -> bool {
        *self.ready.borrow()
    }

    async fn changed(&self, known: bool) {
        let mut ready = self.ready.subscribe();
        let _ = ready.wait_for(|now| *now != known).await;
    }

    async fn call(&self, call: Call) -> Result<Answer, Fault> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let files = |part: &&Part| matches!(part.content, Content::File(_));
        let files = call.parts.iter().filter(files).count();
        self.files.store(files, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let mut running = Running(self, false);
        let answer = self.run(call).await;
        running.1 = true;
        answer
    }

    async fn load(&self, version: &str) -> Result<(), Fault> {
        if version == "bad" {
            return Err(Fault::new(
                Code::NotFound,
                "unknown_version",
                "no version `bad`",
            ));
        }
        self.loaded.lock().unwrap().push(version.to_owned());
        Ok(())
    }

    async fn release(&self, version: &str) {
        self.loaded.lock().unwrap().retain(|known| known != version);
    }

    fn versions(&self) -> Vec<Version> {
        let loaded = self.loaded.lock().unwrap();
        ["v1", "v2"]
            .iter()
            .map(|name| Version {
                name: (*name).to_owned(),
                loaded: loaded.iter().any(|known| known == name),
            })
            .collect()
    }
}

impl Fake {
    async fn run(&self, call: Call) -> Result<Answer, Fault> {
        let kwargs: Json = serde_json::from_slice(&call.kwargs).unwrap_or(Json::Null);
        Ok(match call.method.as_str() {
            "nothing" => Answer::Value(Value::default()),
            "large" => value(&json!("x".repeat(1 << 20))),
            "fail" => return Err(model_error()),
            "slow" => {
                self.release.notified().await;
                value(&json!("done"))
            }
            "hang" => std::future::pending().await,
            "crash" if self.crashes.load(Ordering::SeqCst) => {
                return Err(Fault::new(Code::Unavailable, "worker_crashed", "it died"));
            }
            "bytes" => Answer::Value(Value {
                json: Bytes::new(),
                parts: vec![Part {
                    name: String::new(),
                    content: Content::Inline(Bytes::from_static(b"\0\x01bytes")),
                    tensor: None,
                }],
            }),
            // More than a message may have, as a large file would be.
            "huge" => Answer::Value(Value {
                json: Bytes::new(),
                parts: vec![Part {
                    name: String::new(),
                    content: Content::Inline(vec![b'x'; MESSAGE as usize + 1].into()),
                    tensor: None,
                }],
            }),
            "tensor" => Answer::Value(tensors()),
            "items" => {
                let count = kwargs["count"].as_u64().unwrap_or(3);
                items((0..count).map(item).collect())
            }
            "fail_late" => items(vec![item(0), Err(model_error())]),
            "steps" => {
                tell(&call, &[0.5, 1.0]);
                value(&json!({"asked": call.progress.is_some()}))
            }
            "item_steps" => {
                tell(&call, &[0.1]);
                let (sender, receiver) = mpsc::channel(1);
                tokio::spawn(async move {
                    for number in 0..2 {
                        tell(&call, &[0.5]);
                        let _ = sender.send(item(number)).await;
                    }
                });
                Answer::Items(Items { receiver })
            }
            "rows" => value(&json!({"a": kwargs["a"], "b": kwargs["b"]})),
            "predict" if kwargs.get("tensors").is_some() => Answer::Value(tensors()),
            "predict" if kwargs.get("stream").is_some() => items((0..2).map(item).collect()),
            "predict" if kwargs.get("slow").is_some() => {
                self.release.notified().await;
                value(&json!("late"))
            }
            "predict" if kwargs.get("hang").is_some() => std::future::pending().await,
            "predict" if kwargs.get("fail").is_some() => return Err(model_error()),
            _ => {
                let parts: Vec<Json> = call
                    .parts
                    .iter()
                    .map(|part| {
                        let bytes = content(part);
                        let shape = part.tensor.as_ref().map(|of| of.shape.clone());
                        json!([part.name, bytes.len(), sum(&bytes), shape])
                    })
                    .collect();
                value(&json!({
                    "method": call.method,
                    "kwargs": kwargs,
                    "version": call.version,
                    "parts": parts,
                    "retry": call.retry,
                    "id": call.id,
                    "deadline": call.deadline.is_some(),
                }))
            }
        })
    }
}

/// A JSON result with a tensor and bytes beside it.
fn tensors() -> Value {
    let raw: Vec<u8> = [1.5f32, 2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
    Value {
        json: Bytes::from_static(b"{\"n\":1}"),
        parts: vec![
            Part {
                name: "y".to_owned(),
                content: Content::Inline(Bytes::from(raw)),
                tensor: Some(TensorOf {
                    datatype: "FP32".to_owned(),
                    shape: vec![2, 1],
                }),
            },
            Part {
                name: "b".to_owned(),
                content: Content::Inline(Bytes::from_static(b"ab")),
                tensor: None,
            },
        ],
    }
}

/// A door that serves.
pub(crate) struct Served {
    pub(crate) model: Arc<Fake>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) folder: TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) const QUOTA: u64 = 64 << 20;

pub(crate) const MESSAGE: u64 = 4 << 20;

/// Serves with a heartbeat that is over at once, so that a test need not wait.
pub(crate) fn served() -> Served {
    with(Duration::from_millis(10))
}

pub(crate) fn with(heartbeat: Duration) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("door.sock");
    let limits = SpoolLimits {
        quota: QUOTA,
        resume: Duration::from_secs(600),
    };
    let spool = Spool::open(&folder.path().join("spool"), limits).unwrap();
    let model = Arc::new(Fake::default());
    let options = DoorOptions {
        parallel: 2,
        message: MESSAGE,
        ratio: Arc::new(1000.into()),
        heartbeat,
        spool: spool.clone(),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = UnixListener::bind(&socket).unwrap();
    let task = tokio::spawn(serve(listener, model.clone(), options, async {
        let _ = stopped.await;
    }));
    Served {
        model,
        spool,
        folder,
        socket,
        stop: Some(stop),
        task,
    }
}

impl Served {
    /// Waits until nothing lies in the spool.
    pub(crate) async fn emptied(&self) {
        let folder = self.folder.path().join("spool");
        until(|| self.spool.used() == 0 && std::fs::read_dir(&folder).unwrap().next().is_none())
            .await;
    }
}

/// Waits for a condition; the test's own time limit ends what never comes.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(60), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the condition came within a minute");
}
