//! What the remote store promises when its owner comes and goes.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_state::{Error, Event, Guard, Prefix, Version};
use tokio::task::JoinSet;

use crate::backends::{eventually, serve};
use crate::suite::{key, next, put, read};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_wait_for_an_owner_that_is_not_there_yet() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let store = tidegate_state::remote(&socket);
    assert!(!store.connected());
    let early = tokio::spawn({
        let store = Arc::clone(&store);
        async move { put(&store, "early", "x").await }
    });
    let server = serve(folder.path(), &socket);
    early.await.unwrap();
    assert_eq!(read(&store, "early").await.unwrap(), "x");
    eventually("it is connected", || async { store.connected() }).await;
    server.stop().await;
    eventually("it is not connected", || async { !store.connected() }).await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_stays_away_is_told_and_nothing_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let store = tidegate_state::remote(&folder.path().join("nobody"));
    assert!(store.get(&key("a")).await.unwrap_err().is_unavailable());
    let put = store.put(&key("a"), Bytes::new(), None, &Guard::NONE).await;
    assert!(put.unwrap_err().is_unavailable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_replace_each_other_lose_no_acknowledged_write() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let mut server = serve(folder.path(), &socket);
    let store = tidegate_state::remote(&socket);
    let mut writers = JoinSet::new();
    for writer in 0..4 {
        let store = Arc::clone(&store);
        writers.spawn(async move {
            let at = key(&format!("w/{writer}"));
            let (mut number, mut last) = (0_u32, None::<Version>);
            while number < 150 {
                let value = Bytes::from((number + 1).to_string());
                let guard = last.map_or(Guard::absent(), Guard::version);
                match store.put(&at, value.clone(), None, &guard).await {
                    Ok(version) => (number, last) = (number + 1, Some(version)),
                    // An owner that goes in peace answers what it has taken: what was not answered was not done, or
                    // it was and the next look tells.
                    Err(error) if error.is_unavailable() => {
                        let found = store.get(&at).await.unwrap();
                        if let Some(entry) = found.filter(|entry| Some(entry.version) != last) {
                            assert_eq!(entry.value, value, "only this one's own write");
                            (number, last) = (number + 1, Some(entry.version));
                        }
                    }
                    Err(Error::Conflict { current, .. }) => {
                        panic!("an acknowledged write is lost: {last:?}, found {current:?}")
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    let mut owners = 1;
    while !writers.is_empty() {
        server.stop().await;
        server = serve(folder.path(), &socket);
        owners += 1;
        // Each owner has something to do before the next one comes.
        let _ = put(&store, "turn", &owners.to_string()).await;
        while let Some(done) = writers.try_join_next() {
            done.unwrap();
        }
    }
    assert!(owners > 2);
    for writer in 0..4 {
        assert_eq!(read(&store, &format!("w/{writer}")).await.unwrap(), "150");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_given_everything_anew_when_the_owner_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let server = serve(folder.path(), &socket);
    let store = tidegate_state::remote(&socket);
    put(&store, "a", "1").await;
    let mut watch = store.watch(&Prefix::all());
    let keys = |event| match event {
        Event::Resync(entries) => entries
            .iter()
            .map(|(key, _)| key.to_string())
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(keys(next(&mut watch).await), ["a"]);
    server.stop().await;
    // Somebody else changes it meanwhile.
    let direct = tidegate_state::file(&folder.path().join(tidegate_state::FILE_NAME)).unwrap();
    direct.delete(&key("a"), &Guard::NONE).await.unwrap();
    put(&direct, "b", "2").await;
    drop(direct);
    let _server = serve(folder.path(), &socket);
    assert_eq!(keys(next(&mut watch).await), ["b"]);
    put(&store, "c", "3").await;
    assert!(matches!(next(&mut watch).await, Event::Put(at, _) if at == key("c")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_may_have_a_long_path() {
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("s");
    let deep = folder.path().join("n".repeat(90)).join("m".repeat(90));
    let _server = serve(folder.path(), &short);
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::rename(&short, deep.join("s")).unwrap();
    let store = tidegate_state::remote(&deep.join("s"));
    put(&store, "a", "x").await;
}
