//! Which dialect a request is in: told by the end of its path, and by headers where two dialects share a path.

use http::{HeaderMap, Method};

use super::{Dialect, Endpoint};

/// What can be said of a request before its body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// What the caller speaks; errors are answered in it.
    pub dialect: Dialect,
    /// What the caller asks.
    pub endpoint: Endpoint,
    /// The model, where the path names it: Gemini's calls, and `GET` of one model.
    pub model: Option<String>,
    /// Gemini's stream as one JSON array that grows: asked for by leaving out `alt=sse`.
    pub array_stream: bool,
}

/// Ends of OpenAI's paths, after the version.
const OPENAI: &[(&str, Endpoint)] = &[
    ("chat/completions", Endpoint::Chat),
    ("responses", Endpoint::Responses),
    ("completions", Endpoint::Completions),
    ("embeddings", Endpoint::Embeddings),
    ("images/generations", Endpoint::ImageGenerations),
    ("images/edits", Endpoint::ImageEdits),
    ("images/variations", Endpoint::ImageVariations),
    ("audio/speech", Endpoint::Speech),
    ("audio/transcriptions", Endpoint::Transcriptions),
    ("audio/translations", Endpoint::Translations),
    ("moderations", Endpoint::Moderations),
    ("rerank", Endpoint::Rerank),
];

/// Methods of Gemini, after the colon.
const GEMINI: &[(&str, Endpoint)] = &[
    ("generateContent", Endpoint::Generate),
    ("streamGenerateContent", Endpoint::StreamGenerate),
    ("embedContent", Endpoint::EmbedContent),
    ("batchEmbedContents", Endpoint::BatchEmbedContents),
    ("countTokens", Endpoint::GeminiCountTokens),
];

impl Front {
    /// Recognises a request by its path and what follows `?`. Whatever a route put before the dialect's own path, or took
    /// away from it (with the version), does not matter: the end decides.
    ///
    /// `None`: no endpoint of any dialect.
    pub fn recognise(
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let path = path.trim_end_matches('/');
        if method == Method::GET || method == Method::HEAD {
            return list_of_models(path, headers);
        }
        if method != Method::POST {
            return None;
        }
        if let Some((before, verb)) = path.rsplit_once(':') {
            let (_, endpoint) = GEMINI.iter().find(|(name, _)| *name == verb)?;
            let model = after(before, "models")?;
            let sse = query.is_some_and(|query| query.split('&').any(|part| part == "alt=sse"));
            return Some(Self {
                dialect: Dialect::Gemini,
                endpoint: *endpoint,
                model: Some(percent_decoded(model)?),
                array_stream: *endpoint == Endpoint::StreamGenerate && !sse,
            });
        }
        let endpoint = if ends_with(path, "messages/count_tokens") {
            Endpoint::CountTokens
        } else if ends_with(path, "messages") {
            Endpoint::Messages
        } else {
            OPENAI.iter().find(|(end, _)| ends_with(path, end))?.1
        };
        Some(Self {
            dialect: endpoint.dialect(),
            endpoint,
            model: None,
            array_stream: false,
        })
    }

    /// Whether a path is an endpoint for POST.
    pub fn wants_post(path: &str) -> bool {
        Self::recognise(&Method::POST, path, None, &HeaderMap::new()).is_some()
    }

    /// The dialect of errors for a request that is no known endpoint: told from what its path would be with another method, then
    /// from headers, then from words of the path that one dialect alone has.
    pub fn dialect_of(path: &str, headers: &HeaderMap) -> Dialect {
        if let Some(front) = Self::recognise(&Method::POST, path, None, headers) {
            return front.dialect;
        }
        match Self::dialect_of_headers(headers) {
            // Google's own version of the path is spoken by nobody else.
            Dialect::OpenAi if path.contains("/v1beta/") => Dialect::Gemini,
            Dialect::OpenAi if path.split('/').any(|part| part == "messages") => Dialect::Anthropic,
            dialect => dialect,
        }
    }

    /// The dialect that headers tell.
    fn dialect_of_headers(headers: &HeaderMap) -> Dialect {
        if headers.contains_key("anthropic-version") {
            Dialect::Anthropic
        } else if headers.contains_key("x-goog-api-key")
            || headers.contains_key("x-goog-api-client")
        {
            Dialect::Gemini
        } else if headers.contains_key("x-api-key") && !headers.contains_key("authorization") {
            Dialect::Anthropic
        } else {
            Dialect::OpenAi
        }
    }
}

/// `GET …/models` and `GET …/models/NAME`; three dialects share the path.
fn list_of_models(path: &str, headers: &HeaderMap) -> Option<Front> {
    // A model's name may hold a colon, but none ends with a method of Gemini's.
    let verb = path.rsplit_once(':').map(|(_, verb)| verb);
    if GEMINI.iter().any(|(name, _)| Some(*name) == verb) {
        return None;
    }
    let model = if ends_with(path, "models") {
        None
    } else {
        Some(percent_decoded(after(path, "models")?)?)
    };
    let dialect = Front::dialect_of(path, headers);
    Some(Front {
        dialect,
        endpoint: Endpoint::Models,
        model,
        array_stream: false,
    })
}

