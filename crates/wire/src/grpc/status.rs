//! gRPC status codes: reading, writing, and what they say about the server.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::message::encode_message;
use crate::h1::put_decimal;

/// The status of a call, in trailers or in the headers of an answer without a body.
pub static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The text that goes with it.
pub static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

macro_rules! statuses {
    ($($(#[$doc:meta])* $code:literal $variant:ident $name:literal),* $(,)?) => {
        /// A status code of gRPC.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum GrpcStatus {
            $($(#[$doc])* $variant = $code),*
        }

        impl GrpcStatus {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name in capitals, as in `UNAVAILABLE`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

statuses! {
    /// Success.
    0 Ok "OK",
    /// Cancelled, usually by the caller.
    1 Cancelled "CANCELLED",
    /// Nobody knows.
    2 Unknown "UNKNOWN",
    /// The caller's argument is wrong.
    3 InvalidArgument "INVALID_ARGUMENT",
    /// The deadline passed.
    4 DeadlineExceeded "DEADLINE_EXCEEDED",
    /// No such thing.
    5 NotFound "NOT_FOUND",
    /// It exists already.
    6 AlreadyExists "ALREADY_EXISTS",
    /// Not allowed.
    7 PermissionDenied "PERMISSION_DENIED",
    /// A quota or a resource is used up.
    8 ResourceExhausted "RESOURCE_EXHAUSTED",
    /// The system is not in a state to do it.
    9 FailedPrecondition "FAILED_PRECONDITION",
    /// Aborted, as by a conflict.
    10 Aborted "ABORTED",
    /// Past the valid range.
    11 OutOfRange "OUT_OF_RANGE",
    /// The method does not exist here.
    12 Unimplemented "UNIMPLEMENTED",
    /// An invariant is broken.
    13 Internal "INTERNAL",
    /// Not available now; a retry may help.
    14 Unavailable "UNAVAILABLE",
    /// Data is lost.
    15 DataLoss "DATA_LOSS",
    /// The caller did not say who it is.
    16 Unauthenticated "UNAUTHENTICATED",
}

/// What a status says about the server that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrpcClass {
    /// The call succeeded.
    Success,
    /// The caller's own doing: says nothing about the server. UNIMPLEMENTED is here although it
    /// reads as 501, or callers could get servers ejected by calling methods that do not exist.
    Caller,
    /// The server is out of capacity (429 in HTTP).
    Overload,
    /// The server failed (500 in HTTP).
    Server,
    /// The server, or something on the way, could not be reached or was too slow (503, 504 in HTTP).
    Gateway,
}

impl GrpcStatus {
    /// The status of a number; what is not defined counts as UNKNOWN, as the protocol asks.
    #[must_use]
    pub fn from_code(code: u32) -> Self {
        usize::try_from(code)
            .ok()
            .and_then(|code| Self::ALL.get(code))
            .copied()
            .unwrap_or(Self::Unknown)
    }

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// What it says about the server.
    #[must_use]
    pub fn class(self) -> GrpcClass {
        match self {
            Self::Ok => GrpcClass::Success,
            Self::Cancelled
            | Self::InvalidArgument
            | Self::NotFound
            | Self::AlreadyExists
            | Self::PermissionDenied
            | Self::FailedPrecondition
            | Self::Aborted
            | Self::OutOfRange
            | Self::Unimplemented
            | Self::Unauthenticated => GrpcClass::Caller,
            Self::ResourceExhausted => GrpcClass::Overload,
            Self::Unknown | Self::Internal | Self::DataLoss => GrpcClass::Server,
            Self::DeadlineExceeded | Self::Unavailable => GrpcClass::Gateway,
        }
    }

    /// The HTTP status that means the same (the mapping of google.rpc.Code), for logs and metrics
    /// that know HTTP only.
    #[must_use]
    pub fn to_http(self) -> StatusCode {
        match self {
            Self::Ok => StatusCode::OK,
            // Of nginx, unregistered, in wide use: the caller closed the request.
            Self::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Unknown | Self::Internal | Self::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => {
                StatusCode::BAD_REQUEST
            }
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists | Self::Aborted => StatusCode::CONFLICT,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
        }
    }
}

/// The gRPC status of an answer that carries none (the protocol's "HTTP to gRPC status mapping").
#[must_use]
pub fn http_to_grpc_status(status: StatusCode) -> GrpcStatus {
    match status.as_u16() {
        200 => GrpcStatus::Ok,
        400 => GrpcStatus::Internal,
        401 => GrpcStatus::Unauthenticated,
        403 => GrpcStatus::PermissionDenied,
        404 => GrpcStatus::Unimplemented,
        429 | 502..=504 => GrpcStatus::Unavailable,
        _ => GrpcStatus::Unknown,
    }
}

/// The status in trailers, or in the headers of an answer without a body; `None` if there is none.
/// A value that is no number, or is given twice with different values, is UNKNOWN.
#[must_use]
pub fn grpc_status_of(headers: &HeaderMap) -> Option<GrpcStatus> {
    let mut values = headers.get_all(&GRPC_STATUS).iter();
    let first = values.next()?;
    if values.any(|other| other != first) {
        return Some(GrpcStatus::Unknown);
    }
    let code = match first.as_bytes() {
        [one @ b'0'..=b'9'] => u32::from(one - b'0'),
        [ten @ b'1'..=b'9', one @ b'0'..=b'9'] => {
            u32::from(ten - b'0') * 10 + u32::from(one - b'0')
        }
        _ => return Some(GrpcStatus::Unknown),
    };
    Some(GrpcStatus::from_code(code))
}

/// Writes a status, and a text for people unless it is empty, as an answer of our own has it.
pub fn insert_status(headers: &mut HeaderMap, status: GrpcStatus, message: &str) {
    let mut text = BytesMut::with_capacity(2);
    put_decimal(&mut text, u64::from(status.code()));
    let value = HeaderValue::from_maybe_shared(text.freeze())
        .unwrap_or_else(|_| HeaderValue::from_static("2"));
    headers.insert(&GRPC_STATUS, value);
    if message.is_empty() {
        headers.remove(&GRPC_MESSAGE);
    } else {
        headers.insert(&GRPC_MESSAGE, encode_message(message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&GRPC_STATUS, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_written_status_reads_the_same() {
        for status in GrpcStatus::ALL {
            let mut headers = HeaderMap::new();
            insert_status(&mut headers, *status, "");
            assert_eq!(grpc_status_of(&headers), Some(*status));
            assert_eq!(GrpcStatus::from_code(u32::from(status.code())), *status);
            assert!(!headers.contains_key(&GRPC_MESSAGE));
        }
    }

    #[test]
    fn no_status_is_none_and_nonsense_is_unknown() {
        assert_eq!(grpc_status_of(&HeaderMap::new()), None);
        for bad in ["", "17", "99", "-1", "+1", "00", "01", "x", "1 ", "100"] {
            assert_eq!(
                grpc_status_of(&with(&[bad])),
                Some(GrpcStatus::Unknown),
                "{bad:?}"
            );
        }
        assert_eq!(
            grpc_status_of(&with(&["0", "14"])),
            Some(GrpcStatus::Unknown)
        );
        assert_eq!(
            grpc_status_of(&with(&["14", "14"])),
            Some(GrpcStatus::Unavailable)
        );
    }

    #[test]
    fn http_maps_as_the_protocol_document_says() {
        for (http, expected) in [
            (200, GrpcStatus::Ok),
            (400, GrpcStatus::Internal),
            (401, GrpcStatus::Unauthenticated),
            (403, GrpcStatus::PermissionDenied),
            (404, GrpcStatus::Unimplemented),
            (429, GrpcStatus::Unavailable),
            (500, GrpcStatus::Unknown),
            (501, GrpcStatus::Unknown),
            (502, GrpcStatus::Unavailable),
            (503, GrpcStatus::Unavailable),
            (504, GrpcStatus::Unavailable),
            (418, GrpcStatus::Unknown),
        ] {
            let status = StatusCode::from_u16(http).expect("a status");
            assert_eq!(http_to_grpc_status(status), expected, "{http}");
        }
    }

    #[test]
    fn classes_agree_with_the_http_meaning_but_for_unimplemented() {
        for status in GrpcStatus::ALL {
            let http = status.to_http().as_u16();
            let expected = match (status, http) {
                (GrpcStatus::Unimplemented, _) => GrpcClass::Caller,
                (_, 200) => GrpcClass::Success,
                (_, 429) => GrpcClass::Overload,
                (_, 503 | 504) => GrpcClass::Gateway,
                (_, 500..) => GrpcClass::Server,
                _ => GrpcClass::Caller,
            };
            assert_eq!(status.class(), expected, "{}", status.name());
        }
    }
}
