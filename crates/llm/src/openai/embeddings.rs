//! Embeddings.

use base64::Engine as _;

use crate::fault::{Fault, FaultKind};
use crate::json::{Json, Tree, object};
use crate::translation::Told;
use crate::translation::embeddings::{Embed, Embedded, vector};

pub(crate) fn read<'a>(body: &Json<'a>) -> Result<Embed<'a>, Fault> {
    let inputs = match body.at("input") {
        Json::Str(text) => vec![text.clone()],
        Json::Array(items) => items
            .iter()
            .map(|item| {
                item.cow().ok_or_else(|| {
                    Fault::new(
                        FaultKind::Untranslatable,
                        "tokens can't be given to this provider: send text",
                    )
                    .at("input")
                })
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(Fault::field("input", "a string or an array of strings")),
    };
    Ok(Embed {
        inputs,
        dimensions: body.at("dimensions").int(),
        task: None,
    })
}

pub(crate) fn write(embed: &Embed<'_>, model: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    object(&mut out, |body| {
        body.str("model", model);
        body.arr("input", |inputs| {
            for text in &embed.inputs {
                inputs.str(text);
            }
        });
        body.opt_int("dimensions", embed.dimensions);
        body.str("encoding_format", "float");
    });
    out
}

pub(crate) fn vectors(tree: &Json<'_>) -> Option<Vec<Vec<f64>>> {
    let Json::Array(data) = tree.at("data") else {
        return None;
    };
    data.iter()
        .map(|item| vector(item.at("embedding")))
        .collect()
}

pub(crate) fn whole(embedded: &Embedded, base64: bool, told: &Told<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    object(&mut out, |body| {
        body.str("object", "list");
        body.arr("data", |data| {
            for (at, vector) in embedded.vectors.iter().enumerate() {
                data.obj(|out| {
                    out.str("object", "embedding");
                    out.int("index", at as u64);
                    if base64 {
                        let bytes: Vec<u8> = vector
                            .iter()
                            .flat_map(|value| (*value as f32).to_le_bytes())
                            .collect();
                        let engine = base64::engine::general_purpose::STANDARD;
                        out.str("embedding", &engine.encode(bytes));
                    } else {
                        out.arr("embedding", |out| {
                            for value in vector {
                                out.num(*value);
                            }
                        });
                    }
                });
            }
        });
        body.str("model", told.model);
        let input = embedded.usage.unwrap_or_default().input;
        body.obj("usage", |out| {
            out.int("prompt_tokens", input);
            out.int("total_tokens", input);
        });
    });
    out
}
