//! Load client: one thread, one JSON line of results on standard output.
//!
//!   load h1     --addr A --conns 64 --secs 5 [--warm 1] [--rate 500] [--requests N] [--path P] [--chat [--ids]]
//!   load grpc   --addr A --conns 4 --streams 32 --secs 5 [--rate 500] [--path P]
//!   load sse    --addr A --streams 100 [--waves 1] [--path P] [--leave-after N]
//!   load upload --addr A --bytes N [--h2] [--chunked] [--block 65536] [--path P]
//!   load idle   --addr A --conns 10000 [--max-secs 120]   (holds until standard input ends)
//!   load ping   --addr A [--max-secs 30] [--path P] [--h2] (waits for the first good answer)
//!
//! Closed loop without --rate; with it, requests start on schedule whether or
//! not earlier ones have finished. --requests ends a closed loop before its time. Every run ends by itself.
//! --ids gives each request another text, so that the backend can tell a request from its repetition.
//! --leave-after: each stream is given up by the caller after one to N tokens.
//! --headers "name: value;name: value" go with every HTTP/1.1 request; --json TEXT is its body.
//! --message HEX is sent by gRPC calls, and any answer will do.

mod grpc;
mod sse;
mod upload;

use bytes::{Bytes, BytesMut};
use grpc::{grpc_head, grpc_load, h2_open, one_grpc};
use peerbench::{framing, grpc_frame, head_end, json_of, Args, Body, Framing};
use sse::sse_load;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{spawn_local, JoinHandle};
use upload::upload;

type Res<T> = Result<T, Box<dyn std::error::Error>>;

fn main() {
    let mut argv = std::env::args().skip(1);
    let mode = argv.next().unwrap_or_default();
    let args = Args::parse(argv);
    let addr = args.str("addr", "127.0.0.1:9001");
    let ip: std::net::SocketAddr = addr.parse().expect("--addr wants IP:PORT");
    assert!(ip.ip().is_loopback(), "load goes to loopback only");
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let line = local.block_on(&rt, async {
        match mode.as_str() {
            "h1" => h1_load(&addr, &args).await,
            "grpc" => grpc_load(&addr, &args).await,
            "sse" => sse_load(&addr, &args).await,
            "upload" => upload(&addr, &args).await,
            "idle" => idle(&addr, &args).await,
            "ping" => ping(&addr, &args).await,
            other => panic!("unknown mode {other}"),
        }
    });
    println!("{line}");
}

/// What the tasks of one run write down.
#[derive(Default)]
struct Tally {
    total: u64,
    measured: u64,
    errors: u64,
    first_error: Option<String>,
    lat_ns: Vec<u64>,
}

struct Run {
    tally: RefCell<Tally>,
    /// Requests that may still begin.
    left: Cell<u64>,
    measure_from: Instant,
    stop_at: Instant,
}

impl Run {
    fn new(args: &Args) -> Rc<Run> {
        let warm = args.secs("warm", 1.0);
        let secs = args.secs("secs", 5.0);
        assert!(warm + secs < Duration::from_secs(300), "runs are bounded");
        let now = Instant::now();
        let left = Cell::new(args.num("requests", u64::MAX));
        Rc::new(Run { tally: RefCell::default(), left, measure_from: now + warm, stop_at: now + warm + secs })
    }
    fn begin(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0 && !self.over()
    }
    fn over(&self) -> bool {
        Instant::now() >= self.stop_at
    }
    fn record(&self, sent: Instant, result: Result<(), String>) {
        let now = Instant::now();
        let mut t = self.tally.borrow_mut();
        t.total += 1;
        if let Err(e) = result {
            t.errors += 1;
            t.first_error.get_or_insert(e);
        } else if sent >= self.measure_from && now <= self.stop_at {
            t.measured += 1;
            t.lat_ns.push((now - sent).as_nanos() as u64);
        }
    }
    fn report(&self) -> String {
        let mut t = self.tally.take();
        let secs = (self.stop_at - self.measure_from).as_secs_f64();
        let q = quantiles(&mut t.lat_ns);
        format!(
            r#"{{"total":{},"measured":{},"errors":{},"rps":{:.1},{q},"first_error":{}}}"#,
            t.total,
            t.measured,
            t.errors,
            t.measured as f64 / secs,
            t.first_error.map_or("null".into(), |e| format!("{:?}", e))
        )
    }
}

fn quantiles(ns: &mut [u64]) -> String {
    ns.sort_unstable();
    let at = |p: f64| -> f64 {
        if ns.is_empty() {
            return 0.0;
        }
        ns[((ns.len() as f64 * p) as usize).min(ns.len() - 1)] as f64 / 1000.0
    };
    format!(
        r#""p50_us":{:.1},"p90_us":{:.1},"p99_us":{:.1},"p999_us":{:.1},"max_us":{:.1}"#,
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    )
}

// ---------------------------------------------------------------- HTTP/1.1

struct H1 {
    s: TcpStream,
    buf: BytesMut,
    close: bool,
}

