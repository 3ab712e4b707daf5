//! What an outcome of a provider means.
//!
//! A status code alone does not tell whose problem an answer is: Gemini says 400 for a revoked key, OpenAI says 429 both
//! for a rate limit and for an empty account, MiniMax says 200 for everything. So status, headers **and** a bounded part
//! of the body are looked at, and a table of rules (data, not branches) says what they mean.

mod quote;
pub(crate) mod redact;
mod reset;
mod rules;
mod signals;

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::registry::ProviderKind;
use rules::{Means, RULES};
use signals::Signals;

/// Bytes of a body that are looked at.
pub const SNIFF: usize = 64 * 1024;

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

/// An outcome, classified, with what it was concluded from. Fit to be shown and logged once it quotes no request
/// ([`Evidence::without_quotes`]): it holds no secret.
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
    /// The message on one line, at most 200 characters, with everything that looks like a key removed. It may quote the request:
    /// [`Evidence::without_quotes`].
    pub excerpt: String,
    /// The name of the rule that decided (`openai-quota`).
    pub rule: &'static str,
}

impl Evidence {
    /// Whether it says what is wrong. A 403 that gives no reason that is known may be the key's, or one request's alone.
    #[must_use]
    pub fn says_why(&self) -> bool {
        self.rule != rules::UNSAID
    }

    /// What the gateway saw by itself: a failed connection, a timeout, a stream that was cut. `rule` names it.
    #[must_use]
    pub fn local(class: Class, status: u16, rule: &'static str, excerpt: &str) -> Self {
        let excerpt = redact::excerpt(excerpt, None);
        let try_other = !matches!(class, Class::Ok | Class::CallerFault);
        Self {
            class,
            try_other,
            status,
            code: None,
            excerpt,
            rule,
        }
    }

    /// The same without what it quotes of the request, which may be nobody else's to read: `body` as the caller sent it, and `more` of what was
    /// asked of the provider. Costs a pass over at most a MiB of the body.
    #[must_use]
    pub fn without_quotes(&self, body: &[u8], more: &str) -> Self {
        let code = self.code.as_deref().map(|code| {
            let quoted = format!("\"{code}\"");
            match rules::is_known(code) || *quote::without_quotes(&quoted, body, more) == *quoted {
                true => code.to_owned(),
                false => "…".to_owned(),
            }
        });
        let excerpt = quote::without_quotes(&self.excerpt, body, more);
        Self {
            code,
            excerpt: excerpt.into_owned(),
            ..self.clone()
        }
    }

    /// The same without the provider's own words, for when the request that they may quote is not at hand.
    #[must_use]
    pub fn without_words(&self) -> Self {
        let code = self.code.clone().filter(|code| rules::is_known(code));
        Self {
            code,
            excerpt: String::new(),
            ..self.clone()
        }
    }

    /// A good answer with this status.
    #[must_use]
    pub fn ok(status: u16) -> Self {
        Self {
            class: Class::Ok,
            try_other: false,
            status,
            code: None,
            excerpt: String::new(),
            rule: "ok",
        }
    }
}

/// Classifies an answer.
///
/// `body` is the whole answer or its beginning; no more than [`SNIFF`] bytes are looked at. For a success with a stream
/// it may be empty: what comes later is for [`classify_event`]. `secret` is the key that was used: it is removed from the
/// excerpt exactly, over and above what looks like a key. `now_unix` is the time in seconds, for headers that hold a date.
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tidegate_llm::{ProviderKind, classify};
///
/// let body = br#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
/// let seen = classify::classify(ProviderKind::OpenAi, StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new(), body, 0, None);
/// assert!(matches!(seen.class, classify::Class::QuotaExhausted { .. }));
/// ```
#[must_use]
pub fn classify(
    kind: ProviderKind,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now_unix: u64,
    secret: Option<&str>,
) -> Evidence {
    let sniff = &body[..body.len().min(SNIFF)];
    if !status.is_success() {
        let signals = Signals::read(sniff, headers, now_unix);
        return decide(
            kind,
            status.as_u16(),
            status.as_u16(),
            &signals,
            headers,
            now_unix,
            secret,
        );
    }
    if is_page(headers) {
        // A portal or an edge answered in the provider's place.
        let signals = Signals::read(sniff, headers, now_unix);
        let mut page = Evidence::local(Class::Broken, status.as_u16(), "page", "");
        page.excerpt = redact::excerpt(&signals.message, secret);
        return page;
    }
    // An error is small: what was cut by the bound is none.
    if body.len() > SNIFF || !signals::hides_error(kind, sniff) {
        return Evidence::ok(status.as_u16());
    }
    inside(
        kind,
        status.as_u16(),
        None,
        sniff,
        headers,
        now_unix,
        secret,
    )
}

