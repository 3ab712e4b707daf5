//! Random operations, checked against a plain model of what a store is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tidegate_state::{Error, Expect, Fence, Guard, Key, Lease, Prefix, Store, Version};

use crate::backends::{self, Place};
use crate::suite::key;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
enum Step {
    Put {
        at: u8,
        value: u8,
        expect: Wanted,
        fence: Option<u8>,
    },
    Delete {
        at: u8,
        expect: Wanted,
        fence: Option<u8>,
    },
    Acquire {
        holder: u8,
    },
    Renew {
        nth: u8,
    },
    Release {
        nth: u8,
    },
    Add {
        at: u8,
        delta: i8,
        ceiling: Option<u8>,
    },
    Look {
        at: u8,
    },
}

/// An expectation; `Past` is a version that the entry once had, or never.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Any,
    Absent,
    Current,
    Past(u8),
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        3 => Just(Wanted::Any),
        1 => Just(Wanted::Absent),
        2 => Just(Wanted::Current),
        1 => any::<u8>().prop_map(Wanted::Past),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let fence = || prop::option::weighted(0.3, any::<u8>());
    prop_oneof![
        4 => (0..3_u8, any::<u8>(), wanted(), fence())
            .prop_map(|(at, value, expect, fence)| Step::Put { at, value, expect, fence }),
        2 => (0..3_u8, wanted(), fence()).prop_map(|(at, expect, fence)| Step::Delete { at, expect, fence }),
        2 => (0..3_u8).prop_map(|holder| Step::Acquire { holder }),
        1 => any::<u8>().prop_map(|nth| Step::Renew { nth }),
        1 => any::<u8>().prop_map(|nth| Step::Release { nth }),
        2 => (0..2_u8, any::<i8>(), prop::option::of(any::<u8>()))
            .prop_map(|(at, delta, ceiling)| Step::Add { at, delta, ceiling }),
        1 => (0..3_u8).prop_map(|at| Step::Look { at }),
    ]
}

/// What a store is, told in another way than it is built.
#[derive(Default)]
struct Model {
    entries: BTreeMap<Key, (Version, Bytes)>,
    versions: Vec<Version>,
    /// All holdings ever, the last one last; whether it is held still.
    leases: Vec<Lease>,
    held: bool,
    counters: BTreeMap<Key, u64>,
}

impl Model {
    fn fence(&self, nth: Option<u8>) -> Option<Lease> {
        let nth = usize::from(nth?).checked_rem(self.leases.len())?;
        Some(self.leases[nth].clone())
    }

    /// The guard, and how it should be refused.
    fn guard(&self, at: &Key, wanted: Wanted, fence: Option<u8>) -> (Guard, Option<&'static str>) {
        let current = self.entries.get(at).map(|(version, _)| *version);
        let expect = match wanted {
            Wanted::Any => Expect::Any,
            Wanted::Absent => Expect::Absent,
            Wanted::Current => current.map_or(Expect::Absent, Expect::Version),
            Wanted::Past(nth) => match usize::from(nth).checked_rem(self.versions.len()) {
                Some(nth) => Expect::Version(self.versions[nth]),
                None => Expect::Version(Version(1)),
            },
        };
        let lease = self.fence(fence);
        let lost = lease.as_ref().is_some_and(|lease| !self.holds(lease));
        let fits = match expect {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Version(version) => current == Some(version),
        };
        let refusal = match (lost, fits) {
            (true, _) => Some("fenced"),
            (false, false) => Some("conflict"),
            (false, true) => None,
        };
        let fence = lease.map(|lease| Fence {
            lease: lease.name,
            epoch: lease.epoch,
        });
        (Guard { expect, fence }, refusal)
    }

    fn holds(&self, lease: &Lease) -> bool {
        self.held && self.leases.last().map(|last| last.epoch) == Some(lease.epoch)
    }

