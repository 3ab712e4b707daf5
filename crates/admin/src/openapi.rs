//! The description of the admin API, written by hand; tests hold it against the routes and against real answers.

/// The OpenAPI 3.1 document as JSON text, as `/api/openapi.json` answers it (the version is filled in there).
pub const DOCUMENT: &str = include_str!("openapi.json");

/// The document with this build's version.
pub(crate) fn document() -> String {
    DOCUMENT.replacen(
        "\"0.0.0\"",
        &format!("\"{}\"", env!("CARGO_PKG_VERSION")),
        1,
    )
}
