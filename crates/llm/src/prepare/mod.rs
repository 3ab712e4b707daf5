//! A call made into a request to a provider.
//!
//! Where the provider speaks the caller's dialect, the body stays as it came, byte for byte, but for the model's name (and
//! what the provider's row in the table says it can't take). Where it does not, the body is taken apart into the
//! [intermediate form](crate::ir) and written in the provider's dialect.

mod body;
mod headers;
mod messages;
pub(crate) mod path;
mod resume;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

use crate::call::{BodyKind, Call};
use crate::fault::{Fault, FaultKind};
use crate::registry::{ProviderKind, ProviderSpec, Secret};
use crate::translation::{Told, embeddings};
use crate::{Dialect, Endpoint};

/// What an attempt is prepared with, besides the provider and its key.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrepareOptions<'a> {
    /// Unix time, seconds: for signatures and for `created` in translated answers.
    pub now_unix: u64,
    /// Have the provider report the usage of streams, also where the caller did not ask: for accounts and metrics. What was
    /// not asked for is kept from the caller.
    pub count_usage: bool,
    /// Any number that other requests have not: for ids in translated answers where the provider gives none.
    pub seed: u64,
    /// What the caller already has of an answer that broke off: the request asks to go on from there. Refused
    /// ([`FaultKind::Untranslatable`]) where the provider or the model is not known to go on. Empty: a request as any other.
    pub continue_from: Option<&'a str>,
    /// Remember what a stream says, so that another can go on from there if it breaks off ([`Answer::unfinished`]): only
    /// where such a request could be made.
    ///
    /// [`Answer::unfinished`]: crate::Answer::unfinished
    pub remember: bool,
}

/// A request to a provider.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// `POST` but for calls that are passed on as they are.
    pub method: Method,
    /// Path and query.
    pub target: PathAndQuery,
    /// Everything but `host`, `content-length` and what belongs to a connection.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// How the answer is to be read.
    pub plan: Plan,
}

/// How the answer to a prepared request is to be read.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) kind: ProviderKind,
    pub(crate) front: Dialect,
    pub(crate) endpoint: Endpoint,
    pub(crate) back: Back,
    pub(crate) stream: bool,
    pub(crate) array_stream: bool,
    /// The caller wants the usage at the end of a stream.
    pub(crate) include_usage: bool,
    /// The usage was asked for on our own account: the frame with it alone is not the caller's.
    pub(crate) hide_usage: bool,
    /// The model as the provider knows it.
    pub(crate) model: String,
    pub(crate) created: u64,
    pub(crate) seed: u64,
    /// Embeddings: the caller wants base64.
    pub(crate) base64: bool,
    /// The answer begins with what was given to go on from.
    pub(crate) repeats: bool,
    /// What the stream says is remembered, for another to go on from.
    pub(crate) remember: bool,
}

/// What the provider answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Back {
    /// The caller's own dialect and endpoint.
    Same,
    /// Another endpoint, translated.
    Other(Endpoint, Dialect),
}

impl Plan {
    /// Whether the answer is passed on as it comes.
    pub fn is_relay(&self) -> bool {
        self.back == Back::Same
    }

    /// Whether the answer to a request that goes on ([`PrepareOptions::continue_from`]) begins with the text that it goes on
    /// from (Mistral): whoever joins the two takes it away.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// The model as the provider knows it.
    pub fn model(&self) -> &str {
        &self.model
    }

    pub(crate) fn told(&self) -> Told<'_> {
        Told {
            model: &self.model,
            created: self.created,
            include_usage: self.include_usage,
            seed: self.seed,
        }
    }
}

impl Call {
    /// Makes a request of this call for a provider. `model` is the provider's name of it; `headers` are the caller's.
    ///
    /// # Errors
    /// The caller's: the body is not what its dialect says, or asks for what the provider's dialect can't express
    /// ([`FaultKind::Untranslatable`]), or for an endpoint that the provider has not ([`FaultKind::UnsupportedEndpoint`]).
    pub fn prepare(
        &self,
        spec: &ProviderSpec,
        secret: Secret<'_>,
        model: &str,
        headers: &HeaderMap,
        options: PrepareOptions<'_>,
    ) -> Result<Prepared, Fault> {
        self.prepare_in(spec, secret, model, headers, options, HeaderMap::new())
    }

