//! How the processes of one Tidegate talk: JSON lines over Unix sockets, descriptors beside them.
//!
//! Three conversations use it: the supervisor with its gateway ([`message::Order`], [`message::Report`]), a new
//! supervisor with a gateway that outlived the old one (the same messages, opened by `adopt`), and a new supervisor
//! with the running one during an upgrade ([`message::Ask`], [`message::Grant`]).

pub(crate) mod beat;
pub(crate) mod channel;
pub(crate) mod message;

pub(crate) use channel::{Channel, ChannelError, Received, Wait};
