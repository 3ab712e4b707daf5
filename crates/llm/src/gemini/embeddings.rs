//! Embeddings: one text at a time, or several as a batch.

use std::borrow::Cow;

use crate::fault::{Fault, FaultKind};
use crate::json::{Json, Tree, object};
use crate::translation::embeddings::{Embed, Embedded, vector};

use super::either;

/// Reads `embedContent` and `batchEmbedContents`.
pub(crate) fn read<'a>(body: &Json<'a>) -> Result<Embed<'a>, Fault> {
    let mut embed = Embed::default();
    let requests = match body.at("requests") {
        Json::Array(requests) => requests.as_slice(),
        _ => std::slice::from_ref(body),
    };
    for request in requests {
        let mut texts = Vec::new();
        for part in request.at("content").at("parts").items() {
            texts.push(part.at("text").cow().ok_or_else(|| {
                Fault::new(
                    FaultKind::Untranslatable,
                    "only text can be embedded by this provider",
                )
                .at("content.parts")
            })?);
        }
        embed.inputs.push(match texts.as_slice() {
            [] => return Err(Fault::field("content.parts", "an array of texts")),
            [text] => text.clone(),
            texts => Cow::Owned(texts.join("\n")),
        });
        embed.dimensions = either(request, "outputDimensionality", "output_dimensionality").int();
        embed.task = either(request, "taskType", "task_type").cow();
    }
    Ok(embed)
}

pub(crate) fn write(embed: &Embed<'_>, model: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    let model = format!("models/{}", model.strip_prefix("models/").unwrap_or(model));
    object(&mut out, |body| {
        body.arr("requests", |requests| {
            for text in &embed.inputs {
                requests.obj(|request| {
                    request.str("model", &model);
                    request.obj("content", |content| {
                        content.arr("parts", |parts| parts.obj(|part| part.str("text", text)));
                    });
                    request.opt_str("taskType", embed.task.as_deref());
                    request.opt_int("outputDimensionality", embed.dimensions);
                });
            }
        });
    });
    out
}

pub(crate) fn vectors(tree: &Json<'_>) -> Option<Vec<Vec<f64>>> {
    match tree.at("embeddings") {
        Json::Array(items) => items.iter().map(|item| vector(item.at("values"))).collect(),
        _ => Some(vec![vector(tree.at("embedding").at("values"))?]),
    }
}

/// `one`: the answer to `embedContent`.
pub(crate) fn whole(embedded: &Embedded, one: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    object(&mut out, |body| {
        if one {
            body.obj("embedding", |out| {
                out.arr("values", |values| {
                    for value in embedded.vectors.first().into_iter().flatten() {
                        values.num(*value);
                    }
                });
            });
            return;
        }
        body.arr("embeddings", |items| {
            for vector in &embedded.vectors {
                items.obj(|out| {
                    out.arr("values", |values| {
                        for value in vector {
                            values.num(*value);
                        }
                    });
                });
            }
        });
    });
    out
}
