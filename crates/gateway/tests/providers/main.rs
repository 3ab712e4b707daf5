//! Keys that fail are not the callers' problem.

mod accounts;
mod callers;
mod keys;
mod routes;
mod streams;
#[path = "../support/mod.rs"]
mod support;

/// A key that looks like one, so that it has a fingerprint.
pub(crate) fn key(name: &str) -> String {
    format!("sk-{name:0>24}")
}
