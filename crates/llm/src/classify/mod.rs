//! What an outcome of a provider means.
//!
//! A status code alone does not tell whose problem an answer is: Gemini says 400 for a revoked key, OpenAI says 429 both
//! for a rate limit and for an empty account, MiniMax says 200 for everything. So status, headers **and** a bounded part
//! of the body are looked at, and a table of rules (data, not branches) says what they mean.

use std::time::Duration;

/// What an outcome means: for whom it is evidence, and of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The provider did its work.
    Ok,
    /// The caller's own mistake. It goes back to the caller and says nothing about the key.
    CallerFault,
    /// The key is revoked, expired or unknown: out for every model until a probe finds it alive.
    KeyDead,
    /// The key lives, but may not use this model (its plan, project or region lacks it): out for the model only.
    /// Said only when the provider says it of the key; "does not exist or you do not have access" is the caller's fault.
    ModelDenied,
    /// A limit per time is reached.
    Limited {
        /// What the limit binds.
        scope: LimitScope,
        /// How long to stay away at least, if the provider said so. A floor, never a ceiling.
        retry_after: Option<Duration>,
    },
    /// Paid or granted volume is used up: money, credits, a monthly or daily quota. No waiting for a minute helps.
    QuotaExhausted {
        /// What the quota binds: the account's money (`Key`), or a volume granted for one model.
        scope: LimitScope,
        /// How long to stay away at least, if the provider said so. A floor, never a ceiling.
        retry_after: Option<Duration>,
    },
    /// The provider failed or is overloaded: a failure that counts, not the key's fault.
    ProviderDown,
    /// The place that the request comes from is refused (country, region, network address). The key may be good
    /// elsewhere, and the provider's other keys most likely meet the same here.
    Region,
    /// The answer is no answer: not what the protocol says, or cut in the middle.
    Broken,
}

/// What a limit binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitScope {
    /// The key for every model: the provider speaks of the account, the organisation or the key as a whole.
    Key,
    /// The key for the model that was asked.
    Model,
}

/// An outcome, classified, with what it was concluded from. Fit to be shown and logged: it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What it means.
    pub class: Class,
    /// Another key may do better. True for all that is not [`Class::Ok`] or the caller's plain mistake, and also for a
    /// few faults of the caller's which depend on the key ("does not exist or you do not have access to it", a request
    /// larger than this key's limit): nothing is held against the key, but the answer may be asked of another.
    pub try_other: bool,
    /// The HTTP status, or the one that an error within a 200 stood for.
    pub status: u16,
    /// The provider's own code, type or reason (`insufficient_quota`, `1113`), at most 64 bytes.
    pub code: Option<String>,
    /// The message on one line, at most 200 characters, with everything that looks like a key removed.
    pub excerpt: String,
    /// The name of the rule that decided (`openai-quota`).
    pub rule: &'static str,
}
