//! What a door costs: processor time of a unary call, and the speed of an upload against zstd alone.
//!
//! `cargo bench -p tidegate-host --bench door`. The callers are another process, so that the processor time is the door's alone.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tidegate_host::door::{DoorOptions, serve};
use tidegate_host::proto::ai::{Input, Raw};
use tidegate_host::spool::{Spool, SpoolLimits};
use tidegate_host::{About, Answer, Call, Content, Fault, Method, Model, Value, Version};
use tokio::net::{UnixListener, UnixStream};

/// Unary calls that are measured.
const CALLS: usize = 200_000;

/// Calls at a time.
const AT_ONCE: usize = 64;

/// Bytes of the upload before compression.
const UPLOAD: usize = 2 << 30;

#[derive(Debug)]
struct Idle(Arc<About>);

#[async_trait]
impl Model for Idle {
    fn about(&self) -> Arc<About> {
        self.0.clone()
    }

    fn ready(&self) -> bool {
        true
    }

    async fn changed(&self, _: bool) {
        std::future::pending().await
    }

    async fn call(&self, call: Call) -> Result<Answer, Fault> {
        let length = match call.parts.first().map(|part| &part.content) {
            Some(Content::File(file)) => file.len(),
            _ => 0,
        };
        Ok(Answer::Value(Value {
            json: Bytes::from(format!("{{\"length\": {length}}}")),
            parts: Vec::new(),
        }))
    }

    async fn load(&self, _: &str) -> Result<(), Fault> {
        Ok(())
    }

    async fn release(&self, _: &str) {}

    fn versions(&self) -> Vec<Version> {
        Vec::new()
    }
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match env::var("DOOR_BENCH_CALLER").as_deref() {
        Ok("unary") => runtime.block_on(unary()),
        Ok("upload") => runtime.block_on(upload()),
        _ => measure(&runtime),
    }
}

fn measure(runtime: &tokio::runtime::Runtime) {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("door.sock");
    let limits = SpoolLimits {
        quota: 1 << 40,
        resume: Duration::from_secs(60),
    };
    let spool = Spool::open(&folder.path().join("spool"), limits).expect("a spool");
    let method = Method {
        binary: Some("data".to_owned()),
        any: true,
        ..Method::default()
    };
    let about = About {
        service: "idle".to_owned(),
        instance: "idle-0".to_owned(),
        methods: [("predict".to_owned(), method)].into(),
        ..About::default()
    };
    let options = DoorOptions {
        parallel: 2,
        message: 256 << 20,
        ratio: Arc::new(1000.into()),
        heartbeat: Duration::from_secs(1),
        spool,
    };
    let model = Arc::new(Idle(Arc::new(about)));
    runtime.spawn({
        let socket = socket.clone();
        async move {
            let listener = UnixListener::bind(socket).expect("a socket");
            serve(listener, model, options, std::future::pending()).await;
        }
    });
    while !socket.exists() {
        std::thread::yield_now();
    }
    for _ in 0..3 {
        let before = cpu();
        run("unary", &socket);
        let each = (cpu() - before).as_secs_f64() * 1e6 / CALLS as f64;
        println!("unary predict: {each:.1} µs of processor time a call");
    }
    let data = folder.path().join("data.zst");
    prepare(&data);
    let alone = alone(&data, &folder.path().join("copy"));
    let resting = memory("VmRSS");
    let through = run("upload", &socket);
    println!(
        "upload of {} MiB: zstd alone {:.0} MiB/s, through chaos {:.0} MiB/s; memory {} KiB before, {} KiB at most",
        UPLOAD >> 20,
        speed(alone),
        speed(through),
        resting,
        memory("VmHWM"),
    );
}

fn speed(time: Duration) -> f64 {
    (UPLOAD >> 20) as f64 / time.as_secs_f64()
}

fn run(what: &str, socket: &Path) -> Duration {
    let begun = Instant::now();
    let status = Command::new(env::current_exe().expect("this program"))
        .env("DOOR_BENCH_CALLER", what)
        .env("DOOR_BENCH_SOCKET", socket)
        .status()
        .expect("a caller");
    assert!(status.success());
    begun.elapsed()
}

