//! The embedded store: a ledger in memory, and every change of it in one crash-safe file.
//!
//! One thread owns both. It takes what has been asked since its last look, does all of it on the ledger, writes the
//! changes down in one transaction, and answers when that is on the disk: many callers share one flush. The additions
//! of counters, of which there may be thousands a second, are written with the next transaction, or after
//! [`COUNTERS_AFTER`].

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::error::Error;
use crate::key::Key;
use crate::ledger::{Counter, Effect, Holding, Ledger, Stored};
use crate::open::OpenError;
use crate::operation::{Answer, Backend, Front, Operation, PATIENCE};
use crate::store::{Epoch, Store, Version};
use crate::watch::{Change, Feed};

/// Longest time that an addition to a counter stays in memory alone, in milliseconds.
const COUNTERS_AFTER: u64 = 100;
/// Most operations that share one transaction: bounds how long the first of them waits.
const BATCH: usize = 256;
/// The database's own cache: the ledger is the cache.
const CACHE_BYTES: usize = 1 << 20;
/// Wait before a file that failed is opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// The thread looks at least so often.
const LOOK: Duration = Duration::from_secs(3600);

/// Key → version, end (milliseconds since 1970), value.
const ENTRIES: TableDefinition<'_, &str, (u64, Option<u64>, &[u8])> =
    TableDefinition::new("entries");
/// Name → epoch, holder, end.
const LEASES: TableDefinition<'_, &str, (u64, Option<&str>, u64)> = TableDefinition::new("leases");
/// Key → value, end.
const COUNTERS: TableDefinition<'_, &str, (u64, Option<u64>)> = TableDefinition::new("counters");
/// The last version and the last time.
const LAST: TableDefinition<'_, &str, u64> = TableDefinition::new("last");
const VERSION: &str = "version";
const TIME: &str = "time";

type Reply = oneshot::Sender<Result<Answer, Error>>;

#[derive(Debug)]
struct FileStore {
    /// `None` only while it is dropped.
    requests: Option<Sender<(Operation, Reply)>>,
    feed: Arc<Feed>,
    thread: Option<JoinHandle<()>>,
}

/// Opens a store in one file, which is made when missing (readable by its owner alone); its folder must exist. The
/// store ends, and the file can be opened again, when the last handle and the last watch are gone; dropping that waits
/// for the last transaction.
///
/// # Errors
/// [`OpenError::InUse`] when this or another process has it open, [`OpenError::File`] when it cannot be used.
pub fn file(path: &Path) -> Result<Arc<dyn Store>, OpenError> {
    start(path, |path| {
        Database::builder().set_cache_size(CACHE_BYTES).create(path)
    })
}

type OpenDatabase = fn(&Path) -> Result<Database, DatabaseError>;

fn start(path: &Path, open: OpenDatabase) -> Result<Arc<dyn Store>, OpenError> {
    let Opened {
        database,
        ledger,
        last_ms,
    } = Opened::open(path, open)?;
    let (requests, received) = channel();
    let feed = Arc::new(Feed::new(true));
    let mut owner = Owner {
        path: path.to_owned(),
        open,
        database: Some(database),
        clock: Clock::new(last_ms),
        ledger,
        counters: BTreeMap::new(),
        feed: Arc::clone(&feed),
    };
    let thread = std::thread::Builder::new()
        .name("state".into())
        .spawn(move || {
            // A panic must not leave a store that is away for good. Whoever waits for an answer is told, and what is
            // in memory is read anew from the file, as after any transaction that failed.
            while catch_unwind(AssertUnwindSafe(|| owner.run(&received))).is_err() {
                tracing::error!(path = %owner.path.display(), "the state file's thread panicked");
                owner.lose();
            }
        })
        .map_err(|error| OpenError::file(path, error))?;
    Ok(Arc::new(Front(Arc::new(FileStore {
        requests: Some(requests),
        feed,
        thread: Some(thread),
    }))))
}

/// A file that was opened and read.
struct Opened {
    database: Database,
    ledger: Ledger,
    /// The last time in it, in milliseconds since 1970.
    last_ms: u64,
}

