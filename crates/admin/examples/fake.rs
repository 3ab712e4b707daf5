//! The dashboard over a made-up gateway whose traffic and troubles change by themselves, for working on the page:
//!
//!     cargo run -p tidegate-admin --example fake -- [ADDRESS] [--token TOKEN] [--still] [--members N]
//!
//! `--still`: nothing happens by itself but traffic; lines on standard input make it happen, which is how the browser
//! test drives it: `set UPSTREAM MEMBER STATE MS CAUSE…`, `key PROVIDER KEY STATE MS CAUSE…`, `add UPSTREAM MEMBER`, `remove UPSTREAM MEMBER`,
//! `fault MEMBER SLOWNESS FAILING`, `ready`, `unready REASON…`, `refuse TEXT…`, `event KIND SUBJECT CAUSE…`.
//! `--members`: one more upstream with that many members.

use std::io::BufRead;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tidegate_admin::{AdminOptions, ListenSocket, Token, serve};
use tokio::time::{Instant, interval};

#[path = "../tests/support/mod.rs"]
mod support;
use support::{State, World, member};

/// Traffic that passed before the program was asked.
const PAST: f64 = 30.0;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut address = "127.0.0.1:9900".to_owned();
    let (mut token, mut still, mut many) = (None, false, 0usize);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--token" => token = arguments.next().as_deref().and_then(Token::new),
            "--still" => still = true,
            "--members" => many = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            _ => address = argument,
        }
    }
    let world = Arc::new(World::new());
    {
        let mut state = world.state();
        if many > 0 {
            let mut pool = state.upstreams[0].clone();
            pool.name = "fleet".into();
            pool.members = (0..many)
                .map(|i| {
                    member(
                        &format!("10.9.{}.{}:8500", i / 250, i % 250),
                        1,
                        ["a", "b", "c"][i % 3],
                    )
                })
                .collect();
            for i in (7..many).step_by(31) {
                pool.members[i].state = "ejected".into();
                pool.members[i].cause = "5 consecutive 5xx".into();
            }
            state.upstreams.push(pool);
        }
        let cause = "generation 1, 4 routes, 5 upstreams";
        state.event("config_loaded", "", "", cause);
        (0..(PAST * 10.0) as u32).for_each(|i| state.pass(f64::from(i) / 10.0, 0.1));
    }
    let options = AdminOptions {
        token,
        ..AdminOptions::default()
    };
    let handle = serve(
        ListenSocket::Tcp(TcpListener::bind(&address)?),
        Arc::clone(&world) as _,
        options,
    )?;
    if let Some(address) = handle.address() {
        println!("listening on http://{address}");
    }
    let driven = Arc::clone(&world);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if command(&mut driven.state(), &line).is_none() {
                println!("not understood: {line}");
            }
        }
    });
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(100));
    let mut last = 0.0;
    let mut step = 0;
    loop {
        ticks.tick().await;
        let at = begun.elapsed().as_secs_f64();
        let mut state = world.state();
        state.pass(PAST + at, at - last);
        last = at;
        if !still {
            while at >= story(step, None) {
                story(step, Some(&mut state));
                step += 1;
            }
        }
    }
}

fn command(state: &mut State, line: &str) -> Option<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["set", upstream, id, to, ms, cause @ ..] => {
            state.set(
                upstream,
                id,
                to,
                &cause.join(" "),
                ms.parse().ok().filter(|ms| *ms > 0),
            );
        }
        ["key", provider, name, to, ms, cause @ ..] => {
            let ms = ms.parse().ok().filter(|ms| *ms > 0);
            state.set_key(provider, name, to, &cause.join(" "), ms);
        }
        ["add", upstream, id] => {
            state
                .upstreams
                .iter_mut()
                .find(|u| u.name == *upstream)?
                .members
                .push(member(id, 1, "b"));
            state.event("member_added", upstream, id, "");
        }
        ["remove", upstream, id] => {
            state
                .upstreams
                .iter_mut()
                .find(|u| u.name == *upstream)?
                .members
                .retain(|m| m.id != *id);
            state.event("member_removed", upstream, id, "");
        }
        ["fault", id, slow, fail] => fault(state, id, slow.parse().ok()?, fail.parse().ok()?),
        ["ready"] => (state.readiness.ready, state.readiness.reason) = (true, String::new()),
        ["unready", reason @ ..] => {
            (state.readiness.ready, state.readiness.reason) = (false, reason.join(" "))
        }
        ["refuse", text @ ..] => state.reload = Err(text.join(" ")),
        ["event", kind, subject, cause @ ..] => state.event(kind, subject, "", &cause.join(" ")),
        [] => {}
        _ => return None,
    }
    Some(())
}

fn fault(state: &mut State, id: &str, slow: f64, fail: f64) {
    state.faults.retain(|(member, _, _)| member != id);
    state.faults.push((id.into(), slow, fail));
}

/// The troubles of the self-driving world: when the step is due (seconds), and what it does.
fn story(step: u32, state: Option<&mut State>) -> f64 {
    let (round, step) = (step / 10, step % 10);
    let due = f64::from(round) * 60.0
        + [3.0, 6.0, 9.0, 14.0, 18.0, 24.0, 30.0, 34.0, 44.0, 52.0][step as usize];
    let Some(state) = state else { return due };
    match step {
        0 => fault(state, "10.0.1.3:8500", 1.0, 0.6),
        1 => state.set(
            "ranker-v1",
            "10.0.1.3:8500",
            "ejected",
            "5 consecutive 5xx",
            Some(30_000),
        ),
        2 => state.set(
            "embeddings",
            "10.0.4.17:8500",
            "ejected",
            "connect refused",
            None,
        ),
        3 => fault(state, "10.0.3.2:8500", 9.0, 0.0),
        4 => state.set(
            "sentiment",
            "10.0.3.5:8500",
            "draining",
            "deregistered in Consul",
            None,
        ),
        5 => {
            if let Some(upstream) = state.upstreams.iter_mut().find(|u| u.name == "sentiment") {
                upstream.source_error = Some("http://127.0.0.1:8500: connection refused".into());
            }
            let id = format!("10.0.2.{}:8500", 3 + round);
            let mut warming = member(&id, 1, "c");
            (warming.state, warming.cause) = ("warming".into(), "slow start".into());
            if let Some(upstream) = state.upstreams.iter_mut().find(|u| u.name == "ranker-v2") {
                upstream.members.push(warming);
            }
            state.event("member_added", "ranker-v2", &id, "");
        }
        6 => {
            fault(state, "10.0.1.3:8500", 1.0, 0.0);
            state.set(
                "ranker-v1",
                "10.0.1.3:8500",
                "probing",
                "ejection time over",
                None,
            );
        }
        7 => state.set("ranker-v1", "10.0.1.3:8500", "healthy", "", None),
        8 => {
            fault(state, "10.0.3.2:8500", 1.0, 0.0);
            let id = format!("10.0.2.{}:8500", 3 + round);
            state.set("ranker-v2", &id, "healthy", "slow start over", None);
            state.set("sentiment", "10.0.3.5:8500", "healthy", "", None);
            if let Some(upstream) = state.upstreams.iter_mut().find(|u| u.name == "sentiment") {
                upstream.source_error = None;
            }
        }
        _ => state.set("embeddings", "10.0.4.17:8500", "healthy", "", None),
    }
    due
}
