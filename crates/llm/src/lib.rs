//! Tidegate's room for language models: dialects, providers, translation, and what an outcome means.
//!
//! Bytes and events in, bytes and events out. Nothing here does I/O, reads a clock or knows a runtime.
//!
//! # A request, step by step
//!
//! ```
//! use bytes::Bytes;
//! use http::{HeaderMap, Method, StatusCode};
//! use tidegate_llm::*;
//!
//! // What a caller sent, by its path, then by its body.
//! let front = Front::recognise(&Method::POST, "/v1/chat/completions", None, &HeaderMap::new()).unwrap();
//! let body = Bytes::from_static(br#"{"model":"gpt-5","messages":[{"role":"user","content":"hi"}]}"#);
//! let call = Call::read(&front, &HeaderMap::new(), body)?;
//! assert_eq!((call.model(), call.stream()), ("gpt-5", false));
//!
//! // An attempt at a provider with a key, in the provider's dialect.
//! let spec = ProviderSpec::new(ProviderKind::Anthropic, None, None, None).unwrap();
//! let options = PrepareOptions { now_unix: 1_800_000_000, ..PrepareOptions::default() };
//! let request = call.prepare(&spec, Secret::of("sk-ant-1"), "claude-opus-4-5", &HeaderMap::new(), options)?;
//! assert_eq!(request.target, "/v1/messages");
//! assert_eq!(request.headers["x-api-key"], "sk-ant-1");
//!
//! // Its answer, in the caller's.
//! let mut answer = Answer::new(request.plan, Some("sk-ant-1".into()), 1_800_000_000);
//! let mut out = Vec::new();
//! answer.head(StatusCode::OK, HeaderMap::new());
//! let body = Bytes::from_static(br#"{"id":"msg_1","model":"claude-opus-4-5","content":[{"type":"text","text":"hello"}],"stop_reason":"end_turn","usage":{"input_tokens":8,"output_tokens":2}}"#);
//! assert_eq!(answer.data(body, &mut out), Step::Progress);
//! assert_eq!(answer.end(&mut out), Step::Done);
//! assert!(answer.take_head().is_some());
//! assert_eq!(answer.usage().unwrap().total(), 10);
//! assert!(out[0].starts_with(br#"{"id":"msg_1","object":"chat.completion""#));
//! # Ok::<(), Fault>(())
//! ```
//!
//! | | |
//! |---|---|
//! | [`Front`], [`Call`] | what a caller asks, read without taking the body apart |
//! | [`ProviderKind`], [`ProviderSpec`] | the table of providers, and one as the operator has it |
//! | [`Call::prepare`] | a request to a provider; [`translation`] says what is lost |
//! | [`Answer`] | the way back: held until content begins, then passed or translated |
//! | [`classify`] | what an outcome means for a key |
//! | [`Fault`] | what goes wrong, told in the caller's dialect |
//! | [`models`] | lists of models |

pub mod aws;
pub mod classify;
pub mod dialect;
pub mod price;
pub mod registry;
pub mod service_account;
pub mod sse;
pub mod translation;
pub mod usage;

mod answer;
mod anthropic;
mod bedrock;
mod call;
mod cohere;
mod facts;
mod fault;
mod gemini;
mod ir;
mod json;
pub mod models;
mod openai;
mod prepare;

pub use answer::{Answer, Broke, Step, Unfinished};
pub use call::Call;
pub use dialect::{Dialect, Endpoint, Front};
pub use facts::{FactReader, Facts};
pub use fault::{ErrorAnswer, Fault, FaultKind};
pub use prepare::{Plan, PrepareOptions, Prepared};
pub use registry::{
    Auth, BaseUrl, Continue, ProviderKind, ProviderSpec, Quirks, Row, Secret, SpecError,
};
