//! Signatures and event streams of AWS.