/// Classifies an event of a stream; `None` if it is no error, which is found without an allocation.
///
/// `name` is the event's name (SSE) or, for AWS, the exception's type, empty if there is none. An error here is a failure
/// although the status was 200.
#[must_use]
pub fn classify_event(
    kind: ProviderKind,
    name: &[u8],
    data: &[u8],
    now_unix: u64,
    secret: Option<&str>,
) -> Option<Evidence> {
    let exception = kind == ProviderKind::Bedrock && name.ends_with(b"xception");
    if name != b"error" && !exception && !signals::hides_error(kind, data) {
        return None;
    }
    let exception = exception.then(|| String::from_utf8_lossy(name).into_owned());
    let sniff = &data[..data.len().min(SNIFF)];
    Some(inside(
        kind,
        200,
        exception,
        sniff,
        &HeaderMap::new(),
        now_unix,
        secret,
    ))
}

/// The names of the rules, in the order in which they are asked.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name)
}

/// An error within a success.
fn inside(
    kind: ProviderKind,
    status: u16,
    exception: Option<String>,
    body: &[u8],
    headers: &HeaderMap,
    now_unix: u64,
    secret: Option<&str>,
) -> Evidence {
    let mut signals = Signals::read(body, headers, now_unix);
    signals.codes.splice(0..0, exception);
    // Some errors of streams carry the status that the answer would have had.
    let stands_for = signals.status.unwrap_or(0);
    let shown = if stands_for == 0 { status } else { stands_for };
    decide(kind, stands_for, shown, &signals, headers, now_unix, secret)
}

fn decide(
    kind: ProviderKind,
    status: u16,
    shown: u16,
    signals: &Signals,
    headers: &HeaderMap,
    now_unix: u64,
    secret: Option<&str>,
) -> Evidence {
    let text = signals.message.trim().to_lowercase();
    let found = RULES.iter().find_map(|rule| {
        Some((
            rule,
            rule.fits(kind, status, &signals.codes, &text, signals.page)?,
        ))
    });
    let (means, rule, code) = found.map_or((Means::Broken, "unknown", ""), |(rule, code)| {
        (rule.means, rule.name, code)
    });
    let limit = |scope| Class::Limited {
        scope,
        retry_after: reset::of_limit(headers, signals.delay, &signals.message, now_unix),
    };
    let class = match means {
        Means::Fault | Means::FaultHere => Class::CallerFault,
        Means::Dead => Class::KeyDead,
        Means::Denied => Class::ModelDenied,
        Means::Limited(scope) => limit(scope),
        Means::LimitedAsSaid => limit(scope_said(&text)),
        Means::Quota(scope) => Class::QuotaExhausted {
            scope,
            retry_after: reset::of_quota(headers, signals.delay, &signals.message, now_unix),
        },
        // The delay that comes along is that of the minute.
        Means::PacificDay(scope) => Class::QuotaExhausted {
            scope,
            retry_after: Some(reset::until_pacific_midnight(now_unix)),
        },
        Means::Down => Class::ProviderDown,
        Means::Place => Class::Region,
        Means::Broken => Class::Broken,
    };
    // A caller's fault may quote the caller's prompt, which is nobody's to keep.
    let quotes = class == Class::CallerFault;
    let telling = signals
        .codes
        .iter()
        .find(|code| code.parse::<u16>().is_err())
        .or(signals.codes.first());
    let code = if code.is_empty() {
        telling.map(String::as_str)
    } else {
        Some(code)
    };
    Evidence {
        class,
        try_other: !quotes || means == Means::FaultHere,
        status: shown,
        code: code.map(|code| redact::code(code, secret)),
        excerpt: if quotes {
            String::new()
        } else {
            redact::excerpt(&signals.message, secret)
        },
        rule,
    }
}

/// What a rate limit binds, by its message: the whole key if it speaks of an account and of no model.
fn scope_said(text: &str) -> LimitScope {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let whole = says(&[
        "organization",
        "organisation",
        "account",
        "api key",
        "your key",
        "workspace",
        "your team",
        "project",
    ]);
    if whole && !says(&["model", "deployment", "limit reached for "]) {
        LimitScope::Key
    } else {
        LimitScope::Model
    }
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    const PAGE: &str = "text/html";
    let start = kind.trim_start().get(..PAGE.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(PAGE))
}
