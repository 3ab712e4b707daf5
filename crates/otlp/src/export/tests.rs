use super::*;
use std::sync::Mutex;

use tidegate_discovery::Resolver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Named(String);

impl Record for Named {
    fn spans(&self) -> usize {
        1
    }

    fn write(self, out: &mut Vec<Span>) {
        out.push(Span {
            name: self.0,
            ..Span::default()
        });
    }
}

/// A collector that answers with the statuses of a list, then with 200; none is silence.
struct Fake {
    port: u16,
    batches: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Fake {
    async fn start(statuses: Vec<Option<&'static str>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let batches = Arc::<Mutex<Vec<Vec<String>>>>::default();
        let seen = batches.clone();
        tokio::spawn(async move {
            let mut statuses = statuses.into_iter();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                loop {
                    let (head, length) = loop {
                        let text = String::from_utf8_lossy(&bytes).to_lowercase();
                        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
                        if let Some(end) = end {
                            let length = text.split("content-length: ").nth(1);
                            let length = length.and_then(|rest| rest.lines().next());
                            break (end + 4, length.and_then(|n| n.parse().ok()).unwrap_or(0));
                        }
                        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                            break (0, 0);
                        }
                    };
                    while bytes.len() < head + length {
                        stream.read_buf(&mut bytes).await.expect("a body");
                    }
                    if head == 0 {
                        break;
                    }
                    let body: Vec<u8> = bytes.drain(..head + length).skip(head).collect();
                    let request = ExportTraceServiceRequest::decode(&body[..]).expect("OTLP");
                    let spans = &request.resource_spans[0].scope_spans[0].spans;
                    let names = spans.iter().map(|span| span.name.clone()).collect();
                    seen.lock().expect("whole").push(names);
                    let Some(status) = statuses.next().unwrap_or(Some("200 OK")) else {
                        std::future::pending::<()>().await;
                        return;
                    };
                    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.expect("written");
                }
            }
        });
        Self { port, batches }
    }

    fn exporter(&self, delay: Duration) -> (Queue<Named>, Exporter, Arc<Counts>) {
        exporter(self.port, delay)
    }
}

fn exporter(port: u16, delay: Duration) -> (Queue<Named>, Exporter, Arc<Counts>) {
    let loaded = tidegate_config::load_str("test", &format!("tracing: http://127.0.0.1:{port}"));
    let mut config = loaded.expect("good").config.tracing.expect("on");
    config.schedule_delay = delay;
    let resolver = Resolver::with_servers(&[]).expect("never asked");
    let collector = Collector::new(&config, &resolver).expect("no TLS");
    let counts = Arc::<Counts>::default();
    let (queue, exporter) = Exporter::start(&config, collector, Vec::new(), counts.clone());
    (queue, exporter, counts)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_waits_is_sent_in_one_batch_at_the_end() {
    let fake = Fake::start(Vec::new()).await;
    let (queue, exporter, counts) = fake.exporter(LONG);
    for n in 0..3 {
        queue.give(Named(n.to_string()));
    }
    exporter.finish(Instant::now() + LONG).await;
    assert_eq!(counts.exported.load(Relaxed), 3);
    assert_eq!(*fake.batches.lock().expect("whole"), [["0", "1", "2"]]);
    queue.give(Named("late".into()));
    assert_eq!(counts.dropped.load(Relaxed), 1);
}

#[tokio::test]
async fn a_batch_that_may_be_tried_again_arrives_once_and_a_refused_one_never_again() {
    let later = Some("503 Busy\r\nretry-after: 0");
    let fake = Fake::start(vec![later, later, None]).await;
    let (queue, _exporter, counts) = fake.exporter(Duration::from_millis(1));
    queue.give(Named("patient".into()));
    until("three tries", || {
        fake.batches.lock().expect("whole").len() == 3
    })
    .await;
    assert_eq!(counts.exported.load(Relaxed), 0);

    let fake = Fake::start(vec![Some("400 No")]).await;
    let (queue, _exporter, counts) = fake.exporter(Duration::from_millis(1));
    queue.give(Named("refused".into()));
    until("counted", || counts.failed.load(Relaxed) == 1).await;
    queue.give(Named("next".into()));
    until("the next", || counts.exported.load(Relaxed) == 1).await;
    let batches = fake.batches.lock().expect("whole").clone();
    assert_eq!(batches, [["refused"], ["next"]]);
}

#[tokio::test]
async fn a_collector_that_asks_for_a_pause_without_end_is_asked_with_the_next_batch() {
    let never = Some("503 Busy\r\nretry-after: 18446744073709551615");
    let fake = Fake::start(vec![never]).await;
    let (queue, _exporter, counts) = fake.exporter(Duration::from_millis(1));
    queue.give(Named("lost".into()));
    until("counted", || counts.failed.load(Relaxed) == 1).await;
    queue.give(Named("next".into()));
    until("the next", || counts.exported.load(Relaxed) == 1).await;
}

#[tokio::test]
async fn with_a_collector_that_is_silent_the_queue_fills_and_the_rest_is_dropped() {
    let fake = Fake::start(vec![None]).await;
    let (queue, exporter, counts) = fake.exporter(Duration::from_millis(1));
    queue.give(Named("first".into()));
    until("the first batch", || {
        !fake.batches.lock().expect("whole").is_empty()
    })
    .await;
    for _ in 0..QUEUE + 10 {
        queue.give(Named("more".into()));
    }
    assert_eq!(counts.dropped.load(Relaxed), 10);
    let begun = Instant::now();
    exporter.finish(begun + Duration::from_millis(100)).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "bounded");
}

#[tokio::test]
async fn spans_that_nobody_takes_are_counted_when_the_time_is_over() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let (queue, exporter, counts) = exporter(port, LONG);
    for _ in 0..BATCH + 1 {
        queue.give(Named("lost".into()));
    }
    exporter
        .finish(Instant::now() + Duration::from_millis(200))
        .await;
    assert_eq!(counts.failed.load(Relaxed), BATCH as u64 + 1);
}

#[tokio::test]
async fn an_exporter_ends_by_itself_when_nobody_can_give_it_more() {
    let fake = Fake::start(Vec::new()).await;
    let (queue, exporter, counts) = fake.exporter(LONG);
    queue.give(Named("last".into()));
    drop(queue);
    until("the end", || exporter.is_over()).await;
    assert_eq!(counts.exported.load(Relaxed), 1);
}
