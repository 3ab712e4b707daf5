//! The index over all matches of all routes: 10,000 routes cost no more per request than 10.
//!
//! A match is filed under its hosts (a hash table of exact names, one of the suffixes behind `*.`, and one place for
//! "any host"), and there under its path: a hash table of exact paths and a radix tree of prefixes. A regular
//! expression is filed under the literal that it begins with, a gRPC service under `/service/`, a match without a path
//! under the empty prefix. Where many matches share a place and ask for different values of one header or query
//! parameter (a header names the tenant), they are filed once more by that value.
//!
//! A request looks into the few places that its host (one, plus one for each label that some wildcard has) and its path
//! (one, plus the tree's nodes on its way) lead to. Every place holds its matches in the order of the config, so "first
//! match wins" is the lowest ordinal over the places: each is searched only below the best ordinal found so far, and a
//! place or subtree whose lowest ordinal is above it is not entered. What is left to depend on the number of routes is
//! only what no index can tell apart: many matches in one place that differ by regular expressions, networks, methods
//! or prefixes of header values; those are tried in order.

use foldhash::fast::FixedState;
use http::header::HeaderName;
use regex_syntax::hir::{Hir, HirKind};
use smallvec::SmallVec;

use crate::conditions::{HostRule, PathRule, Rule, TextRule};
use crate::radix::Radix;
use crate::request::RequestView;

type HashMap<K, V> = std::collections::HashMap<K, V, FixedState>;

/// Room for every host name that DNS can hold (RFC 1035 §2.3.4) without the heap.
pub(crate) type HostBuffer = SmallVec<[u8; 256]>;

/// So many matches of one place must ask for values of the same header before they are filed by value: below, trying
/// them in order is faster than hashing the value.
const FILED_FROM: usize = 8;

/// Work that a search did, so that a test can show what it depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Places looked at: hash tables, tree nodes and value tables.
    pub places: u32,
    /// Matches whose remaining conditions were checked.
    pub checks: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Index {
    exact: HashMap<Box<[u8]>, Paths>,
    below: HashMap<Box<[u8]>, Paths>,
    /// Most labels that a suffix in `below` has.
    deepest: usize,
    any: Paths,
}

#[derive(Clone, Debug)]
struct Paths {
    exact: HashMap<Box<[u8]>, Place>,
    prefix: Radix<Place>,
    /// Lowest ordinal among both.
    least: u32,
}

/// Matches that share host and path literal, as ordinals in ascending order.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Those that are tried in order.
    listed: Vec<u32>,
    /// Those filed by a value.
    filed: Vec<Filed>,
}

/// Matches filed by the exact value that they ask for.
#[derive(Clone, Debug)]
struct Filed {
    by: By,
    values: HashMap<Box<[u8]>, Vec<u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum By {
    Header(HeaderName),
    Query(Box<str>),
}

/// A search on its way.
struct Search<'a> {
    rules: &'a [Rule],
    request: &'a RequestView<'a>,
    /// Lowest ordinal that matches so far; nothing at or above it is of interest.
    best: u32,
    effort: Effort,
}

impl Index {
    pub(crate) fn new(rules: &[Rule]) -> Index {
        let mut index = Index {
            exact: HashMap::default(),
            below: HashMap::default(),
            deepest: 0,
            any: Paths::new(),
        };
        for (ordinal, rule) in (0..).zip(rules) {
            for host in &rule.hosts {
                let paths = match host {
                    HostRule::Any => &mut index.any,
                    HostRule::Exact(name) => index
                        .exact
                        .entry(name.as_bytes().into())
                        .or_insert_with(Paths::new),
                    HostRule::Below(suffix) => {
                        index.deepest = index.deepest.max(suffix.split('.').count());
                        index
                            .below
                            .entry(suffix.as_bytes().into())
                            .or_insert_with(Paths::new)
                    }
                };
                paths.insert(rule, ordinal);
            }
        }
        for paths in index
            .exact
            .values_mut()
            .chain(index.below.values_mut())
            .chain([&mut index.any])
        {
            paths.finish(rules);
        }
        index
    }

    /// The lowest ordinal of a match that holds. `host` is in lower case without a final dot.
    pub(crate) fn find(
        &self,
        rules: &[Rule],
        host: &[u8],
        request: &RequestView<'_>,
    ) -> (Option<u32>, Effort) {
        let mut search = Search {
            rules,
            request,
            best: u32::MAX,
            effort: Effort::default(),
        };
        if let Some(paths) = self.exact.get(host) {
            paths.search(&mut search);
        }
        if self.deepest > 0 {
            let mut labels = 0;
            for (at, _) in host
                .iter()
                .enumerate()
                .rev()
                .filter(|(_, byte)| **byte == b'.')
            {
                labels += 1;
                if labels > self.deepest || at == 0 {
                    break;
                }
                search.effort.places += 1;
                if let Some(paths) = self.below.get(&host[at + 1..]) {
                    paths.search(&mut search);
                }
            }
        }
        self.any.search(&mut search);
        (
            (search.best != u32::MAX).then_some(search.best),
            search.effort,
        )
    }
}

