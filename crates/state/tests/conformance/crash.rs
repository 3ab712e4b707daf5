//! The embedded file's owner is killed while it writes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_state::{Epoch, Guard, Prefix};

use crate::suite::key;

/// Tells the child, which is this same test, where to write.
const WRITER: &str = "TIDEGATE_TEST_STATE_FILE";
const NAME: &str = "crash::no_acknowledged_write_is_lost_when_the_owner_is_killed";
const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn no_acknowledged_write_is_lost_when_the_owner_is_killed() {
    if let Some(path) = std::env::var_os(WRITER) {
        write(Path::new(&path));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=6 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(WRITER, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut acknowledged = 0;
        for line in lines.map_while(Result::ok) {
            // "ack KEY NUMBER"; a line that the death cut short has no end mark.
            let words: Vec<&str> = line.split(' ').collect();
            if let ["ack", name, number, "."] = words[..] {
                known.insert(name.to_owned(), number.parse().unwrap());
                acknowledged += 1;
            }
            if acknowledged == 60 * round {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(
            acknowledged >= 60 * round,
            "the writer wrote {acknowledged} only"
        );
        check(&path, &known);
    }
}

/// Writes until it is killed.
fn write(path: &Path) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = tidegate_state::file(path).unwrap();
        for writer in 0..8 {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let at = key(&format!("writer/{writer}"));
                let mut number = match store.get(&at).await.unwrap() {
                    Some(entry) => std::str::from_utf8(&entry.value).unwrap().parse().unwrap(),
                    None => 0_u64,
                };
                loop {
                    number += 1;
                    let value = Bytes::from(number.to_string());
                    store.put(&at, value, None, &Guard::NONE).await.unwrap();
                    println!("ack {at} {number} .");
                    if number.is_multiple_of(16) {
                        let name = key(&format!("lease/{writer}"));
                        let lease = store.acquire(&name, "writer", HOUR).await.unwrap();
                        store.release(&lease).await.unwrap();
                        println!("ack {name} {} .", lease.epoch);
                    }
                }
            });
        }
        std::future::pending().await
    })
}

fn check(path: &Path, known: &BTreeMap<String, u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = tidegate_state::file(path).unwrap();
        let entries = store.list(&Prefix::all()).await.unwrap().entries;
        let entries: BTreeMap<_, _> = entries.into_iter().collect();
        for (name, number) in known {
            if name.starts_with("lease/") {
                let view = store.lease(&key(name)).await.unwrap().unwrap();
                assert!(view.epoch >= Epoch(*number), "{name}");
                continue;
            }
            let found: u64 = std::str::from_utf8(&entries[&key(name)].value)
                .unwrap()
                .parse()
                .unwrap();
            // One more may have been written whose acknowledgement died.
            assert!(
                found == *number || found == number + 1,
                "{name}: {found}, acknowledged {number}"
            );
        }
    });
}
