//! What a route changes on a request before it goes on, and on the response: path, host, headers; and redirects.

use std::borrow::Cow;
use std::fmt::Write as _;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;

use crate::path::{EscapedSlashes, PathPolicy, PathRefused, normalize};
use crate::request::RequestView;

/// A change of the path.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// The whole path.
    Full(Box<str>),
    /// The part that the match's prefix matched; everything in front if the match named no prefix.
    Prefix(Box<str>),
    /// Every occurrence of the expression; `$1` and `${name}` stand for groups.
    Regex {
        /// Expression, searched for anywhere in the path.
        pattern: Regex,
        /// Replacement.
        with: Box<str>,
    },
}

/// A route's `rewrite`.
#[derive(Clone, Debug, Default)]
pub struct Rewrite {
    /// Change of the path; the query stays as it is.
    pub path: Option<PathRewrite>,
    /// Host that the upstream sees.
    pub host: Option<HeaderValue>,
}

impl Rewrite {
    /// The path that goes on. `matched` is [`crate::Found::matched`].
    ///
    /// # Errors
    /// [`PathRefused::Rewritten`] if what the caller sent would make the rewritten path climb out of where the route
    /// points (`/files` → `/data/` turns `/files../x` into `/data/../x`): 400.
    pub fn path<'a>(&'a self, path: &'a str, matched: usize) -> Result<Cow<'a, str>, PathRefused> {
        self.path
            .as_ref()
            .map_or(Ok(Cow::Borrowed(path)), |rewrite| {
                rewrite.apply(path, matched)
            })
    }
}

impl PathRewrite {
    fn apply<'a>(&'a self, path: &'a str, matched: usize) -> Result<Cow<'a, str>, PathRefused> {
        // `OPTIONS *` names no path that could be rewritten.
        if !path.starts_with('/') {
            return Ok(Cow::Borrowed(path));
        }
        let made = match self {
            PathRewrite::Full(whole) => return Ok(Cow::Borrowed(whole)),
            PathRewrite::Prefix(prefix) => {
                let rest = path.get(matched..).unwrap_or_default();
                // `/a/` + `/b` is `/a/b`, and `/` + `` is `/`.
                let rest = if prefix.ends_with('/') {
                    rest.strip_prefix('/').unwrap_or(rest)
                } else {
                    rest
                };
                let mut made = String::with_capacity(1 + prefix.len() + rest.len());
                let begins = if prefix.is_empty() { rest } else { &**prefix };
                if !begins.starts_with('/') {
                    made.push('/');
                }
                made.push_str(prefix);
                made.push_str(rest);
                made
            }
            PathRewrite::Regex { pattern, with } => match pattern.replace_all(path, &**with) {
                Cow::Borrowed(same) => return Ok(Cow::Borrowed(same)),
                Cow::Owned(made) if made.starts_with('/') => made,
                Cow::Owned(made) => format!("/{made}"),
            },
        };
        const AS_WRITTEN: PathPolicy = PathPolicy {
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
        };
        match normalize(&made, AS_WRITTEN) {
            Ok(Cow::Borrowed(_)) => Ok(Cow::Owned(made)),
            Ok(Cow::Owned(_)) | Err(_) => Err(PathRefused::Rewritten),
        }
    }
}

/// A route's `redirect`: what is None stays as in the request.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<Box<str>>,
    /// Host name.
    pub host: Option<Box<str>>,
    /// Port; None drops it where scheme or host change.
    pub port: Option<u16>,
    /// Change of the path.
    pub path: Option<PathRewrite>,
}

