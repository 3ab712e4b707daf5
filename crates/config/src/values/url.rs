//! Addresses of services that may have a path or a secret in them.

use super::{HostPort, Secret, Wrong};
use std::fmt;
use std::str::FromStr;

/// The address of an HTTP API with an optional path that the API's own paths are appended to: `https://host/compatible-mode`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceUrl {
    /// Whether it is https.
    pub tls: bool,
    /// Host and port (80 or 443 when not given).
    pub authority: HostPort,
    /// Path without the final `/`: empty, or begins with `/`.
    pub path: String,
}

impl FromStr for ServiceUrl {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let help = "write https://host, https://host:port or https://host/path";
        let start = match text.split_once("://") {
            Some(("http" | "https", rest)) => text.len() - rest.len(),
            _ => return Err(Wrong::new("not an http URL", help)),
        };
        if text.contains(['?', '#']) || text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(Wrong::new("a URL with a query, a fragment or blanks", help));
        }
        let end = text[start..].find('/').map_or(text.len(), |at| start + at);
        let base: super::HttpUrl = text[..end].parse().map_err(|wrong: Wrong| {
            Wrong::new(
                wrong.problem,
                wrong.help.replace("`token`", "`api_tokens` or `headers`"),
            )
        })?;
        Ok(Self {
            tls: base.tls,
            authority: base.authority,
            path: text[end..].trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// Where a Redis is: `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME]`, `rediss://` with TLS. What is kept there begins with
/// the name, by default `tidegate`: two groups of gateways can share a Redis. Shown without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(Secret);

impl RedisUrl {
    /// The whole address: for connecting, never for logs or answers.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl std::hash::Hash for RedisUrl {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.expose().hash(state);
    }
}

impl FromStr for RedisUrl {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let wrong = || {
            let help = "write redis://HOST:PORT, with a password redis://:${REDIS_PASSWORD}@HOST:PORT, with TLS rediss://…";
            Wrong::new("not the address of a Redis", help)
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        if !matches!(scheme, "redis" | "rediss") || text.chars().any(|c| c.is_control() || c == ' ')
        {
            return Err(wrong());
        }
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        let (place, query) = place.split_once('?').unwrap_or((place, ""));
        if !query.is_empty() {
            let in_name = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
            let name = query.strip_prefix("prefix=").unwrap_or_default();
            if name.is_empty() || !name.chars().all(in_name) {
                let help = "the address of a Redis takes ?prefix=NAME (letters, digits and - _ . :) and nothing else";
                return Err(Wrong::new("not the address of a Redis", help));
            }
        }
        let (host, db) = place.split_once('/').unwrap_or((place, ""));
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let host = if has_port {
            host.to_owned()
        } else {
            format!("{host}:6379")
        };
        host.parse::<HostPort>().map_err(|_| wrong())?;
        if !db.is_empty() && db.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Self(Secret::new(text.to_owned())))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.expose();
        match (text.split_once("://"), text.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => write!(f, "{scheme}://{place}"),
            _ => f.write_str(text),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_redis_is_used_and_never_shown() {
        let url: RedisUrl = "rediss://me:hun@ter2@cache:6380/2"
            .parse()
            .expect("an address");
        assert_eq!(url.expose(), "rediss://me:hun@ter2@cache:6380/2");
        assert_eq!(url.to_string(), "rediss://cache:6380/2");
        assert!(!format!("{url:?}").contains("ter2"));
    }

    #[test]
    fn a_redis_takes_a_prefix_and_no_other_parameter() {
        for good in ["redis://h?prefix=a.b", "rediss://:p@h:1/2?prefix=x-1_y:z"] {
            assert_eq!(good.parse::<RedisUrl>().expect("an address").expose(), good);
        }
        for bad in [
            "redis://h?prefix=",
            "redis://h?a=b",
            "redis://h?prefix=a&b=c",
            "redis://h/1?prefix={a}",
        ] {
            assert!(bad.parse::<RedisUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_service_keeps_its_path_and_loses_the_final_slash() {
        let url: ServiceUrl = "https://dashscope.aliyuncs.com/compatible-mode/"
            .parse()
            .expect("an address");
        assert_eq!(
            (url.tls, url.authority.port, url.path.as_str()),
            (true, 443, "/compatible-mode")
        );
        assert_eq!(
            url.to_string(),
            "https://dashscope.aliyuncs.com:443/compatible-mode"
        );
        for bad in [
            "host",
            "ftp://a",
            "https://a?b",
            "https://u:p@a/v1",
            "https://",
        ] {
            assert!(bad.parse::<ServiceUrl>().is_err(), "{bad}");
        }
    }
}
