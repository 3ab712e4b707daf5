//! A client of models that Tidegate (or aipod) serves.
//!
//! ```no_run
//! # async fn example() -> Result<(), tidegate_client::Error> {
//! use serde_json::json;
//! use tidegate_client::{Client, Input};
//!
//! let client = Client::new(["127.0.0.1:50051"])?;
//! let answer = client.predict(&json!({"text": "lovely"})).await?;
//! println!("{answer}");
//!
//! // Any public method, gigabytes up, hours long; goes on where a connection broke.
//! let result = client.call("digest").input(Input::path("corpus.tar")).send().await?;
//! println!("{}", result.value);
//!
//! // Items of a generator as they come.
//! let mut items = client.call("generate").kwargs(&json!({"prompt": "Once"})).stream();
//! while let Some(item) = items.next().await {
//!     println!("{}", item?.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Call::unary`] is `ai.AI` as aipod has it: one message each way. [`Call::send`] and [`Call::stream`] use `ai.AI/chaos`: the input is
//! compressed and sent in pieces, and the host's heartbeats keep proxies from cutting a silent connection.
//!
//! Failed calls are tried again as gRPC's proposal A6 says ([`Retry`]), at another address where there are several. What may have run is
//! only repeated where it may run twice: `predict`, `log`, and calls with [`Call::idempotency_key`]. Heartbeats commit nothing; the
//! first result does. What the protocol allows is in `docs/src/models-protocols.md`.

#![warn(missing_docs)]

mod answer;
mod balance;
mod call;
mod chaos;
mod client;
#[cfg(feature = "consul")]
mod consul;
mod error;
mod message;
mod retry;
mod upload;

pub use answer::{Output, Part};
pub use balance::Balance;
pub use call::{Call, OnHeartbeat, OnProgress, Progress};
pub use chaos::Items;
pub use client::{Builder, Client};
#[cfg(feature = "consul")]
pub use consul::Consul;
pub use error::{Error, Status};
pub use retry::{MAX_ATTEMPTS, Pushback, Retry, Throttling};
pub use tonic::Code;
pub use tonic::transport::{Certificate, ClientTlsConfig, Identity};
pub use upload::{Input, OnUpload};