    /// Does a step on the store and on the model.
    async fn step(&mut self, store: &Arc<dyn Store>, step: Step) {
        let place = |at: u8| key(&format!("k/{at}"));
        match step {
            Step::Put {
                at,
                value,
                expect,
                fence,
            } => {
                let (at, value) = (place(at), Bytes::from(vec![value; 3]));
                let (guard, refusal) = self.guard(&at, expect, fence);
                let result = store.put(&at, value.clone(), None, &guard).await;
                assert_eq!(kind(&result), refusal);
                if let Ok(version) = result {
                    assert!(self.versions.last().is_none_or(|last| *last < version));
                    self.versions.push(version);
                    self.entries.insert(at, (version, value));
                }
            }
            Step::Delete { at, expect, fence } => {
                let at = place(at);
                let (guard, refusal) = self.guard(&at, expect, fence);
                let result = store.delete(&at, &guard).await;
                assert_eq!(kind(&result), refusal);
                if let Ok(existed) = result {
                    assert_eq!(existed, self.entries.remove(&at).is_some());
                }
            }
            Step::Acquire { holder } => {
                let holder = format!("holder {holder}");
                let result = store.acquire(&key("l"), &holder, HOUR).await;
                let last = self.leases.last().filter(|_| self.held);
                match (last, result) {
                    (Some(last), Ok(lease)) => {
                        assert_eq!((&last.holder, last.epoch), (&holder, lease.epoch));
                    }
                    (Some(last), Err(Error::Held { holder: who, .. })) => {
                        assert!(who == last.holder && who != holder);
                    }
                    (None, Ok(lease)) => {
                        assert!(
                            self.leases
                                .last()
                                .is_none_or(|last| last.epoch < lease.epoch)
                        );
                        self.leases.push(lease);
                        self.held = true;
                    }
                    (_, Err(other)) => panic!("{other}"),
                }
            }
            Step::Renew { nth } => {
                if let Some(lease) = self.fence(Some(nth)) {
                    let refusal = (!self.holds(&lease)).then_some("fenced");
                    assert_eq!(kind(&store.renew(&lease).await), refusal);
                }
            }
            Step::Release { nth } => {
                if let Some(lease) = self.fence(Some(nth)) {
                    store.release(&lease).await.unwrap();
                    self.held &= !self.holds(&lease);
                }
            }
            Step::Add { at, delta, ceiling } => {
                let at = key(&format!("c/{at}"));
                let value = self.counters.get(&at).copied().unwrap_or(0);
                let ceiling = ceiling.map(u64::from);
                let sum = i64::try_from(value).unwrap() + i64::from(delta);
                let over = delta > 0 && ceiling.is_some_and(|ceiling| sum > ceiling as i64);
                let result = store.add(&at, delta.into(), ceiling, None).await;
                assert_eq!(kind(&result), over.then_some("ceiling"));
                if let Ok(next) = result {
                    assert_eq!(next as i64, sum.max(0));
                    self.counters.insert(at, next);
                }
            }
            Step::Look { at } => {
                let found = store.get(&place(at)).await.unwrap();
                let found = found.map(|entry| (entry.version, entry.value));
                assert_eq!(found.as_ref(), self.entries.get(&place(at)));
                let listing = store.list(&Prefix::of(&["k"]).unwrap()).await.unwrap();
                let listed: BTreeMap<_, _> = listing
                    .entries
                    .into_iter()
                    .map(|(key, entry)| (key, (entry.version, entry.value)))
                    .collect();
                assert_eq!(listed, self.entries);
            }
        }
    }
}

fn kind<T>(result: &Result<T, Error>) -> Option<&'static str> {
    match result {
        Ok(_) => None,
        Err(Error::Conflict { .. }) => Some("conflict"),
        Err(Error::Fenced { .. }) => Some("fenced"),
        Err(Error::Ceiling { .. }) => Some("ceiling"),
        Err(other) => panic!("{other}"),
    }
}

/// Stories for `make`'s store: one where a property without such a price has `of` cases.
fn check<F: Future<Output = Place>>(of: u32, make: impl Fn() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig::default();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: config.cases / of,
        failure_persistence: None,
        ..config
    });
    let steps = prop::collection::vec(step(), 1..60);
    runner
        .run(&steps, |steps| {
            runtime.block_on(async {
                let place = make().await;
                let mut model = Model::default();
                for step in steps {
                    model.step(&place.store(), step).await;
                }
            });
            Ok(())
        })
        .unwrap();
}

#[test]
fn memory_is_what_a_store_is() {
    check(1, backends::memory);
}

#[test]
fn the_embedded_file_is_what_a_store_is() {
    check(16, backends::file);
}

#[test]
fn the_remote_store_is_what_a_store_is() {
    check(16, backends::remote);
}

#[test]
fn redis_is_what_a_store_is() {
    check(10, backends::redis);
}