impl Paths {
    fn new() -> Paths {
        Paths {
            exact: HashMap::default(),
            prefix: Radix::new(),
            least: u32::MAX,
        }
    }

    fn insert(&mut self, rule: &Rule, ordinal: u32) {
        self.least = self.least.min(ordinal);
        let place = match (&rule.path, &rule.conditions.grpc) {
            (PathRule::Exact(path), _) => self.exact.entry(path.as_bytes().into()).or_default(),
            (PathRule::Prefix(prefix), _) => self.prefix.insert(prefix.as_bytes(), ordinal),
            (PathRule::Regex(pattern), _) => self
                .prefix
                .insert(&literal_beginning(pattern.as_str()), ordinal),
            (PathRule::Any, Some(grpc)) => match (&grpc.service, &grpc.method) {
                (Some(service), Some(method)) => self
                    .exact
                    .entry(format!("/{service}/{method}").into_bytes().into())
                    .or_default(),
                (Some(service), None) => self
                    .prefix
                    .insert(format!("/{service}/").as_bytes(), ordinal),
                (None, _) => self.prefix.insert(b"/", ordinal),
            },
            (PathRule::Any, None) => self.prefix.insert(b"", ordinal),
        };
        // A match may name one host twice (`*.a` and `*.A`).
        if place.listed.last() != Some(&ordinal) {
            place.listed.push(ordinal);
        }
    }

    fn finish(&mut self, rules: &[Rule]) {
        for place in self.exact.values_mut().chain(self.prefix.values_mut()) {
            place.finish(rules);
        }
    }

    fn search(&self, search: &mut Search<'_>) {
        search.effort.places += 1;
        if self.least >= search.best {
            return;
        }
        let path = search.request.path.as_bytes();
        if !self.exact.is_empty()
            && let Some(place) = self.exact.get(path)
        {
            place.search(search);
        }
        if self.prefix.least() < search.best {
            self.prefix.walk(path, |place, least| {
                if least >= search.best {
                    return false;
                }
                place.search(search);
                true
            });
        }
    }
}

impl Place {
    fn finish(&mut self, rules: &[Rule]) {
        // Behind a match that always holds here, none is ever reached.
        if let Some(end) = self
            .listed
            .iter()
            .position(|&ordinal| rules[ordinal as usize].is_unconditional())
        {
            self.listed.truncate(end + 1);
        }
        while let Some(by) = self.most_wanted(rules) {
            let mut values: HashMap<Box<[u8]>, Vec<u32>> = HashMap::default();
            self.listed.retain(
                |&ordinal| match wanted_value(&rules[ordinal as usize], &by) {
                    Some(value) => {
                        values.entry(value.into()).or_default().push(ordinal);
                        false
                    }
                    None => true,
                },
            );
            self.filed.push(Filed { by, values });
        }
        self.listed.shrink_to_fit();
    }

    /// The header or parameter for whose values most of the listed matches ask, if they are enough.
    fn most_wanted(&self, rules: &[Rule]) -> Option<By> {
        if self.listed.len() < FILED_FROM {
            return None;
        }
        let mut counts: HashMap<By, usize> = HashMap::default();
        for &ordinal in &self.listed {
            for by in exact_conditions(&rules[ordinal as usize]) {
                *counts.entry(by).or_default() += 1;
            }
        }
        counts
            .into_iter()
            .filter(|(_, count)| *count >= FILED_FROM)
            .max_by_key(|(_, count)| *count)
            .map(|(by, _)| by)
    }

    fn search(&self, search: &mut Search<'_>) {
        search.effort.places += 1;
        search.try_in_order(&self.listed);
        for filed in &self.filed {
            search.effort.places += 1;
            let value = match &filed.by {
                By::Header(name) => search.request.header(name),
                By::Query(name) => search.request.query_parameter(name.as_bytes()),
            };
            if let Some(ordinals) = value.and_then(|value| filed.values.get(value.as_bytes())) {
                search.try_in_order(ordinals);
            }
        }
    }
}

