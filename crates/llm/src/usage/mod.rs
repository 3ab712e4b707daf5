//! Tokens used.
