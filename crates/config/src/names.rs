//! Names that are defined once and referred to from elsewhere.

use crate::problem::Problem;
use crate::source::Span;
use crate::suggest;
use std::collections::{HashMap, HashSet};

/// What a name is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Namespace {
    Listener,
    Route,
    Upstream,
    Provider,
    Service,
}

impl Namespace {
    fn word(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Route => "route",
            Self::Upstream => "upstream",
            Self::Provider => "provider",
            Self::Service => "service",
        }
    }
}

/// How many unknown names get a suggestion.
const SUGGESTIONS: usize = 100;

#[derive(Debug)]
struct Mention {
    space: Namespace,
    name: String,
    span: Span,
    path: String,
}

/// All definitions and references of a configuration, gathered while it is read: they are compared even where other parts are bad.
#[derive(Debug, Default)]
pub(crate) struct Names {
    defined: Vec<Mention>,
    referred: Vec<Mention>,
}

impl Names {
    pub(crate) fn define(&mut self, space: Namespace, name: &str, span: Span, path: String) {
        self.defined.push(Mention {
            space,
            name: name.to_owned(),
            span,
            path,
        });
    }

    pub(crate) fn refer(&mut self, space: Namespace, name: &str, span: Span, path: String) {
        self.referred.push(Mention {
            space,
            name: name.to_owned(),
            span,
            path,
        });
    }

    /// Duplicates and unknown references. With `incomplete`, only duplicates: the missing definitions may stand in parts that
    /// could not be read.
    pub(crate) fn problems(&self, incomplete: bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut known: HashMap<(Namespace, &str), Span> = HashMap::new();
        for Mention {
            space,
            name,
            span,
            path,
        } in &self.defined
        {
            match known.get(&(*space, name.as_str())) {
                Some(first) => {
                    let message = format!("a second {} named `{name}`", space.word());
                    let problem = Problem::error(*span, message, "give each its own name").at(path);
                    problems.push(problem.related("the first is here", *first));
                }
                None => {
                    known.insert((*space, name), *span);
                }
            }
        }
        if incomplete {
            return problems;
        }
        let mut candidates: HashMap<Namespace, Vec<&str>> = HashMap::new();
        for Mention {
            space,
            name,
            span,
            path,
        } in &self.referred
        {
            if known.contains_key(&(*space, name.as_str())) {
                continue;
            }
            let candidates = candidates.entry(*space).or_insert_with(|| {
                self.defined
                    .iter()
                    .filter(|d| d.space == *space)
                    .map(|d| d.name.as_str())
                    .collect::<Vec<_>>()
            });
            let word = space.word();
            // Comparing with every name is dear: after so many mistakes the list of names will do.
            let near = (problems.len() < SUGGESTIONS)
                .then(|| suggest::closest(name, candidates.iter().copied()))
                .flatten();
            let help = match near {
                Some(right) => format!("did you mean `{right}`? Defined: {}", some_of(candidates)),
                None if candidates.is_empty() => {
                    format!("no {word} is defined: add one under `{word}s`")
                }
                None => format!("defined: {}", some_of(candidates)),
            };
            problems
                .push(Problem::error(*span, format!("no {word} is named `{name}`"), help).at(path));
        }
        problems
    }

    /// Upstreams, providers and services that nothing refers to.
    pub(crate) fn unused(&self) -> Vec<Problem> {
        let used: HashSet<(Namespace, &str)> = self
            .referred
            .iter()
            .map(|r| (r.space, r.name.as_str()))
            .collect();
        let unused = self.defined.iter().filter_map(|d| {
            let help = match d.space {
                Namespace::Upstream => "its endpoints are found and checked, but get no request",
                Namespace::Provider => "its keys get no request",
                Namespace::Service => "its workers run, but get no request",
                Namespace::Listener | Namespace::Route => return None,
            };
            (!used.contains(&(d.space, d.name.as_str()))).then_some((d, help))
        });
        unused
            .map(|(d, help)| {
                Problem::error(
                    d.span,
                    format!("no route uses the {} `{}`", d.space.word(), d.name),
                    help,
                )
                .warning()
                .at(&d.path)
            })
            .collect()
    }
}

fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut text = names
        .iter()
        .take(SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
