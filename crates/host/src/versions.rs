//! Which versions of its model a worker has in memory, and which goes when another must come.

use tokio::time::Instant;

/// The versions of one worker. The caller tells what it began and what the worker answered.
#[derive(Debug)]
pub(crate) struct Pool {
    most: usize,
    held: Vec<Held>,
    clock: u64,
}

#[derive(Debug)]
struct Held {
    version: String,
    stage: Stage,
    /// When its load began, if that is known: what is on the disk later may be another model.
    since: Option<Instant>,
    calls: usize,
    /// The pool's clock at the last call.
    used: u64,
}

/// How a version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The worker was told to load it.
    Loading,
    /// As `Loading`, but what is on the disk has changed since: it goes as soon as it is there.
    Stale,
    /// Calls may come.
    Loaded,
    /// No new call; it goes with the last one.
    Leaving,
}

/// Whether one more version may come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is a place.
    Free,
    /// There is one once this version was released.
    After(String),
    /// All others have calls.
    None,
}

impl Pool {
    /// `most` versions at a time, at least one.
    pub(crate) fn new(most: u32) -> Self {
        Self {
            most: most.max(1) as usize,
            held: Vec::new(),
            clock: 0,
        }
    }

    pub(crate) fn set_most(&mut self, most: u32) {
        self.most = most.max(1) as usize;
    }

    pub(crate) fn stage(&self, version: &str) -> Option<Stage> {
        self.find(version).map(|held| held.stage)
    }

    pub(crate) fn takes_calls(&self, version: &str) -> bool {
        self.stage(version) == Some(Stage::Loaded)
    }

    pub(crate) fn loaded(&self) -> impl Iterator<Item = &str> {
        let loaded = self.held.iter().filter(|held| held.stage == Stage::Loaded);
        loaded.map(|held| held.version.as_str())
    }

    /// Whether a version that is not there may come now.
    pub(crate) fn room(&self) -> Room {
        if self.held.len() < self.most {
            return Room::Free;
        }
        self.oldest_idle(None).map_or(Room::None, Room::After)
    }

    /// The version that was not used for the longest time and has no call, but for `keep`.
    pub(crate) fn oldest_idle(&self, keep: Option<&str>) -> Option<String> {
        self.held
            .iter()
            .filter(|held| {
                held.stage == Stage::Loaded
                    && held.calls == 0
                    && Some(held.version.as_str()) != keep
            })
            .min_by_key(|held| held.used)
            .map(|held| held.version.clone())
    }

    /// Whether one has come without a place, and it is not known yet whether it stays.
    pub(crate) fn is_crowded(&self) -> bool {
        self.staying() > self.most
    }

    /// The version that goes now that `latest` is loaded and there are too many: of those without a call, if there is one, the one that was
    /// not used for the longest time.
    pub(crate) fn beyond(&self, latest: &str) -> Option<String> {
        if self.staying() <= self.most {
            return None;
        }
        let others = self.held.iter();
        let others = others.filter(|held| held.stage == Stage::Loaded && held.version != latest);
        let oldest = others.min_by_key(|held| (held.calls > 0, held.used))?;
        Some(oldest.version.clone())
    }

    /// Versions that nobody has told to go.
    fn staying(&self) -> usize {
        let leaving = |held: &&Held| held.stage == Stage::Leaving;
        self.held.len() - self.held.iter().filter(leaving).count()
    }

    /// The worker is told to load it.
    pub(crate) fn begin(&mut self, version: &str) {
        self.put(version, Stage::Loading, Some(Instant::now()));
    }

    /// The worker has had it for nobody knows how long.
    pub(crate) fn keep(&mut self, version: &str) {
        self.put(version, Stage::Loaded, None);
    }

    fn put(&mut self, version: &str, stage: Stage, since: Option<Instant>) {
        self.clock += 1;
        debug_assert!(self.find(version).is_none(), "loaded once");
        self.held.push(Held {
            version: version.to_owned(),
            stage,
            since,
            calls: 0,
            used: self.clock,
        });
    }

    /// The worker has loaded it. False: it was outdated meanwhile, and is to be released now.
    pub(crate) fn finish(&mut self, version: &str) -> bool {
        match self.find_mut(version) {
            Some(held) if held.stage == Stage::Stale => {
                self.forget(version);
                false
            }
            Some(held) => {
                if held.stage == Stage::Loading {
                    held.stage = Stage::Loaded;
                }
                true
            }
            None => true,
        }
    }

    /// Whether the load of a version may have begun before then.
    pub(crate) fn is_older(&self, version: &str, then: Instant) -> bool {
        self.find(version)
            .is_some_and(|held| held.since.is_none_or(|since| since <= then))
    }

    /// What is on the disk has changed: no call from now on gets what was loaded before, nor what is being loaded.
    /// True: it is to be released now.
    pub(crate) fn outdate(&mut self, version: &str) -> bool {
        if let Some(held) = self.find_mut(version)
            && held.stage == Stage::Loading
        {
            held.stage = Stage::Stale;
        }
        self.dismiss(version)
    }

    /// It is not there (any more): it did not load, or the worker was told to release it.
    pub(crate) fn forget(&mut self, version: &str) {
        self.held.retain(|held| held.version != version);
    }

