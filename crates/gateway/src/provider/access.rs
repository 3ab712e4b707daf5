//! Access tokens of accounts: fetched ahead of their end, from the control runtime, so that requests find them in memory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tidegate_discovery::endpoint::tcp;
use tidegate_discovery::tls;
use tidegate_discovery::{ClientTls, Connector, Resolver};
use tidegate_keys::{Access, Refusal};
use tidegate_llm::classify::{Class, Evidence};
use tidegate_llm::service_account::{AccessToken, read_token};

use crate::worker::Shared;

/// How often accounts are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Bound of one question.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is read.
const ANSWER: usize = 64 * 1024;
/// How long a request waits for an account's first token.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps the access tokens of all accounts fresh until it is dropped.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let snapshot = shared.snapshot.load_full();
        for provider in &snapshot.providers {
            for (key, access) in provider.keys.accesses() {
                if !access.is_due(shared.now()) {
                    continue;
                }
                let resolver = provider.upstream.settings.resolver.clone();
                let sections = &snapshot.loaded.config.providers;
                let section = sections.iter().find(|s| *s.name == **provider.name());
                let ca = section.and_then(|s| s.tls.as_ref()?.ca.clone());
                let (shared, name) = (shared.clone(), provider.name().clone());
                tokio::spawn(async move {
                    let asked = tokio::time::timeout(TIMEOUT, ask(&access, resolver, ca));
                    let outcome = asked.await.unwrap_or_else(|_| {
                        Err(unreachable(format!("no answer within {TIMEOUT:?}")))
                    });
                    match &outcome {
                        Ok(given) => {
                            let lasts = given.lasts.as_secs();
                            tracing::info!(provider = %name, key = %key, lasts, "access token");
                        }
                        Err(why) => {
                            tracing::warn!(provider = %name, key = %key, cause = why.words, "no access token");
                        }
                    }
                    access.told(outcome, shared.now());
                });
            }
        }
    }
}

/// What a request or probe finds that comes to an account without a token.
pub(crate) fn missing(access: Option<&Arc<Access>>) -> Evidence {
    let why = access.and_then(|access| access.refusal());
    let (class, words) = match why {
        Some(why) if why.by_endpoint => (Class::KeyDead, why.words),
        Some(why) => (Class::ProviderDown, why.words),
        None => (Class::ProviderDown, "not asked for yet".to_owned()),
    };
    let words = format!("no access token: {words}");
    Evidence::local(class, 0, "no-access-token", &words)
}

/// Waits for the first tokens of a provider's accounts: just after the start there may be none yet.
pub(crate) async fn first(provider: &tidegate_keys::Provider) {
    // Who waited in vain finds out why with the key.
    let _ = tokio::time::timeout(PATIENCE, provider.accesses_asked()).await;
}

fn unreachable(words: String) -> Refusal {
    Refusal {
        words,
        by_endpoint: false,
    }
}

/// `ca`: whom to trust besides the system's authorities. Nothing else of the provider's TLS is the token endpoint's.
async fn ask(
    access: &Access,
    resolver: Resolver,
    ca: Option<PathBuf>,
) -> Result<AccessToken, Refusal> {
    let account = access.account();
    let uri = account.token_uri();
    let tell = |error: &dyn std::error::Error| unreachable(error.to_string());
    let now_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let body = account.request(now_unix).map_err(|e| tell(&e))?;
    let secure = uri.scheme() == Some(&Scheme::HTTPS);
    let tls = match secure {
        false => None,
        true => Some(ClientTls {
            config: tls::trusting(ca.as_deref(), &[b"http/1.1"]).map_err(|e| tell(&e))?,
            server_name: None,
        }),
    };
    let connector = Connector {
        resolver,
        tls,
        timeout: TIMEOUT,
    };
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let address = tcp(host, port);
    let stream = connector.connect(&address).await.map_err(|e| tell(&e))?;
    let (mut sender, driver) = handshake(TokioIo::new(stream))
        .await
        .map_err(|e| tell(&e))?;
    let exchange = async move {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::<Bytes>::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path
            .parse()
            .map_err(|_| unreachable("token_uri has no path that can be asked".to_owned()))?;
        let headers = request.headers_mut();
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let authority = HeaderValue::from_str(authority);
        headers.insert(HOST, authority.map_err(|e| tell(&e))?);
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form);
        let answer = sender.send_request(request).await.map_err(|e| tell(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = body.map_err(|e| unreachable(e.to_string()))?.to_bytes();
        read_token(status.as_u16(), &body).map_err(|words| Refusal {
            words: format!("the token endpoint said {words}"),
            by_endpoint: status.is_client_error() && status.as_u16() != 429,
        })
    };
    // Whoever is done first: without its driver the exchange does not move.
    let mut exchange = std::pin::pin!(exchange);
    let mut driver = std::pin::pin!(driver);
    tokio::select! {
        biased;
        outcome = &mut exchange => outcome,
        _ = &mut driver => exchange.await,
    }
}
