//! Statuses of HTTP and gRPC, and the outcomes that a retry policy names.

use super::Wrong;
use std::fmt;
use std::str::FromStr;

/// A gRPC status code, 0 to 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcStatus(u8);

const GRPC: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

impl GrpcStatus {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl FromStr for GrpcStatus {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let name = text.to_ascii_lowercase().replace('_', "-");
        let by_name = GRPC.iter().position(|known| *known == name);
        let code = by_name
            .or_else(|| text.parse().ok())
            .filter(|code| *code < GRPC.len())
            .and_then(|code| u8::try_from(code).ok());
        code.map(Self).ok_or_else(|| {
            Wrong::new(
                "not a gRPC status",
                "write a name such as unavailable or RESOURCE_EXHAUSTED, or a number from 0 to 16",
            )
        })
    }
}

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(GRPC[usize::from(self.0)])
    }
}

/// HTTP statuses: `200` or `200-299`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusRange {
    /// First status.
    pub from: u16,
    /// Last status, not below the first.
    pub to: u16,
}

impl StatusRange {
    /// Whether a status lies in the range.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.from <= status && status <= self.to
    }
}

impl FromStr for StatusRange {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        let wrong = || {
            Wrong::new(
                "not a status or a range of statuses",
                "write e.g. 200, 200-299 or 2xx",
            )
        };
        let status = |text: &str| {
            text.trim()
                .parse::<u16>()
                .ok()
                .filter(|s| (100..=599).contains(s))
                .ok_or_else(wrong)
        };
        if let Some(class) = text
            .strip_suffix("xx")
            .and_then(|c| c.parse::<u16>().ok())
            .filter(|c| (1..=5).contains(c))
        {
            return Ok(Self {
                from: class * 100,
                to: class * 100 + 99,
            });
        }
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let (from, to) = (status(from)?, status(to)?);
        if from <= to {
            Ok(Self { from, to })
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to {
            write!(f, "{}", self.from)
        } else {
            write!(f, "{}-{}", self.from, self.to)
        }
    }
}

/// An outcome after which another attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryOn {
    /// No connection could be made: nothing of the request was written.
    ConnectFailure,
    /// REFUSED_STREAM, or GOAWAY with a lower id: the peer did not process the request.
    RefusedStream,
    /// gRPC UNAVAILABLE.
    Unavailable,
    /// Any 5xx answer, and everything that gateway-error, connect-failure and reset name.
    Status5xx,
    /// 502, 503 or 504.
    GatewayError,
    /// The connection or stream broke before the answer's head.
    Reset,
    /// `per_try_timeout` ran out.
    PerTryTimeout,
    /// gRPC CANCELLED (by the server).
    Cancelled,
    /// gRPC DEADLINE_EXCEEDED (by the server).
    DeadlineExceeded,
    /// gRPC INTERNAL.
    Internal,
    /// gRPC RESOURCE_EXHAUSTED.
    ResourceExhausted,
    /// This HTTP status, 400 to 599.
    Status(u16),
}

pub(crate) const RETRY_ON: [(&str, RetryOn); 11] = [
    ("connect-failure", RetryOn::ConnectFailure),
    ("refused-stream", RetryOn::RefusedStream),
    ("unavailable", RetryOn::Unavailable),
    ("5xx", RetryOn::Status5xx),
    ("gateway-error", RetryOn::GatewayError),
    ("reset", RetryOn::Reset),
    ("per-try-timeout", RetryOn::PerTryTimeout),
    ("cancelled", RetryOn::Cancelled),
    ("deadline-exceeded", RetryOn::DeadlineExceeded),
    ("internal", RetryOn::Internal),
    ("resource-exhausted", RetryOn::ResourceExhausted),
];

impl FromStr for RetryOn {
    type Err = Wrong;
    fn from_str(text: &str) -> Result<Self, Wrong> {
        if let Some((_, on)) = RETRY_ON.iter().find(|(name, _)| *name == text) {
            return Ok(*on);
        }
        if let Ok(status) = text.parse::<u16>() {
            return if (400..=599).contains(&status) {
                Ok(Self::Status(status))
            } else {
                Err(Wrong::new(
                    "not a status that is worth another attempt",
                    "write a status from 400 to 599",
                ))
            };
        }
        let close = crate::suggest::closest(text, RETRY_ON.iter().map(|(name, _)| *name));
        let known = RETRY_ON.map(|(name, _)| name).join(", ");
        Err(Wrong::new(
            "not an outcome to retry on",
            match close {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("known: {known}, or an HTTP status such as 503"),
            },
        ))
    }
}

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            other => f.write_str(
                RETRY_ON
                    .iter()
                    .find(|(_, on)| on == other)
                    .map_or("", |(name, _)| name),
            ),
        }
    }
}
