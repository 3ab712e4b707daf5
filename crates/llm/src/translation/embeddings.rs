//! Embeddings: texts in, vectors out.

use std::borrow::Cow;

use super::{Confused, Told};
use crate::fault::{Fault, FaultKind};
use crate::json::{Json, Tree, parse};
use crate::usage::Usage;
use crate::{Dialect, Endpoint, cohere, gemini, openai};

/// A request for vectors.
#[derive(Debug, Default)]
pub(crate) struct Embed<'a> {
    pub(crate) inputs: Vec<Cow<'a, str>>,
    pub(crate) dimensions: Option<u64>,
    /// Google's word for what the vectors are for.
    pub(crate) task: Option<Cow<'a, str>>,
}

/// The vectors, in the order of the inputs.
#[derive(Debug, Default)]
pub(crate) struct Embedded {
    pub(crate) vectors: Vec<Vec<f64>>,
    pub(crate) usage: Option<Usage>,
}

/// Translates a request.
pub(crate) fn request(
    front: Endpoint,
    body: &[u8],
    to: Dialect,
    model: &str,
) -> Result<Vec<u8>, Fault> {
    let tree = parse(body).map_err(|_| Fault::new(FaultKind::NotJson, "the body is no JSON"))?;
    let embed = read(front, &tree)?;
    if embed.inputs.is_empty() {
        return Err(match front.dialect() {
            Dialect::Gemini => Fault::field("content.parts", "an array of texts"),
            _ => Fault::field("input", "a string or an array of strings"),
        });
    }
    Ok(match to {
        Dialect::Gemini => gemini::embeddings::write(&embed, model),
        Dialect::Cohere => cohere::embeddings::write(&embed, model),
        _ => openai::embeddings::write(&embed, model),
    })
}

fn read<'a>(front: Endpoint, tree: &Json<'a>) -> Result<Embed<'a>, Fault> {
    match front {
        Endpoint::EmbedContent | Endpoint::BatchEmbedContents => gemini::embeddings::read(tree),
        _ => openai::embeddings::read(tree),
    }
}

/// Whether the caller wants vectors as base64 of little-endian 32-bit floats, as OpenAI's SDK asks for them.
pub(crate) fn wants_base64(body: &[u8]) -> bool {
    parse(body).is_ok_and(|tree| tree.at("encoding_format").text() == Some("base64"))
}

/// Translates an answer.
pub(crate) fn answer(
    from: Dialect,
    to: Endpoint,
    body: &[u8],
    usage: Option<Usage>,
    base64: bool,
    told: &Told<'_>,
) -> Result<Vec<u8>, Confused> {
    let tree = parse(body).map_err(|_| Confused)?;
    let vectors = match from {
        Dialect::Gemini => gemini::embeddings::vectors(&tree),
        Dialect::Cohere => cohere::embeddings::vectors(&tree),
        _ => openai::embeddings::vectors(&tree),
    }
    .ok_or(Confused)?;
    let embedded = Embedded { vectors, usage };
    Ok(match to {
        Endpoint::EmbedContent => gemini::embeddings::whole(&embedded, true),
        Endpoint::BatchEmbedContents => gemini::embeddings::whole(&embedded, false),
        _ => openai::embeddings::whole(&embedded, base64, told),
    })
}

/// A vector of numbers.
pub(crate) fn vector(tree: &Json<'_>) -> Option<Vec<f64>> {
    match tree {
        Json::Array(numbers) => numbers.iter().map(Tree::float).collect(),
        _ => None,
    }
}
