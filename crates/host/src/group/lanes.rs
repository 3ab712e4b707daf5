//! Calls that wait for a worker: in the order in which they came, apart for each version and each batched method.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::job::{Boxed, Job, What};
use crate::call::Batch;

/// Empty lanes that are kept for the next call.
const KEPT: usize = 8;

/// The lanes of a group.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    waiting: usize,
}

/// Calls that the same worker can run together or one after the other.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) version: String,
    /// The method, and how its calls are gathered, where they are.
    pub(super) batch: Option<(String, Batch)>,
    jobs: VecDeque<Box<Job>>,
}

impl Lanes {
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Lanes with calls.
    pub(super) fn busy(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes
            .iter()
            .enumerate()
            .filter(|(_, lane)| !lane.jobs.is_empty())
    }

    /// When the first of the batches that wait for time alone may go.
    pub(super) fn next_ripe(&self, now: Instant) -> Option<Instant> {
        let waiting = self.lanes.iter().filter(|lane| !lane.is_ripe(now));
        waiting.filter_map(Lane::ripens).min()
    }

    /// Whether a job would be the first in its lane.
    pub(super) fn none_before(&self, job: &Job) -> bool {
        self.waiting == 0
            || !self
                .lanes
                .iter()
                .any(|lane| lane.is_for(job) && !lane.jobs.is_empty())
    }

    /// Puts a job at its place, which is the last one unless it was on its way already. Returns the lane.
    pub(super) fn put(&mut self, job: Box<Job>) -> usize {
        self.waiting += 1;
        let index = match self.lanes.iter().position(|lane| lane.is_for(&job)) {
            Some(index) => index,
            None => {
                if self.lanes.len() > KEPT {
                    self.lanes.retain(|lane| !lane.jobs.is_empty());
                }
                self.lanes.push(Lane {
                    version: job.version().to_owned(),
                    batch: batch_of(&job).map(|batch| (job.method().to_owned(), batch)),
                    jobs: VecDeque::new(),
                });
                self.lanes.len() - 1
            }
        };
        let jobs = &mut self.lanes[index].jobs;
        match jobs.back() {
            Some(last) if last.ticket > job.ticket => {
                let place = jobs.partition_point(|other| other.ticket < job.ticket);
                jobs.insert(place, job);
            }
            _ => jobs.push_back(job),
        }
        index
    }

    pub(super) fn lane(&self, index: usize) -> &Lane {
        &self.lanes[index]
    }

    /// Takes the first one of a lane.
    pub(super) fn pop(&mut self, lane: usize) -> Option<Box<Job>> {
        let job = self.lanes[lane].jobs.pop_front()?;
        self.waiting -= 1;
        Some(job)
    }

    /// Takes one out that nobody waits for any longer.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<Box<Job>> {
        for lane in &mut self.lanes {
            if let Ok(place) = lane.jobs.binary_search_by_key(&ticket, |job| job.ticket) {
                self.waiting -= 1;
                return lane.jobs.remove(place);
            }
        }
        None
    }

    /// Takes all out that `which` says.
    pub(super) fn take(&mut self, which: impl Fn(&Job) -> bool) -> Vec<Boxed> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            if lane.jobs.iter().any(|job| which(job)) {
                let (out, left) = std::mem::take(&mut lane.jobs)
                    .into_iter()
                    .partition(|job| which(job));
                let out: VecDeque<_> = out;
                lane.jobs = left;
                taken.extend(out);
            }
        }
        self.waiting -= taken.len();
        taken
    }

    /// To change those of a version.
    pub(super) fn of_version(&mut self, version: &str) -> impl Iterator<Item = &mut Job> {
        let lanes = self
            .lanes
            .iter_mut()
            .filter(move |lane| lane.version == version);
        lanes.flat_map(|lane| lane.jobs.iter_mut().map(|job| &mut **job))
    }
}

fn batch_of(job: &Job) -> Option<Batch> {
    match &job.what {
        What::Call(_, facts) => facts.batch,
        What::Load { .. } => None,
    }
}

