//! Amazon Bedrock's dialect: Converse.

mod decode;
mod write;

pub(crate) use decode::Decoder;
pub(crate) use write::write;
