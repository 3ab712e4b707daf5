//! Tidegate's room for API keys: a dead, limited or exhausted key is never the caller's problem.
//!
//! A key is a member of a pool like any endpoint, with the model as its scope; the engine of `tidegate-core` decides who is
//! fit. This room adds what is particular to keys, and does no I/O of its own but through the
//! [`Store`](tidegate_state::Store) and the [`Probe`](probe::Probe) that it is given.
//!
//! # A request
//!
//! ```
//! use tidegate_core::{SmallRng, Time};
//! use tidegate_keys::{Identity, Keys, Next, NoAnswer, Outcome, Settings};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = tidegate_config::load_str("tidegate.yaml", r#"
//! listeners: [{ name: main, address: 127.0.0.1:8080 }]
//! routes: [{ name: chat, to: [{ provider: qwen }] }]
//! providers:
//!   - name: qwen
//!     type: qwen
//!     api_tokens: [sk-the-first-key-0001, sk-the-other-key-0002]
//!     model_mapping: { "gpt-4*": qwen-max }
//! "#)?.config;
//! let (now, mut rng) = (Time::ZERO, SmallRng::new(1));
//! let keys = Keys::new("this-replica", Identity::random());
//! keys.apply(config.providers.iter().map(Settings::of).collect::<Result<_, _>>()?, now);
//!
//! let provider = keys.provider("qwen").ok_or("configured above")?;
//! let model = provider.live().map("gpt-4o").into_owned();
//! let mut rotation = provider.rotation(&model, None, 0);
//! let mut retries = 1;
//! let answered = loop {
//!     // No key left: `out.status()`, `out.retry_after(now)`, `out.message()` make the caller's error.
//!     let pick = match rotation.next(now, &mut rng) {
//!         Ok(pick) => pick,
//!         Err(out) => break Err(out.message()),
//!     };
//!     // … send the request with `pick.key().token.expose()`, read and classify the answer …
//!     let outcome = Outcome::NoAnswer(NoAnswer::Timeout);
//!     match rotation.finish(pick, outcome, None, now) {
//!         Next::Done => break Ok(()),
//!         // Another key, whatever the retry budget says.
//!         Next::Rotate | Next::Another => {}
//!         Next::Retry if retries > 0 => retries -= 1,
//!         Next::Retry | Next::Elsewhere => break Err("the next provider in line".to_owned()),
//!     }
//! };
//! # assert!(answered.is_err());
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | [`Keys`], [`Provider`], [`Live`], [`Settings`] | the configuration's providers, and what a reload changes |
//! | [`Rotation`], [`KeyPick`], [`AllOut`] | a request's way over the keys |
//! | [`Outcome`], [`Failover::judge`], [`Next`] | what an outcome means for the key and for the request |
//! | [`share`] | replicas agree through the store |
//! | [`probe`] | one replica finds out who is back |
//! | [`account`] | virtual keys, limits, budgets |
//!
//! # The tasks of a process
//!
//! [`share::share`], [`probe::probe`] and [`account::run`], one each, on the runtime of control work; dropped, they end. The first
//! one also runs the pools' clocks, so it must run even where nothing is shared (with a store in memory).

#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used))]

mod access;
mod choice;
mod clock;
mod counts;
mod failover;
mod identity;
mod judge;
mod key;
mod mapping;
mod notes;
mod outbox;
mod provider;
mod registry;
mod rotation;
mod settings;
mod working;

pub mod account;
pub mod probe;
pub mod share;

pub use access::{Access, Refusal};
pub use choice::Choice;
pub use clock::{Clock, MonotonicClock};
pub use counts::Counts;
pub use failover::{Failover, Statuses};
pub use identity::{Identity, KeyId};
pub use judge::{Judgement, Next, NoAnswer, Outcome, class_name};
pub use key::{ApiKey, Fingerprint, Token};
pub use mapping::Mapping;
pub use notes::Note;
pub use outbox::Slot;
pub use provider::{Live, Provider};
pub use registry::{KeyEvent, Keys};
pub use rotation::{AllOut, KeyPick, OutCause, Rotation};
pub use settings::{Settings, SettingsError};
