//! What Amazon Bedrock has of its own: signed requests (SigV4) and streams in a binary framing.
//!
//! Both are AWS's own crates, without the SDK around them: signatures are no place for own code.

mod event_stream;
mod sign;

pub use event_stream::{Decoder, Fault, MESSAGE_LIMIT, Message};
pub use sign::{Credentials, CredentialsError, SignError, sign};
