//! Signature Version 4 over a request that is otherwise complete.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
};
use aws_sigv4::sign::v4;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tracing::subscriber::NoSubscriber;

/// An access key of AWS. Shown by its id only.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    id: String,
    secret: String,
    session: Option<String>,
}

/// Text that is no access key. The text is not repeated: it may be half a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an access key of AWS is written as ID:SECRET or ID:SECRET:SESSION_TOKEN")]
pub struct CredentialsError;

/// Why a request can't be signed. Says nothing about the key.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign the request to {host}: {cause}")]
pub struct SignError {
    host: String,
    cause: String,
}

impl Credentials {
    /// Reads `ID:SECRET` or `ID:SECRET:SESSION_TOKEN`, as one entry of a list of tokens holds it.
    ///
    /// # Errors
    ///
    /// When there are not two or three parts with something in them.
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let mut parts = text.trim().splitn(3, ':').map(str::trim);
        let mut part = || {
            parts
                .next()
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
        };
        let id = part().ok_or(CredentialsError)?;
        let secret = part().ok_or(CredentialsError)?;
        let session = match parts.next() {
            None => None,
            Some("") => return Err(CredentialsError),
            Some(session) => Some(session.to_owned()),
        };
        Ok(Self {
            id,
            secret,
            session,
        })
    }

    /// The id, which is no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Credentials")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Signs a request: adds `x-amz-date`, `authorization` and, for a session, `x-amz-security-token` to `headers`.
///
/// All headers that are there are signed, but those that proxies change; `path_and_query` is what goes on the wire,
/// already escaped (`/model/amazon.nova-pro-v1%3A0/converse`). `now_unix` is the time in seconds: AWS refuses a signature
/// that is more than five minutes off.
///
/// # Errors
///
/// When the host or the path make no URL, or a header is not text.
#[allow(
    clippy::too_many_arguments,
    reason = "a request's parts, as they stand before it is one"
)]
pub fn sign(
    credentials: &Credentials,
    region: &str,
    service: &str,
    method: &Method,
    host: &str,
    path_and_query: &str,
    headers: &mut HeaderMap,
    body: &[u8],
    now_unix: u64,
) -> Result<(), SignError> {
    let fail = |cause: &dyn fmt::Display| SignError {
        host: host.to_owned(),
        cause: cause.to_string(),
    };

    let mut settings = SigningSettings::default();
    // The path is signed as it is sent; Bedrock's have nothing to normalise.
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
    let excluded = settings.excluded_headers.get_or_insert_default();
    excluded
        .extend(["connection", "expect", "content-length", "accept-encoding"].map(Cow::Borrowed));

    let identity = aws_credential_types::Credentials::new(
        &credentials.id,
        &credentials.secret,
        credentials.session.clone(),
        None,
        "tidegate",
    )
    .into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(SystemTime::UNIX_EPOCH + Duration::from_secs(now_unix.min(MAX_TIME)))
        .settings(settings)
        .build()
        .map_err(|error| fail(&error))?
        .into();

    let url = format!("https://{host}{path_and_query}");
    let mut texts = Vec::with_capacity(headers.len());
    for (name, value) in &*headers {
        texts.push((name.as_str(), value.to_str().map_err(|error| fail(&error))?));
    }
    let request = SignableRequest::new(
        method.as_str(),
        url,
        texts.into_iter(),
        SignableBody::Bytes(body),
    )
    .map_err(|error| fail(&error))?;
    // At its trace level the signer writes whole requests: the prompt, and a session's token. No log is to hold these.
    let signed = tracing::subscriber::with_default(NoSubscriber::default(), || {
        aws_sigv4::http_request::sign(request, &params)
    });
    let (instructions, _) = signed.map_err(|error| fail(&error))?.into_parts();
    for (name, value) in instructions.headers() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| fail(&error))?;
        let mut value = HeaderValue::from_str(value).map_err(|error| fail(&error))?;
        value.set_sensitive(name != "x-amz-date");
        headers.insert(name, value);
    }
    Ok(())
}

/// 9999-12-31: later dates have no form in a signature.
const MAX_TIME: u64 = 253_402_300_799;