    /// As [`prepare`](Self::prepare), with an empty map of the caller's for the headers: it may have had a use before.
    ///
    /// # Errors
    /// Those of [`prepare`](Self::prepare).
    pub fn prepare_in(
        &self,
        spec: &ProviderSpec,
        secret: Secret<'_>,
        model: &str,
        headers: &HeaderMap,
        options: PrepareOptions<'_>,
        map: HeaderMap,
    ) -> Result<Prepared, Fault> {
        let back = self.back(spec)?;
        let stream = self.stream();
        let resume = resume::resume(self, spec, model, options)?;
        let body::Written { body, hide_usage } = match back {
            Back::Same => body::same(self, spec, model, options, resume)?,
            Back::Other(..) => body::translated(self, spec, model, options, resume)?,
        };
        let endpoint = match back {
            Back::Same => self.endpoint(),
            Back::Other(endpoint, _) => endpoint,
        };
        let target = match (self.target(), resume) {
            (Some(target), _) => path::parsed(target.to_owned())?,
            (None, None) => path::usual(spec, endpoint, model, stream)?,
            (None, Some(resume)) => {
                let prefix = resume.prefix(spec)?;
                path::parsed(path::target(spec, prefix, endpoint, model, stream)?)?
            }
        };
        let mut headers = headers::headers(spec, self, back, headers, map);
        let method = self.method();
        headers::show(
            spec,
            secret,
            method,
            target.as_str(),
            &mut headers,
            &body,
            options.now_unix,
        )?;
        Ok(Prepared {
            method: self.method().clone(),
            target,
            headers,
            body,
            plan: Plan {
                kind: spec.kind,
                front: self.dialect(),
                endpoint: self.endpoint(),
                back,
                stream,
                array_stream: self.array_stream(),
                include_usage: self.include_usage(),
                hide_usage,
                model: model.to_owned(),
                created: options.now_unix,
                seed: options.seed,
                base64: back != Back::Same
                    && self.endpoint() == Endpoint::Embeddings
                    && embeddings::wants_base64(self.body()),
                repeats: resume.is_some_and(|resume| resume.repeats()),
                remember: options.remember && stream && resume::can(self, spec, model, back),
            },
        })
    }

    /// Which endpoint of the provider this goes to.
    fn back(&self, spec: &ProviderSpec) -> Result<Back, Fault> {
        let endpoint = self.endpoint();
        let serves = spec.row().serves;
        if spec.original || (self.dialect() == spec.dialect() && serves.contains(&endpoint)) {
            return Ok(Back::Same);
        }
        // Cohere's own format of a rerank is what all others copied.
        if endpoint == Endpoint::Rerank && serves.contains(&endpoint) {
            return Ok(Back::Same);
        }
        if matches!(self.kind(), BodyKind::Json { .. }) {
            let dialect = spec.dialect();
            if endpoint.generates() {
                let to = match dialect {
                    Dialect::OpenAi | Dialect::Cohere | Dialect::Bedrock => Endpoint::Chat,
                    Dialect::Anthropic => Endpoint::Messages,
                    Dialect::Gemini if self.stream() => Endpoint::StreamGenerate,
                    Dialect::Gemini => Endpoint::Generate,
                };
                if serves.contains(&to) {
                    return Ok(Back::Other(to, dialect));
                }
            }
            if matches!(
                endpoint,
                Endpoint::Embeddings | Endpoint::EmbedContent | Endpoint::BatchEmbedContents
            ) {
                let to = match dialect {
                    Dialect::Gemini => Endpoint::BatchEmbedContents,
                    _ => Endpoint::Embeddings,
                };
                if serves.contains(&to) {
                    return Ok(Back::Other(to, dialect));
                }
            }
        }
        Err(Fault::new(
            FaultKind::UnsupportedEndpoint,
            format!("the provider has no endpoint for {}", endpoint.operation()),
        ))
    }
}
