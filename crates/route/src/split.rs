//! The split: which target a request goes to, by weight.
//!
//! A free choice draws in proportion to the weights. A sticky choice is weighted rendezvous hashing (Schindelhauer and
//! Schomaker, "Weighted distributed hash tables", 2005): each target scores `-weight / ln(u)` with `u` drawn from the
//! request's hash and the target's name, the best score wins. Moving a weight from one target to another moves exactly
//! that share of callers and nobody else; so does adding or removing a target. A table of cumulative weights would
//! shift everyone behind the change.

use std::sync::Arc;

use foldhash::fast::FixedState;
use http::HeaderMap;
use http::header::HeaderName;
use tidegate_core::hash::{mix, rendezvous};

use crate::hash::{HashKey, stable_hash};

/// Position of an upstream in the config's list: the gateway keeps its pools in a `Vec` in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamIndex(pub u32);

impl UpstreamIndex {
    /// As an index into a slice.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

/// Position of a provider in the config's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProviderIndex(pub u32);

impl ProviderIndex {
    /// As an index into a slice.
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

type HashMap<K, V> = std::collections::HashMap<K, V, FixedState>;

/// One entry of a split, a fallback chain or a mirror.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it names.
    pub to: Destination,
    /// Share relative to the other entries of the split; meaningless elsewhere.
    pub weight: u32,
    seed: u64,
}

/// What a target names.
#[derive(Clone, Debug)]
pub enum Destination {
    /// An upstream of the config.
    Upstream {
        /// Its name, for metrics and people.
        name: Arc<str>,
        /// Its position.
        index: UpstreamIndex,
    },
    /// A name that stands for nothing: requests of this share are answered with 500, the others are not touched.
    Missing {
        /// The name as written.
        name: Arc<str>,
    },
    /// The request names the upstream itself.
    FromHeader(UpstreamFrom),
    /// A provider of the config.
    Provider {
        /// Its name, for metrics and people.
        name: Arc<str>,
        /// Its position.
        index: ProviderIndex,
        /// Model that it is asked for, before its mapping; None: the caller's.
        model: Option<Arc<str>>,
    },
}

/// `upstream_from`: a header or gRPC metadata value names the upstream, out of an allow list.
#[derive(Clone, Debug)]
pub struct UpstreamFrom {
    header: HeaderName,
    allow: HashMap<Box<[u8]>, Option<UpstreamIndex>>,
}

/// What a target stands for in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// This upstream.
    Upstream(UpstreamIndex),
    /// This provider.
    Provider(ProviderIndex),
    /// Nothing: the config names an upstream that does not exist (our fault, 500 for this share only).
    Missing,
    /// The header that names the upstream is not there (404).
    HeaderAbsent,
    /// The header names an upstream that is not in the allow list, or is there more than once (404: whether such an
    /// upstream exists is not told).
    NotAllowed,
}

impl Target {
    /// A target with its share.
    pub fn new(to: Destination, weight: u32) -> Target {
        let seed = match &to {
            Destination::Upstream { name, .. } | Destination::Missing { name } => {
                stable_hash(name.as_bytes(), 0)
            }
            Destination::FromHeader(from) => stable_hash(from.header.as_str().as_bytes(), 1),
            Destination::Provider { name, .. } => stable_hash(name.as_bytes(), 2),
        };
        Target { to, weight, seed }
    }

    /// The upstream or provider for a request with these headers.
    pub fn resolve(&self, headers: &HeaderMap) -> Resolution {
        match &self.to {
            Destination::Upstream { index, .. } => Resolution::Upstream(*index),
            Destination::Provider { index, .. } => Resolution::Provider(*index),
            Destination::Missing { .. } => Resolution::Missing,
            Destination::FromHeader(from) => from.resolve(headers),
        }
    }

    /// Name for metrics and people: the upstream's, the provider's, or `header NAME`.
    pub fn describe(&self) -> String {
        match &self.to {
            Destination::Upstream { name, .. } => name.to_string(),
            Destination::Missing { name } => format!("{name} (missing)"),
            Destination::FromHeader(from) => format!("by header {}", from.header),
            Destination::Provider { name, model, .. } => match model {
                Some(model) => format!("{name} ({model})"),
                None => name.to_string(),
            },
        }
    }
}

impl UpstreamFrom {
    /// Names that may stand in `header`, each with its upstream if it exists.
    pub fn new<'a>(
        header: HeaderName,
        allow: impl IntoIterator<Item = (&'a str, Option<UpstreamIndex>)>,
    ) -> UpstreamFrom {
        let allow = allow
            .into_iter()
            .map(|(name, index)| (Box::from(name.as_bytes()), index))
            .collect();
        UpstreamFrom { header, allow }
    }

