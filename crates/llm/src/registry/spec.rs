//! A provider as the operator has it: a row of the table with the configuration's changes.

use http::header::{HeaderName, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use thiserror::Error;

use super::{ProviderKind, Row};
use crate::Dialect;
use crate::prepare::path::Paths;

/// A provider with everything that its requests are built from.
#[derive(Clone, Debug)]
pub struct ProviderSpec {
    /// Its type.
    pub kind: ProviderKind,
    /// Where it is.
    pub base_url: BaseUrl,
    /// `dialect: original`: callers speak the provider's own dialect; nothing is translated, any path is passed on.
    pub original: bool,
    /// azure: version of the API. `v1` uses the paths without deployments.
    pub api_version: String,
    /// bedrock and vertex: region.
    pub region: String,
    /// vertex: project.
    pub project: String,
    /// Headers that are added to each request; they win over all others but the one that shows the key.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Of the first requests: what stands above does not change after those.
    pub(crate) paths: Paths,
}

/// What opens a provider. Its `Debug` shows nothing of it.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// Nothing is shown: self-hosted servers.
    None,
    /// The key as the configuration has it: shown as the provider's table says. For bedrock `ACCESS_KEY_ID:SECRET[:SESSION]`,
    /// with which requests are signed, or an API key; for vertex an access token, which a [service account](crate::service_account) gets.
    Key(&'a str),
}

impl<'a> Secret<'a> {
    /// Empty is no key.
    pub fn of(token: &'a str) -> Self {
        if token.is_empty() {
            Self::None
        } else {
            Self::Key(token)
        }
    }
}

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "Secret::None",
            Self::Key(_) => "Secret::Key(…)",
        })
    }
}

/// Why a provider can't be built from its configuration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SpecError {
    /// The type has no address of its own.
    #[error("{0} has no address of its own: base_url is needed")]
    NoBaseUrl(&'static str),
    /// The address is no absolute http or https URL, or has a query.
    #[error("base_url {0:?} is no http:// or https:// URL without a query")]
    BadBaseUrl(String),
    /// Vertex needs a project.
    #[error("vertex needs a project")]
    NoProject,
}

impl ProviderSpec {
    /// A provider of this type. `base_url` is the configuration's; `region` and `project` matter for bedrock and vertex.
    ///
    /// # Errors
    /// The address is missing or no URL; vertex without a project.
    pub fn new(
        kind: ProviderKind,
        base_url: Option<&str>,
        region: Option<&str>,
        project: Option<&str>,
    ) -> Result<Self, SpecError> {
        let region = region.unwrap_or(match kind {
            ProviderKind::Vertex => "us-central1",
            _ => "us-east-1",
        });
        let project = project.unwrap_or_default();
        let built_in = match kind {
            ProviderKind::Bedrock => {
                Some(format!("https://bedrock-runtime.{region}.amazonaws.com"))
            }
            ProviderKind::Vertex => {
                if project.is_empty() {
                    return Err(SpecError::NoProject);
                }
                // The global endpoint has no region in its name.
                let host = match region {
                    "global" => "aiplatform.googleapis.com".to_owned(),
                    region => format!("{region}-aiplatform.googleapis.com"),
                };
                Some(format!(
                    "https://{host}/v1/projects/{project}/locations/{region}/publishers/google"
                ))
            }
            kind => kind.row().base_url.map(str::to_owned),
        };
        let base_url = match (base_url, &built_in) {
            (Some(given), built_in) => BaseUrl::given(kind, given, built_in.as_deref())?,
            (None, Some(built_in)) => BaseUrl::parse(built_in)?,
            (None, None) => return Err(SpecError::NoBaseUrl(kind.name())),
        };
        Ok(Self {
            kind,
            base_url,
            original: false,
            api_version: "2024-10-21".to_owned(),
            region: region.to_owned(),
            project: project.to_owned(),
            headers: Vec::new(),
            paths: Paths::default(),
        })
    }

    /// The row of its type.
    pub fn row(&self) -> &'static Row {
        self.kind.row()
    }

    /// What it speaks.
    pub fn dialect(&self) -> Dialect {
        self.kind.dialect()
    }
}

/// Where a provider is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Host and perhaps port.
    pub authority: Authority,
    /// What stands before the paths of its endpoints; empty or begins with `/`, never ends with one.
    pub prefix: String,
}

