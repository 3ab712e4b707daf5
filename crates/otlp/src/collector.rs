//! The collector: one request with a batch, and what its answer means.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use prost::Message;
use tidegate_config::model::Tracing;
use tidegate_discovery::client::{Client, Server};
use tidegate_discovery::endpoint::tcp;
use tidegate_discovery::tls::client_tls;
use tidegate_discovery::{Connector, Resolver};

use crate::proto::collector::trace::v1::ExportTraceServiceResponse;

pub use tidegate_discovery::SetupError;

/// Longest answer that is read.
const ANSWER: usize = 64 * 1024;
/// Connecting, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a batch was not taken.
#[derive(Debug)]
pub struct Refused {
    /// In words.
    pub cause: String,
    /// It may be tried again.
    pub again: bool,
    /// Not before, as the collector says.
    pub after: Option<Duration>,
}

/// Where spans go.
#[derive(Debug)]
pub struct Collector {
    client: Client,
    path: String,
    timeout: Duration,
    /// For logs.
    pub(crate) name: String,
}

impl Collector {
    /// A collector that nobody has talked to yet.
    ///
    /// # Errors
    /// Its TLS can't be set up.
    pub fn new(config: &Tracing, resolver: &Resolver) -> Result<Self, SetupError> {
        let url = &config.otlp;
        let tls = match url.tls {
            false => None,
            true => {
                let section = config.tls.clone().unwrap_or_default();
                Some(client_tls(&section, &[b"http/1.1"])?)
            }
        };
        let mut headers = vec![(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        )];
        for (name, value) in &config.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| SetupError::Token)?;
            let mut value = HeaderValue::from_str(value.expose()).map_err(|_| SetupError::Token)?;
            value.set_sensitive(true);
            headers.push((name, value));
        }
        let server = Server {
            address: tcp(&url.authority.host, url.authority.port),
            authority: url.authority.to_string(),
            headers,
            connector: Connector {
                resolver: resolver.clone(),
                tls,
                timeout: CONNECT_TIMEOUT,
            },
        };
        Ok(Self {
            client: Client::new(server, ANSWER),
            path: format!("{}/v1/traces", url.path),
            timeout: config.timeout,
            name: url.to_string(),
        })
    }

    /// Sends a batch; gives the number of spans that the collector did not want of it.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn send(&mut self, batch: Bytes) -> Result<u64, Refused> {
        let asked = self
            .client
            .exchange(Method::POST, &self.path, Some(batch), self.timeout);
        let answer = asked.await.map_err(|error| Refused {
            cause: error.to_string(),
            again: true,
            after: None,
        })?;
        if answer.status.is_success() {
            // What it says beside its status is not worth an error.
            let said = ExportTraceServiceResponse::decode(answer.body).unwrap_or_default();
            let rejected = said.partial_success.map_or(0, |part| part.rejected_spans);
            return Ok(u64::try_from(rejected).unwrap_or_default());
        }
        Err(Refused {
            // Its words may quote what it was sent.
            cause: answer.status.to_string(),
            again: may_try_again(answer.status),
            after: retry_after(&answer.headers),
        })
    }
}

/// As the protocol has it: all others are final.
fn may_try_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statuses_that_the_protocol_names_are_tried_again_and_no_others() {
        let again = |status| may_try_again(StatusCode::from_u16(status).expect("a status"));
        assert!([429, 502, 503, 504].into_iter().all(again));
        assert!(![301, 400, 401, 404, 413, 500, 501].into_iter().any(again));
    }

    #[test]
    fn a_collector_says_when_in_seconds_or_as_a_date() {
        let of = |text: &str| {
            let value = HeaderValue::from_str(text).expect("a value");
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(of("3"), Some(Duration::from_secs(3)));
        assert_eq!(of("soon"), None);
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(of(&later).is_some_and(|wait| wait > Duration::from_secs(90)));
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
