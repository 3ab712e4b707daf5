//! Path and query of a request to a provider.

use std::fmt::Write as _;
use std::sync::OnceLock;

use http::uri::PathAndQuery;

use crate::fault::{Fault, FaultKind};
use crate::registry::{ProviderKind, ProviderSpec};
use crate::{Dialect, Endpoint};

/// A provider's paths that no request changes, each made when it is asked for first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths([OnceLock<PathAndQuery>; Endpoint::COUNT]);

/// The path of an endpoint with the provider's own prefix.
///
/// # Errors
/// Those of [`target`].
pub(super) fn usual(
    spec: &ProviderSpec,
    endpoint: Endpoint,
    model: &str,
    stream: bool,
) -> Result<PathAndQuery, Fault> {
    let make = || {
        let prefix = spec.base_url.prefix.clone();
        parsed(target(spec, prefix, endpoint, model, stream)?)
    };
    let names_model = spec.kind == ProviderKind::Azure
        || endpoint.dialect() == Dialect::Gemini
        || spec.dialect() == Dialect::Bedrock;
    if names_model {
        return make();
    }
    let kept = &spec.paths.0[endpoint as usize];
    match kept.get() {
        Some(path) => Ok(path.clone()),
        None => {
            let path = make()?;
            Ok(kept.get_or_init(|| path).clone())
        }
    }
}

/// A path as a request has it.
///
/// # Errors
/// The caller's: the model's name makes it none.
pub(super) fn parsed(target: String) -> Result<PathAndQuery, Fault> {
    PathAndQuery::try_from(target)
        .map_err(|_| Fault::new(FaultKind::BadField, "the model's name is no part of a path"))
}

/// The path of an endpoint in its own dialect, after the version.
fn own(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat => "/chat/completions",
        Endpoint::Responses => "/responses",
        Endpoint::Completions => "/completions",
        Endpoint::Embeddings => "/embeddings",
        Endpoint::Models => "/models",
        Endpoint::ImageGenerations => "/images/generations",
        Endpoint::ImageEdits => "/images/edits",
        Endpoint::ImageVariations => "/images/variations",
        Endpoint::Speech => "/audio/speech",
        Endpoint::Transcriptions => "/audio/transcriptions",
        Endpoint::Translations => "/audio/translations",
        Endpoint::Moderations => "/moderations",
        Endpoint::Rerank => "/rerank",
        Endpoint::Messages => "/messages",
        Endpoint::CountTokens => "/messages/count_tokens",
        Endpoint::Generate => ":generateContent",
        Endpoint::StreamGenerate => ":streamGenerateContent?alt=sse",
        Endpoint::EmbedContent => ":embedContent",
        Endpoint::BatchEmbedContents => ":batchEmbedContents",
        Endpoint::GeminiCountTokens => ":countTokens",
        // It has its path with it.
        Endpoint::Other => "",
    }
}

/// `prefix`: what stands before the endpoint's own path.
///
/// # Errors
/// The caller's: the model's name would be a way to another path.
pub(super) fn target(
    spec: &ProviderSpec,
    prefix: String,
    endpoint: Endpoint,
    model: &str,
    stream: bool,
) -> Result<String, Fault> {
    let mut path = prefix;
    match (spec.kind, spec.dialect()) {
        (ProviderKind::Azure, _) => azure(&mut path, spec, endpoint, model)?,
        // Original: a caller's own path of another dialect is passed on as that dialect has it.
        (_, _) if endpoint.dialect() == Dialect::Gemini => {
            path.push_str("/models/");
            // Tuned models and those of other publishers have a resource name of their own.
            encode(
                &mut path,
                model.strip_prefix("models/").unwrap_or(model),
                true,
            )?;
            path.push_str(own(endpoint));
        }
        (_, Dialect::Bedrock) => {
            path.push_str("/model/");
            // An inference profile's ARN has slashes and colons: one segment.
            encode(&mut path, model, false)?;
            path.push_str(if stream {
                "/converse-stream"
            } else {
                "/converse"
            });
        }
        (_, Dialect::Cohere) => path.push_str(match endpoint {
            Endpoint::Chat => "/chat",
            Endpoint::Embeddings => "/embed",
            other => own(other),
        }),
        _ => path.push_str(own(endpoint)),
    }
    Ok(path)
}