/// Processor time of this process.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("procfs");
    let rest = stat.rsplit_once(") ").expect("a name").1;
    let ticks: u64 = rest
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    // USER_HZ is 100 on every Linux.
    Duration::from_millis(ticks * 10)
}

fn memory(name: &str) -> u64 {
    fs::read_to_string("/proc/self/status")
        .expect("procfs")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .expect("a number")
}

/// Data that compresses to about a half, as zstd at level 3.
fn prepare(path: &Path) {
    let mut block = Vec::with_capacity(1 << 20);
    let mut state = 1u64;
    while block.len() < 1 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let bytes = state.to_le_bytes();
        block.extend_from_slice(&bytes[4..]);
        block.extend_from_slice(&[b'a' + (bytes[7] & 7); 4]);
    }
    let mut encoder = zstd::Encoder::new(File::create(path).expect("a file"), 3).expect("zstd");
    for i in 0..UPLOAD >> 20 {
        let len = block.len();
        block.rotate_left(i % len);
        encoder.write_all(&block).expect("room");
    }
    encoder.finish().expect("room");
}

fn alone(from: &Path, to: &Path) -> Duration {
    let begun = Instant::now();
    let mut decoder = zstd::Decoder::new(File::open(from).expect("a file")).expect("zstd");
    let mut copy = File::create(to).expect("a file");
    io::copy(&mut decoder, &mut copy).expect("room");
    drop(copy);
    let time = begun.elapsed();
    fs::remove_file(to).expect("the copy");
    time
}

async fn connected<B>(socket: &Path) -> hyper::client::conn::http2::SendRequest<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = UnixStream::connect(socket).await.expect("a door");
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).expect("room");
    frame.freeze()
}

fn head(path: &str) -> http::request::Builder {
    Request::builder()
        .method("POST")
        .uri(format!("http://door{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

fn socket() -> std::path::PathBuf {
    env::var_os("DOOR_BENCH_SOCKET").expect("a socket").into()
}

async fn unary() {
    let message = framed(&Input {
        kwargs_json: Bytes::from_static(br#"{"text": "some words of a caller"}"#),
        ..Input::default()
    });
    let sender = connected::<Full<Bytes>>(&socket()).await;
    let callers: Vec<_> = (0..AT_ONCE)
        .map(|_| {
            let mut sender = sender.clone();
            let message = message.clone();
            tokio::spawn(async move {
                for _ in 0..CALLS / AT_ONCE {
                    let request = head("/ai.AI/predict")
                        .body(Full::new(message.clone()))
                        .expect("a request");
                    let response = sender.send_request(request).await.expect("an answer");
                    let whole = response.into_body().collect().await.expect("a body");
                    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "0");
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("a caller");
    }
}

async fn upload() {
    let socket = socket();
    let data = socket.with_file_name("data.zst");
    let (pieces, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    tokio::task::spawn_blocking(move || {
        let kwargs = format!("{{\"_aipod_binary_size\": {UPLOAD}}}");
        let first = zstd::encode_all(kwargs.as_bytes(), 3).expect("zstd");
        let raw = |data: Vec<u8>| {
            framed(&Raw {
                data: data.into(),
                ..Raw::default()
            })
        };
        pieces.blocking_send(raw(first)).expect("a door");
        let mut file = File::open(data).expect("a file");
        loop {
            let mut piece = vec![0; 32 << 10];
            let read = io::Read::read(&mut file, &mut piece).expect("a file");
            if read == 0 {
                return;
            }
            piece.truncate(read);
            if pieces.blocking_send(raw(piece)).is_err() {
                return;
            }
        }
    });
    let body = futures_util::stream::poll_fn(move |cx| {
        receiver
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok::<_, io::Error>(Frame::data(piece))))
    });
    let mut sender = connected(&socket).await;
    let request = head("/ai.AI/chaos")
        .header("x-func-name", "predict")
        .body(StreamBody::new(body))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let whole = response.into_body().collect().await.expect("a body");
    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "0");
}
