//! The messages of `ai.AI`, of uploads, and of errors' details: as in `crates/host/proto`, without a step of code generation.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Input {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) kwargs_json: Bytes,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) binary_data: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Output {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data_json: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Raw {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: Bytes,
    /// How far the call is, as JSON; without data then.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) progress: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UploadRequest {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct UploadStatus {
    /// Bytes before compression that the host has.
    #[prost(uint64, tag = "2")]
    pub(crate) offset: u64,
}

/// `google.rpc.Status`, in `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub(crate) reason: String,
    #[prost(string, tag = "2")]
    pub(crate) domain: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) metadata: HashMap<String, String>,
}

impl ErrorInfo {
    /// The one among a status' details, if there is one.
    pub(crate) fn find(details: &[u8]) -> Option<Self> {
        let all = Details::decode(details).ok()?.details;
        let info = all
            .into_iter()
            .find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))?;
        Self::decode(info.value).ok()
    }
}

#[cfg(test)]
pub(crate) fn details(reason: &str, exception: &str) -> Bytes {
    let info = ErrorInfo {
        reason: reason.to_owned(),
        domain: "tidegate".to_owned(),
        metadata: HashMap::from([("exception".to_owned(), exception.to_owned())]),
    };
    let any = Any {
        type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(),
        value: info.encode_to_vec().into(),
    };
    Details { details: vec![any] }.encode_to_vec().into()
}