    /// The header that is read.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The upstreams that may be named and exist.
    pub fn indices(&self) -> impl Iterator<Item = UpstreamIndex> + '_ {
        self.allow.values().filter_map(|index| *index)
    }

    fn resolve(&self, headers: &HeaderMap) -> Resolution {
        let mut values = headers.get_all(&self.header).iter();
        let Some(value) = values.next() else {
            return Resolution::HeaderAbsent;
        };
        if values.next().is_some() {
            return Resolution::NotAllowed;
        }
        match self.allow.get(value.as_bytes().trim_ascii()) {
            Some(Some(index)) => Resolution::Upstream(*index),
            Some(None) => Resolution::Missing,
            None => Resolution::NotAllowed,
        }
    }
}

/// Targets with their shares, and what makes a choice sticky.
#[derive(Clone, Debug)]
pub struct Split {
    targets: Box<[Target]>,
    total: u64,
    sticky: Option<HashKey>,
}

impl Split {
    /// A split over these targets, in the order of the config.
    ///
    /// A single target has the whole share whatever its weight says; among several, weight 0 gets nothing.
    pub fn new(mut targets: Vec<Target>, sticky: Option<HashKey>) -> Split {
        // The same name twice is two targets: without its own seed the second would never win a sticky choice.
        for at in 1..targets.len() {
            let (before, rest) = targets.split_at_mut(at);
            while before.iter().any(|other| other.seed == rest[0].seed) {
                rest[0].seed = mix(rest[0].seed.wrapping_add(1));
            }
        }
        if let [only] = targets.as_mut_slice() {
            only.weight = only.weight.max(1);
        }
        let total = targets.iter().map(|target| u64::from(target.weight)).sum();
        Split {
            targets: targets.into(),
            total,
            sticky,
        }
    }

    /// The targets, in the order of the config.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Sum of the weights; 0 means that nothing can be chosen (503).
    pub fn total_weight(&self) -> u64 {
        self.total
    }

    /// What the choice is sticky by, if it is.
    pub fn sticky(&self) -> Option<&HashKey> {
        self.sticky.as_ref()
    }

    /// Position of the target that a uniformly random number chooses: each in proportion to its weight. None if every
    /// weight is 0.
    pub fn choose_target(&self, random: u64) -> Option<usize> {
        // Multiply and shift maps 2^64 values to `total` slots with a bias below total/2^64.
        let mut slot = ((u128::from(random) * u128::from(self.total)) >> 64) as u64;
        for (at, target) in self.targets.iter().enumerate() {
            let weight = u64::from(target.weight);
            if slot < weight {
                return Some(at);
            }
            slot -= weight;
        }
        None
    }

    /// Position of the target for a request with this hash: the same as long as the weights stay, and when they change
    /// only the share that must move moves. None if every weight is 0.
    pub fn choose_target_by_hash(&self, hash: u64) -> Option<usize> {
        if let [_] = *self.targets {
            return Some(0);
        }
        let mut best = None;
        let mut best_score = 0.0;
        for (at, target) in self.targets.iter().enumerate() {
            if target.weight == 0 {
                continue;
            }
            let score = rendezvous(hash, target.seed, target.weight);
            if score > best_score {
                best_score = score;
                best = Some(at);
            }
        }
        best
    }

