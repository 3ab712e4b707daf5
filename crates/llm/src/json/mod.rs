//! JSON: a tree that borrows from its text, a writer that goes straight to bytes, and edits of a text in place.

mod cursor;
mod splice;
mod tree;
mod write;

pub(crate) use cursor::{Cursor, Malformed};
pub(crate) use splice::{Edit, splice, without};
pub(crate) use tree::{Json, Tree, parse};
pub(crate) use write::{Arr, Obj, array, object, string, value_text};
