//! What an outcome of a provider means.