impl H1 {
    async fn open(addr: &str) -> io::Result<H1> {
        let s = TcpStream::connect(addr).await?;
        s.set_nodelay(true)?;
        Ok(H1 { s, buf: BytesMut::with_capacity(16 * 1024), close: false })
    }

    /// Sends one request and reads its answer; payload bytes go to `sink`.
    async fn call(&mut self, req: &[u8], sink: impl FnMut(&[u8])) -> io::Result<u16> {
        self.s.write_all(req).await?;
        self.answer(sink).await
    }

    async fn answer(&mut self, mut sink: impl FnMut(&[u8])) -> io::Result<u16> {
        let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let bad = |e: &str| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        let (status, frame) = loop {
            let end = loop {
                if let Some(end) = head_end(&self.buf) {
                    break end;
                }
                if self.s.read_buf(&mut self.buf).await? == 0 {
                    return Err(gone());
                }
            };
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut res = httparse::Response::new(&mut headers);
            res.parse(&self.buf[..end]).map_err(|e| bad(&e.to_string()))?;
            let status = res.code.unwrap_or(0);
            let frame = framing(res.headers, Framing::Close);
            self.close = frame == Framing::Close
                || res.headers.iter().any(|h| {
                    h.name.eq_ignore_ascii_case("connection") && h.value.eq_ignore_ascii_case(b"close")
                });
            let _ = self.buf.split_to(end);
            if status >= 200 {
                break (status, frame);
            }
        };
        let mut body = Body::new(frame);
        while !body.done {
            if self.buf.is_empty() {
                self.buf.reserve(8 * 1024);
                if self.s.read_buf(&mut self.buf).await? == 0 {
                    return if frame == Framing::Close { Ok(status) } else { Err(gone()) };
                }
            }
            let used = body.feed(&self.buf, &mut sink).map_err(bad)?;
            let _ = self.buf.split_to(used);
        }
        Ok(status)
    }
}

