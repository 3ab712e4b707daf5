//! Values with a unit or a form of their own: durations, sizes, addresses, names, secrets.
//!
//! Each is written in the configuration as one word, is read by [`std::str::FromStr`] with a [`Wrong`] that says what
//! would be right, and is written back by `Display` in a form that reads to the same value.

mod address;
mod duration;
mod env_text;
mod http_names;
mod keys;
mod models;
mod quantity;
mod secret;
mod status;
mod url;

pub(crate) use address::is_host_name;
pub use address::{
    Address, Cidr, HostPattern, HostPort, HttpUrl, ListenAddress, LogTarget, StateUrl,
};
pub use duration::{Period, format_duration, parse_duration};
pub use env_text::EnvText;
pub use http_names::{HeaderName, HeaderText, Method, Pattern};
pub use keys::{HashKey, LimitKey};
pub use models::{ModelMapping, ModelPattern};
pub use quantity::{ByteSize, Percent, SizeBound};
pub use secret::Secret;
pub use status::{GrpcStatus, RetryOn, StatusRange};
pub use url::{RedisUrl, ServiceUrl};

use std::ops::Deref;

/// Why a value could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Wrong {
    /// What is wrong, without the value itself (it may be secret).
    pub problem: String,
    /// What would be right.
    pub help: String,
}

impl Wrong {
    pub(crate) fn new(problem: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            help: help.into(),
        }
    }
}

/// A list that may be written as its only entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Deref for OneOrMany<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'a, T> IntoIterator for &'a OneOrMany<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}
