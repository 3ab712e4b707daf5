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

/// Leaves out some of an object's members or an array's items, which stand at these places in order. A run of them goes with
/// the comma behind it, or at the end with the one before it.
pub(crate) fn without(items: &[Range<usize>], gone: impl Fn(usize) -> bool) -> Vec<Edit> {
    let mut edits = Vec::new();
    let mut at = 0;
    while at < items.len() {
        let run = (at..items.len()).take_while(|at| gone(*at)).count();
        if run > 0 {
            let end = items[at + run - 1].end;
            let span = match (at.checked_sub(1), items.get(at + run)) {
                (_, Some(next)) => items[at].start..next.start,
                (Some(before), None) => items[before].end..end,
                (None, None) => items[at].start..end,
            };
            edits.push(Edit {
                at: span,
                with: Vec::new(),
            });
        }
        at += run + 1;
    }
    edits
}