fn h1_request(addr: &str, args: &Args, path: &str, body: &[u8]) -> Vec<u8> {
    let more: String = args.str("headers", "").split_terminator(';').map(|h| format!("{}\r\n", h.trim())).collect();
    let mut req = format!(
        "POST {path} HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\nauthorization: Bearer sk-bench\r\naccept: */*\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    req.extend_from_slice(body);
    req
}

/// `"content":"r` and [`ID_DIGITS`] zeros: [`Ids`] writes its numbers over them. Of a caller's fields gateways drop some; the text stays.
const ID_MARK: &[u8] = b"\"content\":\"r";
const ID_DIGITS: usize = 9;

fn chat_body(stream: bool, ids: bool, size: usize) -> Vec<u8> {
    let id = if ids { "r000000000: " } else { "" };
    let head = format!(r#"{{"model":"mock","stream":{stream},"messages":[{{"role":"user","content":"{id}"#);
    let tail = r#""}]}"#;
    let fill = size.saturating_sub(head.len() + tail.len()).max(1);
    let text: String = "the quick brown fox ".chars().cycle().take(fill).collect();
    format!("{head}{text}{tail}").into_bytes()
}

fn h1_req_for(addr: &str, args: &Args) -> Vec<u8> {
    let size = args.num("body", 1024) as usize;
    if args.flag("chat") {
        h1_request(addr, args, &args.str("path", "/v1/chat/completions"), &chat_body(false, args.flag("ids"), size))
    } else {
        let body = args.str("json", "");
        let body = if body.is_empty() { json_of(size) } else { body.into_bytes() };
        h1_request(addr, args, &args.str("path", "/v1/models/m:predict"), &body)
    }
}

/// The request to send: the same each time, or one with another id.
struct Ids {
    req: Vec<u8>,
    at: Option<usize>,
    next: Cell<u64>,
}

impl Ids {
    fn new(req: Vec<u8>) -> Ids {
        let at = req.windows(ID_MARK.len()).position(|w| w == ID_MARK).map(|p| p + ID_MARK.len());
        Ids { req, at, next: Cell::new(1) }
    }
    fn request(&self) -> std::borrow::Cow<'_, [u8]> {
        let Some(at) = self.at else {
            return std::borrow::Cow::Borrowed(&self.req);
        };
        let id = self.next.replace(self.next.get() + 1);
        let mut req = self.req.clone();
        req[at..at + ID_DIGITS].copy_from_slice(format!("{id:0ID_DIGITS$}").as_bytes());
        std::borrow::Cow::Owned(req)
    }
}

async fn one_h1(conn: &mut Option<H1>, addr: &str, req: &[u8]) -> Result<(), String> {
    if conn.is_none() {
        *conn = Some(H1::open(addr).await.map_err(|e| format!("connect: {e}"))?);
    }
    let c = conn.as_mut().unwrap();
    let got = c.call(req, |_| ()).await;
    if got.is_err() || c.close {
        *conn = None;
    }
    match got {
        Ok(200) => Ok(()),
        Ok(code) => Err(format!("status {code}")),
        Err(e) => Err(e.to_string()),
    }
}

async fn h1_load(addr: &str, args: &Args) -> String {
    let req = Rc::new(Ids::new(h1_req_for(addr, args)));
    let conns = args.num("conns", 64) as usize;
    let rate = args.num("rate", 0);
    let run = Run::new(args);
    let addr: Rc<str> = addr.into();
    if rate == 0 {
        let tasks: Vec<JoinHandle<()>> = (0..conns)
            .map(|_| {
                let (run, req, addr) = (run.clone(), req.clone(), addr.clone());
                spawn_local(async move {
                    let mut conn = None;
                    while run.begin() {
                        let sent = Instant::now();
                        let got = one_h1(&mut conn, &addr, &req.request()).await;
                        if got.is_err() {
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        run.record(sent, got);
                    }
                })
            })
            .collect();
        finish(tasks, &run).await;
    } else {
        let pool: Rc<RefCell<VecDeque<Option<H1>>>> = Rc::default();
        for _ in 0..conns {
            pool.borrow_mut().push_back(H1::open(&addr).await.ok());
        }
        let mut tasks = Vec::new();
        paced(&run, rate, || {
            let (run, req, addr, pool) = (run.clone(), req.clone(), addr.clone(), pool.clone());
            tasks.push(spawn_local(async move {
                let mut conn = pool.borrow_mut().pop_front().flatten();
                let sent = Instant::now();
                let got = one_h1(&mut conn, &addr, &req.request()).await;
                run.record(sent, got);
                pool.borrow_mut().push_back(conn);
            }));
        })
        .await;
        finish(tasks, &run).await;
    }
    run.report()
}

/// Calls `go` `rate` times a second until the run is over.
async fn paced(run: &Run, rate: u64, mut go: impl FnMut()) {
    let start = Instant::now();
    let gap = 1e9 / rate as f64;
    let mut n = 0u64;
    while !run.over() {
        let due = start + Duration::from_nanos((n as f64 * gap) as u64);
        tokio::time::sleep_until(due.into()).await;
        go();
        n += 1;
    }
}

async fn finish(tasks: Vec<JoinHandle<()>>, run: &Run) {
    let deadline = run.stop_at.max(Instant::now()) + Duration::from_secs(10);
    for t in tasks {
        let abort = t.abort_handle();
        if tokio::time::timeout_at(deadline.into(), t).await.is_err() {
            abort.abort();
            let mut t = run.tally.borrow_mut();
            t.errors += 1;
            t.first_error.get_or_insert("no answer 10 s after the end".into());
        }
    }
}

// ------------------------------------------------------------ idle, ping

async fn idle(addr: &str, args: &Args) -> String {
    let want = args.num("conns", 10_000);
    let req = h1_req_for(addr, args);
    let start = Instant::now();
    let mut held = Vec::new();
    let mut errors = 0;
    let mut first_error = None;
    while (held.len() as u64) + errors < want {
        let mut conn = None;
        match one_h1(&mut conn, addr, &req).await {
            Ok(()) => held.extend(conn),
            Err(e) => {
                errors += 1;
                first_error.get_or_insert(e);
                if errors > 100 {
                    break;
                }
            }
        }
    }
    println!(r#"{{"ready":{},"errors":{errors},"open_s":{:.2}}}"#, held.len(), start.elapsed().as_secs_f64());
    let (done, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = std::io::stdin().read_line(&mut line);
        let _ = done.send(());
    });
    let _ = tokio::time::timeout(args.secs("max-secs", 120.0), wait).await;
    // A kept connection still answers: the proxy did not drop it silently.
    let mut alive = 0;
    for c in held.iter_mut().rev().take(100) {
        alive += matches!(c.call(&req, |_| ()).await, Ok(200)) as u32;
    }
    format!(
        r#"{{"total":{},"errors":{errors},"alive_of_last_100":{alive},"first_error":{}}}"#,
        held.len(),
        first_error.map_or("null".into(), |e| format!("{e:?}"))
    )
}

async fn ping(addr: &str, args: &Args) -> String {
    let start = Instant::now();
    let limit = args.secs("max-secs", 30.0);
    let req = h1_req_for(addr, args);
    let head = grpc_head(addr, &args.str("grpc-path", "/bench.Echo/Unary"));
    let frame = Bytes::from(grpc_frame(16));
    let mut last = String::new();
    while start.elapsed() < limit {
        let got = if args.flag("h2") {
            match h2_open(addr).await {
                Ok(c) => match tokio::time::timeout(Duration::from_secs(2), one_grpc(&c, &head, &frame, true)).await {
                    Ok(r) => r,
                    Err(_) => Err("timeout".into()),
                },
                Err(e) => Err(e.to_string()),
            }
        } else {
            let mut conn = None;
            one_h1(&mut conn, addr, &req).await
        };
        match got {
            Ok(()) => return format!(r#"{{"total":1,"errors":0,"ready_ms":{:.1}}}"#, start.elapsed().as_secs_f64() * 1e3),
            Err(e) => last = e,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    format!(r#"{{"total":0,"errors":1,"first_error":{last:?}}}"#)
}
