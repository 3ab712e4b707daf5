//! OpenAI's dialect: chat completions, responses, completions, embeddings.

mod chat_read;
mod chat_stream;
mod chat_write;
mod completions;
mod decode;
pub(crate) mod embeddings;
mod responses_read;
mod responses_stream;
mod responses_whole;
mod whole;

pub(crate) use chat_read::read as read_chat;
pub(crate) use chat_stream::ChatStream;
pub(crate) use chat_write::write as write_chat;
pub(crate) use completions::{
    CompletionsStream, read as read_completions, whole as write_completion,
};
pub(crate) use decode::Decoder;
pub(crate) use responses_read::read as read_responses;
pub(crate) use responses_stream::ResponsesStream;
pub(crate) use responses_whole::whole as write_response;
pub(crate) use whole::whole as write_chat_answer;

use crate::json::Obj;
use crate::usage::Usage;

/// The `usage` of chat completions.
fn usage(body: &mut Obj<'_>, usage: Usage) {
    body.obj("usage", |out| {
        out.int("prompt_tokens", usage.input);
        out.int("completion_tokens", usage.output);
        out.int("total_tokens", usage.total());
        out.obj("prompt_tokens_details", |out| {
            out.int("cached_tokens", usage.cached);
            out.int("audio_tokens", usage.audio_input);
        });
        out.obj("completion_tokens_details", |out| {
            out.int("reasoning_tokens", usage.reasoning);
            out.int("audio_tokens", usage.audio_output);
        });
    });
}
