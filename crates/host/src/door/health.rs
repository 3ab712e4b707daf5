//! gRPC health and reflection: tonic's services, told of the model's state.

use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::codegen::Service as _;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::body::Body;
use crate::Model;
use crate::proto;

/// A service of tonic's.
pub(super) type Service = Box<
    dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync,
>;

/// Tells callers whether the model takes calls.
#[derive(Clone)]
pub(super) struct Health(HealthReporter);

/// The health service and who feeds it.
pub(super) fn health() -> (Health, Service) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let service: Service = Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            let Ok(response) = service.call(request).await;
            response.map(Body::Tonic)
        })
    });
    (Health(reporter), service)
}

impl Health {
    /// Tells the state as it is, for the server as a whole and each service of it; returns what was told.
    pub(super) async fn tell(&self, model: &Arc<dyn Model>) -> bool {
        let ready = model.ready();
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in names(&model.about().service) {
            self.0.set_service_status(name, status).await;
        }
        ready
    }

    /// Tells that it is over, and ends the streams of those who watch.
    pub(super) async fn end(mut self, model: &Arc<dyn Model>) {
        let about = model.about();
        for name in names(&about.service) {
            self.0
                .set_service_status(name, ServingStatus::NotServing)
                .await;
            self.0.clear_service_status(name).await;
        }
    }

    /// Tells each change.
    pub(super) async fn follow(self, model: Arc<dyn Model>) {
        loop {
            let told = self.tell(&model).await;
            model.changed(told).await;
        }
    }
}

/// All that health can be asked of.
fn names(service: &str) -> [&str; 5] {
    [
        "",
        "ai.AI",
        "inference.GRPCInferenceService",
        "tidegate.Uploads",
        service,
    ]
}

/// Reflection, `v1` and `v1alpha`.
pub(super) fn reflection() -> [Service; 2] {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // The descriptors are made by the build: a test reads them all.
    let v1 = builder().build_v1().expect("our own descriptors are valid");
    let v1alpha = builder()
        .build_v1alpha()
        .expect("our own descriptors are valid");
    [
        Box::new(move |request| {
            let mut service = v1.clone();
            Box::pin(async move {
                let Ok(response) = service.call(request).await;
                response.map(Body::Tonic)
            })
        }),
        Box::new(move |request| {
            let mut service = v1alpha.clone();
            Box::pin(async move {
                let Ok(response) = service.call(request).await;
                response.map(Body::Tonic)
            })
        }),
    ]
}