/// Whether `path` ends with the whole segments of `end`.
fn ends_with(path: &str, end: &str) -> bool {
    path.strip_suffix(end)
        .is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// What follows the first segment `name` of `path`; `None` if nothing does.
fn after<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = path;
    loop {
        let (segment, tail) = rest.split_once('/')?;
        if segment == name {
            return (!tail.is_empty()).then_some(tail);
        }
        rest = tail;
    }
}

/// A name in a path as text; `None` if it is no UTF-8 or has a control character.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%'
            && let [high, low, tail @ ..] = tail
            && let (Some(high), Some(low)) =
                ((*high as char).to_digit(16), (*low as char).to_digit(16))
        {
            bytes.push((high << 4 | low) as u8);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn recognise(method: Method, path: &str) -> Option<(Dialect, Endpoint, Option<String>)> {
        let front = Front::recognise(&method, path, None, &HeaderMap::new())?;
        Some((front.dialect, front.endpoint, front.model))
    }

    #[test]
    fn what_is_no_endpoint_has_a_dialect_all_the_same() {
        let none = HeaderMap::new();
        for (path, dialect, post) in [
            ("/v1/chat/completions", Dialect::OpenAi, true),
            ("/v1/messages", Dialect::Anthropic, true),
            ("/v1/messages/batches", Dialect::Anthropic, false),
            ("/v1beta/models/m:generateContent", Dialect::Gemini, true),
            ("/v1beta/files", Dialect::Gemini, false),
            ("/v1/files", Dialect::OpenAi, false),
        ] {
            assert_eq!(Front::dialect_of(path, &none), dialect, "{path}");
            assert_eq!(Front::wants_post(path), post, "{path}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        assert_eq!(Front::dialect_of("/v1/files", &headers), Dialect::Anthropic);
    }

    #[test]
    fn the_end_of_the_path_decides_whatever_stands_before_it() {
        for (path, endpoint) in [
            ("/v1/chat/completions", Endpoint::Chat),
            ("/chat/completions", Endpoint::Chat),
            ("/team/a/v1/chat/completions/", Endpoint::Chat),
            ("/v1/completions", Endpoint::Completions),
            ("/v1/responses", Endpoint::Responses),
            ("/openai/v1/audio/transcriptions", Endpoint::Transcriptions),
            ("/v1/rerank", Endpoint::Rerank),
            ("/v1/messages", Endpoint::Messages),
            ("/anthropic/v1/messages/count_tokens", Endpoint::CountTokens),
        ] {
            let found = recognise(Method::POST, path);
            assert_eq!(found, Some((endpoint.dialect(), endpoint, None)), "{path}");
        }
    }

    #[test]
    fn gemini_names_the_model_in_the_path() {
        for path in [
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent",
            "/v1/models/gemini-2.5-pro:streamGenerateContent",
            "/x/models/gemini-2%2E5-pro:streamGenerateContent",
            "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro:streamGenerateContent",
        ] {
            let found = recognise(Method::POST, path).expect(path);
            assert_eq!(found.0, Dialect::Gemini);
            assert_eq!(found.1, Endpoint::StreamGenerate);
            assert_eq!(found.2.as_deref(), Some("gemini-2.5-pro"));
        }
        let found = recognise(Method::POST, "/v1beta/models/openai/gpt-5:generateContent");
        assert_eq!(
            found.and_then(|found| found.2).as_deref(),
            Some("openai/gpt-5")
        );
    }

    #[test]
    fn a_stream_of_gemini_is_an_array_unless_events_are_asked_for() {
        let array = |verb: &str, query| {
            let path = format!("/v1beta/models/m:{verb}");
            Front::recognise(&Method::POST, &path, query, &HeaderMap::new())
                .unwrap()
                .array_stream
        };
        assert!(array("streamGenerateContent", None));
        assert!(!array("streamGenerateContent", Some("key=x&alt=sse")));
        assert!(!array("generateContent", None));
    }

    #[test]
    fn what_is_no_endpoint_is_none() {
        for path in [
            "/",
            "",
            "/v1/chat",
            "/v1/xmessages",
            "/v1/models/:generateContent",
            "/v1/models/m:fly",
        ] {
            assert_eq!(recognise(Method::POST, path), None, "{path}");
        }
        assert_eq!(recognise(Method::DELETE, "/v1/messages"), None);
        assert_eq!(
            recognise(Method::POST, "/v1beta/models/%00:generateContent"),
            None
        );
    }

    #[test]
    fn lists_of_models_are_told_apart_by_headers() {
        let list = |name: &'static str| {
            let mut headers = HeaderMap::new();
            if !name.is_empty() {
                headers.insert(name, HeaderValue::from_static("x"));
            }
            Front::recognise(&Method::GET, "/v1/models", None, &headers).map(|front| front.dialect)
        };
        assert_eq!(list(""), Some(Dialect::OpenAi));
        assert_eq!(list("authorization"), Some(Dialect::OpenAi));
        assert_eq!(list("anthropic-version"), Some(Dialect::Anthropic));
        assert_eq!(list("x-api-key"), Some(Dialect::Anthropic));
        assert_eq!(list("x-goog-api-key"), Some(Dialect::Gemini));
        assert_eq!(
            recognise(Method::GET, "/v1beta/models"),
            Some((Dialect::Gemini, Endpoint::Models, None))
        );
        assert_eq!(
            recognise(Method::GET, "/v1/models/gpt-5"),
            Some((Dialect::OpenAi, Endpoint::Models, Some("gpt-5".into())))
        );
    }
}
