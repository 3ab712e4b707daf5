//! Anthropic's dialect: messages.

mod decode;
mod read;
mod stream;
mod whole;
mod write;

pub(crate) use decode::Decoder;
pub(crate) use read::read;
pub(crate) use stream::MessagesStream;
pub(crate) use whole::whole;
pub(crate) use write::{JSON_PLEASE, write};

use crate::json::Obj;
use crate::usage::Usage;

/// The `usage`: what was cached is counted beside the input.
fn usage(body: &mut Obj<'_>, usage: Usage) {
    body.obj("usage", |out| {
        let fresh = usage
            .input
            .saturating_sub(usage.cached)
            .saturating_sub(usage.cache_written);
        out.int("input_tokens", fresh);
        out.int("cache_creation_input_tokens", usage.cache_written);
        out.int("cache_read_input_tokens", usage.cached);
        out.int("output_tokens", usage.output);
    });
}