impl Lane {
    fn is_for(&self, job: &Job) -> bool {
        self.version == job.version()
            && match (&self.batch, batch_of(job)) {
                (None, None) => true,
                (Some((method, batch)), Some(other)) => *batch == other && method == job.method(),
                _ => false,
            }
    }

    pub(super) fn first(&self) -> Option<&Job> {
        self.jobs.front().map(|job| &**job)
    }

    /// When its first call has waited for long enough.
    fn ripens(&self) -> Option<Instant> {
        let (_, batch) = self.batch.as_ref()?;
        Some(self.first()?.arrived + Duration::from_micros(batch.max_delay_us))
    }

    /// Whether its first call may go now: a batch waits until it is full or its first call has waited for long enough.
    pub(super) fn is_ripe(&self, now: Instant) -> bool {
        match (&self.batch, self.first()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some((_, batch)), Some(first)) => {
                self.jobs.len() >= batch.max_size as usize
                    || first.deaths > 0
                    || now >= first.arrived + Duration::from_micros(batch.max_delay_us)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::super::job::Facts;
    use super::*;
    use crate::call::Call;

    fn job(ticket: u64, version: &str, batch: Option<Batch>) -> Box<Job> {
        let call = Call {
            method: "predict".into(),
            version: version.into(),
            kwargs: Bytes::new(),
            parts: Vec::new(),
            deadline: None,
            retry: None,
            id: String::new(),
            progress: None,
        };
        Box::new(Job {
            ticket,
            what: What::Call(
                call,
                Facts {
                    batch,
                    ..Facts::default()
                },
            ),
            reply: oneshot::channel().0,
            home: 0,
            revision: 1,
            arrived: Instant::now(),
            deaths: 0,
        })
    }

    proptest! {
        #[test]
        fn each_lane_keeps_the_order_of_arrival_whatever_comes_back_or_leaves(
            steps in proptest::collection::vec((0_u8..4, 0_u8..3, any::<prop::sample::Index>()), 0..100),
        ) {
            let mut lanes = Lanes::default();
            let mut out: Vec<Box<Job>> = Vec::new();
            let mut inside: Vec<u64> = Vec::new();
            let mut next = 0;
            for (step, version, index) in steps {
                match step {
                    0 | 1 => {
                        next += 1;
                        inside.push(next);
                        lanes.put(job(next, &version.to_string(), None));
                    }
                    2 if !inside.is_empty() => {
                        let ticket = inside.swap_remove(index.index(inside.len()));
                        let removed = lanes.remove(ticket).unwrap();
                        prop_assert_eq!(removed.ticket, ticket);
                        out.push(removed);
                    }
                    3 => if let Some(job) = out.pop() {
                        inside.push(job.ticket);
                        lanes.put(job);
                    },
                    _ => {}
                }
                prop_assert_eq!(lanes.waiting(), inside.len());
            }
            for lane in 0..lanes.lanes.len() {
                let mut before = 0;
                while let Some(job) = lanes.pop(lane) {
                    prop_assert!(job.ticket > before);
                    before = job.ticket;
                }
            }
            prop_assert_eq!(lanes.waiting(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_goes_when_it_is_full_or_old_enough() {
        let batch = Some(Batch {
            max_size: 3,
            max_delay_us: 5_000,
        });
        let mut lanes = Lanes::default();
        let lane = lanes.put(job(1, "", batch));
        lanes.put(job(2, "", batch));
        assert_ne!(lanes.put(job(3, "", None)), lane);
        assert!(!lanes.lane(lane).is_ripe(Instant::now()));
        tokio::time::advance(Duration::from_millis(5)).await;
        assert!(lanes.lane(lane).is_ripe(Instant::now()));
        lanes.pop(lane);
        lanes.pop(lane);
        for ticket in 4..7 {
            lanes.put(job(ticket, "", batch));
        }
        assert!(lanes.lane(lane).is_ripe(Instant::now()));
    }
}
