//! `tidegate status`: the tables as they look, and the live table in a real terminal.
//!
//! The pictures are files in `tests/golden`; `UPDATE_GOLDEN=1` writes them anew, for a person to look at the difference.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tidegate_admin::client::AdminUrl;
use tidegate_admin::overview::{ConfigSummary, Overview, ProcessView, route_traffic};
use tidegate_admin::status::{StatusOptions, Style, View, render, run};
use tidegate_gateway::view::EventView;

mod support;
use support::{Served, World};
use tidegate_admin::Source;

/// An answer with known numbers: `seconds` after the start, that many steady seconds of traffic.
fn answer(seconds: u64) -> Overview {
    let world = World::new();
    {
        let mut state = world.state();
        state.upstreams.truncate(3);
        state.routes.truncate(2);
        for upstream in &mut state.upstreams {
            for (i, member) in upstream.members.iter_mut().enumerate() {
                let i = i as u64;
                (member.attempts, member.failures) = (seconds * (20 + i), seconds * i / 10);
                (member.ewma_us, member.inflight) = (6_000 + 731 * i, i % 2);
            }
        }
        state.upstreams[2].source_error = Some("http://127.0.0.1:8500: connection refused".into());
        let ejected = &mut state.upstreams[0].members[2];
        (ejected.state, ejected.cause) = ("ejected".into(), "5 consecutive 5xx".into());
        ejected.returns_in_ms = Some(24_300);
        for _ in 0..seconds * 10 {
            state.count("ranker", "ranker-v1", 200, 0.004);
        }
        for _ in 0..seconds {
            state.count("ranker", "ranker-v2", 503, 0.3);
        }
        for (seq, kind, member, cause) in [
            (1, "config_loaded", "", "generation 3"),
            (2, "member_ejected", "10.0.1.3:8500", "5 consecutive 5xx"),
        ] {
            let (kind, member, cause) = (kind.into(), member.into(), cause.into());
            let subject = if seq == 2 {
                "ranker-v1".into()
            } else {
                String::new()
            };
            state.events.push(EventView {
                seq,
                at_ms: 47_107_000,
                kind,
                subject,
                member,
                cause,
            });
        }
        state.config.generation = 3;
    }
    Overview {
        instance: "one".into(),
        version: "0.1.0".into(),
        at_ms: 47_110_000,
        uptime_ms: seconds * 1000,
        readiness: world.readiness(),
        config: ConfigSummary::from(&world.config()),
        process: ProcessView::default(),
        listeners: world.listeners(),
        upstreams: world.upstreams(),
        providers: Vec::new(),
        services: Vec::new(),
        store: world.store(),
        routes: route_traffic(world.routes(), &world.metrics()),
        events: world.events(0, 100),
        last_event: 2,
    }
}

fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let meant = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        text == meant,
        "{name} has changed; it is now\n{text}\nand was\n{meant}"
    );
}

fn plain(width: usize) -> Style {
    Style {
        width,
        colour: false,
    }
}

#[test]
fn all_at_once_shows_totals() {
    golden(
        "all.txt",
        &render(&answer(10), None, View::All, &plain(120)),
    );
}

#[test]
fn with_an_earlier_answer_it_shows_rates() {
    golden(
        "rates.txt",
        &render(&answer(15), Some(&answer(10)), View::All, &plain(120)),
    );
}

#[test]
fn a_narrow_terminal_keeps_what_matters() {
    golden(
        "narrow.txt",
        &render(&answer(10), None, View::Upstreams, &plain(60)),
    );
}

/// An answer with providers in trouble.
fn providers() -> Overview {
    let mut key = support::key("sk-…9f3c");
    key.health = support::health("ejected", "limited", Some(29_400));
    let said = "Rate limit reached for requests per minute";
    key.health.evidence = Some(support::evidence(
        "limited",
        429,
        "rate_limit_exceeded",
        said,
    ));
    (key.attempts, key.failures, key.ejections, key.inflight) = (1_200, 31, 2, 0);
    let mut dead = support::key("sk-…77aa");
    dead.health = support::health("ejected", "key dead (seen by eu-2)", None);
    let mut told = support::evidence(
        "key_dead",
        401,
        "invalid_api_key",
        "Incorrect API key provided",
    );
    told.seen_by = Some("eu-2".into());
    dead.health.evidence = Some(told);
    let mut partly = support::key("sk-…0e1b");
    (partly.attempts, partly.inflight) = (52_000, 3);
    partly.models.push(support::key_model(
        "qwen-max",
        support::health("ejected", "quota exhausted", Some(3_600_000)),
    ));
    let mut qwen = support::provider("qwen", "qwen", vec![key, dead, partly]);
    (qwen.inflight, qwen.input_tokens, qwen.output_tokens) = (3, 48_000_000, 5_100_000);
    qwen.failovers = vec![
        support::cause_count("limited", 31),
        support::cause_count("key_dead", 1),
    ];
    let mut answer = answer(10);
    answer.providers = vec![
        qwen,
        support::provider("claude", "anthropic", vec![support::key("sk-…c1a0")]),
    ];
    answer.store.connected = false;
    answer
}

