//! A call as a caller made it: what routing, key choice and accounts need of it, read without taking the body apart.

mod form;
mod prefix;
mod shallow;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::dialect::Front;
use crate::fault::{Fault, FaultKind};
use crate::{Dialect, Endpoint};

pub(crate) use shallow::Fields;

/// A caller's request: its body is kept whole, for as many attempts as it takes.
#[derive(Clone, Debug)]
pub struct Call {
    dialect: Dialect,
    endpoint: Endpoint,
    model: String,
    stream: bool,
    array_stream: bool,
    include_usage: bool,
    max_tokens: Option<u64>,
    choices: u64,
    user: Option<Box<str>>,
    prompt_cache_key: Option<Box<str>>,
    body: Bytes,
    kind: BodyKind,
    /// Passed on as they are: the method, and the path with its query.
    original: Option<(Method, String)>,
}

/// What the body is, with the place of the model's name in it.
#[derive(Clone, Debug)]
pub(crate) enum BodyKind {
    /// JSON; the span of the value of `model`, quotes included.
    Json { model: Option<Range<usize>> },
    /// Whatever it is, with the span of the value of `model` if it is JSON and has one.
    Opaque { model: Option<Range<usize>> },
    /// A form; the span of the field's content, and the form's own content type with its boundary.
    Form {
        model: Range<usize>,
        content_type: HeaderValue,
    },
}

impl Call {
    /// Reads a request whose path was recognised.
    ///
    /// # Errors
    /// The body is no JSON object (or no form, where forms are taken), a field that must be read has the wrong type, or the
    /// model is missing. Nothing else is looked at here: what only the provider can judge is left to it.
    pub fn read(front: &Front, headers: &HeaderMap, body: Bytes) -> Result<Self, Fault> {
        let content_type = headers.get(CONTENT_TYPE);
        let text = content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        if front.endpoint.takes_forms()
            && text
                .get(..19)
                .is_some_and(|start| start.eq_ignore_ascii_case("multipart/form-data"))
            && let Some(content_type) = content_type
        {
            let model = form::model(text, &body)?;
            let name = std::str::from_utf8(&body[model.clone()])
                .map_err(|_| Fault::field("model", "a name in UTF-8"))?
                .to_owned();
            return Ok(Self {
                model: name,
                // A bounded look for `stream` is not worth it: the answer's content type tells.
                stream: false,
                array_stream: false,
                include_usage: false,
                max_tokens: None,
                choices: 1,
                user: None,
                prompt_cache_key: None,
                kind: BodyKind::Form {
                    model,
                    content_type: content_type.clone(),
                },
                dialect: front.dialect,
                endpoint: front.endpoint,
                body,
                original: None,
            });
        }
        let fields = Fields::read(&body)?;
        let model = match (&front.model, &fields.model) {
            (Some(model), _) => model.clone(),
            (None, Some((name, _))) => name.clone().into_owned(),
            (None, None) => {
                return Err(
                    Fault::new(FaultKind::MissingModel, "the request names no model").at("model"),
                );
            }
        };
        if model.is_empty() || model.len() > 256 || model.chars().any(char::is_control) {
            return Err(Fault::field("model", "a name of 1 to 256 characters"));
        }
        let stream = match front.endpoint {
            Endpoint::StreamGenerate => true,
            Endpoint::Generate => false,
            _ => fields.stream.unwrap_or(false),
        };
        Ok(Self {
            dialect: front.dialect,
            endpoint: front.endpoint,
            model,
            stream,
            array_stream: front.array_stream,
            include_usage: fields.include_usage,
            max_tokens: fields.max_tokens,
            choices: fields.choices.unwrap_or(1).max(1),
            user: fields.user.as_deref().map(Into::into),
            prompt_cache_key: fields.prompt_cache_key.as_deref().map(Into::into),
            kind: BodyKind::Json {
                model: match front.model {
                    Some(_) => None,
                    None => fields.model.map(|(_, at)| at),
                },
            },
            body,
            original: None,
        })
    }

    /// A request that is passed on as it is, to a provider whose dialect is `original`: any path (which goes to the provider
    /// as it stands here, so it is the provider's own), any body. The model is looked for in the body (where it can then be
    /// mapped) and in the path; it may be empty. `dialect` is that of errors. A `key` of the query is the caller's own (Google's
    /// clients put it there) and goes nowhere.
    pub fn original(method: Method, target: &str, dialect: Dialect, body: Bytes) -> Self {
        let target = &*without_key(target);
        let found = Fields::read(&body).unwrap_or_default();
        let path = target.split('?').next().unwrap_or_default();
        let in_path = || {
            let rest = ["/models/", "/model/"]
                .iter()
                .find_map(|list| path.split_once(list))?
                .1;
            rest.split(['/', ':']).next()
        };
        let (model, at) = match &found.model {
            Some((name, at)) => (name.to_string(), Some(at.clone())),
            None => (in_path().unwrap_or_default().to_owned(), None),
        };
        Self {
            dialect,
            endpoint: Endpoint::Other,
            model: model
                .chars()
                .filter(|c| !c.is_control())
                .take(256)
                .collect(),
            stream: found.stream.unwrap_or(false),
            array_stream: false,
            include_usage: false,
            max_tokens: found.max_tokens,
            choices: 1,
            user: found.user.as_deref().map(Into::into),
            prompt_cache_key: None,
            kind: BodyKind::Opaque { model: at },
            original: Some((method, target.to_owned())),
            body,
        }
    }