impl Redirect {
    /// The `Location` for a request that came over `scheme` (`http`, `https`) to `port` (None: the scheme's own).
    ///
    /// # Errors
    /// [`PathRefused`] if no safe location can be made of what the caller sent: 400.
    pub fn location(
        &self,
        request: &RequestView<'_>,
        matched: usize,
        scheme: &str,
        port: Option<u16>,
    ) -> Result<HeaderValue, PathRefused> {
        let path = match &self.path {
            Some(rewrite) => rewrite.apply(request.path, matched)?,
            None => Cow::Borrowed(request.path),
        };
        let host = self.host.as_deref().unwrap_or(request.host);
        let to_scheme = self.scheme.as_deref().unwrap_or(scheme);
        let stays = self.scheme.is_none() && self.host.is_none();
        let port = self.port.or(port.filter(|_| stays));
        let mut location =
            String::with_capacity(16 + host.len() + path.len() + request.query.map_or(0, str::len));
        if host.is_empty() {
            // A relative reference: two slashes in front would name another host.
            location.push('/');
            location.push_str(path.trim_start_matches('/'));
        } else {
            location.push_str(to_scheme);
            location.push_str("://");
            location.push_str(host);
            if let Some(port) =
                port.filter(|port| !matches!((to_scheme, port), ("http", 80) | ("https", 443)))
            {
                let _ = write!(location, ":{port}"); // writing to a String cannot fail
            }
            location.push_str(&path);
        }
        if let Some(query) = request.query {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).map_err(|_| PathRefused::Character)
    }
}

/// Header changes, made in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// Taken out, all fields of the name.
    pub remove: Box<[HeaderName]>,
    /// Set to this value, whatever was there.
    pub set: Box<[(HeaderName, HeaderValue)]>,
    /// Added to what is there.
    pub add: Box<[(HeaderName, HeaderValue)]>,
}

