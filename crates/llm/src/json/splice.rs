//! Edits of a JSON text in place: everything that is not edited stays as it was, byte for byte.

use std::ops::Range;

use bytes::Bytes;

/// A piece of a text and what takes its place.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    pub(crate) at: Range<usize>,
    pub(crate) with: Vec<u8>,
}

/// Applies edits that do not overlap.
pub(crate) fn splice(text: &Bytes, mut edits: Vec<Edit>) -> Bytes {
    if edits.is_empty() {
        return text.clone();
    }
    // What is put in at a place comes before what is taken away there.
    edits.sort_by_key(|edit| (edit.at.start, edit.at.end));
    let added: usize = edits.iter().map(|edit| edit.with.len()).sum();
    let mut out = Vec::with_capacity(text.len() + added);
    let mut done = 0;
    for edit in &edits {
        debug_assert!(edit.at.start >= done, "edits overlap");
        out.extend_from_slice(&text[done..edit.at.start]);
        out.extend_from_slice(&edit.with);
        done = edit.at.end;
    }
    out.extend_from_slice(&text[done..]);
    out.into()
}
