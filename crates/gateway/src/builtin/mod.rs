//! gRPC services that every listener answers itself unless a route takes them: health and reflection.
//!
//! They are looked for only where no route was found, so that proxied traffic pays nothing for them. Over HTTP/2 only, as gRPC is.

mod call;
mod descriptors;
mod health;
mod proto;
mod reflection;

use std::sync::Arc;
use std::time::Instant;

use http::Method as HttpMethod;

use crate::down::Down;
use crate::exchange::{Context, Incoming, Running};
use crate::service::Service;

/// A call that is answered here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Builtin {
    Health(health::Method),
    Reflection,
    /// A health check that goes to a service without a ready instance, or through a gateway that drains.
    NotServing,
    /// A watch of a hosted model's health. It is the gateway that knows of all its instances, and of its own drain.
    WatchService(Arc<str>),
}

impl Builtin {
    /// The built-in method that a gRPC request calls.
    pub(crate) fn find(request: &Incoming) -> Option<Self> {
        if request.method != HttpMethod::POST {
            return None;
        }
        Self::of_path(request.target.path())
    }

    fn of_path(path: &str) -> Option<Self> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        match service {
            "grpc.health.v1.Health" => health::Method::of(method).map(Self::Health),
            "grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection" => {
                (method == "ServerReflectionInfo").then_some(Self::Reflection)
            }
            _ => None,
        }
    }

    /// The answer to a health call that a route sends to a service, where its instances can't give it.
    pub(crate) fn instead_of_service(
        request: &Incoming,
        service: &Service,
        serves: impl Fn() -> bool,
    ) -> Option<Self> {
        match Self::find(request) {
            Some(Self::Health(health::Method::Check)) if !serves() => Some(Self::NotServing),
            // A program that is hosted answers for itself.
            Some(Self::Health(health::Method::Watch)) if service.is_model => {
                Some(Self::WatchService(service.name.clone()))
            }
            _ => None,
        }
    }

    /// Runs the call to its end. `deadline` is the caller's.
    pub(crate) async fn answer(
        self,
        context: Context<'_>,
        deadline: Option<Instant>,
        down: &mut Down<'_>,
        running: &mut Running<'_>,
    ) {
        let mut call = call::Call::new(context, deadline, down);
        let end = match self {
            Self::Health(method) => health::answer(method, &mut call).await,
            Self::Reflection => reflection::answer(&mut call).await,
            Self::NotServing => health::not_serving(&mut call).await,
            Self::WatchService(name) => health::watch_service(&name, &mut call).await,
        };
        call.finish(end, running).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_methods_that_exist_are_built_in() {
        for (path, want) in [
            (
                "/grpc.health.v1.Health/Check",
                Some(Builtin::Health(health::Method::Check)),
            ),
            (
                "/grpc.health.v1.Health/List",
                Some(Builtin::Health(health::Method::List)),
            ),
            (
                "/grpc.health.v1.Health/Watch",
                Some(Builtin::Health(health::Method::Watch)),
            ),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                Some(Builtin::Reflection),
            ),
            (
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                Some(Builtin::Reflection),
            ),
            ("/grpc.health.v1.Health/check", None),
            ("/grpc.health.v1.Health", None),
            ("/grpc.health.v1.Health/Check/", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Builtin::of_path(path), want, "{path}");
        }
    }
}
