//! Probes of keys that are out: one small request through the pipeline that callers' requests take, from the control runtime.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tidegate_core::Rng;
use tidegate_discovery::{Address, ClientTls, Connector};
use tidegate_keys::ApiKey;
use tidegate_keys::probe::Probe;
use tidegate_llm::classify::{Class, Evidence};
use tidegate_llm::{Answer, Broke, Call, FaultKind, PrepareOptions, Prepared, Secret, Step};

use crate::upstream::Upstream;
use crate::worker::Shared;

/// Sends probes over connections of their own: workers' can't be reached from here, and a key that is out has none.
pub(crate) struct Prober(pub(crate) Arc<Shared>);

#[async_trait]
impl Probe for Prober {
    async fn probe(
        &self,
        provider: &Arc<tidegate_keys::Provider>,
        key: &ApiKey,
        model: &str,
    ) -> Evidence {
        let snapshot = self.0.snapshot.load_full();
        let known = snapshot.providers.iter();
        let found = known.map(|p| (p.name(), &p.upstream));
        match found.into_iter().find(|(name, _)| *name == provider.name()) {
            Some((_, upstream)) => match key.token.wire(self.0.now()) {
                Some(token) => ask(provider, upstream, &token, model).await,
                None => super::access::missing(key.token.access()),
            },
            // A reload has taken it away.
            None => down("probe-gone", "the provider is no longer configured"),
        }
    }
}

fn down(rule: &'static str, words: &str) -> Evidence {
    Evidence::local(Class::ProviderDown, 503, rule, words)
}

async fn ask(
    provider: &tidegate_keys::Provider,
    upstream: &Upstream,
    token: &str,
    model: &str,
) -> Evidence {
    let spec = &provider.live().spec;
    let now_unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let mut rng = tidegate_core::SmallRng::new(crate::limits::secret());
    let options = PrepareOptions {
        now_unix,
        seed: rng.next_u64(),
        ..PrepareOptions::default()
    };
    let call = Call::probe(model);
    let prepared = match call.prepare(spec, Secret::of(token), model, &HeaderMap::new(), options) {
        Ok(prepared) => prepared,
        // A key that can't be written into a request is as good as dead.
        Err(fault) if fault.kind == FaultKind::Internal => {
            return Evidence::local(Class::KeyDead, 0, "key-unusable", &fault.message);
        }
        // Nobody was asked: that is no word about the key, neither for nor against it.
        Err(fault) => return down("probe-unfit", &fault.message),
    };
    let members = upstream.live.pool.members();
    if members.is_empty() {
        return down("probe-unreachable", "the provider's name has no address");
    }
    let at = (rng.next_u64() % members.len() as u64) as usize;
    let address = members[at].payload().address.clone();
    let secret = (!token.is_empty()).then(|| Arc::from(token));
    let authority = spec.base_url.authority.as_str();
    send(upstream, &address, authority, prepared, secret, now_unix)
        .await
        .unwrap_or_else(|words| down("probe-unreachable", &words))
}

async fn send(
    upstream: &Upstream,
    address: &Address,
    authority: &str,
    prepared: Prepared,
    secret: Option<Arc<str>>,
    now_unix: u64,
) -> Result<Evidence, String> {
    let settings = &upstream.settings;
    let connector = Connector {
        resolver: settings.resolver.clone(),
        tls: settings.tls.as_ref().map(|tls| ClientTls {
            config: tls.http1.clone(),
            server_name: tls.server_name.clone(),
        }),
        timeout: settings.connect_timeout,
    };
    let stream = connector
        .connect(address)
        .await
        .map_err(|e| e.to_string())?;
    let (mut sender, driver) = handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let exchange = async move {
        let mut request = Request::builder()
            .method(prepared.method)
            .uri(prepared.target)
            .header(HOST, authority)
            .body(Full::new(prepared.body))
            .map_err(|e| e.to_string())?;
        request.headers_mut().extend(prepared.headers);
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| e.to_string())?;
        let (head, mut body) = response.into_parts();
        let mut answer = Answer::new(prepared.plan, secret, now_unix);
        let mut out: Vec<Bytes> = Vec::new();
        answer.head(head.status, head.headers);
        let mut step = Step::Progress;
        while matches!(step, Step::Progress | Step::Ping) {
            step = match body.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => answer.data(data, &mut out),
                    Err(_) => Step::Progress,
                },
                Some(Err(_)) => answer.broken(Broke::Connection),
                None => answer.end(&mut out),
            };
            out.clear();
        }
        let status = head.status.as_u16();
        Ok(match answer.evidence() {
            Some(evidence) => evidence.clone(),
            None => Evidence::ok(status),
        })
    };
    // Whoever is done first: without its driver the exchange does not move, without the exchange the driver is of no use.
    let mut exchange = std::pin::pin!(exchange);
    let mut driver = std::pin::pin!(driver);
    tokio::select! {
        biased;
        evidence = &mut exchange => evidence,
        _ = &mut driver => exchange.await,
    }
}
