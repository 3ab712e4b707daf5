//! Probes of keys.
