//! Requests under way while processes come and go.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use rustix::process::Signal;
use support::{PATIENCE, Site, signal_to, until};

/// A server that answers each request only when it is told to.
struct Held {
    address: SocketAddr,
    arrived: mpsc::Receiver<mpsc::Sender<()>>,
}

impl Held {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (arrive, arrived) = mpsc::channel();
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let arrive = arrive.clone();
                std::thread::spawn(move || serve(connection, &arrive));
            }
        });
        Self { address, arrived }
    }

    /// Waits for a request; dropping what is returned, or sending, has it answered.
    fn request(&self) -> mpsc::Sender<()> {
        self.arrived.recv_timeout(PATIENCE).unwrap()
    }
}

fn serve(connection: TcpStream, arrive: &mpsc::Sender<mpsc::Sender<()>>) {
    let mut lines = BufReader::new(connection.try_clone().unwrap());
    let mut connection = connection;
    loop {
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if !matches!(lines.read_line(&mut line), Ok(count) if count > 0) {
                return;
            }
        }
        let (release, released) = mpsc::channel();
        if arrive.send(release).is_err() {
            return;
        }
        let _ = released.recv();
        if connection
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nheld")
            .is_err()
        {
            return;
        }
    }
}

fn get_in_background(port: u16) -> JoinHandle<std::io::Result<String>> {
    std::thread::spawn(move || support::request(port, "/"))
}

#[test]
fn a_request_under_way_is_finished_before_the_end_and_new_connections_are_refused_meanwhile() {
    let site = Site::new();
    let upstream = Held::start();
    site.write(&site.relaying(upstream.address));
    let mut running = site.start(&[]);
    running.wait_for("gateway ready");
    let answer = get_in_background(site.port);
    let release = upstream.request();
    running.signal(Signal::TERM);
    until("new connections are refused", || {
        TcpStream::connect(("127.0.0.1", site.port))
            .is_err()
            .then_some(())
    });
    assert!(!answer.is_finished());
    release.send(()).unwrap();
    assert_eq!(answer.join().unwrap().unwrap(), "held");
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let site = Site::new();
    let upstream = Held::start();
    site.write(&site.relaying(upstream.address));
    let mut running = site.start(&[]);
    running.wait_for("gateway ready");
    let answer = get_in_background(site.port);
    let _release = upstream.request();
    running.signal(Signal::INT);
    running.wait_for("draining");
    running.signal(Signal::INT);
    assert_eq!(running.wait().code(), Some(1));
    answer.join().unwrap().unwrap_err();
}

#[test]
fn a_request_that_outlasts_the_grace_is_cut_and_the_code_says_so() {
    let site = Site::new();
    let upstream = Held::start();
    site.write(
        &site
            .relaying(upstream.address)
            .replace("grace: 20s", "grace: 100ms"),
    );
    let mut running = site.start(&[]);
    running.wait_for("gateway ready");
    let answer = get_in_background(site.port);
    let _release = upstream.request();
    assert_eq!(running.stop(), Some(1));
    answer.join().unwrap().unwrap_err();
    running.wait_for("requests were cut at the end of the grace");
}

#[test]
fn a_request_under_way_outlives_its_supervisor_and_an_upgrade() {
    let site = Site::new();
    let upstream = Held::start();
    site.write(&site.relaying(upstream.address));
    let mut first = site.start(&[]);
    first.wait_for("gateway ready");
    let answer = get_in_background(site.port);
    let release = upstream.request();
    first.signal(Signal::KILL);
    first.wait();
    first.wait_for("the supervisor is gone: serving on");
    let second = site.start(&[]);
    second.wait_for("gateway adopted");
    let third = site.start(&["--upgrade"]);
    third.wait_for("in charge");
    // A new request goes to the new gateway while the old one still holds the first.
    let other = get_in_background(site.port);
    upstream.request().send(()).unwrap();
    assert_eq!(other.join().unwrap().unwrap(), "held");
    assert!(!answer.is_finished());
    release.send(()).unwrap();
    assert_eq!(answer.join().unwrap().unwrap(), "held");
    second.wait_for("ended");
}

#[test]
fn callers_wait_in_the_queue_while_there_is_no_gateway() {
    let site = Site::new();
    let running = site.up();
    // A stopped gateway accepts nothing, and a killed one has yet to be replaced: connecting works all the same.
    let gateway = running.gateway();
    support::freeze(gateway);
    let mut waiting: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(("127.0.0.1", site.port)).unwrap())
        .collect();
    signal_to(gateway, Signal::KILL);
    running.wait_for_nth("gateway ready", 2);
    for connection in &mut waiting {
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection
            .write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }
}

#[test]
fn a_hundred_reloads_fail_nothing() {
    let site = Site::new();
    let mut running = site.up();
    let load = support::Load::start(site.port, 2);
    for turn in 1..=100 {
        site.write(&site.answering(&format!("turn{turn}")));
        running.signal(Signal::HUP);
        until("the new configuration answers", || {
            (site.get() == format!("turn{turn}")).then_some(())
        });
    }
    let seen = load.stop();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(seen.answered > 100);
    assert_eq!(running.stop(), Some(0));
}
