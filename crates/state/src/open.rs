//! Finding the backend that a URL names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::store::Store;
use crate::{file, memory, redis, remote};

/// The file of the embedded store inside a state folder.
pub const FILE_NAME: &str = "state.redb";
/// What keys in Redis begin with unless the URL says otherwise.
const PREFIX: &str = "tidegate";

/// Where a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum StateUrl {
    /// `memory:`: in this process.
    Memory,
    /// `file:FOLDER`: the embedded store in a state folder. This process becomes its owner.
    File(PathBuf),
    /// `unix:PATH`: served by its owner.
    Remote(PathBuf),
    /// `redis://[USER:PASSWORD@]HOST[:PORT][/DB][?prefix=NAME]`, `rediss://…` with TLS.
    Redis {
        /// Without our own parameter; it may hold a password.
        url: String,
        /// What its keys begin with. Default `tidegate`.
        prefix: String,
    },
}

impl FromStr for StateUrl {
    type Err = OpenError;

    fn from_str(text: &str) -> Result<Self, OpenError> {
        let bad = |reason: &str| OpenError::Url {
            reason: reason.to_owned(),
        };
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            bad("a state URL begins with file:, unix:, redis:, rediss: or memory:")
        })?;
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "file" if !rest.is_empty() => Ok(Self::File(rest.into())),
            "unix" if !rest.is_empty() => Ok(Self::Remote(rest.into())),
            "file" | "unix" => Err(bad("a path is missing")),
            "redis" | "rediss" => {
                let (url, query) = text.split_once('?').unwrap_or((text, ""));
                let mut prefix = PREFIX;
                for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
                    prefix = parameter
                        .strip_prefix("prefix=")
                        .filter(|prefix| {
                            !prefix.is_empty()
                                && prefix.bytes().all(|byte| {
                                    byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)
                                })
                        })
                        .ok_or_else(|| {
                            bad("a Redis URL takes ?prefix=NAME (letters, digits and - _ . :) and nothing else")
                        })?;
                }
                Ok(Self::Redis {
                    url: url.to_owned(),
                    prefix: prefix.to_owned(),
                })
            }
            _ => Err(bad(
                "a state URL begins with file:, unix:, redis:, rediss: or memory:",
            )),
        }
    }
}

/// Without a user or password.
impl fmt::Display for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Remote(path) => write!(f, "unix:{}", path.display()),
            Self::Redis { url, .. } => {
                let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                write!(f, "{scheme}://{place}")
            }
        }
    }
}

impl fmt::Debug for StateUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Opens the store at a URL. Only the embedded one must be there and free: the others may come later, and until then
/// their operations answer that the store is not available.
///
/// # Errors
/// See [`OpenError`].
///
/// # Panics
/// Outside of a tokio runtime.
pub fn open(url: &StateUrl) -> Result<Arc<dyn Store>, OpenError> {
    match url {
        StateUrl::Memory => Ok(memory()),
        StateUrl::File(folder) => {
            std::fs::create_dir_all(folder).map_err(|error| OpenError::file(folder, error))?;
            file(&folder.join(FILE_NAME))
        }
        StateUrl::Remote(path) => Ok(remote(path)),
        StateUrl::Redis { url, prefix } => redis(url, prefix),
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process owns the file.
    #[error("the state file {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be made, read or repaired.
    #[error("the state file {} cannot be used: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The database's or the system's answer.
        source: Box<redb::Error>,
    },
    /// The URL names no backend.
    #[error("{reason}")]
    Url {
        /// What is wrong with it; a password in it is not shown.
        reason: String,
    },
}

impl OpenError {
    pub(crate) fn file(path: &Path, source: impl Into<redb::Error>) -> Self {
        Self::File {
            path: path.to_owned(),
            source: Box::new(source.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_url_is_told_apart() {
        let parse = |text: &str| text.parse::<StateUrl>().unwrap();
        assert_eq!(parse("memory:"), StateUrl::Memory);
        assert_eq!(parse("file:./data"), StateUrl::File("./data".into()));
        assert_eq!(parse("unix:/run/s"), StateUrl::Remote("/run/s".into()));
        let redis = |url: &str, prefix: &str| StateUrl::Redis {
            url: url.into(),
            prefix: prefix.into(),
        };
        assert_eq!(parse("redis://h/1"), redis("redis://h/1", "tidegate"));
        assert_eq!(parse("rediss://h?prefix=a.b"), redis("rediss://h", "a.b"));
        for text in [
            "",
            "file:",
            "unix:",
            "ftp://x",
            "memory:x",
            "redis://h?prefix=",
            "redis://h?a=b",
        ] {
            assert!(text.parse::<StateUrl>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let url: StateUrl = "rediss://me:sec@ret@host:6380/2?prefix=x".parse().unwrap();
        assert_eq!(
            format!("{url} {url:?}"),
            "rediss://host:6380/2 rediss://host:6380/2"
        );
        let error = redis("redis://me:secret@host:notaport", "x").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
