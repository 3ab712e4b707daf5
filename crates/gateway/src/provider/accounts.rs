//! Virtual keys: who asks, what it may use, and what a request used in the end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use tidegate_config::model::VirtualKeys;
use tidegate_keys::Clock;
use tidegate_keys::account::{Accounts, Denied, Estimate, Permit, Refused, Reservation, Span};
use tidegate_llm::usage::Usage;
use tidegate_llm::{Fault, FaultKind};

use crate::events::unix_ms;
use crate::exchange::plan::Plan;
use crate::exchange::{Context, Incoming, Running};
use crate::snapshot::RouteState;

/// How long a request waits for the store to confirm that a limit has room.
const PATIENCE: Duration = Duration::from_millis(500);
/// Tokens of an answer that its caller does not bound, for the reservation. What it used more is charged afterwards.
const UNBOUNDED: u64 = 1024;

/// Lets the caller in, as the route wants it.
///
/// # Errors
/// It has no virtual key, or one that is not known.
pub(crate) fn admit(
    context: Context<'_>,
    state: &RouteState,
    request: &Incoming,
) -> Result<Option<Permit>, Fault> {
    let required = match state.config.virtual_keys {
        VirtualKeys::Off => return Ok(None),
        VirtualKeys::Optional => false,
        VirtualKeys::Required => true,
    };
    let refused = |words: &'static str| Fault::new(FaultKind::Unauthorized, words);
    let shared = &context.worker.shared;
    let token = token(request).filter(|token| required || Accounts::looks_like_one(token));
    let Some(token) = token else {
        return match required {
            true => Err(refused("a virtual key is needed")),
            false => Ok(None),
        };
    };
    let accounts = &shared.providers.accounts;
    match accounts.authorize(token, None, unix_ms()) {
        Ok(permit) => Ok(Some(permit)),
        Err(Denied::NotReady) => Err(Fault::new(
            FaultKind::Overloaded,
            "virtual keys have not been read yet",
        )
        .after(Some(Duration::from_secs(1)))),
        Err(Denied::Unknown | Denied::Model { .. }) => Err(refused(
            "the virtual key is not known, was revoked or has ended",
        )),
    }
}

/// Whether the key may use the model.
///
/// # Errors
/// It may not.
pub(crate) fn allowed(permit: &Permit, model: &str) -> Result<(), Fault> {
    if permit.allows(model) {
        return Ok(());
    }
    let words = format!("the virtual key may not use the model {model:?}");
    Err(Fault::new(FaultKind::ModelNotAllowed, words).at("model"))
}

/// Where the SDKs of the three dialects put a key.
fn token(request: &Incoming) -> Option<&str> {
    let header = |name: &str| request.headers.get(name)?.to_str().ok();
    let bearer = || {
        let value = request.headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim_start())
    };
    let query = || {
        let mut pairs = request.target.query()?.split('&');
        pairs.find_map(|pair| pair.strip_prefix("key="))
    };
    bearer()
        .or_else(|| header("x-api-key"))
        .or_else(|| header("api-key"))
        .or_else(|| header("x-goog-api-key"))
        .or_else(query)
        .filter(|token| !token.is_empty())
}

/// What a request has reserved, for all the providers that it may go to.
#[derive(Debug)]
pub(crate) struct Ledger(RefCell<Option<Reservation>>);

impl Ledger {
    /// A provider works on it, and will count.
    pub(crate) fn sent(&self, model: &str) {
        if let Some(reservation) = &mut *self.0.borrow_mut() {
            reservation.sent(model);
        }
    }

    /// What it used.
    pub(crate) fn settle(&self, usage: &Usage) {
        if let Some(reservation) = self.0.take() {
            reservation.settle(usage);
        }
    }

    /// No provider took it: it used nothing but its own count.
    pub(crate) fn unused(&self) {
        self.settle(&Usage::default());
    }
}

/// Reserves what the request may use. It is settled when the exchange ends, however it does.
///
/// # Errors
/// A limit of the virtual key is reached.
pub(crate) async fn reserve(
    context: Context<'_>,
    plan: &mut Plan,
    running: &mut Running<'_>,
) -> Result<(), Fault> {
    let Some(permit) = plan.permit.take() else {
        return Ok(());
    };
    if let Some(talk) = &mut running.report.talk {
        talk.virtual_key = Some(permit.key().id.clone());
    }
    let Some(asked) = plan.targets.iter().find_map(|t| t.asked.as_ref()) else {
        return Ok(());
    };
    let (bytes, bound) = asked.size();
    let estimate = Estimate {
        input: Usage::estimate(bytes, 0).input,
        output: bound.unwrap_or(UNBOUNDED),
    };
    let clock: &dyn Clock = &*context.worker.shared;
    let model = asked.model();
    let reserved = permit.reserve_within(estimate, &model, clock, PATIENCE);
    let reservation = reserved.await.map_err(|refused| fault(&refused))?;
    let ledger = Rc::new(Ledger(RefCell::new(Some(reservation))));
    for asked in plan.targets.iter_mut().filter_map(|t| t.asked.as_mut()) {
        asked.charge_to(&ledger);
    }
    Ok(())
}

fn fault(refused: &Refused) -> Fault {
    let kind = match refused {
        Refused::UsedUp {
            per: Span::Minute, ..
        }
        | Refused::Unconfirmed { .. } => FaultKind::RateLimited,
        Refused::UsedUp { .. } => FaultKind::BudgetExhausted,
        Refused::NoPrice { .. } => FaultKind::ModelNotAllowed,
    };
    Fault::new(kind, refused.to_string()).after(refused.retry_after())
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, Version};
    use tidegate_wire::h1::BodyLength;

    use super::*;

    fn found(target: &'static str, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let request = Incoming {
            method: Method::POST,
            target: http::Uri::from_static(target),
            version: Version::HTTP_11,
            headers: map,
            body: BodyLength::None,
            upgrade: false,
        };
        token(&request).map(str::to_owned)
    }

    #[test]
    fn a_key_is_found_where_each_sdk_puts_it() {
        let key = Some("tg-1".to_owned());
        assert_eq!(found("/", &[("authorization", "Bearer tg-1")]), key);
        assert_eq!(found("/", &[("authorization", "bearer  tg-1")]), key);
        assert_eq!(found("/", &[("x-api-key", "tg-1")]), key);
        assert_eq!(found("/", &[("api-key", "tg-1")]), key);
        assert_eq!(found("/", &[("x-goog-api-key", "tg-1")]), key);
        assert_eq!(found("/x?alt=sse&key=tg-1", &[]), key);
        assert_eq!(
            found("/x?monkey=tg-1", &[("authorization", "Basic tg-1")]),
            None
        );
    }
}