impl Opened {
    fn open(path: &Path, open: OpenDatabase) -> Result<Self, OpenError> {
        create(path).map_err(|error| OpenError::file(path, error))?;
        let database = open(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => OpenError::InUse {
                path: path.to_owned(),
            },
            error => OpenError::file(path, error),
        })?;
        let (ledger, last_ms) = read(&database).map_err(|error| OpenError::file(path, error))?;
        Ok(Self {
            database,
            ledger,
            last_ms,
        })
    }
}

/// Makes the file if it is missing, and its name as durable as what will be in it.
fn create(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match file {
        Ok(_) => match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Backend for FileStore {
    async fn execute(&self, operation: Operation) -> Result<Answer, Error> {
        // Also after a panic, which the thread survives.
        let ended = || Error::unavailable("the thread that owns the state file did not answer");
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        requests.send((operation, reply)).map_err(|_| ended())?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(Error::unavailable("the disk does not answer")),
        }
    }

    fn feed(&self) -> &Feed {
        &self.feed
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Owner {
    path: PathBuf,
    /// `None` after a transaction that failed, until the file can be opened again.
    database: Option<Database>,
    open: OpenDatabase,
    clock: Clock,
    ledger: Ledger,
    /// Counters that are not written yet; `None`: over.
    counters: BTreeMap<Key, Option<Counter>>,
    feed: Arc<Feed>,
}

impl Owner {
    fn run(&mut self, requests: &Receiver<(Operation, Reply)>) {
        // When the counters that are not written yet have to be.
        let mut flush_at: Option<u64> = None;
        loop {
            let due = [flush_at, self.ledger.next_due()].into_iter().flatten();
            let wait = match (&self.database, due.min()) {
                (None, _) => OPEN_AGAIN,
                (Some(_), Some(at)) => {
                    Duration::from_millis(at.saturating_sub(self.clock.now_ms())).min(LOOK)
                }
                (Some(_), None) => LOOK,
            };
            let first = match requests.recv_timeout(wait) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.commit(Vec::new(), true);
                    return;
                }
            };
            let batch = first.into_iter().chain(requests.try_iter());
            let batch: Vec<_> = batch.take(BATCH).collect();
            let now = self.clock.now_ms();
            self.turn(batch, now, flush_at.is_some_and(|at| at <= now));
            flush_at = (!self.counters.is_empty()).then(|| {
                flush_at
                    .filter(|at| *at > now)
                    .unwrap_or(now + COUNTERS_AFTER)
            });
        }
    }

    fn turn(&mut self, batch: Vec<(Operation, Reply)>, now: u64, counters_too: bool) {
        if let Err(error) = self.reopen() {
            for (_, reply) in batch {
                let _ = reply.send(Err(error.clone()));
            }
            return;
        }
        let mut effects = Vec::new();
        self.ledger.expire(now, &mut effects);
        let mut answers = Vec::with_capacity(batch.len());
        for (operation, reply) in batch {
            // Its caller has stopped waiting, as for a disk that hangs: it was told that nothing is known, so nothing is what
            // should happen.
            if reply.is_closed() {
                continue;
            }
            answers.push((reply, self.ledger.apply(operation, now, &mut effects)));
        }
        // After a failure no answer holds: they were read from a ledger that ran ahead of the file.
        let done = self.commit(effects, counters_too);
        for (reply, answer) in answers {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(done.clone().and(answer));
        }
    }

    /// Writes changes down and tells them.
    fn commit(&mut self, effects: Vec<Effect>, counters_too: bool) -> Result<(), Error> {
        let mut changes = Vec::with_capacity(effects.len());
        for effect in effects {
            match effect {
                Effect::Counter(key, counter) => {
                    self.counters.insert(key, counter);
                }
                effect => changes.push(effect),
            }
        }
        if changes.is_empty() && (self.counters.is_empty() || !counters_too) {
            return Ok(());
        }
        if let Err(error) = self.write(&changes) {
            tracing::error!(path = %self.path.display(), %error, "the state file cannot be written");
            self.lose();
            return Err(self.unavailable(&error));
        }
        self.counters.clear();
        let now = self.clock.now_ms();
        for change in changes
            .into_iter()
            .filter_map(|effect| Change::of(effect, now))
        {
            self.feed.publish(change);
        }
        Ok(())
    }

    fn write(&self, changes: &[Effect]) -> Result<(), redb::Error> {
        let Some(database) = &self.database else {
            return Err(redb::Error::DatabaseClosed);
        };
        let transaction = database.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut leases = transaction.open_table(LEASES)?;
            let mut counters = transaction.open_table(COUNTERS)?;
            let mut last = transaction.open_table(LAST)?;
            last.insert(TIME, self.clock.now_ms())?;
            for change in changes {
                match change {
                    Effect::Entry(key, version, Some(stored)) => {
                        last.insert(VERSION, version.0)?;
                        let row = (stored.version.0, stored.ends, &stored.value[..]);
                        entries.insert(key.as_str(), row)?;
                    }
                    Effect::Entry(key, version, None) => {
                        last.insert(VERSION, version.0)?;
                        entries.remove(key.as_str())?;
                    }
                    Effect::Lease(name, holding) => {
                        let row = (holding.epoch.0, holding.holder.as_deref(), holding.ends);
                        leases.insert(name.as_str(), row)?;
                    }
                    // Those are written from `self.counters`.
                    Effect::Counter(..) => {}
                }
            }
            for (key, counter) in &self.counters {
                match counter {
                    Some(Counter { value, ends }) => {
                        counters.insert(key.as_str(), (*value, *ends))?;
                    }
                    None => {
                        counters.remove(key.as_str())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// The ledger ran ahead of the file, and nobody was told: it is to be read anew.
    fn lose(&mut self) {
        let database = self.database.take();
        // After a panic inside of it, it panics once more when it closes.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
        self.feed.down();
    }

    /// After a transaction that failed: opens the file again and forgets what is not in it.
    fn reopen(&mut self) -> Result<(), Error> {
        if self.database.is_some() {
            return Ok(());
        }
        let opened =
            Opened::open(&self.path, self.open).map_err(|error| self.unavailable(&error))?;
        tracing::info!(path = %self.path.display(), "the state file can be used again");
        self.database = Some(opened.database);
        self.ledger = opened.ledger;
        // Acknowledged already.
        for (key, counter) in &self.counters {
            self.ledger.restore(Effect::Counter(key.clone(), *counter));
        }
        self.feed.up();
        Ok(())
    }

    fn unavailable(&self, error: &dyn std::fmt::Display) -> Error {
        Error::unavailable(format_args!("{}: {error}", self.path.display()))
    }
}

/// What the file holds, and the last time in it.
fn read(database: &Database) -> Result<(Ledger, u64), redb::Error> {
    // Makes the tables of a new file.
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(LEASES)?;
    transaction.open_table(COUNTERS)?;
    transaction.open_table(LAST)?;
    transaction.commit()?;
    let mut ledger = Ledger::default();
    let transaction = database.begin_read()?;
    let last = transaction.open_table(LAST)?;
    let number = |name| Ok::<_, redb::Error>(last.get(name)?.map_or(0, |number| number.value()));
    ledger.restore_version(Version(number(VERSION)?));
    for row in transaction.open_table(ENTRIES)?.iter()? {
        let (key, row) = row?;
        let (version, ends, value) = row.value();
        let version = Version(version);
        let value = bytes::Bytes::copy_from_slice(value);
        let stored = Stored {
            value,
            version,
            ends,
        };
        ledger.restore(Effect::Entry(named(key.value())?, version, Some(stored)));
    }
    for row in transaction.open_table(LEASES)?.iter()? {
        let (name, row) = row?;
        let (epoch, holder, ends) = row.value();
        let holding = Holding {
            epoch: Epoch(epoch),
            holder: holder.map(str::to_owned),
            ends,
        };
        ledger.restore(Effect::Lease(named(name.value())?, holding));
    }
    for row in transaction.open_table(COUNTERS)?.iter()? {
        let (key, row) = row?;
        let (value, ends) = row.value();
        let counter = Counter { value, ends };
        ledger.restore(Effect::Counter(named(key.value())?, Some(counter)));
    }
    Ok((ledger, number(TIME)?))
}

fn named(text: &str) -> Result<Key, redb::Error> {
    Key::parse(text).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use redb::StorageBackend;
    use redb::backends::FileBackend;

    use super::*;
    use crate::key::Prefix;
    use crate::store::Guard;
    use crate::watch::Event;

    const WELL: u8 = 0;
    const FULL: u8 = 1;
    const PANICS: u8 = 2;
    const HANGS: u8 = 3;
    /// It hangs, and somebody waits for it.
    const STUCK: u8 = 4;

    /// A disk with a mood. One for each test: they run at the same time.
    #[derive(Debug)]
    struct Disk(FileBackend, &'static AtomicU8);

    impl Disk {
        fn check(&self) -> io::Result<()> {
            match self.1.load(Ordering::SeqCst) {
                FULL => Err(io::ErrorKind::StorageFull.into()),
                PANICS => panic!("the disk is in a bad mood"),
                HANGS | STUCK => {
                    self.1.store(STUCK, Ordering::SeqCst);
                    while self.1.load(Ordering::SeqCst) == STUCK {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Ok(())
                }
                _ => Ok(()),
            }
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check()?;
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.check()?;
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            self.0.write(offset, data)
        }
    }

    fn open_on(path: &Path, mood: &'static AtomicU8) -> Result<Database, DatabaseError> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let disk = Disk(FileBackend::new(file)?, mood);
        Database::builder().create_with_backend(disk)
    }

    async fn recovers_from(mood: &'static AtomicU8, bad: u8, open: OpenDatabase) {
        let folder = tempfile::tempdir().unwrap();
        let store = start(&folder.path().join("s"), open).unwrap();
        let key = |text: &str| Key::parse(text).unwrap();
        let put = async |at: &str, value: &'static str| {
            store.put(&key(at), value.into(), None, &Guard::NONE).await
        };
        put("a", "before").await.unwrap();
        store.add(&key("c"), 5, None, None).await.unwrap();
        let mut watch = store.watch(&Prefix::all());
        assert!(matches!(watch.next().await, Event::Resync(_)));
        mood.store(bad, Ordering::SeqCst);
        for _ in 0..3 {
            let error = put("a", "lost").await.unwrap_err();
            assert!(error.is_unavailable(), "{error}");
        }
        assert!(!store.connected());
        mood.store(WELL, Ordering::SeqCst);
        // What failed was not done, and what was acknowledged is there.
        let entry = store.get(&key("a")).await.unwrap().unwrap();
        assert_eq!(entry.value, "before");
        assert_eq!(store.add(&key("c"), 1, None, None).await.unwrap(), 6);
        let version = put("a", "after").await.unwrap();
        assert!(version > entry.version && store.connected());
        let after = store.get(&key("a")).await.unwrap().unwrap();
        loop {
            match watch.next().await {
                Event::Resync(entries) if entries == [(key("a"), after.clone())] => break,
                Event::Put(_, entry) if entry == after => break,
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn a_disk_that_was_full_is_used_again_and_no_failed_write_is_seen() {
        static MOOD: AtomicU8 = AtomicU8::new(WELL);
        recovers_from(&MOOD, FULL, |path| open_on(path, &MOOD)).await;
    }

    #[tokio::test]
    async fn a_panic_costs_what_was_under_way_alone() {
        static MOOD: AtomicU8 = AtomicU8::new(WELL);
        recovers_from(&MOOD, PANICS, |path| open_on(path, &MOOD)).await;
    }

    #[tokio::test]
    async fn what_its_caller_gave_up_is_not_done_when_the_disk_comes_back() {
        static MOOD: AtomicU8 = AtomicU8::new(WELL);
        let folder = tempfile::tempdir().unwrap();
        let store = start(&folder.path().join("s"), |path| open_on(path, &MOOD)).unwrap();
        let key = |text: &str| Key::parse(text).unwrap();
        MOOD.store(HANGS, Ordering::SeqCst);
        let under_way = tokio::spawn({
            let (store, key) = (Arc::clone(&store), key("a"));
            async move { store.put(&key, "x".into(), None, &Guard::NONE).await }
        });
        while MOOD.load(Ordering::SeqCst) != STUCK {
            tokio::task::yield_now().await;
        }
        tokio::time::pause();
        let late = store.put(&key("b"), "y".into(), None, &Guard::NONE).await;
        assert!(late.unwrap_err().is_unavailable());
        assert!(under_way.await.unwrap().unwrap_err().is_unavailable());
        tokio::time::resume();
        MOOD.store(WELL, Ordering::SeqCst);
        assert_eq!(store.get(&key("b")).await.unwrap(), None);
        // What the disk had begun was done: that is not known, and was told as that.
        assert_eq!(store.get(&key("a")).await.unwrap().unwrap().value, "x");
    }
}
