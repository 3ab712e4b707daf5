//! Google's dialect: `generateContent`, of the Gemini API and of Vertex AI.

mod decode;
pub(crate) mod embeddings;
mod read;
mod schema;
mod stream;
mod whole;
mod write;

pub(crate) use decode::Decoder;
pub(crate) use read::read;
pub(crate) use stream::GeminiStream;
pub(crate) use whole::whole;
pub(crate) use write::write;

use crate::json::{Json, Obj, Tree};
use crate::usage::Usage;

/// A field by its name or, as Google's JSON takes both, by the name in its protocol.
fn either<'t, 'a>(tree: &'t Json<'a>, camel: &str, snake: &str) -> &'t Json<'a> {
    let value = tree.at(camel);
    if value.given() { value } else { tree.at(snake) }
}

/// The `usageMetadata`: thoughts are counted beside the answer.
fn usage(body: &mut Obj<'_>, usage: Usage) {
    body.obj("usageMetadata", |out| {
        out.int("promptTokenCount", usage.input);
        out.int(
            "candidatesTokenCount",
            usage.output.saturating_sub(usage.reasoning),
        );
        out.int("totalTokenCount", usage.total());
        if usage.cached > 0 {
            out.int("cachedContentTokenCount", usage.cached);
        }
        if usage.reasoning > 0 {
            out.int("thoughtsTokenCount", usage.reasoning);
        }
    });
}
