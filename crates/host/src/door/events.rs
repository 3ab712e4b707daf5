//! Server-sent events: items as they come, and a sign of life while nothing does.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::body::{Body, BodyFrame};
use super::fault::problem;
use super::{Door, value};
use crate::progress::{Progress, Step, step};
use crate::{Answer, Call, Fault, Items, Value};

/// A comment: nothing for whoever reads events, bytes for whoever would cut a silent connection.
const PING: &[u8] = b": ping\n\n";

/// A call that has given something.
enum Begun {
    Value(Value),
    Items(Option<Value>, Items),
}

type Beginning = Pin<Box<dyn Future<Output = Result<Begun, Fault>> + Send>>;

/// Runs a call. What fails before the first sign of life is due has a status of its own.
pub(super) async fn answer(door: Arc<Door>, mut call: Call) -> Result<Response<Body>, Fault> {
    let runner = door.clone();
    let progress = Progress::default();
    call.progress = Some(progress.clone());
    stream(
        door,
        progress,
        Box::pin(async move { first(runner.call(call).await?).await }),
    )
    .await
}

/// The same for a call that gave a generator where none was expected.
pub(super) async fn begun(door: Arc<Door>, answer: Answer) -> Result<Response<Body>, Fault> {
    // What it has told so far went to the log alone.
    stream(door, Progress::default(), Box::pin(first(answer))).await
}

async fn first(answer: Answer) -> Result<Begun, Fault> {
    match answer {
        Answer::Value(value) => Ok(Begun::Value(value)),
        Answer::Items(mut items) => {
            let first = items.receiver.recv().await.transpose()?;
            Ok(Begun::Items(first, items))
        }
    }
}

async fn stream(
    door: Arc<Door>,
    progress: Progress,
    mut beginning: Beginning,
) -> Result<Response<Body>, Fault> {
    let heartbeat = door.options.heartbeat;
    if let Ok(begun) = tokio::time::timeout(heartbeat, &mut beginning).await {
        let begun = begun?;
        beginning = Box::pin(std::future::ready(Ok(begun)));
    }
    let (events, receiver) = mpsc::channel(4);
    let writer = Writer {
        door,
        events,
        progress,
    };
    tokio::spawn(writer.run(beginning));
    let mut response = Response::new(Body::Channel(receiver));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would gather events otherwise.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

struct Writer {
    door: Arc<Door>,
    events: mpsc::Sender<BodyFrame>,
    progress: Progress,
}

impl Writer {
    async fn run(self, beginning: Beginning) {
        let work = self.tell(beginning);
        tokio::pin!(work);
        // The first sign is due at once if the call has not begun: it has used its second.
        let mut beat = tokio::time::interval_at(Instant::now(), self.door.options.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                biased;
                () = &mut work => return,
                () = self.events.closed() => return,
                _ = beat.tick() => {
                    let _ = self.events.try_send(Ok(Frame::data(Bytes::from_static(PING))));
                }
            }
        }
    }

    async fn tell(&self, beginning: Beginning) {
        let last = match self.events_of(beginning).await {
            Ok(last) => last,
            Err(fault) => event("error", &problem(&fault)),
        };
        self.put(last).await;
    }

    /// Writes items; the last event is given back.
    async fn events_of(&self, mut beginning: Beginning) -> Result<Bytes, Fault> {
        let most = self.door.options.message;
        match self.along(beginning.as_mut()).await? {
            Begun::Value(value) => {
                let json = value::whole(value, most).await?;
                self.put(event("result", &json)).await;
                Ok(event("done", b"{\"items\":1}"))
            }
            Begun::Items(first, mut items) => {
                let mut count = 0u64;
                let mut next = first;
                while let Some(value) = next {
                    let json = value::whole(value, most).await?;
                    self.put(event("", &json)).await;
                    count += 1;
                    next = self.along(pin!(items.receiver.recv())).await.transpose()?;
                }
                Ok(event("done", format!("{{\"items\":{count}}}").as_bytes()))
            }
        }
    }

    /// Waits for some work of the call, and writes what the call tells until then.
    async fn along<T>(&self, mut work: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> T {
        let done = loop {
            match step(Some(&self.progress), work.as_mut()).await {
                Step::Told(told) => self.put(event("progress", &told)).await,
                Step::Done(done) => break done,
            }
        };
        while let Some(told) = self.progress.take() {
            self.put(event("progress", &told)).await;
        }
        done
    }

    async fn put(&self, event: Bytes) {
        // A caller that left is seen by `run`.
        let _ = self.events.send(Ok(Frame::data(event))).await;
    }
}

/// An event; text of several lines becomes several `data`.
fn event(name: &str, text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len() + 32);
    if !name.is_empty() {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    for line in text.split(|b| matches!(b, b'\n' | b'\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_several_lines_stays_one_event() {
        assert_eq!(event("", b"[1,\n2]"), "data: [1,\ndata: 2]\n\n");
        assert_eq!(event("done", b"{}"), "event: done\ndata: {}\n\n");
    }
}
