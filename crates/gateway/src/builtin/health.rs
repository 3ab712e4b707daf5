//! `grpc.health.v1.Health`: the gateway as a whole, and each upstream by its name.

use tidegate_core::Scope;
use tidegate_wire::grpc::GrpcStatus;

use super::call::{Call, End};
use super::proto::{Fields, put_bytes, put_number};
use crate::worker::Worker;

/// What the health of a hosted model can be asked of, beside its own name.
const OF_MODELS: [&str; 4] = [
    "",
    "ai.AI",
    "inference.GRPCInferenceService",
    "tidegate.Uploads",
];

/// The methods of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Check,
    List,
    Watch,
}

impl Method {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "Check" => Some(Self::Check),
            "List" => Some(Self::List),
            "Watch" => Some(Self::Watch),
            _ => None,
        }
    }
}

/// `ServingStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

impl State {
    fn of(serves: bool) -> Self {
        if serves {
            Self::Serving
        } else {
            Self::NotServing
        }
    }

    /// A `HealthCheckResponse`.
    fn message(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2);
        put_number(&mut out, 1, self as u64);
        out
    }
}

pub(super) async fn answer(method: Method, call: &mut Call<'_, '_>) -> End {
    let result = match method {
        Method::Check => check(call).await,
        Method::List => list(call).await,
        Method::Watch => watch(call).await,
    };
    match result {
        Ok(()) => End::ok(),
        Err(end) => end,
    }
}

/// Answers any check.
pub(super) async fn not_serving(call: &mut Call<'_, '_>) -> End {
    let answered = async {
        call.only().await?;
        call.send(&State::NotServing.message()).await
    };
    match answered.await {
        Ok(()) => End::ok(),
        Err(end) => end,
    }
}

/// Tells whether a hosted model takes calls, in any of the names that its instances know.
pub(super) async fn watch_service(name: &str, call: &mut Call<'_, '_>) -> End {
    let watched = async {
        let asked = service(&call.only().await?)?;
        let known = asked == name || OF_MODELS.contains(&&*asked);
        follow(call, |worker| match known {
            true => state(worker, name),
            false => State::ServiceUnknown,
        })
        .await
    };
    match watched.await {
        Ok(()) => End::ok(),
        Err(end) => end,
    }
}

async fn check(call: &mut Call<'_, '_>) -> Result<(), End> {
    let service = service(&call.only().await?)?;
    match state(call.context.worker, &service) {
        State::ServiceUnknown => Err(End::new(
            GrpcStatus::NotFound,
            "no upstream of this name; the empty name asks for the gateway",
        )),
        state => call.send(&state.message()).await,
    }
}

async fn list(call: &mut Call<'_, '_>) -> Result<(), End> {
    call.only().await?;
    let worker = call.context.worker;
    let snapshot = worker.snapshot();
    let names = snapshot.upstreams.iter().map(|u| &*u.name);
    let mut out = Vec::new();
    for name in std::iter::once("").chain(names) {
        let mut entry = Vec::with_capacity(name.len() + 8);
        put_bytes(&mut entry, 1, name.as_bytes());
        put_bytes(&mut entry, 2, &state(worker, name).message());
        put_bytes(&mut out, 1, &entry);
    }
    call.send(&out).await
}

/// Tells the state and every change until the caller leaves or the gateway drains.
async fn watch(call: &mut Call<'_, '_>) -> Result<(), End> {
    let service = service(&call.only().await?)?;
    follow(call, |worker| state(worker, &service)).await
}

async fn follow(call: &mut Call<'_, '_>, state: impl Fn(&Worker) -> State) -> Result<(), End> {
    let worker = call.context.worker;
    let mut told = None;
    loop {
        // Asked before the state: a drain that begins in between is told in the next turn.
        let draining = worker.shared.is_draining();
        let state = state(worker);
        if told != Some(state) {
            told = Some(state);
            call.send(&state.message()).await?;
        }
        if draining {
            return Err(End::new(GrpcStatus::Unavailable, "the gateway is draining"));
        }
        call.pause().await?;
    }
}

/// The service that a `HealthCheckRequest` asks for.
fn service(message: &[u8]) -> Result<String, End> {
    let mut service = "";
    for field in Fields::new(message) {
        if let (1, value) = field? {
            service = value.text()?;
        }
    }
    Ok(service.to_owned())
}

/// While the gateway drains nothing is to be sent through it, whatever the upstream.
fn state(worker: &Worker, service: &str) -> State {
    let draining = worker.shared.is_draining();
    if service.is_empty() {
        return State::of(!draining);
    }
    let snapshot = worker.snapshot();
    match snapshot.upstreams.iter().find(|u| *u.name == *service) {
        Some(upstream) => State::of(!draining && upstream.live.pool.summary(&Scope::EMPTY).fit > 0),
        None => State::ServiceUnknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_name_a_service_or_none() {
        assert_eq!(service(b"").ok().as_deref(), Some(""));
        assert_eq!(service(b"\x0a\x02up").ok().as_deref(), Some("up"));
        // An unknown field, and the last of two wins.
        assert_eq!(
            service(b"\x10\x01\x0a\x01a\x0a\x01b").ok().as_deref(),
            Some("b")
        );
        for bad in [&b"\x0a\x05up"[..], b"\x0a\x01\xff", b"\x08\x01"] {
            assert!(
                matches!(service(bad), Err(End::Status(GrpcStatus::Internal, _))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn states_are_written_as_their_numbers() {
        assert_eq!(State::Serving.message(), [8, 1]);
        assert_eq!(State::NotServing.message(), [8, 2]);
        assert_eq!(State::ServiceUnknown.message(), [8, 3]);
    }
}