#[test]
fn keys_show_what_their_provider_said_and_when_they_return() {
    golden(
        "providers.txt",
        &render(&providers(), None, View::Providers, &plain(120)),
    );
}

#[test]
fn a_narrow_terminal_keeps_state_and_cause_of_keys() {
    let text = render(&providers(), None, View::Providers, &plain(50));
    golden("providers_narrow.txt", &text);
}

#[test]
fn rates_of_keys_are_those_between_two_answers() {
    let mut now = providers();
    now.uptime_ms += 5_000;
    now.providers[0].keys[2].attempts += 600;
    let text = render(&now, Some(&providers()), View::Providers, &plain(120));
    assert!(text.contains("120"), "{text}");
}

#[test]
fn colours_go_with_words() {
    golden(
        "colour.txt",
        &render(
            &answer(10),
            None,
            View::Upstreams,
            &Style {
                width: 100,
                colour: true,
            },
        ),
    );
}

#[test]
fn listeners_and_events_have_their_tables() {
    golden(
        "listeners.txt",
        &render(&answer(10), None, View::Listeners, &plain(80)),
    );
    golden(
        "events.txt",
        &render(&answer(10), None, View::Events, &plain(80)),
    );
}

#[test]
fn trouble_is_told_at_the_top() {
    let mut now = answer(10);
    (now.readiness.ready, now.readiness.reason) = (false, "draining, 12 requests left".into());
    now.config.refused = Some("tidegate.yaml:3:5: unknown key `rotues`\n  more".into());
    (now.upstreams[0].panic, now.upstreams[1].members) = (true, Vec::new());
    golden("trouble.txt", &render(&now, None, View::All, &plain(100)));
}

#[test]
fn an_answer_of_another_run_makes_no_rates() {
    let mut earlier = answer(10);
    earlier.instance = "other".into();
    assert_eq!(
        render(&answer(15), Some(&earlier), View::All, &plain(120)),
        render(&answer(15), None, View::All, &plain(120))
    );
}

#[test]
fn no_line_is_wider_than_the_terminal_at_any_width() {
    let (now, earlier) = (answer(15), answer(10));
    for width in 20..160 {
        for view in [View::All, View::Listeners, View::Events] {
            for line in render(&now, Some(&earlier), view, &plain(width)).lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
        }
    }
}

#[test]
fn names_from_elsewhere_cannot_command_the_terminal() {
    let mut now = answer(10);
    now.upstreams[0].name = "a\x1b]0;owned\x07".into();
    now.upstreams[0].members[0].cause = "\x1b[2J".into();
    now.upstreams[2].source_error = Some("\x1b[31m".into());
    now.routes[0].route.matches = "\x1b[5m".into();
    now.events[0].cause = "\r\x1b[1A".into();
    now.readiness.ready = false;
    now.readiness.reason = "\x1b[H".into();
    now.config.refused = Some("\x1b[K".into());
    let text = render(&now, None, View::All, &plain(120));
    assert!(
        !text.contains(|c: char| c.is_control() && c != '\n'),
        "{text:?}"
    );
}

/// The command as a child process runs it; does nothing in a run of the tests.
#[test]
fn child() {
    let Some(url) = std::env::var("STATUS_CHILD_ADMIN").ok() else {
        return;
    };
    let has = |name: &str| std::env::var_os(name).is_some();
    let options = StatusOptions {
        admin: url.parse::<AdminUrl>().unwrap(),
        token: None,
        view: View::All,
        json: has("STATUS_CHILD_JSON"),
        watch: has("STATUS_CHILD_WATCH"),
        interval: Duration::from_millis(100),
        colour: None,
    };
    // An exit code of its own: that of the test run says nothing here.
    std::process::exit(match run(options) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}");
            1
        }
    });
}

