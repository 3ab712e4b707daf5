//! A worker: its process, its connection, what it writes.

pub(crate) mod accept;
pub(crate) mod guard;
pub(crate) mod link;
pub(crate) mod memory;
pub(crate) mod output;
pub(crate) mod process;
pub(crate) mod reader;
pub(crate) mod results;
