//! Why a call has no result.

use std::fmt;
use std::io;

use tonic::Code;

use crate::message::ErrorInfo;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service answered with an error; or somebody in between did.
    #[error("{0}")]
    Status(Box<Status>),
    /// The service could not be reached, or the connection broke under the call. The last attempt's trouble.
    #[error("{address}: {message}")]
    Connection {
        /// The address that was tried last; empty without any.
        address: String,
        /// What happened.
        message: String,
    },
    /// The deadline of the call passed.
    #[error("the deadline of the call has passed")]
    Deadline,
    /// The arguments can't be written as a JSON object.
    #[error("arguments: {0}")]
    Arguments(String),
    /// The input could not be read.
    #[error("input: {0}")]
    Input(#[source] io::Error),
    /// The answer is not what the protocol allows, or not of the wanted type.
    #[error("answer: {0}")]
    Answer(String),
    /// An address, or what TLS needs.
    #[error("address {address:?}: {message}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        message: String,
    },
}

/// An error that the service told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// gRPC's code.
    pub code: Code,
    /// Short and stable, for programs: `model_error`, `bad_arguments`, …; empty where the server has none.
    pub reason: String,
    /// Type of the exception that the model raised.
    pub exception: Option<String>,
    /// For people.
    pub message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.code)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl Status {
    pub(crate) fn of(status: &tonic::Status) -> Self {
        let info = ErrorInfo::find(status.details());
        let word = status
            .metadata()
            .get("x-tidegate-error")
            .and_then(|word| word.to_str().ok());
        Self {
            code: status.code(),
            reason: info
                .as_ref()
                .map(|info| info.reason.clone())
                .or_else(|| word.map(str::to_owned))
                .unwrap_or_default(),
            exception: info.and_then(|mut info| info.metadata.remove("exception")),
            message: status.message().to_owned(),
        }
    }
}

impl Error {
    /// gRPC's code: what the service said, or what fits.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Status(status) => status.code,
            Self::Connection { .. } => Code::Unavailable,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Arguments(_) | Self::Address { .. } => Code::InvalidArgument,
            Self::Input(_) => Code::Aborted,
            Self::Answer(_) => Code::Internal,
        }
    }

    /// The service's short word for it; empty where there is none.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Status(status) => &status.reason,
            _ => "",
        }
    }
}

/// What Tidegate's host says before a method has begun: of itself, and of an upload that is elsewhere or not as far as was thought.
const NEVER_RAN: [&str; 5] = [
    "not_ready",
    "draining",
    "upload_taken",
    "upload_offset",
    "upload_unknown",
];

/// A failed attempt.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    pub(crate) pushback: crate::Pushback,
    /// Nothing of the call can have run.
    pub(crate) unsent: bool,
    /// Whether the host says that it would fail again.
    pub(crate) certain: bool,
    /// The connection itself failed.
    pub(crate) connection: bool,
}

impl Failed {
    pub(crate) fn of(address: &str, status: &tonic::Status) -> Self {
        // tonic keeps a source for what it found out itself; what the peer said has none.
        if let Some(cause) = std::error::Error::source(status) {
            let message = chain(cause);
            return Self {
                unsent: is_connect(cause),
                certain: false,
                connection: true,
                pushback: crate::Pushback::None,
                error: Error::Connection {
                    address: address.to_owned(),
                    message,
                },
            };
        }
        let pushback = status
            .metadata()
            .get("grpc-retry-pushback-ms")
            .map(|text| text.to_str().unwrap_or(""));
        let told = Status::of(status);
        let unsent = NEVER_RAN.contains(&told.reason.as_str());
        Self {
            pushback: crate::Pushback::read(pushback),
            unsent,
            certain: !unsent && !told.reason.is_empty() && told.code != Code::Unavailable,
            connection: false,
            error: Error::Status(Box::new(told)),
        }
    }

    /// What decides about another attempt: a call that has not begun is as good as one that found nobody.
    pub(crate) fn code(&self) -> Code {
        match self.unsent {
            true => Code::Unavailable,
            false => self.error.code(),
        }
    }

    /// Nobody is there to be asked.
    pub(crate) fn unknown() -> Self {
        Self::silent("", "no address is known".to_owned())
    }

    /// One that no other attempt can change.
    pub(crate) fn last(error: Error) -> Self {
        Self {
            error,
            pushback: crate::Pushback::Never,
            unsent: false,
            certain: true,
            connection: false,
        }
    }

    /// The connection is there no longer, or says nothing.
    pub(crate) fn silent(address: &str, message: String) -> Self {
        Self {
            error: Error::Connection {
                address: address.to_owned(),
                message,
            },
            pushback: crate::Pushback::None,
            unsent: false,
            certain: false,
            connection: true,
        }
    }
}

/// Whether the connection could not even be made.
fn is_connect(cause: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(cause);
    while let Some(error) = next {
        if error.downcast_ref::<tonic::ConnectError>().is_some() {
            return true;
        }
        next = error.source();
    }
    false
}

/// An error with its causes, each once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::metadata::MetadataMap;

    #[test]
    fn a_status_tells_the_reason_and_the_exception() {
        let details = crate::message::details("model_error", "ValueError");
        let status = tonic::Status::with_details(Code::Internal, "ValueError: cold", details);
        let Error::Status(told) = Failed::of("a", &status).error else {
            panic!("no status");
        };
        assert_eq!(
            (told.reason.as_str(), told.exception.as_deref()),
            ("model_error", Some("ValueError"))
        );
        assert_eq!(told.to_string(), "Internal (model_error): ValueError: cold");
    }

    #[test]
    fn a_server_without_details_may_name_the_reason_in_metadata() {
        let mut metadata = MetadataMap::new();
        metadata.insert("x-tidegate-error", "not_ready".parse().unwrap());
        metadata.insert("grpc-retry-pushback-ms", "30".parse().unwrap());
        let failed = Failed::of(
            "a",
            &tonic::Status::with_metadata(Code::Unavailable, "starts", metadata),
        );
        assert_eq!(failed.error.reason(), "not_ready");
        assert_eq!(
            failed.pushback,
            crate::Pushback::After(std::time::Duration::from_millis(30))
        );
        assert!(failed.unsent && !failed.certain && !failed.connection);
    }
}
