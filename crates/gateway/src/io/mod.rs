//! Sockets of the data path: plain, Unix and TLS, with writes gathered once a turn where many frames share a connection.

pub(crate) mod buffer;
pub(crate) mod flood;
pub(crate) mod late;
pub(crate) mod pulse;
pub(crate) mod raw;
pub(crate) mod spare;
pub(crate) mod transport;
pub(crate) mod turn;
pub(crate) mod window;

pub(crate) use raw::Raw;
pub(crate) use transport::Transport;
pub(crate) use turn::Turn;