fn command(url: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--quiet"])
        .env("STATUS_CHILD_ADMIN", url);
    command.env_remove("NO_COLOR");
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_tables_or_json_and_fails_with_one_line() {
    let served = Served::new();
    let url = format!("http://{}", served.address);
    let tables = command(&url).output().unwrap();
    let text = String::from_utf8(tables.stdout).unwrap();
    assert!(
        tables.status.success() && text.contains("MEMBER") && !text.contains('\x1b'),
        "{text}"
    );
    let json = command(&url)
        .env("STATUS_CHILD_JSON", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(json.stdout).unwrap();
    // The test harness says something before it.
    let value: Overview = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    assert_eq!(value.upstreams.len(), 5);
    served.handle.shutdown().await;
    let failed = command(&url).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        String::from_utf8(failed.stderr)
            .unwrap()
            .contains("no admin port answers at http://127.0.0.1:")
    );
}

/// The other end of a terminal: all that was written to it so far.
struct Terminal {
    master: std::fs::File,
    seen: String,
}

impl Terminal {
    /// A terminal of 100 × 30 and the end that a child writes to.
    fn new() -> (Self, std::fs::File) {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = std::fs::File::options()
            .read(true)
            .write(true)
            .open(name)
            .unwrap();
        let size = rustix::termios::Winsize {
            ws_row: 30,
            ws_col: 100,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&slave, size).unwrap();
        (
            Self {
                master: master.into(),
                seen: String::new(),
            },
            slave,
        )
    }

    fn wait_for(&mut self, what: &str, condition: impl Fn(&str) -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        let mut chunk = [0; 16 << 10];
        while !condition(&self.seen) {
            assert!(Instant::now() < end, "{what} did not come: {:?}", self.seen);
            // A read ends with an error when the child has closed its end.
            match self.master.read(&mut chunk) {
                Ok(n) => self.seen.push_str(&String::from_utf8_lossy(&chunk[..n])),
                Err(_) => {
                    assert!(
                        condition(&self.seen),
                        "closed before {what}: {:?}",
                        self.seen
                    );
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_redraws_in_place_survives_a_restart_and_restores_the_terminal_on_ctrl_c() {
    let served = Served::new();
    let url = format!("http://{}", served.address);
    let (mut terminal, slave) = Terminal::new();
    let mut child = command(&url)
        .env("STATUS_CHILD_WATCH", "1")
        .stdin(Stdio::null())
        .stdout(slave.try_clone().unwrap())
        .stderr(slave)
        .spawn()
        .unwrap();
    tokio::task::spawn_blocking(move || {
        let frames = |text: &str| text.matches("\x1b[?2026h").count();
        terminal.wait_for("some frames", |text| {
            frames(text) >= 3 && text.contains("RATE/S")
        });
        let screen = terminal
            .seen
            .split("\x1b[?1049h")
            .nth(1)
            .expect("the alternate screen")
            .to_owned();
        assert_eq!(
            screen.matches("\x1b[2J").count(),
            1,
            "cleared once, not with every frame"
        );
        let frame = screen.split("\x1b[?2026h").nth(2).unwrap();
        assert!(
            frame.matches("\r\n").count() < 30,
            "no frame scrolls: {frame:?}"
        );
        let Served {
            world,
            handle,
            address,
        } = served;
        tokio::runtime::Handle::current().block_on(handle.shutdown());
        terminal.wait_for("the loss", |text| text.contains("no answer for"));
        let listener = std::net::TcpListener::bind(address).unwrap();
        let again = {
            let _inside = tokio::runtime::Handle::current().enter();
            tidegate_admin::serve(
                tidegate_admin::ListenSocket::Tcp(listener),
                world,
                Default::default(),
            )
            .unwrap()
        };
        terminal.wait_for("its return", |text| {
            text.rsplit("\x1b[?2026h")
                .nth(1)
                .is_some_and(|frame| !frame.contains("no answer") && frame.contains("ready"))
        });
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        terminal.wait_for("the terminal as it was", |text| {
            text.ends_with("\x1b[?25h\x1b[?1049l")
        });
        assert_eq!(child.wait().unwrap().code(), Some(0));
        drop(again);
    })
    .await
    .unwrap();
}
