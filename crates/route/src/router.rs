//! The compiled routes and the way to one of them.

use std::sync::Arc;

use crate::conditions::Rule;
use crate::hash::HashKey;
use crate::index::{Effort, HostBuffer, Index, lower_host};
use crate::request::{Model, RequestView};
use crate::route::Route;
use crate::split::UpstreamIndex;

/// All routes of one configuration, immutable. Made by [`Router::compile`].
#[derive(Clone, Debug)]
pub struct Router {
    pub(crate) routes: Vec<Arc<Route>>,
    /// One for each match of each route, in order of the config: the position is the ordinal.
    pub(crate) rules: Vec<Rule>,
    pub(crate) index: Index,
    pub(crate) hash_keys: Vec<Option<HashKey>>,
}

/// The route that a request takes.
#[derive(Clone, Copy, Debug)]
pub struct Found<'r> {
    /// The route.
    pub route: &'r Arc<Route>,
    /// Leading bytes of the path that the match's exact path or prefix stands for; 0 if the match names neither.
    /// Prefix rewrites and redirects ask for it.
    pub matched: usize,
    /// The match asks for a model and the body has not been read: read it and ask again.
    pub needs_model: bool,
}

impl Router {
    /// The first route in the config's order of which a match holds, or None (404).
    ///
    /// Does not allocate, except where a request repeats a header that is matched and its values together exceed 256
    /// bytes, a query value beyond that must be decoded, or a regular expression is used by a thread for the first time.
    pub fn find(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        self.find_with_effort(request).0
    }

    /// As [`Router::find`], telling what it took.
    pub fn find_with_effort(&self, request: &RequestView<'_>) -> (Option<Found<'_>>, Effort) {
        let mut buffer = HostBuffer::new();
        let host = lower_host(request.host, &mut buffer);
        let (ordinal, effort) = self.index.find(&self.rules, host, request);
        (
            ordinal.map(|ordinal| self.found(&self.rules[ordinal as usize], request)),
            effort,
        )
    }

    /// As [`Router::find`] by trying every match in order: what the index must agree with. For tests and fuzzing.
    #[doc(hidden)]
    pub fn find_linearly(&self, request: &RequestView<'_>) -> Option<Found<'_>> {
        let mut buffer = HostBuffer::new();
        let host = lower_host(request.host, &mut buffer);
        self.rules
            .iter()
            .find(|rule| rule.holds(host, request))
            .map(|rule| self.found(rule, request))
    }

    fn found(&self, rule: &Rule, request: &RequestView<'_>) -> Found<'_> {
        Found {
            route: &self.routes[rule.route as usize],
            matched: rule.matched(request.path),
            needs_model: request.model == Model::Unread && !rule.conditions.models.is_empty(),
        }
    }

    /// The routes in the config's order.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// What the balancer of an upstream hashes, if it is one that hashes.
    pub fn hash_key(&self, upstream: UpstreamIndex) -> Option<&HashKey> {
        self.hash_keys.get(upstream.get())?.as_ref()
    }
}
