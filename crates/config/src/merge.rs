//! Several files as one configuration: mappings are united, lists put one behind the other; anything else is given once.

use crate::node::{Key, Kind, Node};
use crate::problem::Problem;
use crate::source::Span;
use std::collections::HashMap;
use std::rc::Rc;

/// Unites the roots of all files, in their order.
pub(crate) fn merge(roots: Vec<Node>, problems: &mut Vec<Problem>) -> Node {
    let mut merged: Vec<(Key, Node)> = Vec::new();
    for root in roots {
        match root.kind {
            Kind::Map(entries) => {
                // `x-…` at the top is a place for shared pieces with anchors.
                let own: Vec<_> = entries
                    .iter()
                    .filter(|(key, _)| !key.text.starts_with("x-"))
                    .cloned()
                    .collect();
                unite(&mut merged, &own, "", problems);
            }
            Kind::Null | Kind::Broken => {}
            _ => {
                let message = format!("{} where the configuration is expected", root.describe());
                let span = Span {
                    end: root.span.start + 1,
                    ..root.span
                };
                problems.push(Problem::error(
                    span,
                    message,
                    "a file holds sections such as `listeners:`, `routes:` and `upstreams:`",
                ));
            }
        }
    }
    Node::map(
        merged.first().map_or(
            Span {
                source: 0,
                start: 0,
                end: 0,
            },
            |(key, _)| key.span,
        ),
        merged,
    )
}

fn unite(
    into: &mut Vec<(Key, Node)>,
    entries: &[(Key, Node)],
    path: &str,
    problems: &mut Vec<Problem>,
) {
    let mut places: HashMap<Rc<str>, usize> = into
        .iter()
        .enumerate()
        .map(|(at, (key, _))| (key.text.clone(), at))
        .collect();
    for (key, node) in entries.iter() {
        let Some((first, known)) = places.get(&key.text).map(|at| &mut into[*at]) else {
            places.insert(key.text.clone(), into.len());
            into.push((key.clone(), node.clone()));
            continue;
        };
        let path = if path.is_empty() {
            key.text.to_string()
        } else {
            format!("{path}.{}", key.text)
        };
        match (&mut known.kind, &node.kind) {
            (Kind::Map(mine), Kind::Map(theirs)) => {
                let mut both = mine.to_vec();
                unite(&mut both, theirs, &path, problems);
                *known = Node::map(known.span, both);
            }
            (Kind::List(mine), Kind::List(theirs)) => {
                let both = mine.iter().chain(theirs.iter()).cloned().collect();
                *known = Node::list(known.span, both);
            }
            (_, Kind::Null | Kind::Broken) => {}
            (Kind::Null, _) => *known = node.clone(),
            (Kind::Broken, _) => {}
            _ => {
                let message = format!("`{path}` is given in two files");
                let problem = Problem::error(key.span, message, "keep one of them").at(path);
                problems.push(problem.related("first given here", first.span));
            }
        }
    }
}