    /// A short chat request in OpenAI's dialect: what a probe of a key sends through the provider's own pipeline.
    pub fn probe(model: &str) -> Self {
        let mut body = Vec::with_capacity(96);
        let mut at = 0..0;
        crate::json::object(&mut body, |body| {
            body.str("model", model);
            body.arr("messages", |messages| {
                messages.obj(|message| {
                    message.str("role", "user");
                    message.str("content", "hi");
                });
            });
            body.int("max_tokens", 1);
        });
        if let Ok(fields) = Fields::read(&body)
            && let Some((_, found)) = fields.model
        {
            at = found;
        }
        Self {
            dialect: Dialect::OpenAi,
            endpoint: Endpoint::Chat,
            model: model.to_owned(),
            stream: false,
            array_stream: false,
            include_usage: false,
            max_tokens: Some(1),
            choices: 1,
            user: None,
            prompt_cache_key: None,
            kind: BodyKind::Json { model: Some(at) },
            body: body.into(),
            original: None,
        }
    }

    /// What the caller speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What the caller asks.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The model as the caller names it. Never empty, at most 256 bytes, without control characters.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the answer is to come as a stream.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// OpenAI: whether the caller wants the usage at the stream's end.
    pub fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// Most tokens that the answer may have, over all its choices: for reservations.
    pub fn max_tokens(&self) -> Option<u64> {
        Some(self.max_tokens?.saturating_mul(self.choices))
    }

    /// Who asks, as the body says: `user` or `safety_identifier` (OpenAI), `metadata.user_id` (Anthropic).
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// OpenAI's hint for prompt caches.
    pub fn prompt_cache_key(&self) -> Option<&str> {
        self.prompt_cache_key.as_deref()
    }

    /// A hash of the beginning of the conversation (system text and first message of the user): requests of one conversation
    /// share it. The same in every process and release. Reads the body again: call it only where it is used.
    pub fn prefix_hash(&self) -> u64 {
        prefix::hash(&self.body)
    }

    /// The body as it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// How many answers are asked for.
    pub(crate) fn choices(&self) -> u64 {
        self.choices
    }

    pub(crate) fn kind(&self) -> &BodyKind {
        &self.kind
    }

    pub(crate) fn method(&self) -> &Method {
        const POST: &Method = &Method::POST;
        self.original.as_ref().map_or(POST, |(method, _)| method)
    }

    pub(crate) fn target(&self) -> Option<&str> {
        self.original.as_ref().map(|(_, target)| target.as_str())
    }

    pub(crate) fn array_stream(&self) -> bool {
        self.array_stream
    }

    /// The head that may be sent before a provider has answered, so that heartbeats can follow; `None` where the dialect has
    /// no place for a heartbeat (answers that are no stream).
    pub fn early_head(&self) -> Option<(StatusCode, HeaderMap)> {
        self.heartbeat()?;
        Some((StatusCode::OK, stream_head(self.array_stream)))
    }

    /// Bytes that keep a waiting caller's connection alive and mean nothing to it: a comment in an event stream, white
    /// space before the items of an array, an empty line for Gemini's callers (Google's own SDK takes a comment for a
    /// broken answer). They may be sent between two outputs of [`Answer`](crate::Answer) at any time.
    pub fn heartbeat(&self) -> Option<&'static [u8]> {
        if !self.stream || !self.endpoint.generates() {
            None
        } else if self.array_stream || self.dialect == Dialect::Gemini {
            Some(b"\n")
        } else {
            Some(b": ping\n\n")
        }
    }
}

/// A target without the parameter `key`.
fn without_key(target: &str) -> Cow<'_, str> {
    let is_key = |pair: &str| pair.split('=').next() == Some("key");
    let Some((path, query)) = target.split_once('?') else {
        return Cow::Borrowed(target);
    };
    if !query.split('&').any(is_key) {
        return Cow::Borrowed(target);
    }
    let rest: Vec<&str> = query.split('&').filter(|pair| !is_key(pair)).collect();
    Cow::Owned(match rest.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", rest.join("&")),
    })
}

/// Headers of a stream to a caller.
pub(crate) fn stream_head(array: bool) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(if array {
            "application/json"
        } else {
            "text/event-stream; charset=utf-8"
        }),
    );
    headers.insert(
        http::header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache"),
    );
    headers
}
