//! The dashboard's files, embedded: no build step, no folder to find at run time, nothing from elsewhere.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::problem::Problem;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! assets {
    ($(($name:literal, $kind:ident)),* $(,)?) => {
        &[$(($name, $kind, include_bytes!(concat!("../assets/", $name)).as_slice())),*]
    };
}

/// Name, content type, content.
const ASSETS: &[(&str, &str, &[u8])] = assets![
    ("index.html", HTML),
    ("style.css", CSS),
    ("icon.svg", SVG),
    ("main.js", JS),
    ("api.js", JS),
    ("rates.js", JS),
    ("format.js", JS),
    ("dom.js", JS),
    ("chart.js", JS),
    ("summary.js", JS),
    ("upstreams.js", JS),
    ("providers.js", JS),
    ("services.js", JS),
    ("routes.js", JS),
    ("events.js", JS),
];

pub(crate) async fn index(headers: HeaderMap) -> Response {
    answer("index.html", &headers)
}

pub(crate) async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    answer(&name, &headers)
}

/// Revalidated on every load (`no-cache` with a tag): after an upgrade the page and its modules are of one version.
fn answer(name: &str, headers: &HeaderMap) -> Response {
    let Some((_, kind, content)) = ASSETS.iter().find(|(n, _, _)| *n == name) else {
        return Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "the dashboard has no such file",
        )
        .into_response();
    };
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    let tag = format!("\"{:016x}\"", hasher.finish());
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|given| given.as_bytes() == tag.as_bytes());
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        (StatusCode::OK, *content).into_response()
    };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.insert(header::ETAG, tag);
    }
    response
}
