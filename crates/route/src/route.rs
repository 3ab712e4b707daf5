//! One route in the form that the request path uses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use crate::fault::{Fault, PerMillion};
use crate::limit::{Concurrency, RateLimit};
use crate::retry::{HedgePolicy, RetryPolicy};
use crate::rewrite::{HeaderEdits, Redirect, Rewrite};
use crate::split::{Split, Target};

/// Everything that the config says of a route.
#[derive(Clone, Debug)]
pub struct Route {
    /// Position in the config, from 0.
    pub index: usize,
    /// Unique name.
    pub name: Arc<str>,
    /// What is done with a request.
    pub action: Action,
    /// Changes of path and host of what goes on.
    pub rewrite: Rewrite,
    /// Changes of the request's headers.
    pub request_headers: HeaderEdits,
    /// Changes of the response's headers.
    pub response_headers: HeaderEdits,
    /// Injected faults.
    pub fault: Option<Fault>,
    /// Bound of the whole exchange, retries and back-off included. It is never retried.
    pub timeout: Option<Duration>,
    /// Within an exchange, no byte either way for this long ends it.
    pub idle_timeout: Option<Duration>,
    /// When another attempt is made.
    pub retry: RetryPolicy,
    /// Further attempts before the first has answered.
    pub hedge: Option<HedgePolicy>,
    /// Requests per time.
    pub rate_limit: Option<RateLimit>,
    /// Requests at once.
    pub concurrency: Option<Concurrency>,
    /// Bytes of a request's body; Some(0) is no limit, None the listener's.
    pub body_bytes: Option<u64>,
    pub(crate) description: Description,
}

/// What a route does with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// It goes on to a target.
    Forward(Forward),
    /// It is answered with a redirect.
    Redirect(Redirect),
    /// It is answered with a fixed response.
    Respond(Respond),
}

/// Where a request may go.
#[derive(Clone, Debug)]
pub struct Forward {
    /// First choice.
    pub split: Split,
    /// Next in line, in order, when nothing is fit in the one before or it failed retryably.
    pub fallback: Box<[Target]>,
    /// Where copies go.
    pub mirror: Option<Mirror>,
}

/// Copies of requests: never awaited, `Host` gets `-shadow`, health of the primary is not touched.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where they go.
    pub target: Target,
    /// Share of the requests that are copied; see [`PerMillion::hit`].
    pub share: PerMillion,
}

/// A fixed response.
#[derive(Clone, Debug)]
pub struct Respond {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// Body, possibly empty.
    pub body: Bytes,
}

/// A route for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// What it matches (`hosts a.local, path /v1/*`), `everything` if it asks for nothing.
    pub matches: String,
    /// Where it sends (`ranker-v1 90%, ranker-v2 10%`).
    pub to: String,
}

impl Route {
    /// What it matches and where it sends, in words.
    pub fn describe(&self) -> &Description {
        &self.description
    }

    /// Where it forwards to, if it does.
    pub fn forward(&self) -> Option<&Forward> {
        match &self.action {
            Action::Forward(forward) => Some(forward),
            Action::Redirect(_) | Action::Respond(_) => None,
        }
    }
}
