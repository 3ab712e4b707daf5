//! Embeddings.

use crate::json::{Json, Tree, object};
use crate::translation::embeddings::{Embed, vector};

pub(crate) fn write(embed: &Embed<'_>, model: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    object(&mut out, |body| {
        body.str("model", model);
        body.arr("texts", |texts| {
            for text in &embed.inputs {
                texts.str(text);
            }
        });
        // Must be told here; OpenAI's callers can't say it.
        let query = embed
            .task
            .as_deref()
            .is_some_and(|task| task.ends_with("QUERY"));
        body.str(
            "input_type",
            if query {
                "search_query"
            } else {
                "search_document"
            },
        );
        body.arr("embedding_types", |types| types.str("float"));
        body.opt_int("output_dimension", embed.dimensions);
    });
    out
}

pub(crate) fn vectors(tree: &Json<'_>) -> Option<Vec<Vec<f64>>> {
    let Json::Array(items) = tree.at("embeddings").at("float") else {
        return None;
    };
    items.iter().map(vector).collect()
}
