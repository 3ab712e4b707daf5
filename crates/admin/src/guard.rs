//! Who may ask: the bearer token, the `host` check, same-origin writes; and the headers that every answer carries.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};

use crate::api::Shared;
use crate::problem::Problem;
use crate::server::is_loopback;

/// The dashboard may load its own files and ask its own origin, nothing else.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Checks the request, bounds its time, and adds the headers of every answer.
pub(crate) async fn guard(
    State(shared): State<Arc<Shared>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let mut response = match check(&shared, &request) {
        Err(problem) => problem.into_response(),
        Ok(()) => {
            match tokio::time::timeout(shared.options.limits.request_timeout, next.run(request))
                .await
            {
                Ok(response) => response,
                Err(_) => Problem::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "timeout",
                    "the answer took too long",
                )
                .into_response(),
            }
        }
    };
    let status = response.status();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"tidegate\""),
        );
    }
    response
}

fn check(shared: &Shared, request: &Request<Body>) -> Result<(), Problem> {
    let path = request.uri().path();
    match &shared.options.token {
        Some(token) if !is_open(path) => {
            let given = bearer(request.headers());
            if !given.is_some_and(|given| token.matches(given)) {
                let detail = "this admin port wants its token: authorization: Bearer TOKEN";
                return Err(Problem::new(
                    StatusCode::UNAUTHORIZED,
                    "token_required",
                    detail,
                ));
            }
        }
        Some(_) => {}
        None if shared.tcp => check_host(request, &shared.options.hosts)?,
        None => {}
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        check_write(request, shared.options.limits.body_bytes)?;
    }
    Ok(())
}

/// Answered without the token: probes cannot carry one, and the dashboard's files hold nothing.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/livez" | "/readyz") || path.starts_with("/assets/")
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
}

/// A page elsewhere can point its own name at 127.0.0.1 and then read us as its own origin (DNS rebinding); the name
/// still stands in `host`. Without a `host` it is no browser.
fn check_host(request: &Request<Body>, further: &[String]) -> Result<(), Problem> {
    let from_uri = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let hosts = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(HeaderValue::as_bytes)
        .chain(from_uri);
    for host in hosts {
        if !std::str::from_utf8(host).is_ok_and(|host| host_allowed(host, further)) {
            let detail = "without a token this admin port answers on loopback names only (localhost, 127.0.0.1)";
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                detail,
            ));
        }
    }
    Ok(())
}

fn host_allowed(host: &str, further: &[String]) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse::<IpAddr>().is_ok_and(is_loopback)
        || name.eq_ignore_ascii_case("localhost")
        || further
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(name) || allowed.eq_ignore_ascii_case(host))
}

/// A write must not come from a page of another origin (a form can post without asking), must be JSON if it has a
/// body, and small.
fn check_write(request: &Request<Body>, body_bytes: u64) -> Result<(), Problem> {
    let headers = request.headers();
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let cross_site = match (
        text(HeaderName::from_static("sec-fetch-site")),
        text(header::ORIGIN),
    ) {
        (Some(site), _) => !matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => {
            origin.split_once("://").map(|(_, host)| host)
                != Some(text(header::HOST).unwrap_or_default())
        }
        (None, None) => false,
    };
    if cross_site {
        let detail = "writes from pages of another origin are refused";
        return Err(Problem::new(StatusCode::FORBIDDEN, "cross_site", detail));
    }
    if let Some(kind) = text(header::CONTENT_TYPE) {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = "a body here is application/json (none is needed)";
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                detail,
            ));
        }
    }
    let length = text(header::CONTENT_LENGTH)
        .and_then(|length| length.parse::<u64>().ok())
        .unwrap_or(0);
    if length > body_bytes {
        let detail = format!("a body here has at most {body_bytes} bytes");
        return Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            detail,
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_pass_and_others_do_not() {
        let further = ["gw.internal".to_owned()];
        for host in [
            "localhost",
            "LOCALHOST:9900",
            "127.0.0.1",
            "127.1.2.3:9900",
            "[::1]:9900",
            "localhost.:1",
            "gw.internal:80",
        ] {
            assert!(host_allowed(host, &further), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9900",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]",
            "[::1",
        ] {
            assert!(!host_allowed(host, &further), "{host}");
        }
    }

    #[test]
    fn the_bearer_scheme_is_read_in_any_case() {
        let mut headers = HeaderMap::new();
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bear", None),
        ] {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            assert_eq!(bearer(&headers), token.map(str::as_bytes), "{value}");
        }
    }
}
