//! Headers of a request to a provider: what the caller sent that is the provider's business, and the key.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method};

use super::Back;
use crate::call::{BodyKind, Call};
use crate::fault::{Fault, FaultKind};
use crate::registry::{Auth, ProviderSpec, Secret};
use crate::{Dialect, aws};

/// What a caller's header may hold that is not for the provider: the caller's own key, what belongs to the connection, what
/// says where the caller is.
fn is_ours(name: &str) -> bool {
    const STARTS: &[&str] = &["x-forwarded-", "x-amz-", "x-tidegate-", "x-envoy-"];
    matches!(
        name,
        "authorization"
            | "proxy-authorization"
            | "cookie"
            | "host"
            | "content-length"
            | "content-type"
            | "content-encoding"
            | "transfer-encoding"
            | "accept-encoding"
            | "accept"
            | "connection"
            | "expect"
            | "te"
            | "trailer"
            | "upgrade"
            | "origin"
            | "referer"
            | "x-api-key"
            | "api-key"
            | "x-goog-api-key"
            | "keep-alive"
            | "proxy-connection"
            | "forwarded"
            | "via"
            | "x-real-ip"
    ) || name.starts_with("x-") && STARTS.iter().any(|start| name.starts_with(start))
}

/// Headers that are about the conversation with SDKs, and mean nothing in another dialect.
fn is_dialects(name: &str) -> bool {
    ["anthropic-", "openai-", "x-goog-", "x-stainless-"]
        .iter()
        .any(|start| name.starts_with(start))
        || name == "user-agent"
}

pub(super) fn headers(
    spec: &ProviderSpec,
    call: &Call,
    back: Back,
    callers: &HeaderMap,
    mut headers: HeaderMap,
) -> HeaderMap {
    headers.reserve(callers.len() + 6);
    for (name, value) in callers {
        if is_ours(name.as_str()) || (back != Back::Same && is_dialects(name.as_str())) {
            continue;
        }
        headers.append(name.clone(), value.clone());
    }
    let content_type = match call.kind() {
        BodyKind::Form { content_type, .. } => Some(content_type.clone()),
        BodyKind::Json { .. } => Some(HeaderValue::from_static("application/json")),
        BodyKind::Opaque { .. } => callers.get(CONTENT_TYPE).cloned(),
    };
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, content_type);
    }
    // Every answer is looked into, so it must not come packed.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if matches!(call.kind(), BodyKind::Opaque { .. }) {
        if let Some(accept) = callers.get(ACCEPT) {
            headers.insert(ACCEPT, accept.clone());
        }
        add_own(spec, &mut headers);
        return headers;
    }
    headers.insert(
        ACCEPT,
        HeaderValue::from_static(match (call.stream(), spec.dialect()) {
            (true, Dialect::Bedrock) => "application/vnd.amazon.eventstream",
            (true, _) => "text/event-stream",
            (false, _) if back == Back::Same => "*/*",
            (false, _) => "application/json",
        }),
    );
    add_own(spec, &mut headers);
    headers
}

/// What the provider always wants, and what the operator adds.
fn add_own(spec: &ProviderSpec, headers: &mut HeaderMap) {
    if spec.dialect() == Dialect::Anthropic && !headers.contains_key("anthropic-version") {
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    }
    for (name, value) in &spec.headers {
        headers.insert(name.clone(), value.clone());
    }
}

/// Adds the key, or signs.
#[allow(
    clippy::too_many_arguments,
    reason = "a request's parts, as they stand before it is one"
)]
pub(super) fn show(
    spec: &ProviderSpec,
    secret: Secret<'_>,
    method: &Method,
    target: &str,
    headers: &mut HeaderMap,
    body: &Bytes,
    now_unix: u64,
) -> Result<(), Fault> {
    // A key with a line end in it is the operator's mistake; the key itself must not be told.
    let bad = || {
        Fault::new(
            FaultKind::Internal,
            "a key of the provider is no header value",
        )
    };
    let sensitive = |text: String| {
        let mut value = HeaderValue::try_from(text).map_err(|_| bad())?;
        value.set_sensitive(true);
        Ok::<_, Fault>(value)
    };
    let Secret::Key(key) = secret else {
        return Ok(());
    };
    if spec.row().auth == Auth::Aws
        && let Ok(credentials) = aws::Credentials::parse(key)
    {
        // What is no text can't be signed, and AWS has no use for it: a caller's header must not make a key look unusable.
        let no_text = |(name, value): (&HeaderName, &HeaderValue)| {
            value.to_str().is_err().then(|| name.clone())
        };
        let unsigned: Vec<HeaderName> = headers.iter().filter_map(no_text).collect();
        for name in unsigned {
            headers.remove(name);
        }
        return aws::sign(
            &credentials,
            &spec.region,
            "bedrock",
            method,
            spec.base_url.authority.as_str(),
            target,
            headers,
            body,
            now_unix,
        )
        .map_err(|_| Fault::new(FaultKind::Internal, "the request can't be signed"));
    }
    match spec.row().auth {
        Auth::Bearer | Auth::Aws => {
            headers.insert(AUTHORIZATION, sensitive(["Bearer ", key].concat())?);
        }
        Auth::Header(name) => {
            headers.insert(HeaderName::from_static(name), sensitive(key.to_owned())?);
        }
    }
    Ok(())
}