/// Azure's deployments have the model's place in the path; the responses and the `v1` interface have not.
fn azure(
    path: &mut String,
    spec: &ProviderSpec,
    endpoint: Endpoint,
    model: &str,
) -> Result<(), Fault> {
    let v1 = spec.api_version == "v1" || path.ends_with("/openai/v1");
    if !path.ends_with("/openai/v1") {
        path.push_str("/openai");
        if v1 || matches!(endpoint, Endpoint::Responses | Endpoint::Models) {
            path.push_str("/v1");
        }
    }
    if v1 || matches!(endpoint, Endpoint::Responses | Endpoint::Models) {
        path.push_str(own(endpoint));
        return Ok(());
    }
    path.push_str("/deployments/");
    encode(path, model, false)?;
    path.push_str(own(endpoint));
    path.push_str("?api-version=");
    encode(path, &spec.api_version, false)
}

/// Percent-encodes all but the unreserved characters of RFC 3986 (and slashes, where they part segments). No segment may be one
/// that leads elsewhere: the path is asked with the operator's key.
fn encode(out: &mut String, text: &str, slashes: bool) -> Result<(), Fault> {
    let leads_away = |segment: &str| matches!(segment, "." | "..");
    if leads_away(text) || slashes && text.split('/').any(leads_away) {
        return Err(Fault::field("model", "a name without . or .. as a segment"));
    }
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            b'/' if slashes => out.push('/'),
            _ => write!(out, "%{byte:02X}").expect("writing to a String can't fail"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(
        kind: ProviderKind,
        base: Option<&str>,
        endpoint: Endpoint,
        model: &str,
        stream: bool,
    ) -> String {
        let spec = ProviderSpec::new(kind, base, None, Some("p")).unwrap();
        let prefix = spec.base_url.prefix.clone();
        super::target(&spec, prefix, endpoint, model, stream).unwrap()
    }

    #[test]
    fn each_provider_has_its_paths() {
        use Endpoint::*;
        use ProviderKind::*;
        for (kind, base, endpoint, model, stream, path) in [
            (OpenAi, None, Chat, "m", false, "/v1/chat/completions"),
            (
                ZhipuAi,
                None,
                Embeddings,
                "m",
                false,
                "/api/paas/v4/embeddings",
            ),
            (Groq, None, Chat, "m", true, "/openai/v1/chat/completions"),
            (Anthropic, None, Messages, "m", true, "/v1/messages"),
            (
                Gemini,
                None,
                Generate,
                "gemini-2.5-pro",
                false,
                "/v1beta/models/gemini-2.5-pro:generateContent",
            ),
            (
                Gemini,
                None,
                StreamGenerate,
                "models/x",
                true,
                "/v1beta/models/x:streamGenerateContent?alt=sse",
            ),
            (
                Vertex,
                None,
                Generate,
                "g",
                false,
                "/v1/projects/p/locations/us-central1/publishers/google/models/g:generateContent",
            ),
            (
                Bedrock,
                None,
                Chat,
                "anthropic.claude-v2:1",
                false,
                "/model/anthropic.claude-v2%3A1/converse",
            ),
            (
                Bedrock,
                None,
                Chat,
                "arn:aws:x/y",
                true,
                "/model/arn%3Aaws%3Ax%2Fy/converse-stream",
            ),
            (Cohere, None, Chat, "m", true, "/v2/chat"),
            (Cohere, None, Embeddings, "m", false, "/v2/embed"),
            (Cohere, None, Rerank, "m", false, "/v2/rerank"),
            (
                Azure,
                Some("https://r.openai.azure.com"),
                Chat,
                "my gpt",
                false,
                "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21",
            ),
            (
                Azure,
                Some("https://r.openai.azure.com"),
                Responses,
                "m",
                false,
                "/openai/v1/responses",
            ),
            (
                Azure,
                Some("https://r.openai.azure.com/openai/v1"),
                Chat,
                "m",
                false,
                "/openai/v1/chat/completions",
            ),
        ] {
            assert_eq!(target(kind, base, endpoint, model, stream), path);
        }
    }
}