    /// A call on it begins.
    pub(crate) fn enter(&mut self, version: &str) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(held) = self.find_mut(version) {
            held.calls += 1;
            held.used = clock;
        }
    }

    /// A call on it has ended. True: it was leaving, this was the last one, and it is to be released now.
    pub(crate) fn leave(&mut self, version: &str) -> bool {
        let Some(held) = self.find_mut(version) else {
            return false;
        };
        held.calls = held.calls.saturating_sub(1);
        if held.stage == Stage::Leaving && held.calls == 0 {
            self.forget(version);
            return true;
        }
        false
    }

    /// It is to go. True: it has no call and is to be released now.
    pub(crate) fn dismiss(&mut self, version: &str) -> bool {
        let Some(held) = self.find_mut(version) else {
            return false;
        };
        match held.stage {
            Stage::Loaded if held.calls == 0 => {
                self.forget(version);
                true
            }
            Stage::Loaded => {
                held.stage = Stage::Leaving;
                false
            }
            Stage::Loading | Stage::Stale | Stage::Leaving => false,
        }
    }

    fn find(&self, version: &str) -> Option<&Held> {
        self.held.iter().find(|held| held.version == version)
    }

    fn find_mut(&mut self, version: &str) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.version == version)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(pool: &mut Pool, version: &str) {
        pool.begin(version);
        pool.finish(version);
    }

    #[test]
    fn the_version_not_used_for_the_longest_time_goes() {
        let mut pool = Pool::new(2);
        load(&mut pool, "a");
        load(&mut pool, "b");
        pool.enter("a");
        pool.leave("a");
        assert_eq!(pool.room(), Room::After("b".into()));
    }

    #[test]
    fn one_that_came_beside_the_others_has_the_least_used_go_if_it_loads() {
        let mut pool = Pool::new(2);
        load(&mut pool, "a");
        load(&mut pool, "b");
        pool.begin("new");
        assert!(pool.is_crowded());
        pool.forget("new");
        assert!(!pool.is_crowded());
        assert_eq!(pool.beyond(""), None);
        pool.begin("new");
        pool.enter("a");
        pool.finish("new");
        // `a` has a call.
        assert_eq!(pool.beyond("new"), Some("b".into()));
        pool.enter("b");
        assert_eq!(pool.beyond("new"), Some("a".into()));
        assert!(!pool.dismiss("a"));
        assert_eq!(pool.beyond("new"), None);
    }

    #[test]
    fn a_version_with_a_call_stays() {
        let mut pool = Pool::new(2);
        load(&mut pool, "a");
        load(&mut pool, "b");
        pool.enter("b");
        pool.enter("a");
        assert_eq!(pool.room(), Room::None);
        pool.leave("a");
        assert_eq!(pool.room(), Room::After("a".into()));
    }

    #[test]
    fn a_dismissed_version_takes_no_calls_and_goes_with_its_last_one() {
        let mut pool = Pool::new(1);
        load(&mut pool, "a");
        pool.enter("a");
        pool.enter("a");
        assert!(!pool.dismiss("a"));
        assert!(!pool.takes_calls("a"));
        assert!(!pool.leave("a"));
        assert!(pool.leave("a"));
        assert_eq!(pool.room(), Room::Free);
        load(&mut pool, "a");
        assert!(pool.dismiss("a"));
    }

    proptest! {
        #[test]
        fn what_began_to_load_before_the_disk_changed_takes_no_call(
            steps in proptest::collection::vec((0_u8..3, 0_u8..5), 1..200),
        ) {
            let mut pool = Pool::new(3);
            // Whether the disk changed after the load had begun, and the calls.
            let mut outdated = [false; 3];
            let mut calls = [0_usize; 3];
            for (version, step) in steps {
                let name = version.to_string();
                let index = usize::from(version);
                match step {
                    0 if pool.stage(&name).is_none() => {
                        pool.begin(&name);
                        outdated[index] = false;
                    }
                    1 if matches!(pool.stage(&name), Some(Stage::Loading | Stage::Stale)) => {
                        let stays = pool.finish(&name);
                        prop_assert_eq!(stays, !outdated[index]);
                        prop_assert_eq!(pool.stage(&name).is_some(), stays);
                    }
                    2 => {
                        let gone = pool.outdate(&name);
                        prop_assert!(!gone || calls[index] == 0);
                        outdated[index] = true;
                    }
                    3 if pool.takes_calls(&name) => {
                        pool.enter(&name);
                        calls[index] += 1;
                    }
                    4 if calls[index] > 0 => {
                        pool.leave(&name);
                        calls[index] -= 1;
                    }
                    _ => {}
                }
                prop_assert!(!(pool.takes_calls(&name) && outdated[index]));
            }
        }

        #[test]
        fn never_more_than_the_most_and_never_one_with_calls_goes(
            most in 1_u32..4, steps in proptest::collection::vec((0_u8..6, 0_u8..3), 1..200),
        ) {
            let mut pool = Pool::new(most);
            let mut calls = [0_usize; 6];
            for (version, step) in steps {
                let name = version.to_string();
                let index = usize::from(version);
                match step {
                    0 if pool.takes_calls(&name) => { pool.enter(&name); calls[index] += 1; }
                    0 if pool.stage(&name).is_none() => match pool.room() {
                        Room::Free => load(&mut pool, &name),
                        Room::After(oldest) => {
                            prop_assert_eq!(calls[oldest.parse::<usize>().unwrap()], 0);
                            prop_assert!(pool.dismiss(&oldest));
                            load(&mut pool, &name);
                        }
                        Room::None => prop_assert!(pool.held.iter().all(|held| held.calls > 0)),
                    },
                    1 if calls[index] > 0 => { pool.leave(&name); calls[index] -= 1; }
                    2 => prop_assert!(!pool.dismiss(&name) || calls[index] == 0),
                    _ => {}
                }
                prop_assert!(pool.held.len() <= most as usize);
            }
        }
    }
}
