//! Streams of tokens that carry the time when they were sent; read to the end, or left by the caller.

use crate::{chat_body, h1_request, quantiles, H1};
use peerbench::{mono_ns, Args};
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::{spawn_local, JoinHandle};

#[derive(Default)]
struct SseTally {
    ttfb_ns: Vec<u64>,
    transit_ns: Vec<u64>,
    tokens: u64,
    reads: u64,
    bytes: u64,
    complete: u64,
    left: u64,
    errors: u64,
    first_error: Option<String>,
}

/// Finds `tok=<digits> ` in a stream cut anywhere.
#[derive(Default)]
struct TokenScan {
    matched: usize,
    value: u64,
}

impl TokenScan {
    fn feed(&mut self, bytes: &[u8], mut found: impl FnMut(u64)) {
        const MARK: &[u8] = b"tok=";
        for &b in bytes {
            if self.matched < MARK.len() {
                self.matched = if b == MARK[self.matched] { self.matched + 1 } else { (b == MARK[0]) as usize };
                self.value = 0;
            } else if b.is_ascii_digit() {
                self.value = self.value * 10 + (b - b'0') as u64;
            } else {
                found(self.value);
                self.matched = 0;
            }
        }
    }
}

pub(crate) async fn sse_load(addr: &str, args: &Args) -> String {
    let streams = args.num("streams", 100);
    let waves = args.num("waves", 1);
    let limit = args.secs("max-secs", 120.0);
    let leave_after = args.num("leave-after", 0);
    let path = args.str("path", "/v1/chat/completions");
    let req = Rc::new(h1_request(addr, args, &path, &chat_body(true, false, args.num("body", 1024) as usize)));
    let tally: Rc<RefCell<SseTally>> = Rc::default();
    let start = Instant::now();
    let tasks: Vec<JoinHandle<()>> = (0..streams)
        .map(|i| {
            let (req, addr, tally) = (req.clone(), addr.to_string(), tally.clone());
            spawn_local(async move {
                // Spread the starts so that the streams' ticks do not fall together.
                tokio::time::sleep(Duration::from_micros(i * 137)).await;
                for wave in 0..waves {
                    let stay = wave.checked_rem(leave_after).map_or(u64::MAX, |n| n + 1);
                    let got = one_sse(&addr, &req, stay, &tally).await;
                    let mut t = tally.borrow_mut();
                    match got {
                        Ok(None) => t.left += 1,
                        Ok(Some(200)) => t.complete += 1,
                        Ok(Some(code)) => {
                            t.errors += 1;
                            t.first_error.get_or_insert(format!("status {code}"));
                        }
                        Err(e) => {
                            t.errors += 1;
                            t.first_error.get_or_insert(e.to_string());
                        }
                    }
                }
            })
        })
        .collect();
    for t in tasks {
        let abort = t.abort_handle();
        if tokio::time::timeout_at((start + limit).into(), t).await.is_err() {
            abort.abort();
            tally.borrow_mut().errors += 1;
        }
    }
    let wall = start.elapsed().as_secs_f64();
    let mut t = tally.take();
    format!(
        r#"{{"total":{},"complete":{},"left":{},"errors":{},"wall_s":{:.3},"tokens":{},"tokens_per_s":{:.0},"reads":{},"bytes":{},"ttfb":{{{}}},"transit":{{{}}},"first_error":{}}}"#,
        t.tokens,
        t.complete,
        t.left,
        t.errors,
        wall,
        t.tokens,
        t.tokens as f64 / wall,
        t.reads,
        t.bytes,
        quantiles(&mut t.ttfb_ns),
        quantiles(&mut t.transit_ns),
        t.first_error.map_or("null".into(), |e| format!("{:?}", e))
    )
}

/// The answer's status, or none when the caller left after `stay` tokens.
async fn one_sse(addr: &str, req: &[u8], stay: u64, tally: &RefCell<SseTally>) -> io::Result<Option<u16>> {
    let mut conn = H1::open(addr).await?;
    let sent = mono_ns();
    let mut first = true;
    let mut scan = TokenScan::default();
    let mut seen = 0;
    let leave = tokio::sync::Notify::new();
    let call = conn.call(req, |bytes| {
        let now = mono_ns();
        let mut t = tally.borrow_mut();
        if first {
            t.ttfb_ns.push(now - sent);
            first = false;
        }
        t.reads += 1;
        t.bytes += bytes.len() as u64;
        scan.feed(bytes, |made| {
            t.tokens += 1;
            seen += 1;
            t.transit_ns.push(now.saturating_sub(made));
        });
        if seen >= stay {
            leave.notify_one();
        }
    });
    tokio::select! {
        biased;
        () = leave.notified() => Ok(None),
        got = call => got.map(Some),
    }
}
