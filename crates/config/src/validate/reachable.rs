//! Routes that no request reaches because an earlier one takes all of theirs.

use crate::decode::Cx;
use crate::model::{Match, PathMatch, Route, TextMatch};
use crate::node::Node;
use crate::problem::Problem;
use crate::values::HostPattern;
use std::collections::BTreeMap;

/// Comparing all pairs takes quadratic time: above this number of routes only those earlier ones are looked at that match every
/// path, and never more than this number of matches.
const ALL_PAIRS: usize = 2_000;

pub(super) fn check(routes: &[Route], nodes: &[Node], cx: &mut Cx<'_>) {
    let everything = Match::default();
    let matches_of = |route: &'_ Route| -> Vec<Match> {
        if route.matches.is_empty() {
            vec![everything.clone()]
        } else {
            route.matches.to_vec()
        }
    };
    let mut earlier: Vec<(usize, Match)> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let own = matches_of(route);
        let covering: Option<Vec<usize>> = own
            .iter()
            .map(|m| {
                earlier
                    .iter()
                    .find(|(_, e)| covers(e, m))
                    .map(|(at, _)| *at)
            })
            .collect();
        if let Some(by) = covering
            && let (Some(first), Some(node)) = (by.first(), nodes.get(index))
        {
            let message = format!(
                "no request reaches the route `{}`: `{}` before it takes them all",
                route.name, routes[*first].name
            );
            let name = |node: &Node| node.get("name").map_or(node.span, |name| name.span);
            let mut problem = Problem::error(
                name(node),
                message,
                "the first match wins: put the narrower route first",
            )
            .warning();
            problem = problem.at(format!("routes[{index}]"));
            if let Some(other) = nodes.get(*first) {
                problem = problem.related("the earlier route", name(other));
            }
            cx.report(problem);
        }
        let wide = |m: &Match| m.path.is_none() && m.grpc.is_none();
        let room = ALL_PAIRS.saturating_sub(earlier.len());
        earlier.extend(
            own.into_iter()
                .filter(|m| routes.len() <= ALL_PAIRS || wide(m))
                .map(|m| (index, m))
                .take(room),
        );
    }
}

/// Whether every request that `narrow` takes is one that `wide` takes. May say no where the answer is yes.
fn covers(wide: &Match, narrow: &Match) -> bool {
    hosts(&wide.hosts, &narrow.hosts)
        && path(wide.path.as_ref(), narrow.path.as_ref())
        && match (&wide.grpc, &narrow.grpc) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => {
                (wide.service.is_none() || wide.service == narrow.service)
                    && (wide.method.is_none() || wide.method == narrow.method)
            }
            _ => false,
        }
        && (wide.methods.is_empty()
            || (!narrow.methods.is_empty()
                && narrow.methods.iter().all(|m| wide.methods.contains(m))))
        && texts(&wide.headers, &narrow.headers)
        && texts(&wide.query, &narrow.query)
        && (wide.source.is_none() || wide.source == narrow.source)
        && (wide.model.is_empty() || wide.model == narrow.model)
}

fn hosts(wide: &[HostPattern], narrow: &[HostPattern]) -> bool {
    let takes = |w: &HostPattern, n: &HostPattern| match (w, n) {
        (HostPattern::Any, _) => true,
        (HostPattern::Suffix(w), HostPattern::Suffix(n) | HostPattern::Exact(n)) => {
            n.ends_with(w.as_str())
        }
        (w, n) => w == n,
    };
    wide.is_empty()
        || wide.contains(&HostPattern::Any)
        || (!narrow.is_empty() && narrow.iter().all(|n| wide.iter().any(|w| takes(w, n))))
}

fn path(wide: Option<&PathMatch>, narrow: Option<&PathMatch>) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (
            Some(PathMatch::Prefix(wide)),
            Some(PathMatch::Prefix(narrow) | PathMatch::Exact(narrow)),
        ) => narrow.starts_with(wide.as_str()),
        (wide, narrow) => wide == narrow,
    }
}

fn texts<K: Ord>(wide: &BTreeMap<K, TextMatch>, narrow: &BTreeMap<K, TextMatch>) -> bool {
    wide.iter()
        .all(|(name, wide)| narrow.get(name) == Some(wide))
}