impl HeaderEdits {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// The authority of a mirrored request: `-shadow` behind the host, before the port, as Envoy writes it.
pub fn shadow_authority(authority: &str) -> String {
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    match port {
        Some(port) => format!("{host}-shadow:{port}"),
        None => format!("{host}-shadow"),
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn prefix(with: &str) -> Rewrite {
        Rewrite {
            path: Some(PathRewrite::Prefix(with.into())),
            host: None,
        }
    }

    fn regex(pattern: &str, with: &str) -> Rewrite {
        let pattern = Regex::new(pattern).unwrap();
        Rewrite {
            path: Some(PathRewrite::Regex {
                pattern,
                with: with.into(),
            }),
            host: None,
        }
    }

    #[test]
    fn without_a_rewrite_the_path_is_borrowed() {
        assert!(matches!(
            Rewrite::default().path("/a", 0),
            Ok(Cow::Borrowed("/a"))
        ));
    }

    #[test]
    fn a_prefix_is_replaced_without_doubling_or_losing_a_slash() {
        for (with, path, matched, made) in [
            ("/v2", "/v1/models", 3, "/v2/models"),
            ("/", "/api/x", 4, "/x"),
            ("/", "/api", 4, "/"),
            ("", "/api/x", 4, "/x"),
            ("", "/api", 4, "/"),
            ("/a/", "/api/x", 5, "/a/x"),
            ("/front", "/x", 0, "/front/x"),
            ("v2", "/v1/x", 3, "/v2/x"),
        ] {
            assert_eq!(
                prefix(with).path(path, matched).unwrap(),
                made,
                "{with} {path}"
            );
        }
    }

    #[test]
    fn a_rewritten_path_never_climbs_out() {
        assert_eq!(
            prefix("/data/").path("/files../secret", 6),
            Err(PathRefused::Rewritten)
        );
        assert_eq!(
            prefix("/data/").path("/files..;/secret", 6),
            Err(PathRefused::Rewritten)
        );
        assert_eq!(
            regex("x", "").path("/a/.x./b", 0),
            Err(PathRefused::Rewritten)
        );
        assert_eq!(
            regex("%25", "%").path("/a%2500", 0),
            Err(PathRefused::Rewritten)
        );
    }

    #[test]
    fn a_regular_expression_replaces_every_occurrence_with_its_groups() {
        assert_eq!(
            regex("^/m/([^/]+)/v([0-9]+)", "/v$2/$1")
                .path("/m/bert/v3/x", 0)
                .unwrap(),
            "/v3/bert/x"
        );
        assert_eq!(regex("a", "b").path("/a/a", 0).unwrap(), "/b/b");
        assert_eq!(
            regex("^/(?P<name>.*)$", "${name}").path("/x", 0).unwrap(),
            "/x"
        );
        assert!(matches!(
            regex("z", "b").path("/a", 0),
            Ok(Cow::Borrowed("/a"))
        ));
    }

    #[test]
    fn the_whole_path_is_replaced_but_never_the_star_of_options() {
        let whole = Rewrite {
            path: Some(PathRewrite::Full("/x".into())),
            host: None,
        };
        assert_eq!(whole.path("/a/b", 0).unwrap(), "/x");
        assert_eq!(whole.path("*", 0).unwrap(), "*");
    }

    fn location(
        redirect: Redirect,
        host: &str,
        path: &str,
        query: Option<&str>,
        port: Option<u16>,
    ) -> String {
        let headers = HeaderMap::new();
        let request = RequestView {
            host,
            path,
            query,
            method: &Method::GET,
            headers: &headers,
            source: None,
            caller_region: "",
            caller_zone: "",
            model: crate::request::Model::Unread,
        };
        redirect
            .location(&request, 0, "http", port)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }

    fn same() -> Redirect {
        Redirect {
            status: StatusCode::FOUND,
            scheme: None,
            host: None,
            port: None,
            path: None,
        }
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        assert_eq!(
            location(same(), "a.local", "/x", Some("q=1"), Some(8080)),
            "http://a.local:8080/x?q=1"
        );
        let https = Redirect {
            scheme: Some("https".into()),
            ..same()
        };
        assert_eq!(
            location(https, "a.local", "/x", None, Some(8080)),
            "https://a.local/x"
        );
        let host = Redirect {
            host: Some("b.local".into()),
            ..same()
        };
        assert_eq!(
            location(host, "a.local", "/x", None, Some(8080)),
            "http://b.local/x"
        );
        let port = Redirect {
            scheme: Some("https".into()),
            port: Some(443),
            ..same()
        };
        assert_eq!(
            location(port, "a.local", "/x", None, None),
            "https://a.local/x"
        );
        let path = Redirect {
            path: Some(PathRewrite::Full("/y".into())),
            ..same()
        };
        assert_eq!(
            location(path, "a.local", "/x", Some("q"), None),
            "http://a.local/y?q"
        );
    }

    #[test]
    fn a_redirect_without_a_host_cannot_be_made_to_name_another() {
        assert_eq!(
            location(same(), "", "//evil.example/x", None, None),
            "/evil.example/x"
        );
    }

    #[test]
    fn a_mirrored_request_goes_to_the_shadow_of_its_host() {
        for (authority, shadow) in [
            ("a.local", "a.local-shadow"),
            ("a.local:80", "a.local-shadow:80"),
            ("[::1]", "[::1]-shadow"),
            ("[::1]:8", "[::1]-shadow:8"),
        ] {
            assert_eq!(shadow_authority(authority), shadow);
        }
    }

    #[test]
    fn header_edits_remove_then_set_then_add() {
        let name = HeaderName::from_static;
        let value = HeaderValue::from_static;
        let edits = HeaderEdits {
            remove: [name("x-gone")].into(),
            set: [(name("x-set"), value("new"))].into(),
            add: [
                (name("x-set"), value("more")),
                (name("x-gone"), value("back")),
            ]
            .into(),
        };
        let mut headers = HeaderMap::new();
        headers.append("x-gone", value("1"));
        headers.append("x-gone", value("2"));
        headers.append("x-set", value("old"));
        edits.apply(&mut headers);
        assert_eq!(
            headers.get_all("x-set").iter().collect::<Vec<_>>(),
            ["new", "more"]
        );
        assert_eq!(
            headers.get_all("x-gone").iter().collect::<Vec<_>>(),
            ["back"]
        );
    }
}
