//! A service account of Google's: what Vertex AI is opened with. Its key file signs an assertion, for which the file's token endpoint
//! gives an access token that lasts an hour (RFC 7523; Google's page "Using OAuth 2.0 for Server to Server Applications").
//!
//! No I/O in here: the request is made, and the answer read.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::uri::{Scheme, Uri};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use thiserror::Error;

/// What the token is for: everything of Google's cloud that the account itself may do.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long an assertion holds, in seconds: the most that is taken.
const HOLDS: u64 = 3600;
/// Clocks differ: an assertion begins so many seconds ago.
const EARLIER: u64 = 10;
/// A token of which nobody says how long it lasts.
const LASTS: Duration = Duration::from_secs(3600);

/// Why a key file can't be used. None of the texts holds a part of the key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AccountError {
    /// It is no JSON, or a field is missing.
    #[error("it has no type service_account with client_email, private_key and token_uri")]
    Fields,
    /// The private key is no RSA key in PEM.
    #[error("private_key is no RSA key in PKCS #8 of at least 2048 bits: {0}")]
    Key(String),
    /// The token endpoint.
    #[error("token_uri {0:?} is no https:// URL (http:// is taken for this machine alone)")]
    TokenUri(String),
    /// The signature.
    #[error("the assertion can't be signed")]
    Sign,
}

/// A service account, ready to sign. `Debug` shows nothing of the key.
pub struct ServiceAccount {
    email: String,
    key_id: Option<String>,
    token_uri: Uri,
    key: RsaKeyPair,
}

#[derive(Deserialize)]
struct KeyFile<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    token_uri: String,
}

/// An access token.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// What is shown to the provider.
    pub token: String,
    /// How long it lasts from the answer on.
    pub lasts: Duration,
}

/// Without the token.
impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("lasts", &self.lasts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServiceAccount").field(&self.email).finish()
    }
}

impl ServiceAccount {
    /// Whether a key is meant to be a key file.
    pub fn looks_like_one(key: &str) -> bool {
        key.trim_start().starts_with('{')
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`AccountError`].
    pub fn parse(text: &str) -> Result<ServiceAccount, AccountError> {
        let file: KeyFile<'_> = serde_json::from_str(text).map_err(|_| AccountError::Fields)?;
        if file.kind != "service_account" {
            return Err(AccountError::Fields);
        }
        let bad = |why: String| AccountError::Key(why);
        let der = PrivatePkcs8KeyDer::from_pem_slice(file.private_key.as_bytes())
            .map_err(|_| bad("no PEM".into()))?;
        let key = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(|e| bad(e.to_string()))?;
        let uri = || AccountError::TokenUri(file.token_uri.clone());
        let token_uri: Uri = file.token_uri.parse().map_err(|_| uri())?;
        let host = token_uri.host().ok_or_else(uri)?;
        let near = host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback());
        match token_uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => {}
            Some(scheme) if *scheme == Scheme::HTTP && near => {}
            _ => return Err(uri()),
        }
        Ok(ServiceAccount {
            email: file.client_email,
            key_id: file.private_key_id,
            token_uri,
            key,
        })
    }

    /// The account's address: no secret.
    pub fn email(&self) -> &str {
        &self.email
    }

    /// Where tokens come from.
    pub fn token_uri(&self) -> &Uri {
        &self.token_uri
    }

    /// The body of the request for a token, of type `application/x-www-form-urlencoded`, for `POST` to [`Self::token_uri`].
    ///
    /// # Errors
    /// [`AccountError::Sign`].
    pub fn request(&self, now_unix: u64) -> Result<Bytes, AccountError> {
        let mut head = serde_json::json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            head["kid"] = id.as_str().into();
        }
        let begins = now_unix.saturating_sub(EARLIER);
        let claims = serde_json::json!({
            "iss": self.email,
            "scope": SCOPE,
            "aud": self.token_uri.to_string(),
            "iat": begins,
            "exp": begins + HOLDS,
        });
        let mut assertion = URL_SAFE_NO_PAD.encode(head.to_string());
        assertion.push('.');
        assertion.push_str(&URL_SAFE_NO_PAD.encode(claims.to_string()));
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = SystemRandom::new();
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &random,
                assertion.as_bytes(),
                &mut signature,
            )
            .map_err(|_| AccountError::Sign)?;
        assertion.push('.');
        assertion.push_str(&URL_SAFE_NO_PAD.encode(signature));
        // Base64 of this kind and dots need no escaping.
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        Ok(format!("grant_type={grant}&assertion={assertion}").into())
    }
}

/// Reads the token endpoint's answer.
///
/// # Errors
/// What it said instead, in a line that holds no secret: `401 invalid_grant`.
pub fn read_token(status: u16, body: &[u8]) -> Result<AccessToken, String> {
    #[derive(Deserialize)]
    struct Given {
        access_token: String,
        expires_in: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Refused {
        error: Option<String>,
    }
    if status == 200
        && let Ok(given) = serde_json::from_slice::<Given>(body)
        && !given.access_token.is_empty()
    {
        let lasts = given.expires_in.map_or(LASTS, Duration::from_secs);
        return Ok(AccessToken {
            token: given.access_token,
            lasts,
        });
    }
    let said = serde_json::from_slice::<Refused>(body).ok();
    let word = said.and_then(|refused| refused.error);
    // A word of the protocol (RFC 6749, 5.2) and nothing else: whatever the endpoint says goes into a log.
    let is_word = |word: &String| {
        word.len() <= 64 && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    Err(match word.filter(is_word) {
        Some(word) => format!("{status} {word}"),
        None => status.to_string(),
    })
}
