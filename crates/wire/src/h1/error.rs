//! What can be wrong with a message, each with the status that says so to the peer.

use http::StatusCode;

/// A header line or section that is not acceptable in any message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A line ends in LF without CR.
    #[error("a line ends in a bare line feed")]
    BareLf,
    /// A line begins with a space or tab: obs-fold, or white space before the first header.
    #[error("a header line begins with white space (line folding is obsolete)")]
    LeadingWhitespace,
    /// No colon in a header line.
    #[error("a header line has no colon")]
    NoColon,
    /// Space or tab between the name and the colon.
    #[error("white space before the colon of a header")]
    SpaceBeforeColon,
    /// The name is empty or holds something that is no token character.
    #[error("a header name holds a character that is not allowed")]
    Name,
    /// The value holds a control character (a bare CR and NUL among them).
    #[error("a header value holds a control character")]
    Value,
}

/// The framing headers are missing sense: length and coding of the body can't be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// `content-length` and `transfer-encoding` in one message.
    #[error("both content-length and transfer-encoding are present")]
    LengthAndCoding,
    /// More than one `content-length`.
    #[error("content-length is given more than once")]
    DuplicateLength,
    /// `content-length` is not plain digits or does not fit 64 bits.
    #[error("content-length is not a plain number")]
    BadLength,
    /// `transfer-encoding` is malformed, names `chunked` twice, or not as the last coding.
    #[error("transfer-encoding is malformed")]
    BadCoding,
    /// A transfer coding other than `chunked`.
    #[error("the transfer coding is not supported (only chunked is)")]
    UnknownCoding,
    /// `transfer-encoding` in an HTTP/1.0 message.
    #[error("transfer-encoding in an HTTP/1.0 message")]
    CodingInHttp10,
}

/// Why a request was refused. The connection is to be closed after the answer: where the next
/// request would begin is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The request line is not `method SP target SP version`.
    #[error("the request line is malformed")]
    RequestLine,
    /// More empty lines before the request line than are ignored.
    #[error("empty lines before the request line")]
    LeadingEmptyLines,
    /// The method is no token.
    #[error("the method is not a token")]
    Method,
    /// The request target is malformed or of a form that the method does not allow.
    #[error("the request target is malformed")]
    Target,
    /// The request target is longer than the head may be.
    #[error("the request target is too long")]
    TargetTooLong,
    /// A well-formed version that is not HTTP/1.0 or HTTP/1.1.
    #[error("the HTTP version is not supported here")]
    Version,
    /// The head is over [`Limits::head_bytes`](super::Limits).
    #[error("the request head is too large")]
    HeadTooLarge,
    /// More header lines than [`Limits::headers`](super::Limits).
    #[error("the request has too many headers")]
    TooManyHeaders,
    /// An HTTP/1.1 request without `host`, or with an empty one.
    #[error("the host header is missing")]
    MissingHost,
    /// More than one `host`.
    #[error("host is given more than once")]
    DuplicateHost,
    /// `host` is not a host with an optional port.
    #[error("the host header is malformed")]
    BadHost,
    /// An expectation other than `100-continue`.
    #[error("the expectation can't be met (only 100-continue can)")]
    Expectation,
    /// A header line is malformed.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The framing headers are not acceptable.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

impl RequestError {
    /// The status to answer with: 400, 414, 417, 431, 501 or 505.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::HeadTooLarge | Self::TooManyHeaders => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::Framing(FramingError::UnknownCoding) => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A short stable name for logs, metrics and the `x-tidegate-error` header.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::RequestLine | Self::LeadingEmptyLines => "bad-request-line",
            Self::Method => "bad-method",
            Self::Target => "bad-target",
            Self::TargetTooLong => "target-too-long",
            Self::Version => "bad-version",
            Self::HeadTooLarge | Self::TooManyHeaders => "head-too-large",
            Self::MissingHost | Self::DuplicateHost | Self::BadHost => "bad-host",
            Self::Expectation => "bad-expectation",
            Self::Field(_) => "bad-header",
            Self::Framing(_) => "bad-framing",
        }
    }
}

/// Why an upstream's response can't be passed on. All of them are the upstream's fault: answer 502
/// and close the upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// The status line is not `version SP 3digits [SP reason]`.
    #[error("the status line is malformed")]
    StatusLine,
    /// Not HTTP/1.0 or HTTP/1.1.
    #[error("the HTTP version of the response is not supported")]
    Version,
    /// The head is over [`Limits::head_bytes`](super::Limits).
    #[error("the response head is too large")]
    HeadTooLarge,
    /// More header lines than [`Limits::headers`](super::Limits).
    #[error("the response has too many headers")]
    TooManyHeaders,
    /// A header line is malformed.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The framing headers are not acceptable.
    #[error(transparent)]
    Framing(#[from] FramingError),
}

/// Why a body can't be read further. What was yielded before is genuine; the message is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The peer closed before the end that the framing promised.
    #[error("the peer closed before the end of the body")]
    Truncated,
    /// A chunk size is empty, not hexadecimal, or too large.
    #[error("a chunk size is malformed")]
    ChunkSize,
    /// A chunk extension is malformed.
    #[error("a chunk extension is malformed")]
    ChunkExtension,
    /// Chunk extensions are longer than a gateway has reason to read.
    #[error("chunk extensions are too long")]
    ChunkExtensionTooLong,
    /// A line of the chunk framing does not end in CRLF, or data does not end where its size says.
    #[error("chunk framing is not closed by CRLF")]
    ChunkEnd,
    /// The trailers are over their limits.
    #[error("the trailers are too large")]
    TrailersTooLarge,
    /// A trailer line is malformed.
    #[error(transparent)]
    Field(#[from] FieldError),
}

impl BodyError {
    /// The status to answer a request with whose body broke, if no answer was begun: 400 or 431.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TrailersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}