    /// Position of the target for a request: sticky if the split is and the request has the key, else by `random`.
    pub fn choose(&self, hash: Option<u64>, random: u64) -> Option<usize> {
        match hash {
            Some(hash) if self.sticky.is_some() => self.choose_target_by_hash(hash),
            _ => self.choose_target(random),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn target(name: &str, weight: u32) -> Target {
        Target::new(
            Destination::Upstream {
                name: name.into(),
                index: UpstreamIndex(0),
            },
            weight,
        )
    }

    fn split(weights: &[(&str, u32)]) -> Split {
        Split::new(
            weights
                .iter()
                .map(|(name, weight)| target(name, *weight))
                .collect(),
            Some(HashKey::SourceIp),
        )
    }

    /// A Weyl sequence through the finaliser: uniform, and the same in every run.
    fn random_numbers(count: u64) -> impl Iterator<Item = u64> {
        (1..=count).map(|at| mix(at.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    #[test]
    fn shares_are_within_one_percent_of_the_weights_over_20000_requests() {
        let split = split(&[("a", 90), ("b", 10)]);
        for choose in [Split::choose_target, Split::choose_target_by_hash] {
            let second = random_numbers(20_000)
                .filter(|&random| choose(&split, random) == Some(1))
                .count();
            assert!((1_800..=2_200).contains(&second), "{second}");
        }
    }

    #[test]
    fn one_target_has_the_whole_share_whatever_its_weight() {
        let split = split(&[("a", 0)]);
        assert_eq!(split.choose_target(u64::MAX), Some(0));
        assert_eq!(split.choose_target_by_hash(7), Some(0));
    }

    #[test]
    fn weight_zero_gets_nothing_and_all_zero_chooses_nothing() {
        let some = split(&[("a", 0), ("b", 1), ("c", 0)]);
        assert!(random_numbers(1_000).all(|random| some.choose_target(random) == Some(1)));
        assert!(random_numbers(1_000).all(|random| some.choose_target_by_hash(random) == Some(1)));
        let none = split(&[("a", 0), ("b", 0)]);
        assert_eq!(none.choose_target(3), None);
        assert_eq!(none.choose_target_by_hash(3), None);
    }

    #[test]
    fn a_missing_target_costs_its_own_share_only() {
        let missing = Target::new(
            Destination::Missing {
                name: "gone".into(),
            },
            10,
        );
        let split = Split::new(vec![target("a", 90), missing], None);
        let headers = HeaderMap::new();
        let lost = random_numbers(20_000)
            .filter_map(|random| split.choose_target(random))
            .filter(|&at| split.targets()[at].resolve(&headers) == Resolution::Missing)
            .count();
        assert!((1_800..=2_200).contains(&lost), "{lost}");
    }

    #[test]
    fn moving_ten_percent_moves_ten_percent_of_sticky_callers_in_one_direction() {
        let before = split(&[("a", 90), ("b", 10)]);
        let after = split(&[("a", 80), ("b", 20)]);
        let mut moved = 0;
        for hash in random_numbers(20_000) {
            match (
                before.choose_target_by_hash(hash),
                after.choose_target_by_hash(hash),
            ) {
                (Some(0), Some(1)) => moved += 1,
                (was, is) => assert_eq!(was, is),
            }
        }
        assert!((1_800..=2_200).contains(&moved), "{moved}");
    }

    #[test]
    fn the_same_upstream_twice_in_a_split_keeps_both_shares() {
        let split = split(&[("a", 1), ("a", 1)]);
        let second = random_numbers(20_000)
            .filter(|&hash| split.choose_target_by_hash(hash) == Some(1))
            .count();
        assert!((9_800..=10_200).contains(&second), "{second}");
    }

    #[test]
    fn a_split_that_is_not_sticky_ignores_the_hash() {
        let split = Split::new(vec![target("a", 1), target("b", 1)], None);
        assert_eq!(split.choose(Some(1), 0), Some(0));
        assert_eq!(split.choose(Some(1), u64::MAX), Some(1));
    }

    #[test]
    fn a_header_names_the_upstream_out_of_the_allow_list_only() {
        let name = HeaderName::from_static("x-upstream");
        let from = UpstreamFrom::new(name, [("xxx", Some(UpstreamIndex(4))), ("gone", None)]);
        let target = Target::new(Destination::FromHeader(from), 1);
        let resolve = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-upstream", HeaderValue::from_static(value));
            }
            target.resolve(&headers)
        };
        assert_eq!(resolve(&["xxx"]), Resolution::Upstream(UpstreamIndex(4)));
        assert_eq!(resolve(&["gone"]), Resolution::Missing);
        assert_eq!(resolve(&[]), Resolution::HeaderAbsent);
        assert_eq!(resolve(&["XXX"]), Resolution::NotAllowed);
        assert_eq!(resolve(&["other"]), Resolution::NotAllowed);
        assert_eq!(resolve(&["xxx", "other"]), Resolution::NotAllowed);
    }

    proptest! {
        #[test]
        fn removing_a_target_moves_only_its_own_sticky_callers(
            weights in proptest::collection::vec(1u32..100, 2..6), removed in 0usize..6, hash: u64,
        ) {
            let removed = removed % weights.len();
            let names: Vec<String> = (0..weights.len()).map(|at| format!("u{at}")).collect();
            let all: Vec<(&str, u32)> =
                names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let mut fewer = all.clone();
            fewer.remove(removed);
            let was = split(&all).choose_target_by_hash(hash).unwrap();
            let is = split(&fewer).choose_target_by_hash(hash).unwrap();
            if was != removed {
                prop_assert_eq!(fewer[is].0, all[was].0);
            }
        }
    }
}
