//! The host with real Python workers: what callers, workers and the machine see of crashes, limits, reloads and ends.

mod calls;
mod changes;
mod deaths;
mod hosted;
mod programs;