impl BaseUrl {
    fn parse(url: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::BadBaseUrl(url.to_owned());
        let parts = url.parse::<Uri>().map_err(|_| bad())?.into_parts();
        let scheme = parts.scheme.ok_or_else(bad)?;
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(bad());
        }
        let path = parts.path_and_query.ok_or_else(bad)?;
        if path.query().is_some() {
            return Err(bad());
        }
        Ok(Self {
            scheme,
            authority: parts.authority.ok_or_else(bad)?,
            prefix: path.path().trim_end_matches('/').to_owned(),
        })
    }

    /// An operator's address. Without a path it gets the provider's own (`http://127.0.0.1:8000` → `/v1`); with one, it is
    /// used as the SDKs of the dialect do: OpenAI's hold the version, the others' may.
    fn given(kind: ProviderKind, url: &str, built_in: Option<&str>) -> Result<Self, SpecError> {
        let mut base = Self::parse(url)?;
        let own = match built_in {
            Some(built_in) => Self::parse(built_in)?.prefix,
            None if kind == ProviderKind::Azure => String::new(),
            None => "/v1".to_owned(),
        };
        if base.prefix.is_empty() {
            base.prefix = own;
        } else if kind == ProviderKind::Cloudflare {
            // `…/accounts/ACCOUNT/ai` is where everything of Workers AI is; OpenAI's dialect is spoken below it.
            if base.prefix.ends_with("/ai") {
                base.prefix.push_str(&own);
            }
        } else if matches!(
            kind.dialect(),
            Dialect::Anthropic | Dialect::Gemini | Dialect::Cohere
        ) && kind != ProviderKind::Vertex
        {
            let last = base.prefix.rsplit('/').next().unwrap_or_default();
            let versioned =
                last.starts_with('v') && last[1..].starts_with(|c: char| c.is_ascii_digit());
            if !versioned {
                base.prefix.push_str(&own);
            }
        }
        Ok(base)
    }

    /// The port, also where the address leaves it out.
    pub fn port(&self) -> u16 {
        let default = if self.tls() { 443 } else { 80 };
        self.authority.port_u16().unwrap_or(default)
    }

    /// Whether TLS is spoken there.
    pub fn tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(kind: ProviderKind, base_url: Option<&str>) -> String {
        ProviderSpec::new(kind, base_url, None, Some("p"))
            .unwrap()
            .base_url
            .prefix
    }

    #[test]
    fn an_address_without_a_path_gets_the_providers_own() {
        use ProviderKind::*;
        assert_eq!(prefix(OpenAi, Some("http://h:1")), "/v1");
        assert_eq!(prefix(OpenAi, Some("http://h:1/v1/")), "/v1");
        assert_eq!(prefix(OpenAi, Some("http://h:1/x")), "/x");
        assert_eq!(prefix(Qwen, Some("http://h:1")), "/compatible-mode/v1");
        assert_eq!(prefix(Generic, Some("http://h:1")), "/v1");
        assert_eq!(prefix(Anthropic, Some("http://h:1")), "/v1");
        assert_eq!(
            prefix(Anthropic, Some("http://h:1/anthropic")),
            "/anthropic/v1"
        );
        assert_eq!(prefix(Gemini, Some("http://h:1/v1beta")), "/v1beta");
        for given in ["/c/v4/accounts/a/ai", "/c/v4/accounts/a/ai/v1"] {
            let given = format!("https://h{given}");
            assert_eq!(prefix(Cloudflare, Some(&given)), "/c/v4/accounts/a/ai/v1");
        }
        assert_eq!(prefix(Azure, Some("http://h:1")), "");
        assert_eq!(
            prefix(Vertex, Some("http://h:1")),
            "/v1/projects/p/locations/us-central1/publishers/google"
        );
    }

    #[test]
    fn every_provider_has_an_address_or_says_that_it_needs_one() {
        for kind in ProviderKind::ALL {
            assert_eq!(ProviderKind::from_name(kind.name()), Some(*kind));
            match ProviderSpec::new(*kind, None, None, Some("p")) {
                Ok(spec) => assert!(spec.base_url.authority.host().len() > 3),
                Err(error) => assert_eq!(error, SpecError::NoBaseUrl(kind.name())),
            }
        }
        assert_eq!(
            ProviderKind::from_name("claude"),
            Some(ProviderKind::Anthropic)
        );
        assert_eq!(
            ProviderSpec::new(ProviderKind::Vertex, None, None, None).err(),
            Some(SpecError::NoProject)
        );
        for bad in ["", "h:1", "ftp://h", "http://h/?q=1", "/v1"] {
            assert!(ProviderSpec::new(ProviderKind::OpenAi, Some(bad), None, None).is_err());
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        assert!(!format!("{:?}", Secret::of("s3cret")).contains("s3cret"));
        assert!(matches!(Secret::of(""), Secret::None));
    }
}
