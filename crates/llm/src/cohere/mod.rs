//! Cohere's dialect: the API's version 2.

mod decode;
pub(crate) mod embeddings;
mod write;

pub(crate) use decode::Decoder;
pub(crate) use write::write;