impl Search<'_> {
    fn try_in_order(&mut self, ordinals: &[u32]) {
        for &ordinal in ordinals {
            if ordinal >= self.best {
                return;
            }
            self.effort.checks += 1;
            if self.rules[ordinal as usize].rest_holds(self.request) {
                self.best = ordinal;
                return;
            }
        }
    }
}

fn exact_conditions(rule: &Rule) -> impl Iterator<Item = By> {
    let exact = |text: &TextRule| matches!(text, TextRule::Exact(_));
    let headers = rule
        .conditions
        .headers
        .iter()
        .filter(move |(_, text)| exact(text));
    let query = rule
        .conditions
        .query
        .iter()
        .filter(move |(_, text)| exact(text));
    headers
        .map(|(name, _)| By::Header(name.clone()))
        .chain(query.map(|(name, _)| By::Query(name.clone())))
}

fn wanted_value<'a>(rule: &'a Rule, by: &By) -> Option<&'a [u8]> {
    let text = match by {
        By::Header(name) => rule
            .conditions
            .headers
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, text)| text),
        By::Query(name) => rule
            .conditions
            .query
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, text)| text),
    };
    match text {
        Some(TextRule::Exact(value)) => Some(value),
        _ => None,
    }
}

/// The literal that every match of an expression begins with; empty if there is none.
fn literal_beginning(pattern: &str) -> Vec<u8> {
    // The pattern was compiled already; should the bare parser refuse it, it is filed under the empty prefix.
    let mut parser = regex_syntax::ParserBuilder::new().utf8(false).build();
    let Ok(hir) = parser.parse(pattern) else {
        return Vec::new();
    };
    let mut literal = Vec::new();
    collect_literal(&hir, &mut literal);
    literal
}

/// Appends the literal beginning; true if the whole expression is that literal, so that what follows may go on.
fn collect_literal(hir: &Hir, literal: &mut Vec<u8>) -> bool {
    match hir.kind() {
        HirKind::Empty => true,
        HirKind::Literal(bytes) => {
            literal.extend_from_slice(&bytes.0);
            true
        }
        // Anchors take no bytes; the full match begins at the path's beginning anyway.
        HirKind::Look(_) => true,
        HirKind::Capture(capture) => collect_literal(&capture.sub, literal),
        HirKind::Concat(parts) => parts.iter().all(|part| collect_literal(part, literal)),
        HirKind::Repetition(repetition) if repetition.min > 0 => {
            collect_literal(&repetition.sub, literal);
            false
        }
        HirKind::Alternation(branches) => {
            let mut common: Option<Vec<u8>> = None;
            for branch in branches {
                let mut beginning = Vec::new();
                collect_literal(branch, &mut beginning);
                if let Some(common) = &common {
                    let length = common
                        .iter()
                        .zip(&beginning)
                        .take_while(|(a, b)| a == b)
                        .count();
                    beginning.truncate(length);
                }
                common = Some(beginning);
            }
            literal.extend(common.unwrap_or_default());
            false
        }
        HirKind::Repetition(_) | HirKind::Class(_) => false,
    }
}

/// A host in lower case without a final dot; put into `buffer` if it had to be changed.
pub(crate) fn lower_host<'a>(host: &'a str, buffer: &'a mut HostBuffer) -> &'a [u8] {
    let host = host.strip_suffix('.').unwrap_or(host).as_bytes();
    if !host.iter().any(u8::is_ascii_uppercase) {
        return host;
    }
    buffer.clear();
    buffer.extend_from_slice(host);
    buffer.make_ascii_lowercase();
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_filed_under_the_literal_it_begins_with() {
        for (pattern, literal) in [
            ("/v1/models/[^/]+/predict", "/v1/models/"),
            ("/v1/(a|b)c", "/v1/"),
            ("/a|/b", "/"),
            ("/a|b", ""),
            ("/v1/(abc|abd|ab)/x", "/v1/ab"),
            ("/ab*", "/a"),
            ("/ab+c", "/ab"),
            ("/(ab){2}", "/ab"),
            ("(?i)/ab", "/"),
            (r"/a\.b.*", "/a.b"),
            ("^/x$", "/x"),
            ("/x?y", "/"),
            (".*", ""),
            ("", ""),
        ] {
            assert_eq!(literal_beginning(pattern), literal.as_bytes(), "{pattern}");
        }
    }

    #[test]
    fn hosts_are_compared_in_lower_case_without_the_final_dot() {
        let mut buffer = HostBuffer::new();
        assert_eq!(lower_host("A.Local.", &mut buffer), b"a.local");
        assert_eq!(lower_host("a.local", &mut buffer), b"a.local");
        assert_eq!(
            lower_host(&"A".repeat(300), &mut buffer),
            "a".repeat(300).as_bytes()
        );
    }
}
